"""redis-py's asyncio client on its blocking pool, with hiredis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.data.contract import (
    BYTES,
    CONNECTIONS,
    ITEMS,
    KEYS,
    Adapter,
    Attempt,
    Bench,
    Operation,
    Receiver,
    Trip,
)  # fmt: skip
from benchmarks.data.pace import keep_on


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Redis]:
    """As large as everybody's; a full pool waits, as it must with 50 tasks."""
    pool = BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, retry=Retry(NoBackoff(), 1))
    redis = Redis.from_pool(pool)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def get(bench: Bench) -> AsyncIterator[Operation]:
    """`redis.get`."""
    async with client(bench.valkey.url) as redis:
        yield Operation(f"await get(keys[i % {ITEMS}])", {"get": redis.get, "keys": KEYS})


@asynccontextmanager
async def get_batch(bench: Bench) -> AsyncIterator[Operation]:
    """A pipeline."""
    async with client(bench.valkey.url) as redis:

        async def fetch() -> list[Any]:
            pipeline = redis.pipeline(transaction=False)
            for key in KEYS:
                pipeline.get(key)
            return await pipeline.execute()

        yield Operation("await fetch()", {"fetch": fetch})


@asynccontextmanager
async def publish(bench: Bench) -> AsyncIterator[Operation]:
    """`redis.publish`."""
    channel = bench.channel()
    async with client(bench.valkey.url) as redis:
        names = {"publish": redis.publish, "channel": channel, "texts": BYTES}
        yield Operation(f"await publish(channel, texts[i % {ITEMS}])", names, channel)


@asynccontextmanager
async def publish_batch(bench: Bench) -> AsyncIterator[Operation]:
    """A pipeline."""
    channel = bench.channel()
    async with client(bench.valkey.url) as redis:

        async def send() -> None:
            pipeline = redis.pipeline(transaction=False)
            for text in BYTES:
                pipeline.publish(channel, text)
            await pipeline.execute()

        yield Operation("await send()", {"send": send}, channel)


@asynccontextmanager
async def receive(bench: Bench) -> AsyncIterator[Receiver]:
    """`pubsub.listen()`."""
    channel = bench.channel()
    async with client(bench.valkey.url) as redis, redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(channel)

        async def take(count: int) -> list[Any]:
            got: list[Any] = []
            async for message in pubsub.listen():
                got.append(message["data"])
                if len(got) == count:
                    break
            return got

        yield Receiver(take, channel)


def listening(url_of: str) -> Any:
    """A task that listens, and a client that publishes."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Trip]:
        channel, url = bench.channel(), getattr(bench, url_of).url
        async with client(url) as redis:

            async def subscribe(ready: asyncio.Event) -> None:
                async with redis.pubsub() as pubsub:
                    await pubsub.subscribe(channel)
                    async for message in pubsub.listen():
                        if message["type"] == "message":
                            bench.ear.hear(message["data"])
                        else:
                            ready.set()

            async def send(index: int) -> None:
                await redis.publish(channel, BYTES[index % ITEMS])

            async with keep_on(subscribe):
                yield Trip(send)

    return prepare


@asynccontextmanager
async def back(bench: Bench) -> AsyncIterator[Attempt]:
    """The pool finds its server again by itself."""
    async with client(bench.mortal_valkey.url) as redis:
        yield Attempt(redis.ping)


ADAPTERS = [
    Adapter(
        "redis-py",
        ("redis", "hiredis"),
        rows={
            "redis-get": get,
            "redis-get-50": get,
            "redis-get-batch": get_batch,
            "redis-publish": publish,
            "redis-publish-50": publish,
            "redis-publish-batch": publish_batch,
            "redis-receive": receive,
            "redis-latency": listening("valkey"),
            "back-redis": back,
            "back-redis-subscriber": listening("mortal_valkey"),
        },
        notes={"back-redis-subscriber": "`listen()` raises when its server dies; a loop by hand listens again"},
    )
]
