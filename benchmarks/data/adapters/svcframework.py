"""svcframework's PostgreSQL, Redis and cache: services of a running host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.data.contract import CONNECTIONS, ITEMS, KEYS, SELECT, TEXTS, Adapter, Attempt, Bench, Operation
from svcframework import ServiceContainer, ServiceHost, configure_logging, providers
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey
from svcframework_postgres import PostgresService
from svcframework_redis import CacheService, RedisService

configure_logging("critical")  # as quiet as the others, also about servers that die


@asynccontextmanager
async def database(server: EmbeddedPostgres) -> AsyncIterator[PostgresService]:
    """The service, its host running."""

    class Container(ServiceContainer):
        postgres = providers.Service(PostgresService, config={"pool_max_size": CONNECTIONS}, server=server)

    async with ServiceHost(Container) as host:
        yield host[PostgresService]


@asynccontextmanager
async def redis(server: EmbeddedValkey) -> AsyncIterator[RedisService]:
    """The service, its host running."""

    class Container(ServiceContainer):
        redis_service = providers.Service(RedisService, server=server)

    async with ServiceHost(Container) as host:
        yield host[RedisService]


@asynccontextmanager
async def cache(bench: Bench, **config: Any) -> AsyncIterator[CacheService]:
    """The service, its host running."""

    class Container(ServiceContainer):
        redis_service = providers.Service(RedisService, server=bench.valkey)
        cache_service = providers.Service(CacheService, config=config)

    async with ServiceHost(Container) as host:
        yield host[CacheService]


# --- PostgreSQL -----------------------------------------------------------------------------------------


@asynccontextmanager
async def one(bench: Bench) -> AsyncIterator[Operation]:
    """`execute_one`."""
    async with database(bench.postgres) as service:
        yield Operation(f"await execute_one(sql, i % {ITEMS})", {"execute_one": service.execute_one, "sql": SELECT})


@asynccontextmanager
async def transaction(bench: Bench) -> AsyncIterator[Operation]:
    """`transaction`."""
    async with database(bench.postgres) as service:

        async def fetch(index: int) -> Any:
            async with service.transaction() as tx:
                return await tx.execute_one(SELECT, index)

        yield Operation(f"await fetch(i % {ITEMS})", {"fetch": fetch})


@asynccontextmanager
async def back_postgres(bench: Bench) -> AsyncIterator[Attempt]:
    """A row again."""
    async with database(bench.mortal_postgres) as service:
        yield Attempt(lambda: service.execute_one("SELECT 1 AS one"))


# --- Redis ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def get(bench: Bench) -> AsyncIterator[Operation]:
    """`RedisService.get`."""
    async with redis(bench.valkey) as service:
        yield Operation(f"await get(keys[i % {ITEMS}])", {"get": service.get, "keys": KEYS})


@asynccontextmanager
async def get_batch(bench: Bench) -> AsyncIterator[Operation]:
    """`RedisService.execute_many`."""
    async with redis(bench.valkey) as service:
        names = {"execute_many": service.execute_many, "keys": KEYS}
        yield Operation("await execute_many([('GET', key) for key in keys])", names)


@asynccontextmanager
async def back_redis(bench: Bench) -> AsyncIterator[Attempt]:
    """A command again."""
    async with redis(bench.mortal_valkey) as service:
        yield Attempt(service.ping)


@asynccontextmanager
async def cache_get(bench: Bench) -> AsyncIterator[Operation]:
    """`CacheService.get`, always answered by Redis."""
    async with cache(bench, local_size=0, namespace="bench-ours") as service:
        for key, text in zip(KEYS, TEXTS, strict=True):
            await service.set(key, text, ttl=3600)
        yield Operation(f"await get(keys[i % {ITEMS}])", {"get": service.get, "keys": KEYS})


@asynccontextmanager
async def cache_get_batch(bench: Bench) -> AsyncIterator[Operation]:
    """`CacheService.get_many`."""
    async with cache(bench, local_size=0, namespace="bench-ours") as service:
        for key, text in zip(KEYS, TEXTS, strict=True):
            await service.set(key, text, ttl=3600)

        async def fetch() -> list[Any]:
            found = await service.get_many(KEYS)
            return [found[key] for key in KEYS]

        yield Operation("await fetch()", {"fetch": fetch})


@asynccontextmanager
async def hit(bench: Bench) -> AsyncIterator[Operation]:
    """`CacheService.get`, answered in this process."""
    async with cache(bench, local_size=1_000, local_ttl=3600.0, namespace="bench-local") as service:
        await service.set("key", "kept", ttl=7200)
        yield Operation("await get('key')", {"get": service.get})


@asynccontextmanager
async def decorated(bench: Bench) -> AsyncIterator[Operation]:
    """`@cached`, answered in this process."""
    from svcframework_redis import CacheIntegration  # noqa: PLC0415 - a row of its own, should it be missing

    async with cache(bench, local_size=1_000, local_ttl=3600.0, namespace="bench-decorated") as service:

        @CacheIntegration(service).cached(ttl=7200)
        async def function(key: str) -> str:  # noqa: ARG001 - a source
            return "kept"

        yield Operation("await function('key')", {"function": function})


ADAPTERS = [
    Adapter(
        "svcframework",
        ("svcframework", "svcframework-postgres", "svcframework-redis"),
        rows={
            "pg-one": one,
            "pg-one-50": one,
            "pg-transaction": transaction,
            "pg-transaction-50": transaction,
            "redis-get": get,
            "redis-get-50": get,
            "redis-get-batch": get_batch,
            "cache-hit": hit,
            "cache-decorated": decorated,
            "back-redis": back_redis,
            "back-pg": back_postgres,
        },
    ),
    Adapter(
        "svcframework, `CacheService`",
        rows={"redis-get": cache_get, "redis-get-50": cache_get, "redis-get-batch": cache_get_batch},
        notes={"redis-get-batch": "`MGET`, one command for all"},
    ),
]
