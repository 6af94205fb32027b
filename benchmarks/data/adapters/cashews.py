"""cashews: a cache with decorators, in memory or in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cashews import Cache

from benchmarks.data.contract import CONNECTIONS, ITEMS, KEYS, TEXTS, Adapter, Bench, Operation


@asynccontextmanager
async def hit(_: Bench) -> AsyncIterator[Operation]:
    """In memory."""
    cache = Cache()
    cache.setup("mem://")
    await cache.set("key", "kept", expire=3600)
    yield Operation("await get('key')", {"get": cache.get})
    await cache.close()


@asynccontextmanager
async def decorated(_: Bench) -> AsyncIterator[Operation]:
    """The decorator, in memory."""
    cache = Cache()
    cache.setup("mem://")

    @cache(ttl="1h", key="kept:{key}")
    async def function(key: str) -> str:  # noqa: ARG001 - a source
        return "kept"

    yield Operation("await function('key')", {"function": function})
    await cache.close()


@asynccontextmanager
async def get(bench: Bench) -> AsyncIterator[Operation]:
    """In Redis, as JSON."""
    cache = Cache()
    cache.setup(bench.valkey.url, pickle_type="json", max_connections=CONNECTIONS)
    keys = [f"cashews:{key}" for key in KEYS]
    for key, text in zip(keys, TEXTS, strict=True):
        await cache.set(key, text, expire=3600)
    yield Operation(f"await get(keys[i % {ITEMS}])", {"get": cache.get, "keys": keys})
    await cache.close()


ADAPTERS = [
    Adapter(
        "cashews",
        ("cashews",),
        rows={"cache-hit": hit, "cache-decorated": decorated, "redis-get": get, "redis-get-50": get},
    )
]
