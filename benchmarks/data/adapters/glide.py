"""valkey-glide: a client in Rust, one multiplexed connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from glide import Batch, GlideClient, GlideClientConfiguration, Logger, LogLevel, NodeAddress, ServerCredentials

from benchmarks.data.contract import BYTES, ITEMS, KEYS, Adapter, Attempt, Bench, Operation, Receiver, Trip
from benchmarks.data.inbox import Inbox

Logger.init(LogLevel.OFF)


@asynccontextmanager
async def client(url: str, **more: Any) -> AsyncIterator[GlideClient]:
    """Connected."""
    parts = urlsplit(url)
    made = await GlideClient.create(
        GlideClientConfiguration(
            [NodeAddress(parts.hostname or "", parts.port or 0)],
            credentials=ServerCredentials(unquote(parts.password or "")),
            request_timeout=5_000,
            **more,
        )
    )
    try:
        yield made
    finally:
        await made.close()


def subscribed(channel: str, callback: Any) -> GlideClientConfiguration.PubSubSubscriptions:
    """A callback for a channel."""
    modes = GlideClientConfiguration.PubSubChannelModes
    return GlideClientConfiguration.PubSubSubscriptions({modes.Exact: {channel}}, callback, None)


@asynccontextmanager
async def get(bench: Bench) -> AsyncIterator[Operation]:
    """`client.get`."""
    async with client(bench.valkey.url) as glide:
        yield Operation(f"await get(keys[i % {ITEMS}])", {"get": glide.get, "keys": KEYS})


@asynccontextmanager
async def get_batch(bench: Bench) -> AsyncIterator[Operation]:
    """A `Batch` that isn't atomic."""
    async with client(bench.valkey.url) as glide:

        async def fetch() -> Any:
            batch = Batch(is_atomic=False)
            for key in KEYS:
                batch.get(key)
            return await glide.exec(batch, raise_on_error=True)

        yield Operation("await fetch()", {"fetch": fetch})


@asynccontextmanager
async def publish(bench: Bench) -> AsyncIterator[Operation]:
    """`client.publish`."""
    channel = bench.channel()
    async with client(bench.valkey.url) as glide:
        names = {"publish": glide.publish, "channel": channel, "texts": BYTES}
        yield Operation(f"await publish(texts[i % {ITEMS}], channel)", names, channel)


@asynccontextmanager
async def publish_batch(bench: Bench) -> AsyncIterator[Operation]:
    """A `Batch` that isn't atomic."""
    channel = bench.channel()
    async with client(bench.valkey.url) as glide:

        async def send() -> None:
            batch = Batch(is_atomic=False)
            for text in BYTES:
                batch.publish(text, channel)
            await glide.exec(batch, raise_on_error=True)

        yield Operation("await send()", {"send": send}, channel)


@asynccontextmanager
async def receive(bench: Bench) -> AsyncIterator[Receiver]:
    """A callback, as the client is told when it is made."""
    channel, inbox = bench.channel(), Inbox()
    told = subscribed(channel, lambda message, _: inbox.put(message.message))
    async with client(bench.valkey.url, pubsub_subscriptions=told):
        yield Receiver(inbox.take, channel)


def trip(url_of: str) -> Any:
    """A callback, and another client that publishes."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Trip]:
        channel, url = bench.channel(), getattr(bench, url_of).url
        told = subscribed(channel, lambda message, _: bench.ear.hear(message.message))
        async with client(url, pubsub_subscriptions=told), client(url) as glide:

            async def send(index: int) -> None:
                await glide.publish(BYTES[index % ITEMS], channel)

            yield Trip(send)

    return prepare


@asynccontextmanager
async def back(bench: Bench) -> AsyncIterator[Attempt]:
    """It reconnects by itself."""
    async with client(bench.mortal_valkey.url) as glide:
        yield Attempt(glide.ping)


ADAPTERS = [
    Adapter(
        "valkey-glide",
        ("valkey-glide",),
        rows={
            "redis-get": get,
            "redis-get-50": get,
            "redis-get-batch": get_batch,
            "redis-publish": publish,
            "redis-publish-50": publish,
            "redis-publish-batch": publish_batch,
            "redis-receive": receive,
            "redis-latency": trip("valkey"),
            "back-redis": back,
            "back-redis-subscriber": trip("mortal_valkey"),
        },
    )
]
