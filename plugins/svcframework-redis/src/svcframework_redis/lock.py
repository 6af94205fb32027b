"""RedisLock: one holder at a time among all processes, for a lease that is renewed while its block runs."""

from __future__ import annotations

import asyncio
import contextvars
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio

from svcframework.deadlines import effective_timeout
from svcframework.errors import (
    DatabaseError,
    ExternalServiceError,
    IllegalStateError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)
from svcframework_redis.errors import LockLostError, LockNotAcquiredError
from svcframework_redis.link import Value

# The token is the number after the last one, and never below the server's clock in microseconds: so it grows even when
# the counter is gone, by a write that was lost in a crash or a failover, or by its own expiry a day after the last use.
_ACQUIRE = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
  return {0, redis.call('PTTL', KEYS[1])}
end
local now = redis.call('TIME')
local token = math.max(tonumber(now[1]) * 1000000 + tonumber(now[2]), tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', math.max(86400000, 10 * tonumber(ARGV[2])))
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {text, 0}
"""
_RENEW = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('DEL', KEYS[1])"

_SHORTEST_POLL, _LONGEST_POLL = 0.005, 0.1  # seconds between two attempts


Evaluate = Callable[[str, Sequence[str], Sequence[Value]], Awaitable[Any]]
"""`RedisService.evaluate`."""


class Queues:
    """Who waits in this process for which lock; lives as long as the service.

    Only the first in line asks the server, and the lock goes from one to the next in the order of their coming.
    """

    def __init__(self) -> None:
        self._lines: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self.releasing: set[asyncio.Task[None]] = set()
        """Releases under way; each ends within the service's `timeout`."""

    async def enter(self, name: str) -> Callable[[], None]:
        """Wait to be the first in line; the function that is returned makes way for the next."""
        line, members = self._lines.setdefault(name, (asyncio.Lock(), []))
        members.append(None)

        def leave() -> None:
            members.pop()
            if not members:
                self._lines.pop(name, None)

        try:
            await line.acquire()
        except BaseException:
            leave()
            raise

        def make_way() -> None:
            line.release()
            leave()

        return make_way


class RedisLock:
    """One lock for the length of an `async with` block; made by `RedisService.lock`.

    The block has the lock until it ends, for the lease is renewed each third of its time. When that fails for a whole
    lease, or the server has lost it, the block is cancelled and `LockLostError` raised in its place. Between the end
    of a lease and the cancellation there may be a moment, and a block may not be able to stop: what it writes should
    carry `token`, and whoever takes it in should refuse tokens below the highest one seen.

    Args:
        name: Any text; different names are different locks.
        ttl: Seconds of a lease: for so long the lock outlives a holder that was killed.
        wait: Seconds to wait for it; 0 tries once.
        evaluate: Runs a script.
        queues: Who else waits in this process.
    """

    def __init__(self, name: str, *, ttl: float, wait: float, evaluate: Evaluate, queues: Queues) -> None:
        if not name or not 0.01 <= ttl < math.inf or not wait >= 0:  # noqa: PLR2004 - below, a renewal can't keep up
            raise ValueError(f"lock({name!r}, ttl={ttl!r}, wait={wait!r}): a name, 0.01 s or more, and 0 s or more")
        self.name, self.ttl = name, ttl
        self.token = 0
        """Grows with every holder, on a server whose clock isn't set back; 0 before it is held."""
        self._wait, self._evaluate, self._queues = wait, evaluate, queues
        key = f"lock:{{{_escaped(name)}}}"  # braces: in a cluster, both keys are on the same node
        self._keys = [key, f"{key}:token"]
        self._owner = secrets.token_hex(16)
        self._ends = 0.0  # of the lease, on the loop's clock, counted from before it was asked for
        self._lost = ""
        self._make_way: Callable[[], None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._scope = anyio.CancelScope()

    @property
    def is_held(self) -> bool:
        """Whether the lease runs, as far as is known here."""
        return self._keeper is not None and not self._lost and asyncio.get_running_loop().time() < self._ends

    async def __aenter__(self) -> Self:
        """Wait for the lock.

        Raises:
            LockNotAcquiredError: Somebody else has it and doesn't give it up in time.
            ServiceFrameworkError: As `RedisService.execute`.
        """
        if self._keeper is not None:
            raise IllegalStateError(f"enter the lock {self.name!r}", "held", fix="make another one for each block")
        limit = effective_timeout(self._wait)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        try:
            # A moment more for the line: without waiting one may still be the first.
            async with asyncio.timeout_at(deadline + _SHORTEST_POLL):
                self._make_way = await self._queues.enter(self.name)
        except TimeoutError:
            raise LockNotAcquiredError(f"lock {self.name!r}", limit, hint="others here wait for it as well") from None
        try:
            await self._acquire(deadline, limit)
        except BaseException:
            await self._end()
            raise
        self._keeper = asyncio.create_task(self._keep(), context=contextvars.Context())
        self._scope.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Give the lock up.

        Raises:
            LockLostError: It was lost while the block ran, and the block raised nothing of its own.
        """
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
        if not self._lost and asyncio.get_running_loop().time() >= self._ends:
            self._lost = "its lease ran out"
        lost = self._lost
        swallowed = self._scope.__exit__(kind, error, traceback)
        await self._end()
        if lost and (swallowed or error is None):
            raise LockLostError(self.name, lost)
        return swallowed

    # --- getting it -------------------------------------------------------------------------------------

    async def _acquire(self, deadline: float, limit: float) -> None:
        loop, pause = asyncio.get_running_loop(), _SHORTEST_POLL
        while True:
            asked = loop.time()
            token, left = await self._evaluate(_ACQUIRE, self._keys, [self._owner, self._milliseconds])
            if token:
                self.token, self._ends = int(token), asked + self.ttl
                return
            now = loop.time()
            if now >= deadline:
                raise LockNotAcquiredError(f"lock {self.name!r}", limit, hint="somebody else holds it")
            # Not all at once, not before the holder's lease can end if that is soon, and once more at the deadline.
            pause = min(pause * 2, _LONGEST_POLL)
            nap = min(pause * random.uniform(0.5, 1.0), max(left, 0) / 1000 + 0.001, deadline - now)  # noqa: S311
            await asyncio.sleep(nap)

    @property
    def _milliseconds(self) -> int:
        return max(1, round(self.ttl * 1000))

    # --- keeping it -------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the lease each third of it; after a failure sooner. Cancel the block once it is lost."""
        loop, reason = asyncio.get_running_loop(), "its lease ran out"
        pause = self.ttl / 3
        while (left := self._ends - loop.time()) > 0:
            await asyncio.sleep(min(pause, left))
            asked = loop.time()
            if asked >= self._ends:
                break
            try:
                async with asyncio.timeout_at(self._ends):
                    renewed = await self._evaluate(_RENEW, self._keys[:1], [self._owner, self._milliseconds])
            except DatabaseError as error:
                reason, pause = str(error), self.ttl / 10
            except (ExternalServiceError, ServiceTimeoutError, TimeoutError) as error:
                reason, pause = f"the server could not be asked ({type(error).__name__})", self.ttl / 10
            except ServiceFrameworkError as error:  # the service was stopped
                reason = str(error)
                break
            else:
                if not renewed:
                    reason = "the server has given it to somebody else, or has lost it"
                    break
                self._ends, pause = asked + self.ttl, self.ttl / 3
        self._lost = reason
        self._scope.cancel()

    # --- giving it up -----------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Release whatever the server may have given us, also while being cancelled."""
        # In a context of its own: the caller's deadline may be over, and the lock is to be released all the same.
        releasing = asyncio.create_task(self._release(), context=contextvars.Context())
        self._queues.releasing.add(releasing)  # the loop alone wouldn't keep it
        releasing.add_done_callback(self._queues.releasing.discard)
        with anyio.CancelScope(shield=True):
            await asyncio.shield(releasing)

    async def _release(self) -> None:
        """Give the lock back; a server that can't be reached forgets it after the lease."""
        try:
            with suppress(ServiceFrameworkError):
                await self._evaluate(_RELEASE, self._keys[:1], [self._owner])
        finally:
            make_way, self._make_way = self._make_way, None
            if make_way is not None:
                make_way()


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
