"""EmbeddedPostgresReplica: a physical replica of an embedded server, for reads and for taking over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import anyio

from svcframework.config import ServiceConfig
from svcframework.errors import ConfigurationError, IllegalStateError, ServiceTimeoutError
from svcframework_embedded import _standby
from svcframework_embedded.config import EmbeddedPostgresReplicaConfig
from svcframework_embedded.errors import ServerStartError
from svcframework_embedded.postgres import EmbeddedPostgres


class EmbeddedPostgresReplica(EmbeddedPostgres):
    """A hot standby: copies its primary's data at the first start, then streams what is written there; serves reads.

    It starts in about 0.3 s and has the primary's users, passwords and databases. Everything else is as in
    `EmbeddedPostgres`: a crash keeps its data, and without `data_dir` it is a throwaway.

    Args:
        config: Settings; from the section `embedded_postgres_replica` when not given.
        primary: Whom to follow; it runs before this one starts. Only needed without `dsn`.
    """

    config_type: ClassVar[type[ServiceConfig]] = EmbeddedPostgresReplicaConfig

    def __init__(
        self,
        config: EmbeddedPostgresReplicaConfig | Mapping[str, Any] | None = None,
        primary: EmbeddedPostgres | None = None,
    ) -> None:
        super().__init__(config)
        self._primary = primary

    @property
    def primary(self) -> EmbeddedPostgres:
        """Whom it follows, or followed until it was promoted.

        Raises:
            ConfigurationError: There is none, or it stands for a server that isn't ours.
        """
        if self._primary is None:
            raise ConfigurationError(
                f"{self.name} has nobody to follow", ["primary: pass the EmbeddedPostgres, or set `dsn`"]
            )
        if self._primary.config.dsn is not None:
            raise ConfigurationError(
                f"{self.name} can't follow {self._primary.name}",
                ["primary: it stands for a server of your own, and only one that runs here can be followed"],
            )
        return self._primary

    @property
    def user(self) -> str:
        """The superuser in `dsn`: the primary's."""
        return super().user if self._external else self.primary.user

    @property
    def database(self) -> str:
        """The database in `dsn`: the primary's."""
        return super().database if self._external else self.primary.database

    @property
    def is_standby(self) -> bool:
        """It follows its primary and refuses to write; False once promoted.

        Raises:
            ServiceUnavailableError: It has not been started, or it isn't ours.
        """
        return (self.data_dir / _standby.SIGNAL).exists()

    async def promote(self) -> None:
        """Make it a primary, whether the old one lives or not; returns once it accepts writes.

        What the old primary had not sent yet is not there. From now on it is a server of its own, also after a restart.

        Raises:
            IllegalStateError: It is promoted already.
            ServiceTimeoutError: It did not get there within `ready_timeout`.
        """
        if not self.is_standby:
            raise IllegalStateError(f"promote {self.name!r}", "it is a primary", fix="it accepts writes already")
        limit = self.config.ready_timeout
        with anyio.move_on_after(limit):
            if await self._query(f"SELECT 1 WHERE pg_promote(true, {int(limit) + 1})"):
                return
        raise ServiceTimeoutError(f"promotion of {self.name}", limit, hint=self._log_tail())

    # --- how it is done ---------------------------------------------------------------------------------

    async def _prepare_data(self) -> None:
        self._password = self.primary._password or self._password  # noqa: SLF001 - of the base class
        await super()._prepare_data()

    async def _initialise(self) -> None:
        """Copy the running primary's cluster, instead of making an empty one."""
        primary = self.primary
        if isinstance(primary, EmbeddedPostgresReplica) and primary.is_standby:
            raise ServerStartError(f"{primary.name} is a standby itself; let {self.name} follow its primary")
        await _standby.copy_running(self._bin, self._source(), self.data_dir, self._owner)

    def _settings(self) -> dict[str, str]:
        """Whom to follow is not in its files, since the primary's socket may have moved at the next start."""
        own, primary = super()._settings(), self.primary.config
        if not self.is_standby:
            return own
        return {
            **_standby.STREAMING,
            **_standby.settings_to_share(primary.settings),
            **own,
            "max_connections": str(max(int(own["max_connections"]), primary.max_connections)),
            "primary_conninfo": self._source(),
        }

    def _source(self) -> str:
        """The primary's private socket, which asks for no password."""
        primary = self.primary
        folder = str(primary._started(primary._scratch))  # noqa: SLF001 - of the base class
        return _standby.conninfo(host=folder, port=primary.port, user=self.user, application_name=self.name)

    async def _after_launch(self) -> None:
        """A standby has its primary's passwords and databases already."""
        if not self.is_standby:
            await super()._after_launch()
