"""Which backend, made of which services. A backend's module, and the plugin it stands on, load when it is chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from svcframework.config import load_config
from svcframework.errors import PluginError
from svcframework_pubsub.backends.memory import MemoryBackend
from svcframework_pubsub.config import ServerVariables
from svcframework_pubsub.owned import Owned

if TYPE_CHECKING:
    from pydantic import SecretStr

    from svcframework import BaseService
    from svcframework_pubsub.backends.backend import Backend
    from svcframework_pubsub.backends.outbox import Outbox
    from svcframework_pubsub.backends.pglistener import Pace
    from svcframework_pubsub.config import PubSubConfig
    from svcframework_pubsub.router import Router
    from svcframework_pubsub.sparse import Sparse


_SHARE = 0.3  # of the time that a stop may take, for the services under us


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
        config = self._config
        if config.backend == "redis" and config.fallback == "postgres":
            return self._redis_else_postgres()
        makers: dict[str, Callable[[], Awaitable[Backend]]] = {
            "memory": self._memory,
            "postgres": lambda: self._postgres(config.url),
            "redis": self._redis,
            "nats": self._nats,
        }
        return await makers[config.backend]()

    async def outbox(self, publish: Callable[[str, Sequence[bytes], bool], Awaitable[None]]) -> Outbox | None:
        """What publishes inside transactions where the backend doesn't; None without a `PostgresService`."""
        if self._given["postgres"] is None:
            return None
        from svcframework_pubsub.backends.outbox import Outbox  # noqa: PLC0415 - loads asyncpg

        config = self._config
        return Outbox(
            self._given["postgres"], publish, self.pace(),
            interval=config.outbox_interval, batch=config.outbox_batch, report=self._report,
        )  # fmt: skip

    async def stop(self) -> None:
        """Stop what was made."""
        async with anyio.create_task_group() as all_of_them:
            while self._owned:
                all_of_them.start_soon(self._owned.popitem()[1].stop)

    async def _memory(self) -> Backend:
        return MemoryBackend(self._router, timeout=self._config.timeout)

    async def _postgres(self, url: SecretStr | None) -> Backend:
        postgres = await self._postgres_service(url)
        from svcframework_pubsub.backends.postgres import PostgresBackend  # noqa: PLC0415 - loads asyncpg

        return PostgresBackend(
            postgres, self._router, self.pace(), retention=self._config.payload_retention, report=self._report
        )

    async def _redis(self) -> Backend:
        redis = await self._redis_service()
        from svcframework_pubsub.backends.redis import RedisBackend  # noqa: PLC0415 - not everybody's

        return RedisBackend(redis, self._router, stream_length=self._config.stream_max_length)

    async def _nats(self) -> Backend:
        self._require("nats", "nats")
        from svcframework_pubsub.backends.nats import NatsBackend  # noqa: PLC0415 - loads nats-py

        return NatsBackend(self._config, self._router, report=self._report)

    def _redis_else_postgres(self) -> Backend:
        from svcframework_pubsub.backends.fallback import FallbackBackend  # noqa: PLC0415 - not everybody's

        return FallbackBackend(
            self._redis,
            lambda: self._postgres(self._config.fallback_url),
            self._router,
            timeout=self._config.timeout,
            report=self._report,
        )

    # --- services under them ----------------------------------------------------------------------------

    async def _postgres_service(self, url: SecretStr | None) -> Any:
        """The given one, or one of our own, started."""
        if self._given["postgres"] is not None:
            return self._given["postgres"]
        self._require("svcframework_postgres", "postgres")
        from svcframework_postgres import PostgresConfig, PostgresService  # noqa: PLC0415 - loads asyncpg

        values: dict[str, Any] = {"pool_max_size": 4, "connect_timeout": self._config.connect_timeout}
        values |= {"command_timeout": self._config.timeout / 2, "stop_timeout": self._config.stop_timeout * _SHARE}
        if url is not None:
            values["dsn"] = url.get_secret_value()
        return await self._started("postgres", lambda: PostgresService(load_config(PostgresConfig, values=values)))

    async def _redis_service(self) -> Any:
        """The given one, or one of our own, started."""
        if self._given["redis"] is not None:
            return self._given["redis"]
        self._require("svcframework_redis", "redis")
        from svcframework_redis import RedisConfig, RedisService  # noqa: PLC0415 - loads the driver

        config = self._config
        values: dict[str, Any] = {
            "timeout": config.timeout / 2,
            "stop_timeout": config.stop_timeout * _SHARE,
            "connect_timeout": config.connect_timeout,
            "heartbeat_interval": config.heartbeat_interval,
            "reconnect_delay": config.reconnect_delay,
        }
        if config.url is not None:
            values["url"] = config.url.get_secret_value()
        elif (variables := load_config(ServerVariables)).redis_host is not None:
            values |= {"host": variables.redis_host, "port": variables.redis_port, "password": variables.redis_password}
        return await self._started("redis", lambda: RedisService(load_config(RedisConfig, values=values)))

    def pace(self) -> Pace:
        """How patient a listener is."""
        from svcframework_pubsub.backends.pglistener import Pace  # noqa: PLC0415 - loads asyncpg

        config = self._config
        return Pace(config.timeout, config.heartbeat_interval, config.heartbeat_timeout, config.reconnect_delay)

    async def _started(self, kind: str, make: Callable[[], BaseService[Any]]) -> Any:
        if kind not in self._owned:
            owned = Owned(make())
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
