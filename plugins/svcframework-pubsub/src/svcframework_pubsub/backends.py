"""Which backend, made of which services. Each backend's module, and the plugin it stands on, loads when it is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from svcframework.config import load_config
from svcframework.errors import PluginError
from svcframework_pubsub.memory import MemoryBackend
from svcframework_pubsub.owned import Owned

if TYPE_CHECKING:
    from svcframework_pubsub.backend import Backend
    from svcframework_pubsub.config import PubSubConfig
    from svcframework_pubsub.pglistener import Pace
    from svcframework_pubsub.router import Router
    from svcframework_pubsub.sparse import Sparse


class Assembly:
    """Makes the backend of one service, and the services under it that nobody gave; lives as long as it runs.

    Args:
        config: The settings.
        router: Who subscribes to what.
        report: Logs now and then.
        postgres: A `PostgresService`, None to make one.
        redis: A `RedisService`, None to make one.
        name: The service's, for errors.
    """

    def __init__(
        self, config: PubSubConfig, router: Router, report: Sparse, *, postgres: Any, redis: Any, name: str
    ) -> None:
        self._config, self._router, self._report, self._name = config, router, report, name
        self._given = {"postgres": postgres, "redis": redis}
        self._owned: dict[str, Owned] = {}

    async def backend(self) -> Backend:
        """The configured backend, not opened; what it stands on runs.

        Raises:
            PluginError: A plugin that it needs isn't installed.
            ServiceFrameworkError: A server can't be reached.
        """
        makers: dict[str, Callable[[], Any]] = {"memory": self._memory, "postgres": self._postgres}
        backend: Backend = await makers[self._config.backend]()
        return backend

    async def stop(self) -> None:
        """Stop what was made."""
        while self._owned:
            _, owned = self._owned.popitem()
            await owned.stop()

    async def _memory(self) -> Backend:
        return MemoryBackend(self._router, timeout=self._config.timeout)

    async def _postgres(self) -> Backend:
        postgres = await self.postgres(self._config.url)
        from svcframework_pubsub.postgres import PostgresBackend  # noqa: PLC0415 - loads asyncpg

        return PostgresBackend(
            postgres, self._router, self.pace(), retention=self._config.payload_retention, report=self._report
        )

    async def postgres(self, url: Any) -> Any:
        """The given `PostgresService`, or one of our own, started.

        Args:
            url: Its address, None for that of the section `database`.
        """
        if self._given["postgres"] is not None:
            return self._given["postgres"]
        self._require("svcframework_postgres", "postgres")
        from svcframework_postgres import PostgresConfig, PostgresService  # noqa: PLC0415 - loads asyncpg

        values: dict[str, Any] = {"pool_max_size": 4, "connect_timeout": self._config.connect_timeout}
        if url is not None:
            values["dsn"] = url.get_secret_value()
        return await self._started("postgres", PostgresService(load_config(PostgresConfig, values=values)))

    def pace(self) -> Pace:
        """How patient a listener is."""
        from svcframework_pubsub.pglistener import Pace  # noqa: PLC0415 - loads asyncpg

        config = self._config
        return Pace(config.timeout, config.heartbeat_interval, config.heartbeat_timeout, config.reconnect_delay)

    async def _started(self, kind: str, service: Any) -> Any:
        if kind not in self._owned:
            owned = Owned(service)
            await owned.start()
            self._owned[kind] = owned
        return self._owned[kind].service

    def _require(self, package: str, extra: str) -> None:
        if importlib.util.find_spec(package) is None:
            raise PluginError(
                self._name,
                f"the backend {self._config.backend!r} needs the package {package}",
                fix=f"pip install 'svcframework-pubsub[{extra}]'",
            )
