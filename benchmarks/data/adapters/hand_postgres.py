"""The limit on PostgreSQL: for each row the tightest code that we could write by hand on bare connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

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
    Receiver,
    Trip,
    enveloped,
)  # fmt: skip
from benchmarks.data.inbox import Inbox

NOTIFY_MANY = "SELECT count(pg_notify(c, x)) FROM unnest($1::text[], $2::text[]) t(c, x)"


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A bare connection."""
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def one(bench: Bench) -> AsyncIterator[Operation]:
    """A statement, prepared, on a bare connection: behind a lock, so that the check may ask from many tasks."""
    async with connected(bench.postgres.dsn) as connection:
        statement = await connection.prepare(SELECT)
        lock = asyncio.Lock()

        async def fetch(index: int) -> Any:
            async with lock:
                return await statement.fetchrow(index)

        yield Operation(f"await fetch(i % {ITEMS})", {"fetch": fetch})


@asynccontextmanager
async def free_connections(bench: Bench) -> AsyncIterator[Callable[[Callable[..., Awaitable[Any]]], Any]]:
    """A hand-written pool: a list, a semaphore, no reset."""
    async with AsyncExitStack() as stack:
        free = [await stack.enter_async_context(connected(bench.postgres.dsn)) for _ in range(CONNECTIONS)]
        places = asyncio.Semaphore(CONNECTIONS)

        def pooled(work: Callable[..., Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
            async def call(index: int) -> Any:
                async with places:
                    connection = free.pop()
                    try:
                        return await work(connection, index)
                    finally:
                        free.append(connection)

            return call

        yield pooled


@asynccontextmanager
async def one_pooled(bench: Bench) -> AsyncIterator[Operation]:
    """A statement on whichever connection is free."""
    async with free_connections(bench) as pooled:

        async def fetch(connection: asyncpg.Connection[Any], index: int) -> Any:
            return await connection.fetchrow(SELECT, index)

        yield Operation(f"await fetch(i % {ITEMS})", {"fetch": pooled(fetch)})


@asynccontextmanager
async def transaction(bench: Bench) -> AsyncIterator[Operation]:
    """BEGIN, the statement and COMMIT."""
    async with free_connections(bench) as pooled:

        async def fetch(connection: asyncpg.Connection[Any], index: int) -> Any:
            await connection.execute("BEGIN")
            row = await connection.fetchrow(SELECT, index)
            await connection.execute("COMMIT")
            return row

        yield Operation(f"await fetch(i % {ITEMS})", {"fetch": pooled(fetch)})


@asynccontextmanager
async def notify(bench: Bench) -> AsyncIterator[Operation]:
    """One statement per message."""
    channel = bench.channel()
    async with connected(bench.postgres.dsn) as connection:
        statement = await connection.prepare("SELECT pg_notify($1, $2)")
        names = {"notify": statement.fetchval, "channel": channel, "texts": TEXTS}
        yield Operation(f"await notify(channel, texts[i % {ITEMS}])", names, channel)


@asynccontextmanager
async def notify_together(bench: Bench) -> AsyncIterator[Operation]:
    """What many tasks send while a statement is under way goes with the next one."""
    channel = bench.channel()
    async with connected(bench.postgres.dsn) as connection:
        statement = await connection.prepare(NOTIFY_MANY)
        loop = asyncio.get_running_loop()
        texts: list[str] = []
        waiting: list[asyncio.Future[None]] = []
        sender: list[asyncio.Task[None]] = []

        async def drain() -> None:
            while waiting:
                now, those = texts.copy(), waiting.copy()
                texts.clear()
                waiting.clear()
                await statement.fetchval([channel] * len(now), now)
                for one in those:
                    one.set_result(None)
            sender.clear()

        def send(text: str) -> asyncio.Future[None]:
            future = loop.create_future()
            texts.append(text)
            waiting.append(future)
            if not sender:
                sender.append(loop.create_task(drain()))
            return future

        yield Operation(f"await send(texts[i % {ITEMS}])", {"send": send, "texts": TEXTS}, channel)


@asynccontextmanager
async def notify_batch(bench: Bench) -> AsyncIterator[Operation]:
    """One statement for all."""
    channel = bench.channel()
    async with connected(bench.postgres.dsn) as connection:
        statement = await connection.prepare(NOTIFY_MANY)
        names = {"send": statement.fetchval, "channels": [channel] * ITEMS, "texts": TEXTS}
        yield Operation("await send(channels, texts)", names, channel)


@asynccontextmanager
async def notify_batch_enveloped(bench: Bench) -> AsyncIterator[Operation]:
    """The same, each text in an envelope."""
    channel = bench.channel()
    async with connected(bench.postgres.dsn) as connection:
        statement = await connection.prepare(NOTIFY_MANY)

        async def send() -> None:
            await statement.fetchval([channel] * ITEMS, [text.decode() for text in enveloped()])

        yield Operation("await send()", {"send": send}, channel)


@asynccontextmanager
async def listen(bench: Bench) -> AsyncIterator[Receiver]:
    """A bare `add_listener`."""
    channel = bench.channel()
    inbox = Inbox()
    async with connected(bench.postgres.dsn) as connection:
        await connection.add_listener(channel, lambda _connection, _pid, _channel, text: inbox.put(text))
        yield Receiver(inbox.take, channel)


@asynccontextmanager
async def listen_enveloped(bench: Bench) -> AsyncIterator[Receiver]:
    """The same messages, in envelopes, which it doesn't open."""
    async with listen(bench) as receiver:
        yield replace(receiver, payloads=enveloped())


@asynccontextmanager
async def notify_trip(bench: Bench) -> AsyncIterator[Trip]:
    """Two bare connections."""
    channel = bench.channel()
    async with connected(bench.postgres.dsn) as connection, connected(bench.postgres.dsn) as other:
        await connection.add_listener(channel, lambda _connection, _pid, _channel, text: bench.ear.hear(text))
        statement = await other.prepare("SELECT pg_notify($1, $2)")

        async def publish(index: int) -> None:
            await statement.fetchval(channel, TEXTS[index % ITEMS])

        yield Trip(publish)


@asynccontextmanager
async def reconnect_postgres(bench: Bench) -> AsyncIterator[Attempt]:
    """The same."""

    async def call() -> None:
        async with connected(bench.mortal_postgres.dsn) as connection:
            await connection.fetchval("SELECT 1")

    yield Attempt(call)


ADAPTERS = [
    Adapter(
        "hand",
        rows={
            "pg-one": one,
            "pg-one-50": one_pooled,
            "pg-transaction": transaction,
            "pg-transaction-50": transaction,
            "pg-publish": notify,
            "pg-publish-50": notify_together,
            "pg-publish-batch": notify_batch,
            "pg-receive": listen,
            "pg-latency": notify_trip,
            "back-pg": reconnect_postgres,
        },
    ),
    Adapter(
        "hand, with an envelope", rows={"pg-publish-batch": notify_batch_enveloped, "pg-receive": listen_enveloped}
    ),
]
