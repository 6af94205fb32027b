"""MemoryCache: the cache without a server, for tests, for development and for a process that is alone."""

# ruff: noqa: D102 - the protocol, in `store`, says what each method does
from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from svcframework import HealthResult
from svcframework_redis.caching.entries import EXPIRES_AT, MARK
from svcframework_redis.caching.service import StoredCache
from svcframework_redis.caching.store import Ears, News
from svcframework_redis.config import CacheConfig

_OVERHEAD = 100  # bytes that an entry needs besides its value, about
_VALUES = {b"v", b"n"}


class MemoryStore:
    """A cache's entries in memory, the least recently used dropped first; lives as long as somebody holds it.

    Several caches may share one, as processes share a server.

    Args:
        size: Entries at most.
        limit: Bytes at most.
        clock: Seconds that only grow.
    """

    def __init__(
        self, *, size: int = 10_000, limit: int = 268_435_456, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._limit, self._clock = size, limit, clock
        self._held: dict[str, tuple[float, bytes]] = {}  # in order of use
        self._bytes = 0
        self._ears: dict[str, list[Callable[[bytes], None]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_connected(self) -> bool:
        """Memory hears itself."""
        return True

    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        return [self._get(name) for name in names]

    async def write(self, entries: Mapping[str, tuple[bytes, float]], news: News | None = None) -> None:
        for name, (data, seconds) in entries.items():
            self._set(name, data, seconds)
        self._tell(news)

    async def write_new(self, name: str, data: bytes, seconds: float) -> bool:
        is_new = self._get(name) is None
        if is_new:
            self._set(name, data, seconds)
        return is_new

    async def swap(self, name: str, mark: bytes, data: bytes, seconds: float) -> bool:
        held = self._get(name)
        if held is None or not held.startswith(mark):
            return False
        self._drop(name)
        if data:
            self._set(name, data, seconds)
        return True

    async def touch(self, name: str, expires_at: float, seconds: float) -> bool:
        held = self._get(name)
        if held is None or held[:1] not in _VALUES:
            return False
        self._set(name, held[:MARK] + EXPIRES_AT.pack(expires_at) + held[MARK + EXPIRES_AT.size :], seconds)
        return True

    async def versions(self, names: Mapping[str, bytes], seconds: float) -> list[bytes]:
        for name, fresh in names.items():
            self._set(name, self._get(name) or fresh, seconds)
        return [self._held[name][1] if name in self._held else fresh for name, fresh in names.items()]

    async def extend(self, names: Sequence[str], seconds: float) -> None:
        until = self._clock() + seconds
        for name in names:
            held = self._get(name)
            if held is not None and self._held[name][0] < until:
                self._set(name, held, seconds)

    async def remove(self, names: Sequence[str], news: News | None = None) -> int:
        removed = sum(self._get(name) is not None for name in names)
        for name in names:
            self._drop(name)
        self._tell(news)
        return removed

    async def remove_below(self, prefix: str, news: News | None = None) -> int:
        below = f"{prefix}:"
        return await self.remove([name for name in self._held if name == prefix or name.startswith(below)], news)

    async def ping(self, seconds: float) -> None:
        """Memory is never away."""

    def listen(
        self,
        channel: str,
        heard: Callable[[bytes], None],
        deaf: Callable[[], None],  # noqa: ARG002 - never deaf
    ) -> AbstractAsyncContextManager[Ears]:
        return self._listening(channel, heard)

    @asynccontextmanager
    async def _listening(self, channel: str, heard: Callable[[bytes], None]) -> AsyncGenerator[Ears]:
        ears = self._ears.setdefault(channel, [])
        ears.append(heard)
        try:
            yield self
        finally:
            ears.remove(heard)

    def _tell(self, news: News | None) -> None:
        if news is not None:
            for heard in tuple(self._ears.get(news[0], ())):
                heard(news[1])

    def _get(self, name: str) -> bytes | None:
        held = self._held.pop(name, None)
        if held is None:
            return None
        if held[0] <= self._clock():
            self._bytes -= len(held[1]) + _OVERHEAD
            return None
        self._held[name] = held
        return held[1]

    def _set(self, name: str, data: bytes, seconds: float) -> None:
        self._drop(name)
        self._held[name] = (self._clock() + seconds, data)
        self._bytes += len(data) + _OVERHEAD
        while len(self._held) > self._size or self._bytes > self._limit:
            self._drop(next(iter(self._held)))

    def _drop(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            self._bytes -= len(held[1]) + _OVERHEAD


class MemoryCache(StoredCache):
    """What `CacheService` does, in the memory of this process; lives as long as its host, and so do the values.

    Args:
        config: Settings; from the section `cache` when not given.
        store: Where values are kept; one of its own, within `memory_size` and `memory_bytes`, when not given.
        clock: Seconds that only grow.
        wall: Seconds since 1970.
        draw: A number from 0 to 1, by chance.
    """

    def __init__(
        self,
        config: CacheConfig | Mapping[str, Any] | None = None,
        *,
        store: MemoryStore | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        def make_store(settings: CacheConfig) -> MemoryStore:
            if store is not None:  # an empty one counts
                return store
            return MemoryStore(size=settings.memory_size, limit=settings.memory_bytes, clock=clock)

        super().__init__(config, make_store, clock=clock, wall=wall, draw=draw)
        self._is_started = False

    async def on_startup(self) -> None:
        """Begin to hear what caches on the same store change, if values are kept twice."""
        await super().on_startup()
        self._is_started = True

    async def on_shutdown(self) -> None:
        """Let refreshes end within half of `stop_timeout`."""
        self._is_started = False
        await super().on_shutdown()

    async def _service_health_check(self) -> HealthResult:
        """Healthy while it runs: memory is never away."""
        return await super()._service_health_check() if self._is_started else HealthResult.unhealthy("not started")
