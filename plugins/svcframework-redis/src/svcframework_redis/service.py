"""RedisService: commands on Redis or Valkey that end in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from redis.asyncio import Redis

from svcframework import HealthResult
from svcframework.deadlines import effective_timeout
from svcframework.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    ExternalServiceError,
    PluginError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.methods import service_method
from svcframework.service import BaseService
from svcframework_redis.config import RedisConfig, address_of
from svcframework_redis.connections import open_client
from svcframework_redis.errors import DRIVER_ERRORS, translate

if TYPE_CHECKING:
    from redis import Redis as SyncRedis

Value = str | bytes | int | float

# Commands that change nothing, so one that was lost with its connection may be sent once more.
_READS = frozenset(
    {"EXISTS", "GET", "GETRANGE", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HVALS", "LINDEX", "LLEN"}
    | {"LRANGE", "MGET", "PING", "PTTL", "SCARD", "SISMEMBER", "SMEMBERS", "STRLEN", "TTL", "TYPE", "XLEN", "XRANGE"}
    | {"ZCARD", "ZCOUNT", "ZRANGE", "ZRANK", "ZSCORE"}
)


class HasUrl(Protocol):
    """A Redis server that another service runs, such as `EmbeddedValkey`."""

    @property
    def url(self) -> str:
        """Its address, once it runs."""
        ...


class RedisService(BaseService[RedisConfig]):
    """Commands on Redis or Valkey; lives as long as its host.

    Every call ends within `timeout` or the caller's deadline; a connection whose call was cut off is closed. Values
    come back as bytes. What is missing here is on `client`, redis-py's own, and `execute` sends any command.

    Args:
        config: Settings; from the section `redis` when not given.
        server: A server run by another service; its address wins over the configured one.
    """

    def __init__(self, config: RedisConfig | Mapping[str, Any] | None = None, server: HasUrl | None = None) -> None:
        super().__init__(config)
        self._server = server
        self._client: Redis | None = None
        self._sync_client: SyncRedis | None = None
        self._address = ""
        self._calls = 0
        self._idle = asyncio.Event()

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Connect and `PING`.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer in time.
            PluginError: The host doesn't run on asyncio, which the driver needs.
        """
        _require_asyncio(self.name)
        url = self._server_url()
        self._address = address_of(self.config.connect_arguments(url)[0])
        self._client = open_client(self.config, url)
        try:
            await self.ping()
        except BaseException:
            await self.on_shutdown()
            raise

    async def on_shutdown(self) -> None:
        """Refuse new calls, give running ones half of `stop_timeout` to end, and close every connection."""
        client, self._client = self._client, None
        sync_client, self._sync_client = self._sync_client, None
        if sync_client is not None:
            sync_client.close()
            sync_client.connection_pool.disconnect()
        if client is not None:
            await self._let_calls_end(self.config.stop_timeout / 2)
            try:
                async with asyncio.timeout(self.config.stop_timeout / 4):
                    await client.connection_pool.aclose()
                    await client.aclose()
            except DRIVER_ERRORS:  # there is nothing left that could be closed
                pass

    async def _let_calls_end(self, seconds: float) -> None:
        """The driver can't close a connection in use: what runs on it would fail in odd ways."""
        if self._calls:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def _service_health_check(self) -> HealthResult:
        """`PING` within `health_check_timeout`."""
        if self._client is None:
            return HealthResult.unhealthy("not started")
        try:
            await self.ping(timeout=self.config.health_check_timeout * 0.9)
        except (ExternalServiceError, ServiceTimeoutError) as error:
            return HealthResult.unhealthy(str(error))
        return HealthResult.healthy(f"{self._address} answers")

    # --- clients ----------------------------------------------------------------------------------------

    @property
    def client(self) -> Redis:
        """redis-py's own client on the service's pool: pipelines, scripts, streams. It raises the driver's errors.

        Its calls end within `timeout`, so a blocking read needs a client of its own.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        if self._client is None:
            raise ServiceUnavailableError(self.name, "it isn't started; enter the host with `async with host:` first")
        return self._client

    def get_redis_client(self) -> SyncRedis:
        """A blocking client on the same server, for threads; closed with the service. It raises the driver's errors."""
        _ = self.client
        if self._sync_client is None:
            from svcframework_redis.sync import open_sync_client  # noqa: PLC0415 - few need the blocking client

            self._sync_client = open_sync_client(self.config, self._server_url())
        return self._sync_client

    def _server_url(self) -> str | None:
        return None if self._server is None else self._server.url

    # --- commands ---------------------------------------------------------------------------------------

    @service_method
    async def get(self, key: str) -> bytes | None:
        """The value of a key, None if there is none. Errors as `execute`."""
        return cast("bytes | None", await self._send("GET", key))

    @service_method
    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of many keys, in their order; None for each that is missing."""
        return cast("list[bytes | None]", await self._send("MGET", *keys)) if keys else []

    @service_method
    async def set(
        self,
        key: str,
        value: Value,
        expire: float | None = None,
        *,
        ex: float | None = None,
        nx: bool = False,
        xx: bool = False,
    ) -> bool:
        """Store a value.

        Args:
            key: The key.
            value: Text is stored as UTF-8.
            expire: Seconds until it is gone; None for never. Fractions count.
            ex: The same, under redis-py's name.
            nx: Only if the key is new.
            xx: Only if the key exists.

        Returns:
            Whether it was stored.

        Raises:
            ValueError: `expire` and `ex`, or `nx` and `xx`, were both given, or the seconds are not positive.
        """
        if (expire is not None and ex is not None) or (nx and xx):
            raise ValueError("set() takes one of expire and ex, and one of nx and xx")
        seconds = expire if ex is None else ex
        lifetime: list[Value] = [] if seconds is None else ["PX", _milliseconds(seconds)]
        condition: list[Value] = ["NX"] if nx else ["XX"] if xx else []
        return bool(await self._send("SET", key, value, *lifetime, *condition))

    @service_method
    async def delete(self, *keys: str) -> int:
        """Remove keys.

        Returns:
            How many there were.
        """
        return int(await self._send("DEL", *keys)) if keys else 0

    @service_method
    async def exists(self, *keys: str) -> int:
        """How many of the keys exist."""
        return int(await self._send("EXISTS", *keys)) if keys else 0

    @service_method
    async def expire(self, key: str, seconds: float) -> bool:
        """Let a key be gone after `seconds`.

        Returns:
            Whether there is such a key.
        """
        return bool(await self._send("PEXPIRE", key, _milliseconds(seconds)))

    @service_method
    async def ttl(self, key: str) -> float | None:
        """Seconds until a key is gone; None if it stays or isn't there."""
        left = int(await self._send("PTTL", key))
        return None if left < 0 else left / 1000

    @service_method
    async def incr(self, key: str, amount: int = 1) -> int:
        """Add to a number, 0 if the key is new.

        Returns:
            The sum.
        """
        return int(await self._send("INCRBY", key, amount))

    async def ping(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the call's own limit
        """Ask for a sign of life. Errors as `execute`."""
        await self._send("PING", timeout=timeout)

    @service_method
    async def execute(self, *args: Value, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - same
        """Send any command.

        Args:
            args: The command and its arguments: `execute("ZADD", "board", 7, "ada")`.
            timeout: Seconds; None for the configured `timeout`.

        Returns:
            What redis-py makes of the answer.

        Raises:
            ServiceTimeoutError: No answer in time, or no connection was free.
            ConnectionFailedError: The server can't be reached or hung up.
            AuthenticationFailedError: It refused the credentials.
            DatabaseError: It refused the command.
        """
        return await self._send(*args, timeout=timeout)

    async def _send(self, *args: Value, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - same
        client = self.client
        own = self.config.timeout if timeout is None else timeout
        limit = effective_timeout(own)
        name = str(args[0]).upper()
        self._calls += 1
        try:
            async with asyncio.timeout(limit):
                return await _sent(client.execute_command, name, args)
        except Exception as error:
            what = f"{name} on {self._address}"
            if self._client is not client:  # closed under a call that took too long; then the driver raises anything
                raise ConnectionFailedError(f"{what}: the service was stopped") from error
            if not isinstance(error, DRIVER_ERRORS):
                raise
            ours = translate(error, what, limit)
            if isinstance(ours, ServiceTimeoutError) and limit < own:
                ours = DeadlineExceededError(ours.operation, limit, hint="the caller's deadline was shorter")
            raise ours from error
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


async def _sent(send: Callable[..., Awaitable[Any]], name: str, args: Sequence[Value]) -> Any:
    """The answer to a command; one that changes nothing is sent again when its connection was lost."""
    try:
        return await send(*args)
    except DRIVER_ERRORS as error:
        if name not in _READS or not isinstance(translate(error, name, 0.0), ConnectionFailedError):
            raise
    return await send(*args)


def _milliseconds(seconds: float) -> int:
    if not seconds > 0:
        raise ValueError(f"{seconds!r} seconds can't be waited for; a positive number is")
    return max(1, round(seconds * 1000))


def _require_asyncio(service: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise PluginError(
            service, "redis-py runs on asyncio only", fix="run the host on asyncio or uvloop, not on trio"
        ) from None
