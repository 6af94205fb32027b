"""Flights: values are made once, by one caller of one process, and kept only if nothing was removed meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from svcframework.errors import DeadlineExceededError
from svcframework_redis.caching.engine import CacheEngine, Forgotten, Look
from svcframework_redis.caching.entries import Entry, body_of, pack_lease
from svcframework_redis.caching.keyspace import KeySpace, refresh_name
from svcframework_redis.caching.refusals import UncacheableValueError, ValueTooLargeError
from svcframework_redis.caching.values import MISSING, is_immutable

_CALLED_OFF: Any = object()  # the one who made the value was cancelled; another caller takes over
_SLOW = 60.0  # seconds by which a tag's version outlives a value, for the time that its source takes
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1  # seconds between two looks for what another process makes


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """One wish for a value: which, how it is made, and how long it is kept."""

    space: KeySpace
    name: str
    factory: Callable[[], Awaitable[Any]]
    kind: Any
    ttl: float
    tags: tuple[str, ...]
    negative_ttl: float
    refresh_after: float | None


@dataclass(slots=True, eq=False)
class _Flight:
    """A value in the making; lives until it is there."""

    outcome: asyncio.Future[Any]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Made:
    """What came of it; `data` is the value as written, where there is such."""

    value: Any
    data: bytes | memoryview | None = None


class Flights:
    """Makes values; lives as long as its cache.

    Within a process callers of one name share one flight. Across processes the one that makes a value leaves a lease
    in its place; what it has made takes the lease's place, and is not stored when the lease is gone because the name
    was deleted or set meanwhile. The tags' versions are read before the source is asked.

    Args:
        engine: Where values are kept.
        complain: Told of an error of a refresh, which no caller sees.
    """

    def __init__(self, engine: CacheEngine, complain: Callable[[str, Exception], None]) -> None:
        self._engine, self._complain = engine, complain
        self._flights: dict[str, _Flight] = {}
        self._refreshing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        engine.on_forget = self.detach

    async def obtain(self, order: Order) -> Any:
        """The value, found or made."""
        while True:
            flight = self._flights.get(order.name)
            if flight is None:
                return await self._lead(order)
            made = await asyncio.shield(flight.outcome)  # a caller that gives up takes nobody with it
            if made is not _CALLED_OFF:
                self._engine.counts.shared += 1
                return self._own(made, order.kind)

    def detach(self, what: Forgotten) -> None:
        """Let nobody else share flights whose value may be outdated already."""
        for name in what.names:
            self._flights.pop(name, None)
        if what.tags or what.below:
            gone, roots = set(what.tags), tuple(f"{prefix}:" for prefix in what.below)
            for name, flight in list(self._flights.items()):
                if flight.tags & gone or name in what.below or name.startswith(roots):
                    del self._flights[name]

    async def drain(self, seconds: float) -> None:
        """Let background work end in time, then cancel it."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _own(self, made: _Made, kind: Any) -> Any:
        """The value for a caller who only waited: one of his own, if it could be changed."""
        if is_immutable(made.value):
            return made.value
        codec = self._engine.codec
        try:
            value = codec.decode(codec.encode(made.value) if made.data is None else made.data, kind)
        except UncacheableValueError:
            return made.value
        return made.value if value is MISSING else value

    # --- in this process --------------------------------------------------------------------------------

    async def _lead(self, order: Order) -> Any:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        flight = self._flights[order.name] = _Flight(outcome, frozenset(map(order.space.tag, order.tags)))
        try:
            made = await self._found_or_made(order)
        except DeadlineExceededError:  # of this caller; the others may have more time
            outcome.set_result(_CALLED_OFF)
            raise
        except Exception as error:
            outcome.set_exception(error)
            outcome.exception()  # seen, also when nobody else waits
            raise
        except BaseException:
            outcome.set_result(_CALLED_OFF)
            raise
        else:
            outcome.set_result(made)
            return made.value
        finally:
            if self._flights.get(order.name) is flight:
                del self._flights[order.name]

    # --- across processes -------------------------------------------------------------------------------

    async def _found_or_made(self, order: Order) -> _Made:
        engine = self._engine
        until, pause, waited = engine.clock() + engine.settings.lease_wait, _FIRST_PAUSE, False
        while True:
            look = await engine.look(order.space, order.name, order.kind, order.tags)
            if look.value is not MISSING:
                engine.counts.hits += 1
                engine.counts.waited += waited
                return self._found(order, look)
            if not look.is_reachable:
                return await self._make(order, look, None)
            leased: bool | None = False
            if look.entry is None or look.entry.kind != "lease":
                lease = pack_lease()
                leased = await engine.lease(order.name, look.entry, lease)
                if leased:
                    return await self._make(order, look, lease)
            if leased is None or engine.clock() >= until:
                return await self._make(order, look, None)
            waited = True
            await asyncio.sleep(min(pause, max(0.0, until - engine.clock())))
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _found(self, order: Order, look: Look) -> _Made:
        entry = look.entry
        if entry is None:
            return _Made(look.value)
        if 0 < entry.refresh_at <= self._engine.wall() and order.name not in self._refreshing:
            self._refreshing.add(order.name)
            self._begin(self._refresh(order, entry))
        return _Made(look.value, entry.body if entry.kind == "value" else None)

    async def _make(self, order: Order, look: Look, lease: bytes | None) -> _Made:
        """Ask the source; what it makes is stored where `lease` is."""
        engine = self._engine
        engine.counts.misses += 1
        if lease is None:
            engine.counts.made += 1
            return _Made(await order.factory())
        ticket, settled = engine.local.begin(order.name), False
        renewal = _Renewal(engine, order.name, lease, self._begin_apart)
        try:
            versions = await engine.pin(order.space, order.tags, look.versions, order.ttl + _SLOW)
            engine.counts.made += 1
            value = await order.factory()
            packed = self._packed(order, value, versions)
            if packed is None:
                return _Made(value)
            settled = await engine.settle(order.space, order.name, lease, packed=packed, tags=order.tags, ticket=ticket)
            engine.counts.lost += not settled
            return _Made(value, body_of(packed[0]))
        finally:
            renewal.cancel()
            engine.local.end(order.name, ticket)
            if not settled:
                self._begin_apart(engine.release(order.name, lease))  # not awaited: this may be a cancellation

    def _packed(self, order: Order, value: Any, versions: dict[str, bytes] | None) -> tuple[bytes, float] | None:
        """The value as the store takes it; None if it isn't to be stored."""
        if versions is None:  # the store went away
            return None
        ttl, refresh_after = order.ttl, order.refresh_after
        if value is None:
            ttl, refresh_after = min(ttl, order.negative_ttl), None
        if ttl <= 0:
            return None
        try:
            body = self._engine.encoded(value)
        except ValueTooLargeError as error:
            self._engine.counts.too_large += 1
            self._complain("value too large for the cache", error)
            return None
        return self._engine.packed(body, ttl, versions=versions, refresh_after=refresh_after)

    # --- in the background ------------------------------------------------------------------------------

    async def _refresh(self, order: Order, old: Entry) -> None:
        """Make a value anew while the old one is still given out; one process at a time.

        After an error the claim is left to end by itself, so that a broken source is not asked over and over.
        """
        engine, claim, lease = self._engine, refresh_name(order.name), pack_lease()
        ticket = object()  # none yet
        renewal = _Renewal(engine, claim, lease, self._begin_apart)
        try:
            if not await engine.lease(claim, None, lease):
                return
            versions = await engine.pin(order.space, order.tags, {}, order.ttl + _SLOW)
            ticket = engine.local.begin(order.name)
            engine.counts.made += 1
            value = await order.factory()
            packed = self._packed(order, value, versions)
            if packed is not None:
                engine.counts.refreshed += await engine.settle(
                    order.space, order.name, old.mark, packed=packed, tags=order.tags, ticket=ticket
                )
            elif value is None:  # the source has it no longer, and that isn't to be kept
                await engine.release(order.name, old.mark)
            await engine.release(claim, lease)
        except Exception as error:  # noqa: BLE001 - a boundary: nobody waits for it
            self._complain("cache refresh failed", error)
        finally:
            renewal.cancel()
            engine.local.end(order.name, ticket)
            self._refreshing.discard(order.name)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin_apart(self, work: Coroutine[Any, Any, None]) -> None:
        """The same without the caller's context: his deadline must not keep a lease from being given up."""
        contextvars.Context().run(self._begin, self._uncomplaining(work))

    async def _uncomplaining(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - a boundary: nobody waits for it
            self._complain("cache lease lost", error)


class _Renewal:
    """Holds a lease for as long as a source takes; lives until it is cancelled.

    Args:
        engine: Where the lease is.
        name: Its name.
        lease: The lease.
        begin: Begins work in the background.
    """

    def __init__(
        self, engine: CacheEngine, name: str, lease: bytes, begin: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._engine, self._name, self._lease, self._begin = engine, name, lease, begin
        self._timer = self._later()

    def cancel(self) -> None:
        """Renew no more."""
        self._timer.cancel()

    def _later(self) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self._engine.settings.lease_ttl / 3, lambda: self._begin(self._renew()))

    async def _renew(self) -> None:
        timer = self._timer = self._later()
        if not await self._engine.renew(self._name, self._lease):
            timer.cancel()
