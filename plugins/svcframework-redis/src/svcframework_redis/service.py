"""RedisService: commands on Redis or Valkey that end in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Protocol, cast

from svcframework import HealthResult
from svcframework.errors import ConfigurationError, ExternalServiceError, PluginError, ServiceTimeoutError
from svcframework.log import error_fields
from svcframework.methods import service_method
from svcframework.service import BaseService
from svcframework_redis.address import Target
from svcframework_redis.calls import Calls
from svcframework_redis.config import RedisConfig
from svcframework_redis.errors import ScriptMissingError
from svcframework_redis.link import Value
from svcframework_redis.publishing import Messages
from svcframework_redis.transport import Command, RedisStatistics, Transport

if TYPE_CHECKING:
    from redis import Redis as SyncRedis
    from redis.asyncio import Redis

    from svcframework_redis.limiter import RateLimiter, StrategyName, WhenDown
    from svcframework_redis.lock import Queues, RedisLock
    from svcframework_redis.subscriber import OnMessage, RedisSubscriber
    from svcframework_redis.transaction import RedisTransaction


class HasUrl(Protocol):
    """A Redis server that another service runs, such as `EmbeddedValkey`."""

    @property
    def url(self) -> str:
        """Its address, once it runs."""
        ...


class RedisService(BaseService[RedisConfig]):
    """Commands on Redis or Valkey; lives as long as its host.

    Every call ends within `timeout` or the caller's deadline. All calls share one connection, on which the commands
    of one turn of the event loop leave in one write; a call that is cancelled or late harms no other. Values come
    back as bytes. `execute` sends any command, `client` is redis-py's own.

    Args:
        config: Settings; from the section `redis` when not given.
        server: A server run by another service; its address wins over the configured one.
    """

    def __init__(self, config: RedisConfig | Mapping[str, Any] | None = None, server: HasUrl | None = None) -> None:
        super().__init__(config)
        self._server = server
        self._calls = Calls(self.name)
        self._queues: Queues | None = None
        self._client: Redis | None = None
        self._sync_client: SyncRedis | None = None

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Connect and `PING`.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer in time.
            ConfigurationError: A certificate that the address names can't be read.
            PluginError: The host doesn't run on asyncio.
        """
        _require_asyncio(self.name)
        try:
            target = self.config.target(self._server_url())
        except OSError as error:  # ssl's errors are among them; none has a secret in its text
            raise ConfigurationError(f"{self.name} can't use TLS:", [str(error)]) from error
        self._calls.timeout = self.config.timeout
        self._calls.transport = open_transport(self.config, target)
        try:
            await self.ping()
        except BaseException:
            await self.on_shutdown()
            raise

    async def on_shutdown(self) -> None:
        """Refuse new calls, give running ones half of `stop_timeout` to end, and close every connection."""
        transport, self._calls.transport = self._calls.transport, None
        client, self._client = self._client, None
        sync_client, self._sync_client = self._sync_client, None
        if transport is not None:
            await transport.aclose(self.config.stop_timeout / 2)
        if client is not None or sync_client is not None:
            from svcframework_redis.connections import close_clients  # noqa: PLC0415 - loads redis-py's clients

            await close_clients(client, sync_client, self.config.stop_timeout / 4)

    async def _service_health_check(self) -> HealthResult:
        """`PING` within `health_check_timeout`."""
        transport = self._calls.transport
        if transport is None:
            return HealthResult.unhealthy("not started")
        try:
            await self.ping(timeout=self.config.health_check_timeout * 0.9)
        except (ExternalServiceError, ServiceTimeoutError) as error:
            return HealthResult.unhealthy(str(error), **_numbers(transport.statistics))
        return HealthResult.healthy(f"{transport.target} answers", **_numbers(transport.statistics))

    @property
    def statistics(self) -> RedisStatistics:
        """What the connections do. Raises `ServiceUnavailableError` unless the service runs."""
        return self._calls.running().statistics

    # --- clients ----------------------------------------------------------------------------------------

    @property
    def client(self) -> Redis:
        """redis-py's own client, on connections of its own that it makes when needed. It raises the driver's errors.

        Its calls end within `timeout`, so a blocking read needs a client of its own. For a cluster it is a
        `RedisCluster`, which has the same commands.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        transport = self._calls.running()
        if self._client is None:
            from svcframework_redis.connections import open_client  # noqa: PLC0415 - half of the time of an import

            self._client = open_client(self.config, transport.target)
        return self._client

    def get_redis_client(self) -> SyncRedis:
        """A blocking client on the same server, for threads; closed with the service. It raises the driver's errors."""
        self._calls.running()
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
        return cast("bytes | None", await self._calls.call(("GET", key), is_read=True))

    @service_method
    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of many keys, in their order; None for each that is missing."""
        return cast("list[bytes | None]", await self._calls.call(("MGET", *keys), is_read=True)) if keys else []

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
        return bool(await self._calls.call(("SET", key, value, *lifetime, *condition)))

    @service_method
    async def delete(self, *keys: str) -> int:
        """Remove keys.

        Returns:
            How many there were.
        """
        return int(await self._calls.call(("DEL", *keys))) if keys else 0

    @service_method
    async def exists(self, *keys: str) -> int:
        """How many of the keys exist."""
        return int(await self._calls.call(("EXISTS", *keys), is_read=True)) if keys else 0

    @service_method
    async def expire(self, key: str, seconds: float) -> bool:
        """Let a key be gone after `seconds`.

        Returns:
            Whether there is such a key.
        """
        return bool(await self._calls.call(("PEXPIRE", key, _milliseconds(seconds))))

    @service_method
    async def ttl(self, key: str) -> float | None:
        """Seconds until a key is gone; None if it stays or isn't there."""
        left = int(await self._calls.call(("PTTL", key), is_read=True))
        return None if left < 0 else left / 1000

    @service_method
    async def incr(self, key: str, amount: int = 1) -> int:
        """Add to a number, 0 if the key is new.

        Returns:
            The sum.
        """
        return int(await self._calls.call(("INCRBY", key, amount)))

    async def ping(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - its own limit
        """Ask for a sign of life. Errors as `execute`."""
        await self._calls.call_within(timeout, ("PING",), is_read=True)

    @service_method
    async def publish(self, channel: str, data: bytes | str) -> int:
        """Send a message to whoever subscribes to a channel now. Errors as `execute`; it is never sent twice.

        Returns:
            How many received it; in a cluster, only those at the same node.
        """
        return int(await self._calls.call(("PUBLISH", channel, data)))

    @service_method
    async def publish_many(
        self,
        channel: str,
        messages: Sequence[bytes | str],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own limit
    ) -> list[int]:
        """Send many messages on a channel in one write, in this order. Errors as `execute_many`; none is sent twice.

        Args:
            channel: Where to.
            messages: What to send.
            timeout: Seconds for all of them; None for the configured `timeout`.

        Returns:
            How many received each of them; in a cluster, only those at the same node.

        Raises:
            TypeError: One of them is neither text nor bytes.
        """
        return await self._calls.call_many(Messages(channel, messages), timeout, is_atomic=False)

    @service_method
    async def execute(self, *args: Value, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the call's own limit
        """Send any command.

        One that waits on the server, such as BLPOP or XREAD with BLOCK, gets a connection for itself.

        Args:
            args: The command and its arguments: `execute("ZADD", "board", 7, "ada")`.
            timeout: Seconds; None for the configured `timeout`, and as long as it may block in addition.

        Returns:
            The answer as the server gives it (RESP3): bytes, int, float, bool, None, list, dict or set.

        Raises:
            ServiceTimeoutError: No answer in time, or no connection was free.
            ConnectionFailedError: The server can't be reached, hung up, or can't serve now.
            AuthenticationFailedError: It refused the credentials.
            DatabaseError: It refused the command.
            ValueError: The command would change the connection that all share, such as SELECT or SUBSCRIBE.
        """
        return await self._calls.execute(args, timeout)

    @service_method
    async def execute_many(
        self,
        commands: Sequence[Command],
        *,
        atomic: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's own limit
    ) -> list[Any]:
        """Send many commands in one write.

        Args:
            commands: Each as the arguments of `execute`: `[("SET", "a", 1), ("GET", "b")]`.
            atomic: Run them as one transaction (MULTI … EXEC): nobody sees a half of it. Redis undoes nothing: when
                one of them fails, the others have been done.
            timeout: Seconds for all of them; None for the configured `timeout`.

        Returns:
            Their answers, in their order.

        Raises:
            ServiceFrameworkError: As `execute`; the first of the server's errors, when all have been answered.
            ValueError: One of them blocks, or would change the connection that all share.
        """
        return await self._calls.call_many(commands, timeout, is_atomic=atomic)

    @service_method
    async def evaluate(self, script: str, keys: Sequence[str] = (), args: Sequence[Value] = ()) -> Any:
        """Run a Lua script on the server, which learns its text only once.

        Args:
            script: A constant; what changes belongs in the arguments.
            keys: What it calls KEYS.
            args: What it calls ARGV.

        Returns:
            Its result. Errors as `execute`.
        """
        rest = (len(keys), *keys, *args)
        try:
            return await self._calls.call(("EVALSHA", _digest(script), *rest))
        except ScriptMissingError:
            return await self._calls.call(("EVAL", script, *rest))

    def subscriber(self, on_message: OnMessage, *, on_gap: Callable[[float], None] | None = None) -> RedisSubscriber:
        """Messages of channels and patterns, on a connection of its own that comes back by itself.

        Args:
            on_message: Called on the event loop for each message, in order: pattern or None, channel, data.
            on_gap: Called with the seconds for which it was deaf, when it is back after a lost connection.

        Returns:
            An async context manager; subscribe within its block.
        """
        from svcframework_redis.subscriber import RedisSubscriber  # noqa: PLC0415 - few listen

        return RedisSubscriber(
            self._calls,
            self.config,
            on_message,
            on_gap=on_gap,
            on_error=lambda error: self.logger.error("subscriber_failed", **error_fields(error)),
            on_change=lambda is_back: self.logger.warning("subscriber_back" if is_back else "subscriber_lost"),
        )

    # --- what processes agree on ------------------------------------------------------------------------

    def transaction(self, *keys: Value, timeout: float | None = None) -> RedisTransaction:
        """Read keys and change them, unless somebody else changes them in between.

        What depends on no reading is simpler with `execute_many(…, atomic=True)`.

        Args:
            keys: What to watch, at least one.
            timeout: Seconds for each exchange with the server; None for the configured `timeout`.

        Returns:
            An async context manager; the end of its block raises `TransactionConflictError` if it came too late.
        """
        if not keys:
            raise ValueError("transaction() watches keys; without any, use execute_many(…, atomic=True)")
        from svcframework_redis.transaction import RedisTransaction  # noqa: PLC0415 - few need it

        return RedisTransaction(self._calls, keys, timeout)

    def lock(self, name: str, *, ttl: float, wait: float | None = None) -> RedisLock:
        """A lock that one holder has at a time, among all processes.

        Args:
            name: Any text; different names are different locks.
            ttl: Seconds for which it outlives a holder that was killed; it is renewed while its block runs.
            wait: Seconds to wait for it; 0 tries once, None waits for the configured `timeout`.

        Returns:
            An async context manager that gives the lock, whose `token` grows with every holder.
        """
        from svcframework_redis.lock import Queues, RedisLock  # noqa: PLC0415 - few need it

        if self._queues is None:
            self._queues = Queues()
        waiting = self.config.timeout if wait is None else wait
        return RedisLock(name, ttl=ttl, wait=waiting, evaluate=self.evaluate, queues=self._queues)

    def rate_limiter(
        self,
        limit: str,
        *,
        namespace: str = "default",
        strategy: StrategyName = "sliding-window-counter",
        when_down: WhenDown = "raise",
    ) -> RateLimiter:
        """So many calls in so much time, counted for all processes.

        Args:
            limit: Such as "100/minute" or "5 per 2 hours".
            namespace: Limiters of one namespace, limit and strategy share their counts.
            strategy: How windows are counted.
            when_down: Whether a call while Redis is away raises the error, is allowed, or is refused.

        Raises:
            ValueError: The limit or the strategy is none.
        """
        from svcframework_redis.limiter import RateLimiter  # noqa: PLC0415 - loads `limits`

        return RateLimiter(limit, namespace=namespace, strategy=strategy, when_down=when_down, commands=self)


def open_transport(config: RedisConfig, target: Target) -> Transport:
    """The transport for what an address leads to; it connects with its first command."""
    if target.kind == "sentinel":
        from svcframework_redis.sentinel import SentinelTransport  # noqa: PLC0415 - few have sentinels

        return SentinelTransport(config, target)
    if target.kind == "cluster":
        from svcframework_redis.cluster import ClusterTransport  # noqa: PLC0415 - few have a cluster

        return ClusterTransport(config, target)
    return Transport(config, target)


@lru_cache(maxsize=256)
def _digest(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


def _numbers(statistics: RedisStatistics) -> dict[str, int]:
    """What health shows of it."""
    return {
        "in_flight": statistics.in_flight,
        "waiting": statistics.waiting,
        "connects": statistics.connects,
        "lost": statistics.lost,
    }


def _milliseconds(seconds: float) -> int:
    if not seconds > 0:
        raise ValueError(f"{seconds!r} seconds can't be waited for; a positive number is")
    return max(1, round(seconds * 1000))


def _require_asyncio(service: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise PluginError(
            service, "its connections run on asyncio only", fix="run the host on asyncio or uvloop, not on trio"
        ) from None
