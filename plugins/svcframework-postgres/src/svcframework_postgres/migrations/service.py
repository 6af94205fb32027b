"""MigrationService: the schema is there before whoever depends on it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svcframework import HealthResult
from svcframework.errors import ConfigurationError
from svcframework.methods import service_method
from svcframework.service import BaseService
from svcframework_postgres.migrations.applying import AppliedMigration, Migrations, MigrationStatus
from svcframework_postgres.migrations.config import MigrationConfig
from svcframework_postgres.migrations.errors import MigrationsPendingError
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.service import PostgresService


class MigrationService(BaseService[MigrationConfig]):
    """Applies a folder of migrations when it starts; lives as long as its host.

    Services that need the schema depend on this one, and start when it is there.

    Args:
        config: Settings; from the section `migrations` when not given.
        database_service: The database.
        folder: Where the files are; wins over the configured one.
    """

    def __init__(
        self,
        config: MigrationConfig | Mapping[str, Any] | None = None,
        *,
        database_service: PostgresService,
        folder: Path | str | None = None,
    ) -> None:
        super().__init__(config)
        self._database = database_service
        self._folder = None if folder is None else Path(folder)
        self._last: MigrationStatus | None = None

    async def on_startup(self) -> None:
        """Apply what is pending, or look whether anything is, as `on_start` says.

        Raises:
            ConfigurationError: No folder is configured.
            MigrationsPendingError: Something is pending and `on_start` is `check`.
            MigrationError: As `Migrations.apply`.
        """
        if self.config.on_start == "apply":
            await self.apply()
        elif self.config.on_start == "check":
            status = await self.status()
            if status.pending:
                raise MigrationsPendingError(self._database.pool.address, [file.file for file in status.pending])

    async def on_shutdown(self) -> None:
        """Forget what was found."""
        self._last = None

    async def _service_health_check(self) -> HealthResult:
        """Healthy while it runs, degraded while something is known to be pending. Asks no server."""
        result = HealthResult.unhealthy("not running")
        if self.state.is_running:
            pending = 0 if self._last is None else len(self._last.pending)
            applied = 0 if self._last is None else len(self._last.applied)
            found = HealthResult.degraded(f"{pending} pending") if pending else HealthResult.healthy()
            result = HealthResult(found.status, found.message, details={"applied": applied, "pending": pending})
        return result

    @property
    def migrations(self) -> Migrations:
        """The folder.

        Raises:
            ConfigurationError: None is configured.
        """
        folder = self._folder or self.config.folder
        if folder is None:
            problem = "migrations.folder: not set; give the folder of the .sql files (MIGRATIONS__FOLDER, or folder=…)"
            raise ConfigurationError(f"Configuration of {self.name} ({type(self).__name__}): 1 problem", [problem])
        return Migrations(folder, self.config)

    @service_method
    async def status(self, pool: PostgresPool | None = None) -> MigrationStatus:
        """What has been applied and what is pending. Arguments and errors as `Migrations.status`."""
        found = await self.migrations.status(self._database, pool)
        if pool is None:
            self._last = found
        return found

    @service_method
    async def apply(self, pool: PostgresPool | None = None, *, to: int | None = None) -> tuple[AppliedMigration, ...]:
        """Apply what is pending. Arguments and errors as `Migrations.apply`."""
        done = await self.migrations.apply(self._database, pool, to=to, told=self._tell)
        await self.status(pool)
        return done

    @service_method
    async def revert(self, pool: PostgresPool | None = None, *, to: int) -> tuple[AppliedMigration, ...]:
        """Undo the newest migrations. Arguments and errors as `Migrations.revert`."""
        done = await self.migrations.revert(self._database, pool, to=to)
        for one in done:
            self.logger.info("migration_reverted", version=one.version, migration=one.name)
        await self.status(pool)
        return done

    def _tell(self, one: AppliedMigration) -> None:
        self.logger.info("migration_applied", version=one.version, migration=one.name, seconds=round(one.seconds, 3))
