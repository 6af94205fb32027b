"""The services that look at a schema and migrate it pass what every service must."""

from svcframework.testing.conformance import ServiceConformance
from svcframework_postgres import (
    MigrationConfig,
    MigrationService,
    OptimizationConfig,
    OptimizationService,
    PostgresConfig,
    PostgresService,
)


class TestOptimizationConformance(ServiceConformance):
    service = OptimizationService  # without a server: the database service below it has the connection, and its faults

    def make_service(self, address, **settings):
        return OptimizationService(OptimizationConfig(**settings), database_service=PostgresService(PostgresConfig()))


class TestMigrationConformance(ServiceConformance):
    service = MigrationService  # as above

    def make_service(self, address, **settings):
        config = MigrationConfig(on_start="nothing", **settings)
        return MigrationService(config, database_service=PostgresService(PostgresConfig()))
