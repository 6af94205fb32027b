"""Several processes on one server: who makes a value, and how soon each forgets what it keeps itself."""

import asyncio
import subprocess
import sys
import time

import pytest

from svcframework.testing.faults import FaultProxy
from svcframework_redis import CacheConfig, CacheService, RedisConfig, RedisService

PATIENCE = 10.0  # seconds for what takes a millisecond on an idle machine


@pytest.fixture
async def services(valkey):
    """Makes caches that share nothing but the server, and stops them."""
    made = []

    async def make(url=None, **settings):
        redis = RedisService(RedisConfig(url=url or valkey.url, timeout=1, connect_timeout=1))
        await redis.on_startup()
        if not made:
            await redis.execute("FLUSHDB")
        cache = CacheService(CacheConfig(**{"local_size": 100, "local_ttl": 3600, **settings}), redis=redis)
        made.append((cache, redis))
        await cache.on_startup()
        return cache

    yield make
    for cache, redis in made:
        await cache.on_shutdown()
        await redis.on_shutdown()


async def comes(condition):
    """Waits until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("change", ["set", "set_many", "delete", "invalidate", "clear", "tenant", "touch"])
async def test_what_one_process_changes_the_others_forget(services, change):
    """News reach the other processes long before `local_ttl`; what didn't change they go on believing."""
    one, two = await services(), await services()
    for cache in (one, two):
        await cache.set("other", 1)
    view = one.for_tenant("x") if change == "tenant" else one
    there = two.for_tenant("x") if change == "tenant" else two
    await view.set("k", "old", tags=["t"])
    assert "old" == await there.get("k")
    await {
        "set": lambda: view.set("k", "new"),
        "set_many": lambda: view.set_many({"k": "new", "z": 1}),
        "delete": lambda: view.delete("k"),
        "invalidate": lambda: view.invalidate("t"),
        "clear": view.clear,
        "tenant": lambda: view.invalidate("t"),
        "touch": lambda: view.delete("k"),
    }[change]()
    new = "new" if change.startswith("set") else None

    async def is_new():
        return await there.get("k") == new

    await comes(is_new)
    if change != "clear":
        hits = two.counts.local_hits
        assert 1 == await two.get("other")
        assert hits + 1 == two.counts.local_hits


async def test_hit_asks_nobody(services, valkey):
    """A value that is kept here needs no server; one that callers could change is their own each time."""
    cache = await services()
    await cache.set("list", [1])
    first = await cache.get("list")
    first.append(2)
    assert [1] == await cache.get("list")
    await cache.set("text", "a")
    before = (cache.metrics.operation("get").count, cache.counts.local_hits)
    assert ["a"] * 5 == [await cache.get("text") for _ in range(5)]
    assert (before[0], before[1] + 5) == (cache.metrics.operation("get").count, cache.counts.local_hits)
    assert {"text": "a", "list": [1]} == await cache.get_many(["text", "list", "missing"])


async def test_local_values_end_in_time(redis):
    """A value is believed for `local_ttl`, and never longer than it lives; one written here is new at once."""
    now = [0.0]
    cache = CacheService(
        CacheConfig(local_size=10, local_ttl=5, ttl_jitter=0), redis=redis, clock=lambda: now[0], wall=lambda: now[0]
    )
    await cache.set("long", 1, ttl=100)
    await cache.set("short", 1, ttl=2)
    await redis.execute("FLUSHDB")
    now[0] = 1.9
    assert {"long": 1, "short": 1} == await cache.get_many(["long", "short"])
    now[0] = 2.1
    assert {"long": 1} == await cache.get_many(["long", "short"])
    now[0] = 5.1
    assert {} == await cache.get_many(["long", "short"])
    await cache.on_shutdown()


async def test_deaf_process_forgets_everything(services, valkey):
    """After its connection for news was lost, nothing that was kept before is believed."""
    async with FaultProxy(valkey.url) as proxy:
        one, two = await services(), await services(url=proxy.through(valkey.url))
        await one.set("k", "old")
        assert "old" == await two.get("k")
        await proxy.reset()
        await one.set("k", "new")
        await proxy.pass_on()

        async def is_new():
            return await two.get("k") == "new"

        await comes(is_new)


async def test_back_from_an_outage_nothing_kept_here_is_believed(services, valkey):
    """What others changed while this process could not reach Redis is seen as soon as it can."""
    async with FaultProxy(valkey.url) as proxy:
        one, two = await services(), await services(url=proxy.through(valkey.url), retry_interval=0)
        await one.set("k", "old")
        assert "old" == await two.get("k")
        await proxy.black_hole()
        await one.set("k", "new")
        assert await two.get("missing") is None
        assert "degraded" == (await two.health_check())["status"]
        assert await two.get("k") in {"old", None}  # the news may have come through
        await proxy.pass_on()

        async def is_healthy():
            return (await two.health_check())["status"] == "healthy"

        await comes(is_healthy)
        assert "new" == await two.get("k")


async def test_services_that_miss_together_ask_the_source_once(services):
    """The lease in Redis lets one make the value; the others get what it made."""
    caches = [await services(lease_wait=PATIENCE) for _ in range(4)]
    calls = []

    async def source():
        calls.append(1)
        await asyncio.sleep(0.1)
        return {"n": len(calls)}

    found = await asyncio.gather(*(cache.get_or_set("k", source, tags=["t"]) for cache in caches * 5))
    assert [{"n": 1}] * 20 == found
    assert [1] == calls
    await caches[3].invalidate("t")
    found = await asyncio.gather(*(cache.get_or_set("k", source, tags=["t"]) for cache in [caches[3], *caches[:3]]))
    assert {"n": 2} == found[0]


async def test_changes_while_a_value_is_made_hold_across_services(services):
    """What one process deletes or invalidates while another makes it is not kept by the other."""
    one, two = await services(), await services()
    for change in (lambda: one.delete("k"), lambda: one.invalidate("t"), one.clear):

        async def source(change=change):
            await change()
            return "old"

        assert "old" == await two.get_or_set("k", source, tags=["t"])
        assert [None, None] == [await two.get("k"), await one.get("k")]


async def test_slow_source_keeps_its_lease(services):
    """The lease is renewed for as long as the source takes."""
    one, two = await services(lease_ttl=1.0, lease_wait=PATIENCE), await services(lease_wait=PATIENCE)
    calls = []

    async def source():
        calls.append(1)
        await asyncio.sleep(1.8)
        return len(calls)

    assert [1, 1] == await asyncio.gather(one.get_or_set("k", source), two.get_or_set("k", source))


async def test_odd_content_of_a_key_is_replaced(services, redis):
    """What something else wrote under a key is no value and no obstacle."""
    cache = await services()
    for odd in (b"", b"x", b"v123", b"t" * 40, b"v" + b"\xff" * 40, b"l123"):
        await redis.set("cache:k", odd)

        async def source():
            return "made"

        assert await cache.get("k") is None
        assert not await cache.touch("k")
        assert "made" == await cache.get_or_set("k", source)
        assert "made" == await cache.get("k")
        await cache.delete("k")


async def test_noise_on_the_channel_is_ignored(services, redis):
    """What isn't news changes nothing."""
    cache = await services()
    await cache.set("k", "v")
    for noise in (b"", b"\xc1", b"\x94\xc4\x01a\x90\x90", b"{}"):
        await redis.publish("cache:%c", noise)
    other = await services()
    await other.delete("z")
    await asyncio.sleep(0.05)
    hits = cache.counts.local_hits
    assert "v" == await cache.get("k")
    assert hits + 1 == cache.counts.local_hits


PROCESS = """
import asyncio, sys
from svcframework_redis import CacheConfig, CacheService, RedisConfig, RedisService

async def main(url, namespace):
    redis = RedisService(RedisConfig(url=url))
    await redis.on_startup()
    cache = CacheService(CacheConfig(namespace=namespace, local_size=10, local_ttl=3600, lease_wait=30), redis=redis)
    await cache.on_startup()

    async def source():
        print("asked", flush=True)
        await asyncio.sleep(0.5)
        return "made there"

    print("ready", flush=True)
    for line in sys.stdin:
        what = line.split()
        if what == ["make"]:
            print(await cache.get_or_set("k", source, tags=["t"]), flush=True)
        elif what == ["get"]:
            await asyncio.sleep(0.1)  # news, if there are any
            print(await cache.get("k"), cache.counts.local_hits, flush=True)
        elif what == ["forget"]:
            while await cache.get("k") is not None:
                await asyncio.sleep(0.01)
            print("forgotten", flush=True)
        elif what == ["invalidate"]:
            print(await cache.invalidate("t"), flush=True)
    await cache.on_shutdown()
    await redis.on_shutdown()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_second_process_shares_values_leases_and_news(services, valkey):
    """A real process: it makes a value once for both, each keeps it, and each hears of the other's change."""
    namespace = f"shared{time.monotonic_ns()}"
    cache = await services(namespace=namespace, lease_wait=30)

    async def source():
        raise AssertionError("the other process has the lease")

    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS, valkey.url, namespace], stdin=pipe, stdout=pipe, text=True, bufsize=1
    ) as other:

        async def says():
            return (await asyncio.to_thread(other.stdout.readline)).strip()

        assert "ready" == await says()
        other.stdin.write("make\n")
        assert "asked" == await says()
        assert "made there" == await cache.get_or_set("k", source, tags=["t"])
        assert "made there" == await says()
        for hits in (0, 1):
            other.stdin.write("get\n")
            assert f"made there {hits}" == await says()
        assert await cache.invalidate("t")
        other.stdin.write("forget\n")  # when the news have come
        assert "forgotten" == await says()
        await cache.set("k", "made here", tags=["t"])
        other.stdin.write("invalidate\n")
        assert "True" == await says()

        async def is_gone():
            return await cache.get("k") is None

        await comes(is_gone)
        other.stdin.close()
        assert 0 == await asyncio.to_thread(other.wait, 30)
