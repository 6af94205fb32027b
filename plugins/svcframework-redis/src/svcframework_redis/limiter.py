"""RateLimiter: so many calls in so much time, counted in Redis for all processes, by the strategies of `limits`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from limits import parse
from limits.aio.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.aio.storage.redis.bridge import RedisBridge
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.aio.strategies import (
    RateLimiter as Strategy,
)

from svcframework.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    RateLimitedError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_redis.link import Value

StrategyName = Literal["fixed-window", "moving-window", "sliding-window-counter"]
"""Fixed: cheap, up to twice the limit around the turn of a window. Moving: exact, an entry for each call. Sliding:
two counters, and an estimate of what the last window still counts for."""

WhenDown = Literal["raise", "allow", "refuse"]
"""What a limiter says while Redis is away."""

_STRATEGIES: dict[StrategyName, type[Strategy]] = {
    "fixed-window": FixedWindowRateLimiter,
    "moving-window": MovingWindowRateLimiter,
    "sliding-window-counter": SlidingWindowCounterRateLimiter,
}
_COUNT, _ENTER, _LOOK, _ENTER_SLIDING, _LOOK_SLIDING = (
    script.decode()
    for script in (
        RedisBridge.SCRIPT_INCR_EXPIRE,
        RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW,
        RedisBridge.SCRIPT_MOVING_WINDOW,
        RedisBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW,
        RedisBridge.SCRIPT_SLIDING_WINDOW,
    )
)
_AWAY = (ConnectionFailedError, ServiceTimeoutError, ServiceUnavailableError)


class Commands(Protocol):
    """What a limiter needs of a `RedisService`."""

    def evaluate(self, script: str, keys: Sequence[str], args: Sequence[Value], /) -> Awaitable[Any]:
        """Run a script."""
        ...

    def execute(self, *args: Value) -> Awaitable[Any]:
        """Send any command."""
        ...


@dataclass(frozen=True, slots=True)
class RateWindow:
    """What is left of a limit."""

    remaining: int
    """Calls that are free now."""
    reset_after: float
    """Seconds until some, or all in a fixed window, are free again."""


class RateLimiter:
    """Counts calls by whoever makes them; made by `RedisService.rate_limiter`, and lives as long as it is wanted.

    Args:
        limit: So many per so much: "100/minute", "5 per 2 hours".
        namespace: Limiters of the same namespace and limit share their counts.
        strategy: How windows are counted.
        when_down: Whether a call without Redis raises the error, is allowed, or is refused.
        commands: Where the counts are.

    Raises:
        ValueError: The limit can't be read.
    """

    def __init__(
        self, limit: str, *, namespace: str, strategy: StrategyName, when_down: WhenDown, commands: Commands
    ) -> None:
        try:
            self._limit = parse(limit)
        except ValueError as error:
            raise ValueError(f"{limit!r} is no limit; give one such as '100/minute' or '5 per 2 hours'") from error
        if strategy not in _STRATEGIES:
            raise ValueError(f"{strategy!r} is no strategy; there are {', '.join(_STRATEGIES)}")
        self._when_down = when_down
        self._strategy = _STRATEGIES[strategy](_RedisStorage(commands, f"limit:{_escaped(namespace)}:{strategy}"))

    async def hit(self, *key: str, cost: int = 1) -> None:
        """Count a call.

        Args:
            key: Who makes it, in parts that stay apart: `hit("tenant", tenant_id)`.
            cost: How many it counts for; a call that is refused counts for nothing but in a fixed window.

        Raises:
            RateLimitedError: There were too many; it says when to try again.
            ConnectionFailedError, ServiceTimeoutError: Redis is away, and `when_down` is "raise".
            ValueError: No call can ever count for that much.
        """
        if not 0 < cost <= self._limit.amount:
            raise ValueError(f"a cost is from 1 to the limit of {self._limit.amount}; {cost} would never be allowed")
        if not await self._decided(self._strategy.hit(self._limit, *map(_escaped, key), cost=cost)):
            raise RateLimitedError(f"more than {self._limit}", retry_after=await self._pause(key))

    async def test(self, *key: str, cost: int = 1) -> bool:
        """Whether a call would be allowed now; it isn't counted. Errors as `hit`."""
        return await self._decided(self._strategy.test(self._limit, *map(_escaped, key), cost=cost))

    async def window(self, *key: str) -> RateWindow:
        """What is left of the limit. Errors as `RedisService.execute`."""
        found = await self._strategy.get_window_stats(self._limit, *map(_escaped, key))
        return RateWindow(max(0, found.remaining), max(0.0, found.reset_time - time.time()))

    async def clear(self, *key: str) -> None:
        """Forget the calls of one key. Errors as `RedisService.execute`."""
        await self._strategy.clear(self._limit, *map(_escaped, key))

    async def _decided(self, question: Awaitable[bool]) -> bool:
        try:
            return await question
        except DeadlineExceededError:
            raise  # the caller's time is up, whatever the limit
        except _AWAY:
            if self._when_down == "raise":
                raise
            return self._when_down == "allow"

    async def _pause(self, key: tuple[str, ...]) -> float:
        try:
            return (await self.window(*key)).reset_after
        except _AWAY:
            return 1.0


class _RedisStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """The storage that `limits` has for redis-py, on our own connection: its scripts, and our deadlines and errors."""

    STORAGE_SCHEME = None

    def __init__(self, commands: Commands, prefix: str) -> None:
        super().__init__()
        self._commands, self._prefix = commands, prefix

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    def _key(self, key: str) -> str:
        return f"{self._prefix}:{{{key}}}"  # braces: in a cluster, both windows are on the same node

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return int(await self._commands.evaluate(_COUNT, [self._key(key)], [expiry, amount]))

    async def get(self, key: str) -> int:
        return int(await self._commands.execute("GET", self._key(key)) or 0)

    async def get_expiry(self, key: str) -> float:
        milliseconds = int(await self._commands.execute("PTTL", self._key(key)))
        return time.time() + max(0, milliseconds) / 1000

    async def check(self) -> bool:
        return bool(await self._commands.execute("PING"))

    async def reset(self) -> int | None:
        raise NotImplementedError("clear keys one by one: no command finds those of one namespace safely")

    async def clear(self, key: str) -> None:
        await self._commands.execute("DEL", self._key(key))

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        values = [time.time(), limit, expiry, amount]
        return bool(await self._commands.evaluate(_ENTER, [self._key(key)], values))

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = time.time()
        found = await self._commands.evaluate(_LOOK, [self._key(key)], [now - expiry, limit])
        return (float(found[0]), int(found[1])) if found else (now, 0)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return bool(await self._commands.evaluate(_ENTER_SLIDING, self._windows(key), [limit, expiry, amount]))

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        found: list[Any] = await self._commands.evaluate(_LOOK_SLIDING, self._windows(key), [expiry])
        before, before_ttl, now, now_ttl = (max(0, int(number or 0)) for number in found)
        return before, before_ttl / 1000, now, now_ttl / 1000

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        del expiry
        await self._commands.execute("DEL", *self._windows(key))

    def _windows(self, key: str) -> list[str]:
        return [f"{self._key(key)}:previous", self._key(key)]


def _escaped(part: str) -> str:
    """A part of a key without what separates parts, or what a cluster would cut it at."""
    for character in "%/:{}":
        part = part.replace(character, f"%{ord(character):02X}")
    return part
