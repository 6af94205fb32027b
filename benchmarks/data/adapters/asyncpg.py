"""asyncpg's own pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.data.contract import (
    CONNECTIONS,
    ITEMS,
    SELECT,
    TEXTS,
    Adapter,
    Attempt,
    Bench,
    Operation,
    Trip,
)  # fmt: skip
from benchmarks.data.pace import keep_on

NOTIFY = "SELECT pg_notify($1, $2)"


def pool_of(dsn: str) -> asyncpg.Pool:
    """As large as everybody's."""
    return asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)


@asynccontextmanager
async def one(bench: Bench) -> AsyncIterator[Operation]:
    """`pool.fetchrow`."""
    async with pool_of(bench.postgres.dsn) as pool:
        yield Operation(f"await fetchrow(sql, i % {ITEMS})", {"fetchrow": pool.fetchrow, "sql": SELECT})


@asynccontextmanager
async def transaction(bench: Bench) -> AsyncIterator[Operation]:
    """`pool.acquire()` and `connection.transaction()`."""
    async with pool_of(bench.postgres.dsn) as pool:

        async def fetch(index: int) -> object:
            async with pool.acquire() as connection, connection.transaction():
                return await connection.fetchrow(SELECT, index)

        yield Operation(f"await fetch(i % {ITEMS})", {"fetch": fetch})


@asynccontextmanager
async def notify(bench: Bench) -> AsyncIterator[Operation]:
    """`pool.execute` with `pg_notify`."""
    channel = bench.channel()
    async with pool_of(bench.postgres.dsn) as pool:
        names = {"execute": pool.execute, "sql": NOTIFY, "channel": channel, "texts": TEXTS}
        yield Operation(f"await execute(sql, channel, texts[i % {ITEMS}])", names, channel)


@asynccontextmanager
async def notify_batch(bench: Bench) -> AsyncIterator[Operation]:
    """`executemany`: one round trip for all."""
    channel = bench.channel()
    async with pool_of(bench.postgres.dsn) as pool:
        names = {"executemany": pool.executemany, "sql": NOTIFY, "rows": [(channel, text) for text in TEXTS]}
        yield Operation("await executemany(sql, rows)", names, channel)


@asynccontextmanager
async def trip(bench: Bench) -> AsyncIterator[Trip]:
    """A listener on a connection of its own."""
    channel = bench.channel()
    connection = await asyncpg.connect(bench.postgres.dsn)
    await connection.add_listener(channel, lambda _connection, _pid, _channel, text: bench.ear.hear(text))
    async with pool_of(bench.postgres.dsn) as pool:

        async def publish(index: int) -> None:
            await pool.execute(NOTIFY, channel, TEXTS[index % ITEMS])

        yield Trip(publish)
    await connection.close()


@asynccontextmanager
async def back(bench: Bench) -> AsyncIterator[Attempt]:
    """The pool finds its server again by itself."""
    pool = await asyncpg.create_pool(bench.mortal_postgres.dsn, min_size=0, max_size=CONNECTIONS)
    yield Attempt(lambda: pool.fetchrow("SELECT 1"))
    pool.terminate()


@asynccontextmanager
async def back_listening(bench: Bench) -> AsyncIterator[Trip]:
    """A listener dies with its connection: here a new one is made as soon as that is told."""
    dsn, channel = bench.mortal_postgres.dsn, bench.channel()

    async def listen(ready: asyncio.Event) -> None:
        connection = await asyncpg.connect(dsn)
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel, lambda _connection, _pid, _channel, text: bench.ear.hear(text))
        ready.set()
        await gone.wait()

    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=CONNECTIONS)

    async def publish(index: int) -> None:
        await pool.execute(NOTIFY, channel, TEXTS[index % ITEMS])

    async with keep_on(listen):
        yield Trip(publish)
    pool.terminate()


ADAPTERS = [
    Adapter(
        "asyncpg pool",
        ("asyncpg",),
        rows={
            "pg-one": one,
            "pg-one-50": one,
            "pg-transaction": transaction,
            "pg-transaction-50": transaction,
            "pg-publish": notify,
            "pg-publish-50": notify,
            "pg-publish-batch": notify_batch,
            "pg-latency": trip,
            "back-pg": back,
            "back-pg-subscriber": back_listening,
        },
        notes={"back-pg-subscriber": "it has no reconnecting listener; a loop by hand makes a new one every 10 ms"},
    )
]
