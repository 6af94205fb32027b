"""svcframework's pub/sub: a service of a running host, on PostgreSQL or Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from benchmarks.data.contract import CONNECTIONS, ITEMS, TEXTS, Adapter, Bench, Operation, Receiver, Trip
from benchmarks.data.inbox import Inbox
from benchmarks.data.rows import captured
from svcframework import ServiceContainer, ServiceHost, providers
from svcframework_postgres import PostgresService
from svcframework_pubsub import PubSubService
from svcframework_redis import RedisService

Server = Literal["postgres", "valkey"]

EVENTS: list[dict[str, Any]] = [json.loads(text) for text in TEXTS]
"""Values: the service writes them as JSON; the others are given text that somebody has written before."""


@asynccontextmanager
async def service(bench: Bench, server: Server, *, is_mortal: bool = False) -> AsyncIterator[PubSubService]:
    """The service, its host running."""
    used: Any = getattr(bench, f"mortal_{server}" if is_mortal else server)

    class OnPostgres(ServiceContainer):
        database_service = providers.Service(PostgresService, config={"pool_max_size": CONNECTIONS}, server=used)
        pubsub_service = providers.Service(PubSubService, config={"backend": "postgres"}, postgres=database_service)

    class OnRedis(ServiceContainer):
        redis_service = providers.Service(RedisService, server=used)
        pubsub_service = providers.Service(PubSubService, config={"backend": "redis"}, redis=redis_service)

    async with ServiceHost(OnPostgres if server == "postgres" else OnRedis) as host:
        yield host[PubSubService]


def publish(server: Server) -> Any:
    """`publish`."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Operation]:
        channel = bench.channel()
        async with service(bench, server) as pubsub:
            names = {"publish": pubsub.publish, "channel": channel, "events": EVENTS}
            yield Operation(f"await publish(channel, events[i % {ITEMS}])", names, channel)

    return prepare


def publish_batch(server: Server) -> Any:
    """`publish_many`."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Operation]:
        channel = bench.channel()
        async with service(bench, server) as pubsub:
            names = {"publish_many": pubsub.publish_many, "channel": channel, "events": EVENTS}
            yield Operation("await publish_many(channel, events)", names, channel)

    return prepare


def receive(server: Server) -> Any:
    """A callback."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Receiver]:
        channel, inbox = bench.channel(), Inbox()
        async with service(bench, server) as pubsub:
            payloads = await captured(bench, server, channel, lambda index: pubsub.publish(channel, EVENTS[index]))
            await pubsub.on(channel, inbox.put)
            yield Receiver(inbox.take, channel, payloads)

    return prepare


def iterate(server: Server) -> Any:
    """`async for message in messages`."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Receiver]:
        channel = bench.channel()
        async with service(bench, server) as pubsub:
            payloads = await captured(bench, server, channel, lambda index: pubsub.publish(channel, EVENTS[index]))
            async with pubsub.subscribe(channel, queue_size=1_000_000) as messages:

                async def take(count: int) -> list[Any]:
                    got: list[Any] = []
                    async for message in messages:
                        got.append(message)
                        if len(got) == count:
                            break
                    return got

                yield Receiver(take, channel, payloads)

    return prepare


def trip(server: Server, *, is_mortal: bool = False) -> Any:
    """A callback."""

    @asynccontextmanager
    async def prepare(bench: Bench) -> AsyncIterator[Trip]:
        channel = bench.channel()
        async with service(bench, server, is_mortal=is_mortal) as pubsub:
            await pubsub.on(channel, bench.ear.hear)

            async def send(index: int) -> None:
                await pubsub.publish(channel, EVENTS[index % ITEMS])

            yield Trip(send)

    return prepare


def rows_of(name: str, server: Server) -> dict[str, Any]:
    """What both servers have."""
    return {
        f"{name}-publish": publish(server),
        f"{name}-publish-50": publish(server),
        f"{name}-publish-batch": publish_batch(server),
        f"{name}-receive": receive(server),
        f"{name}-latency": trip(server),
        f"back-{name}-subscriber": trip(server, is_mortal=True),
    }


ADAPTERS = [
    Adapter(
        "svcframework",
        ("svcframework-pubsub",),
        rows={**rows_of("pg", "postgres"), **rows_of("redis", "valkey")},
    ),
    Adapter("svcframework, `async for`", rows={"pg-receive": iterate("postgres"), "redis-receive": iterate("valkey")}),
]
