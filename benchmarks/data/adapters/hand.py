"""The limit on Redis and in this process: the tightest code by hand, with nothing that production needs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from benchmarks.data.contract import (
    BYTES,
    ITEMS,
    KEYS,
    Adapter,
    Attempt,
    Bench,
    Operation,
    Receiver,
    Trip,
    enveloped,
)  # fmt: skip
from benchmarks.data.inbox import Inbox
from benchmarks.data.resp import Resp

KEY_BYTES = [key.encode() for key in KEYS]


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
async def publish_batch_enveloped(bench: Bench) -> AsyncIterator[Operation]:
    """The same, each text in an envelope."""
    channel = bench.channel().encode()
    async with resp(bench) as redis:

        async def send() -> None:
            await redis.call_many([(b"PUBLISH", channel, text) for text in enveloped()])

        yield Operation("await send()", {"send": send}, channel.decode())


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
async def subscribe_enveloped(bench: Bench) -> AsyncIterator[Receiver]:
    """The same messages, in envelopes, which it doesn't open."""
    async with subscribe(bench) as receiver:
        yield replace(receiver, payloads=enveloped())


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


ADAPTERS = [
    Adapter(
        "hand",
        rows={
            "redis-get": get,
            "redis-get-50": get_together,
            "redis-get-batch": get_batch,
            "redis-publish": publishing("call"),
            "redis-publish-50": publishing("call_together"),
            "redis-publish-batch": publish_batch,
            "redis-receive": subscribe,
            "redis-latency": publish_trip,
            "cache-hit": hit,
            "cache-decorated": hit,
            "back-redis": reconnect_redis,
        },
    ),
    Adapter(
        "hand, with an envelope",
        rows={"redis-publish-batch": publish_batch_enveloped, "redis-receive": subscribe_enveloped},
    ),
    Adapter("bare await", rows={"cache-hit": bare_await, "cache-decorated": bare_await}),
]
