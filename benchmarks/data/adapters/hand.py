"""The limit: for each row the tightest code that we could write by hand, with nothing that production needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg

from benchmarks.data.contract import (
    BYTES,
    CONNECTIONS,
    ITEMS,
    KEYS,
    SELECT,
    TEXTS,
    Adapter,
    Attempt,
    Bench,
    Operation,
    Receiver,
    Trip,
)  # fmt: skip
from benchmarks.data.resp import Resp

KEY_BYTES = [key.encode() for key in KEYS]
NOTIFY_MANY = "SELECT count(pg_notify(c, x)) FROM unnest($1::text[], $2::text[]) t(c, x)"


# --- PostgreSQL -----------------------------------------------------------------------------------------


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
async def listen(bench: Bench) -> AsyncIterator[Receiver]:
    """A bare `add_listener`."""
    channel = bench.channel()
    inbox = Inbox()
    async with connected(bench.postgres.dsn) as connection:
        await connection.add_listener(channel, lambda _connection, _pid, _channel, text: inbox.put(text))
        yield Receiver(inbox.take, channel)


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


class Inbox:
    """Keeps what a callback gets, until there is enough."""

    def __init__(self) -> None:
        self._got: list[Any] = []
        self._wanted = 0
        self._done: asyncio.Future[None] | None = None

    def put(self, message: Any) -> None:
        """One more."""
        got = self._got
        got.append(message)
        if len(got) == self._wanted and self._done is not None:
            self._done.set_result(None)

    async def take(self, count: int) -> list[Any]:
        """That many, when they are here; nothing else may come."""
        self._wanted = count
        self._done = asyncio.get_running_loop().create_future()
        if len(self._got) < count:
            await self._done
        got, self._got = self._got, []
        return got


# --- Redis ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def resp(bench: Bench) -> AsyncIterator[Resp]:
    """A protocol of our own."""
    connection = await Resp.connect(bench.valkey.url)
    yield connection
    connection.close()


@asynccontextmanager
async def get(bench: Bench) -> AsyncIterator[Operation]:
    """Written at once."""
    async with resp(bench) as redis:
        yield Operation(f"await call(b'GET', keys[i % {ITEMS}])", {"call": redis.call, "keys": KEY_BYTES})


@asynccontextmanager
async def get_together(bench: Bench) -> AsyncIterator[Operation]:
    """One write for all commands of a turn of the loop."""
    async with resp(bench) as redis:
        yield Operation(f"await call(b'GET', keys[i % {ITEMS}])", {"call": redis.call_together, "keys": KEY_BYTES})


@asynccontextmanager
async def get_batch(bench: Bench) -> AsyncIterator[Operation]:
    """One write for all."""
    async with resp(bench) as redis:
        yield Operation("await call([(b'GET', key) for key in keys])", {"call": redis.call_many, "keys": KEY_BYTES})


def publishing(method: str) -> Callable[[Bench], Any]:
    """PUBLISH, by that method of the protocol."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Operation]:
        channel = bench.channel()
        async with resp(bench) as redis:
            names = {"call": getattr(redis, method), "channel": channel.encode(), "texts": BYTES}
            yield Operation(f"await call(b'PUBLISH', channel, texts[i % {ITEMS}])", names, channel)

    return prepare


@asynccontextmanager
async def publish_batch(bench: Bench) -> AsyncIterator[Operation]:
    """One write for all."""
    channel = bench.channel()
    async with resp(bench) as redis:
        names = {"call": redis.call_many, "channel": channel.encode(), "texts": BYTES}
        yield Operation("await call([(b'PUBLISH', channel, text) for text in texts])", names, channel)


@asynccontextmanager
async def subscribe(bench: Bench) -> AsyncIterator[Receiver]:
    """A callback per message."""
    channel = bench.channel()
    inbox = Inbox()
    async with resp(bench) as redis:
        redis.on_message = inbox.put
        await redis.call(b"SUBSCRIBE", channel.encode())
        yield Receiver(inbox.take, channel)


@asynccontextmanager
async def publish_trip(bench: Bench) -> AsyncIterator[Trip]:
    """Two connections."""
    channel = bench.channel().encode()
    async with resp(bench) as redis, resp(bench) as other:
        redis.on_message = bench.ear.hear
        await redis.call(b"SUBSCRIBE", channel)

        async def publish(index: int) -> None:
            await other.call(b"PUBLISH", channel, BYTES[index % ITEMS])

        yield Trip(publish)


# --- in this process ------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_await(_: Bench) -> AsyncIterator[Operation]:
    """What any async function costs."""

    async def function(key: str) -> str:  # noqa: ARG001 - what a cache is called with
        return "kept"

    yield Operation("await function('key')", {"function": function})


@asynccontextmanager
async def hit(_: Bench) -> AsyncIterator[Operation]:
    """A dict of deadlines and values."""
    kept = {"key": (time.monotonic() + 3600, "kept")}
    clock = time.monotonic

    async def get_kept(key: str) -> str | None:
        found = kept.get(key)
        return found[1] if found is not None and clock() < found[0] else None

    yield Operation("await get_kept('key')", {"get_kept": get_kept})


# --- after a restart ------------------------------------------------------------------------------------


@asynccontextmanager
async def reconnect_redis(bench: Bench) -> AsyncIterator[Attempt]:
    """A new connection each time: the least that a restart can cost."""

    async def call() -> None:
        redis = await Resp.connect(bench.mortal_valkey.url)
        await redis.call(b"PING")
        redis.close()

    yield Attempt(call)


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
            "redis-get": get,
            "redis-get-50": get_together,
            "redis-get-batch": get_batch,
            "redis-publish": publishing("call"),
            "redis-publish-50": publishing("call_together"),
            "redis-publish-batch": publish_batch,
            "redis-receive": subscribe,
            "redis-latency": publish_trip,
            "pg-publish": notify,
            "pg-publish-50": notify_together,
            "pg-publish-batch": notify_batch,
            "pg-receive": listen,
            "pg-latency": notify_trip,
            "cache-hit": hit,
            "cache-decorated": hit,
            "back-redis": reconnect_redis,
            "back-pg": reconnect_postgres,
        },
    ),
    Adapter("bare await", rows={"cache-hit": bare_await, "cache-decorated": bare_await}),
]
