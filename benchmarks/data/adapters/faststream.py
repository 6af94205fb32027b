"""faststream on Redis' pub/sub."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from faststream.redis import RedisBroker

from benchmarks.data.contract import ITEMS, TEXTS, Adapter, Bench, Operation, Receiver, Trip
from benchmarks.data.inbox import Inbox
from benchmarks.data.rows import captured


def broker_of(bench: Bench, server: str = "valkey") -> RedisBroker:
    """Silent, as in production."""
    return RedisBroker(getattr(bench, server).url, logger=None, log_level=logging.CRITICAL)


@asynccontextmanager
async def publish(bench: Bench) -> AsyncIterator[Operation]:
    """`broker.publish`."""
    channel = bench.channel()
    async with broker_of(bench) as broker:
        names = {"publish": broker.publish, "channel": channel, "texts": TEXTS}
        yield Operation(f"await publish(texts[i % {ITEMS}], channel)", names, channel)


@asynccontextmanager
async def receive(bench: Bench) -> AsyncIterator[Receiver]:
    """A subscriber function."""
    channel, inbox = bench.channel(), Inbox()
    broker = broker_of(bench)

    @broker.subscriber(channel)
    async def handle(message: object) -> None:
        inbox.put(message)

    async with broker_of(bench) as other:
        payloads = await captured(bench, "valkey", channel, lambda index: other.publish(TEXTS[index], channel))
    async with broker:
        await broker.start()
        await asyncio.sleep(0.1)
        yield Receiver(inbox.take, channel, payloads)


def trip(server: str) -> Any:
    """A subscriber function, and the broker's own publisher."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Trip]:
        channel = bench.channel()
        broker = broker_of(bench, server)

        @broker.subscriber(channel)
        async def handle(message: object) -> None:
            bench.ear.hear(message)

        async with broker:
            await broker.start()
            await asyncio.sleep(0.1)

            async def send(index: int) -> None:
                await broker.publish(TEXTS[index % ITEMS], channel)

            yield Trip(send)

    return prepare


ADAPTERS = [
    Adapter(
        "faststream",
        ("faststream",),
        rows={
            "redis-publish": publish,
            "redis-publish-50": publish,
            "redis-receive": receive,
            "redis-latency": trip("valkey"),
            "back-redis-subscriber": trip("mortal_valkey"),
        },
    )
]
