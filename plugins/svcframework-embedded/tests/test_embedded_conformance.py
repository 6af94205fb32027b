"""Both servers pass what every service must: as servers of our own, and as names for the user's."""

from svcframework.testing.conformance import ServiceConformance
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey


class TestEmbeddedPostgresConformance(ServiceConformance):
    service = EmbeddedPostgres


class TestExternalPostgresConformance(ServiceConformance):
    service = EmbeddedPostgres
    server = "postgres_server"


class TestEmbeddedValkeyConformance(ServiceConformance):
    service = EmbeddedValkey


class TestExternalValkeyConformance(ServiceConformance):
    service = EmbeddedValkey
    server = "valkey_server"
