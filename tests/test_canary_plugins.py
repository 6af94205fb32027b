"""Secrets of the data plane: whatever its servers do, nothing that is said of it holds a password."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from svcframework import ServiceHost, deadline
from svcframework.errors import ServiceFrameworkError
from svcframework.events import Event
from svcframework.log import redact
from svcframework.probes import serve_probes
from svcframework.testing import FaultProxy
from svcframework.testing._trials import Journal, disguises, journal
from svcframework_embedded.testing import own_postgres, own_valkey
from svcframework_postgres import PostgresConfig, PostgresService
from svcframework_redis import CacheConfig, CacheService, RedisConfig, RedisService

SHORT = {"health_check_interval": 0.1, "health_check_timeout": 0.3, "stop_timeout": 0.5}
TOKEN = "probe-token-5f1c0a77"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Any, Any]]:
    with own_postgres() as postgres, own_valkey() as valkey:
        yield postgres, valkey


class Witness:
    """Everything that a host and its callers say; lives as long as one test."""

    def __init__(self, *addresses: str) -> None:
        self.texts: dict[str, str] = {}
        self.errors: list[str] = []
        self.events: list[str] = []
        self.secrets = [str(urlsplit(address).password) for address in addresses]

    def hear(self, event: Event) -> None:
        """A listener."""
        self.events.append(str(redact(event)))

    async def fails(self, call: Callable[[], Awaitable[object]]) -> None:
        """A call that must fail; its error is kept with its traceback and causes."""
        with pytest.raises(ServiceFrameworkError) as caught:
            await call()
        self.errors += [*traceback.format_exception(caught.value), repr(caught.value), repr(caught.value.__cause__)]

    async def look_at(self, host: ServiceHost) -> None:
        """Health, metrics, views and reprs."""
        found = await host.check_health()
        self.texts["health"] = f"{found}{found!r}{host.health.last_results}"
        self.texts["views"] = host.describe() + host.mermaid() + repr(host.summary())
        services = list(host.resolver.instances.values())
        self.texts["reprs"] = "".join(f"{one!r}{one.config!r}{one.config}{redact(one.config)}" for one in services)
        self.texts["metrics"] = "".join(repr(one.metrics.snapshot()) for one in services)
        self.texts["probes"] = await probes(host)

    def leaks(self, logged: Journal) -> list[str]:
        """Where a secret is, in whatever shape."""
        said = {**self.texts, "errors": "\n".join(self.errors), "events": "\n".join(self.events), "log": logged.text}
        assert said["errors"]
        assert "service method failed" in said["log"]
        shapes = [shape for secret in self.secrets for shape in disguises(secret)]
        return [
            f"{place}: …{text[max(0, text.index(shape) - 80) :][:120]}…"
            for place, text in said.items()
            for shape in shapes
            if shape in text
        ]


async def probes(host: ServiceHost) -> str:
    """What the health port answers to somebody who may see the details."""
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(functools.partial(serve_probes, host.health, 0, token=TOKEN))
        answers = b""
        for path in ("livez", "readyz", "healthz", f"healthz?token={TOKEN}"):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(f"GET /{path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
                answers += b"".join([chunk async for chunk in stream])
        tasks.cancel_scope.cancel()
    return answers.decode()


def data_plane(dsn: str, url: str) -> ServiceHost:
    """A host with the database, Redis and a cache."""
    host = ServiceHost(name="canary")
    limits = {**SHORT, "connect_timeout": 0.3, "acquire_timeout": 0.3}
    database = PostgresService(PostgresConfig(dsn=dsn, command_timeout=0.3, **limits))
    redis = RedisService(RedisConfig(url=url, timeout=0.3, **limits))
    cache = CacheService(CacheConfig(degrade=False, **SHORT), redis=redis)

    def give_database() -> PostgresService:
        return database

    def give_redis() -> RedisService:
        return redis

    def give_cache() -> CacheService:
        return cache

    host.register(give_database, name="database")
    host.register(give_redis, name="redis")
    host.register(give_cache, name="cache", dependencies="redis")
    return host


async def fail_everywhere(host: ServiceHost, witness: Witness) -> None:
    """Every kind of call of every service."""
    database, redis, cache = host["database"], host["redis"], host["cache"]

    async def transact() -> None:
        async with database.transaction() as tx:
            await tx.execute_query("SELECT 1")

    async def hurry() -> None:
        with deadline(0.05):
            await database.execute_query("SELECT pg_sleep(5)")

    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: database.execute_query("SELECT 1"),
        lambda: database.execute_one("SELECT 1"),
        lambda: database.execute_many("SELECT $1::int", [(1,), (2,)]),
        lambda: database.get_org_pool("no_such_database"),
        transact,
        hurry,
        lambda: redis.get("k"),
        lambda: redis.set("k", "v"),
        lambda: redis.execute("INCR", "k"),
        lambda: cache.get("k"),
        lambda: cache.set("k", 1),
    ]
    for call in calls:
        await witness.fails(call)


@pytest.mark.parametrize("fault", ["refuse", "reset", "black_hole"])
async def test_network_that_fails_tells_no_secret(servers: tuple[Any, Any], fault: str) -> None:
    """Errors with their causes, logs, events, health, probes, metrics, views and reprs."""
    postgres, valkey = servers
    witness = Witness(postgres.dsn, valkey.url)
    with journal() as logged:
        async with FaultProxy(postgres.dsn) as one, FaultProxy(valkey.url) as two:
            host = data_plane(one.through(postgres.dsn), two.through(valkey.url))
            host.subscribe(witness.hear)
            async with host:
                for proxy in (one, two):
                    await getattr(proxy, fault)()
                await fail_everywhere(host, witness)
                await witness.look_at(host)
    assert [] == witness.leaks(logged)


async def test_password_that_was_rotated_is_not_told(servers: tuple[Any, Any]) -> None:
    """Neither the one that is refused, nor by the servers' own words about it."""
    postgres, valkey = servers
    witness = Witness(postgres.dsn, valkey.url)
    with journal() as logged:
        host = data_plane(postgres.dsn, valkey.url)
        host.subscribe(witness.hear)
        async with host:
            with postgres.rotated_password(), valkey.rotated_password():
                await fail_everywhere(host, witness)
                await witness.look_at(host)
    assert [] == witness.leaks(logged)


async def test_start_that_fails_tells_no_secret(servers: tuple[Any, Any]) -> None:
    """The report of a host whose servers refuse the password, are away, or have no such database."""
    postgres, valkey = servers
    witness = Witness(postgres.dsn, valkey.url)
    with postgres.rotated_password(), valkey.rotated_password():
        addresses = [
            (postgres.dsn, valkey.url),
            (postgres.dsn.replace(str(postgres.port), "1"), valkey.url.replace(str(valkey.port), "1")),
            (postgres.dsn.replace("127.0.0.1", "canary.invalid"), valkey.url.replace("127.0.0.1", "canary.invalid")),
            (f"{postgres.dsn}?sslmode=nonsense", f"{valkey.url}?nonsense=1"),
            (f"{postgres.dsn}?sslrootcert=/nowhere/at/all&sslmode=verify-ca", valkey.url),
        ]
        with journal() as logged:
            for dsn, url in addresses:
                try:
                    host = data_plane(dsn, url)
                except ValueError as refused:  # the config says so before anything starts
                    witness.errors.append(f"{refused}{refused!r}")
                    continue
                host.subscribe(witness.hear)
                await witness.fails(host.start)
                witness.texts[f"view of {len(witness.texts)}"] = host.describe()
            logged.stream.write("service method failed")  # none was called
    assert [] == witness.leaks(logged)
