"""The cache: values, keys, sharing, and what happens while Redis is away."""

import asyncio
from dataclasses import dataclass

import pytest

from svcframework.errors import ConnectionFailedError
from svcframework_redis import CacheConfig, CacheService, RedisCache, RedisConfig, RedisService
from svcframework_redis.local import LocalCache


@dataclass
class User:
    name: str
    age: int


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["json", "msgpack"])
async def cache(redis, request):
    service = CacheService(CacheConfig(format=request.param), redis=redis)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_values_roundtrip(cache):
    """Plain values, dataclasses and None are kept; a missing key is the default."""
    assert await cache.set("user", User("ada", 36))
    assert User("ada", 36) == await cache.get("user", type=User)
    assert {"name": "ada", "age": 36} == await cache.get("user")
    await cache.set("none", None)
    assert await cache.get("none", "default") is None
    assert "default" == await cache.get("missing", "default")
    assert 1 == await cache.delete("user", "missing")
    assert {"none": None} == await cache.get_many(["user", "none"])
    assert {} == await cache.get_many([])


async def test_value_of_another_shape_counts_as_missing(cache, redis):
    """What an older version wrote doesn't fail the caller."""
    await cache.set("user", {"name": "ada"})
    assert await cache.get("user", type=User) is None
    await redis.set("cache:broken", b"\xc1{")
    assert "none" == await cache.get("broken", "none")


async def test_ttl_is_kept_and_jittered(cache, redis):
    """A value lives at most its ttl, and at least the share that jitter leaves."""
    await cache.set("k", 1, ttl=100)
    assert 89 < await redis.ttl("cache:k") <= 100
    await cache.set("k", 1)
    assert 269 < await redis.ttl("cache:k") <= 300


def test_keys_are_injective():
    """No two keys, tenants or namespaces share a place, whatever characters they have."""
    keys = ["a:b", ("a", "b"), ("a:", "b"), ("a", ":b"), "a%3Ab", ("a%3A", "b"), "a"]
    caches = [RedisCache(None, namespace=name) for name in ("n", "n:a", "n%3Aa")]
    places = [cache.key(key) for cache in caches for key in keys]
    assert len(set(places)) == len(places)
    for empty in ("", (), ("tenant", "")):
        with pytest.raises(ValueError, match="no cache key"):
            caches[0].key(empty)


async def test_get_or_set_makes_a_value_once(cache):
    """Callers at the same time share one call of the factory; later ones read what it made."""
    calls = []

    async def make():
        calls.append(1)
        await asyncio.sleep(0.01)
        return {"n": len(calls)}

    found = await asyncio.gather(*(cache.get_or_set("k", make) for _ in range(10)))
    assert [{"n": 1}] * 10 == found
    assert {"n": 1} == await cache.get_or_set("k", make)
    assert [1] == calls


async def test_failing_factory_reaches_all_who_wait_and_keeps_nothing(cache):
    """An error is no value: the next caller tries again."""

    async def fail():
        await asyncio.sleep(0.01)
        raise LookupError("no such user")

    found = await asyncio.gather(*(cache.get_or_set("k", fail) for _ in range(3)), return_exceptions=True)
    assert [LookupError] * 3 == [type(error) for error in found]

    async def works():
        return 5

    assert 5 == await cache.get_or_set("k", works)


async def test_cancelled_maker_is_relieved(cache):
    """When the caller who makes the value gives up, another one makes it; nobody else is cancelled."""
    began = asyncio.Event()
    calls = []

    async def make():
        calls.append(1)
        began.set()
        if len(calls) == 1:
            await asyncio.Event().wait()
        return len(calls)

    first = asyncio.create_task(cache.get_or_set("k", make))
    await began.wait()
    others = [asyncio.create_task(cache.get_or_set("k", make)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert [2, 2, 2] == await asyncio.gather(*others)
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_cache_degrades_while_redis_is_away(mortal_valkey):
    """Calls go to the source, health says degraded, and the cache comes back by itself."""
    clock = Clock()
    redis = RedisService(server=mortal_valkey)
    await redis.on_startup()
    cache = CacheService(CacheConfig(retry_interval=1), redis=redis, clock=clock)
    await cache.set("k", 1)
    await mortal_valkey.kill()

    async def source():
        return 2

    assert 2 == await cache.get_or_set("k", source)
    assert not await cache.set("k", 3)
    assert await cache.get("k") is None
    assert {} == await cache.get_many(["k"])
    assert 0 == await cache.delete("k")
    health = await cache.health_check()
    assert "degraded" == health["status"]
    assert health["details"]["skipped"] == 6
    await mortal_valkey.relaunch()
    assert await cache.get("k") is None
    clock.now = 1.5
    assert 1 == await cache.get("k")
    assert "healthy" == (await cache.health_check())["status"]
    await redis.on_shutdown()


async def test_cache_without_degrade_raises(mortal_valkey):
    """Whoever turned it off gets the typed error."""
    redis = RedisService(server=mortal_valkey)
    await redis.on_startup()
    cache = CacheService(CacheConfig(degrade=False), redis=redis)
    await mortal_valkey.kill()
    with pytest.raises(ConnectionFailedError):
        await cache.get("k")
    assert "unhealthy" == (await cache.health_check())["status"]
    await redis.on_shutdown()


async def test_local_values_spare_redis_for_a_moment(redis):
    """Within `local_ttl` a value is believed without asking; a value written here is new at once."""
    clock = Clock()
    cache = CacheService(CacheConfig(local_size=10, local_ttl=1), redis=redis, clock=clock)
    await cache.set("k", [1])
    await redis.delete("cache:k")
    first = await cache.get("k")
    first.append(2)
    assert [1] == await cache.get("k")
    await cache.set("k", [3])
    assert [3] == await cache.get("k")
    clock.now = 2
    await redis.delete("cache:k")
    assert await cache.get("k") is None


def test_local_cache_is_bounded():
    """The least recently used value goes first."""
    local = LocalCache(size=2, ttl=10, clock=Clock())
    local.set("a", b"1", 5)
    local.set("b", b"2", 5)
    local.get("a")
    local.set("c", b"3", 5)
    assert [b"1", None, b"3"] == [local.get("a"), local.get("b"), local.get("c")]


async def test_cache_can_share_an_unstarted_config(redis):
    """The service reads a mapping too, and a client of another pool sees what it wrote."""
    cache = CacheService({"namespace": "other"}, redis=redis)
    await cache.set("k", 1)
    assert b"1" == await redis.get("other:k")
    assert RedisConfig(host="h").connect_arguments()[0] == "redis://h:6379/0"
