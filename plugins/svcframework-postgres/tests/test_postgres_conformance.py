"""The service passes what every service must."""

from svcframework.testing.conformance import ServiceConformance
from svcframework_postgres import PostgresService


class TestPostgresConformance(ServiceConformance):
    service = PostgresService
    server = "postgres_server"
