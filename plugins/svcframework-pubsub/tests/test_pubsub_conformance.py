"""The service passes what every service must, on each backend."""

from svcframework.testing import ServiceConformance
from svcframework_pubsub import PubSubConfig, PubSubService


class TestMemoryConformance(ServiceConformance):
    service = PubSubService
    settings = {"backend": "memory"}


class TestPostgresConformance(ServiceConformance):
    service = PubSubService
    server = "postgres_server"
    settings = {"backend": "postgres", "connect_timeout": 1.5, "heartbeat_interval": 0.5, "heartbeat_timeout": 0.5}
