"""Both servers pass what every service must: as servers of our own, and as names for the user's."""

from svcframework.testing.conformance import ServiceConformance
from svcframework_embedded import EmbeddedPostgres, EmbeddedPostgresReplica, EmbeddedValkey


class TestEmbeddedPostgresConformance(ServiceConformance):
    service = EmbeddedPostgres


class TestExternalPostgresConformance(ServiceConformance):
    service = EmbeddedPostgres
    server = "postgres_server"
    settings = {"connect_timeout": 0.5, "health_check_timeout": 0.5}


class TestExternalReplicaConformance(ServiceConformance):
    service = EmbeddedPostgresReplica
    server = "postgres_server"
    settings = {"connect_timeout": 0.5, "health_check_timeout": 0.5}


class TestEmbeddedValkeyConformance(ServiceConformance):
    service = EmbeddedValkey


class TestExternalValkeyConformance(ServiceConformance):
    service = EmbeddedValkey
    server = "valkey_server"
    settings = {"connect_timeout": 0.5, "health_check_timeout": 0.5}
