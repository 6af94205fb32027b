"""broadcaster, on Redis and on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broadcaster import Broadcast

from benchmarks.data.contract import ITEMS, TEXTS, Adapter, Bench, Operation, Receiver, Trip
from benchmarks.data.pace import keep_on


@asynccontextmanager
async def broadcast(bench: Bench, server: str) -> AsyncIterator[Broadcast]:
    """Connected."""
    used = getattr(bench, server)
    made = Broadcast(used.url if server.endswith("valkey") else used.dsn)
    await made.connect()
    try:
        yield made
    finally:
        with contextlib.suppress(Exception):  # its connection may have died
            await made.disconnect()


def publish(server: str) -> Any:
    """`broadcast.publish`."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Operation]:
        channel = bench.channel()
        async with broadcast(bench, server) as made:
            names = {"publish": made.publish, "channel": channel, "texts": TEXTS}
            yield Operation(f"await publish(channel, texts[i % {ITEMS}])", names, channel)

    return prepare


def receive(server: str) -> Any:
    """`async for event in subscriber`."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Receiver]:
        channel = bench.channel()
        async with broadcast(bench, server) as made, made.subscribe(channel) as subscriber:

            async def take(count: int) -> list[Any]:
                got: list[Any] = []
                async for event in subscriber:
                    got.append(event.message)
                    if len(got) == count:
                        break
                return got

            yield Receiver(take, channel)

    return prepare


def trip(server: str) -> Any:
    """A task that listens."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Trip]:
        channel = bench.channel()
        async with broadcast(bench, server) as made, broadcast(bench, server) as other:

            async def listen(ready: asyncio.Event) -> None:
                async with made.subscribe(channel) as subscriber:
                    ready.set()
                    async for event in subscriber:
                        bench.ear.hear(event.message)

            async def send(index: int) -> None:
                await other.publish(channel, TEXTS[index % ITEMS])

            async with keep_on(listen):
                await asyncio.sleep(0.1)  # it subscribes when it likes
                yield Trip(send)

    return prepare


ADAPTERS = [
    Adapter(
        "broadcaster",
        ("broadcaster",),
        rows={
            "redis-publish": publish("valkey"),
            "redis-publish-50": publish("valkey"),
            "redis-receive": receive("valkey"),
            "redis-latency": trip("valkey"),
            "back-redis-subscriber": trip("mortal_valkey"),
            "pg-publish": publish("postgres"),
            "pg-publish-50": publish("postgres"),
            "pg-receive": receive("postgres"),
            "pg-latency": trip("postgres"),
            "back-pg-subscriber": trip("mortal_postgres"),
        },
        notes={"pg-publish": "one bare connection, which can't be used by two tasks"},
    )
]
