"""The service passes what every service must, on each backend."""

from svcframework.testing import ServiceConformance
from svcframework_pubsub import PubSubService


class TestMemoryConformance(ServiceConformance):
    service = PubSubService
    settings = {"backend": "memory"}


class TestPostgresConformance(ServiceConformance):
    service = PubSubService
    server = "postgres_server"
    settings = {"backend": "postgres", "connect_timeout": 0.8, "heartbeat_interval": 0.4, "heartbeat_timeout": 0.4}


class TestRedisConformance(ServiceConformance):
    service = PubSubService
    server = "valkey_server"
    settings = {"backend": "redis", "connect_timeout": 0.8, "heartbeat_interval": 0.4, "heartbeat_timeout": 0.4}


class TestNatsConformance(ServiceConformance):
    service = PubSubService
    server = "nats_server"
    settings = {"backend": "nats", "connect_timeout": 0.8, "heartbeat_interval": 0.4, "heartbeat_timeout": 0.4}
