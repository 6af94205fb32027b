"""The cache: values, keys, sharing, and what happens while Redis is away."""

import asyncio
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from svcframework.deadlines import deadline
from svcframework.errors import ConnectionFailedError, DeadlineExceededError
from svcframework_redis import (
    CacheConfig,
    CacheKeyError,
    CacheService,
    MissingTenantError,
    RedisCache,
    RedisConfig,
    RedisService,
    UncacheableValueError,
    ValueTooLargeError,
)


@dataclass
class User:
    name: str
    age: int


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(params=[("json", 0), ("msgpack", 100)], ids=["json", "msgpack and local values"])
async def cache(redis, request):
    form, local_size = request.param
    service = CacheService(CacheConfig(format=form, local_size=local_size, local_ttl=0.2), redis=redis)
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
    await cache.set_many({"k": 1, "other": 7})
    await mortal_valkey.kill()

    async def source():
        return 2

    assert 2 == await cache.get_or_set("k", source)
    assert not await cache.set("k", 3)
    assert await cache.get("k") is None
    assert {} == await cache.get_many(["k"])
    health = await cache.health_check()
    assert "degraded" == health["status"]
    assert health["details"]["skipped"] == 4
    await mortal_valkey.relaunch()
    assert await cache.get("other") is None
    clock.now = 1.5
    assert 7 == await cache.get("other")
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


async def test_what_was_removed_during_an_outage_stays_removed(mortal_valkey):
    """Deletions, invalidations and overwrites that Redis was not told of are made up for before it is next asked."""
    clock = Clock()
    redis = RedisService(server=mortal_valkey)
    await redis.on_startup()
    cache = CacheService(CacheConfig(retry_interval=1), redis=redis, clock=clock)
    await cache.set_many({"deleted": 1, "overwritten": 1, "kept": 1, ("cleared", "a"): 1})
    await cache.set("tagged", 1, tags=["t"])
    await mortal_valkey.kill()
    assert 0 == await cache.delete("deleted")
    assert not await cache.invalidate("t")
    assert not await cache.set("overwritten", 2)
    assert 0 == await cache.clear("cleared")
    await mortal_valkey.relaunch()
    clock.now = 1.5
    keys = ["deleted", "tagged", "overwritten", ("cleared", "a"), "kept"]
    found = await asyncio.gather(*(cache.get(key) for key in keys[:-1]))
    assert [None] * 4 == found
    assert {"kept": 1} == await cache.get_many(keys)
    await redis.on_shutdown()


async def test_full_server_costs_no_answer(mortal_valkey):
    """A server that takes nothing more in is not away: what it has is found, what it refuses comes from the source."""
    redis = RedisService(server=mortal_valkey)
    await redis.on_startup()
    cache = CacheService(CacheConfig(), redis=redis)
    await cache.set_many({"k": "old", "other": 1})
    await redis.execute("CONFIG", "SET", "maxmemory", "1")

    async def source():
        return "from the source"

    assert "from the source" == await cache.get_or_set("new", source, tags=["t"])
    assert "from the source" == await cache.get_or_set("new", source)
    assert not await cache.set("k", "new")
    assert [None, 1] == [await cache.get("k"), await cache.get("other")]
    assert 3 <= (await cache.health_check())["details"]["refused"]
    await redis.execute("CONFIG", "SET", "maxmemory", "0")
    assert await cache.set("k", "new")
    assert "new" == await cache.get("k")
    await cache.on_shutdown()
    await redis.on_shutdown()


async def test_rotated_password_is_an_outage(mortal_valkey):
    """A server that no longer takes the credentials costs no answer, and nothing shows them."""
    redis = RedisService(server=mortal_valkey)
    await redis.on_startup()
    cache = CacheService(CacheConfig(retry_interval=0), redis=redis)
    await cache.set("k", 1)
    await redis.execute("CONFIG", "SET", "requirepass", "another-canary-7Q")
    await redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")

    async def source():
        return 2

    assert 2 == await cache.get_or_set("k", source)
    health = await cache.health_check()
    assert "degraded" == health["status"]
    assert "canary" not in health.message
    await cache.on_shutdown()
    await redis.on_shutdown()


async def test_key_of_another_kind_is_missing(cache, redis):
    """A list under a key is no value, stops nobody, and does not make the cache do without Redis."""
    await redis.execute("RPUSH", "cache:k", "x")
    await cache.set("other", 1)

    async def source():
        return "made"

    assert await cache.get("k") is None
    assert "made" == await cache.get_or_set("k", source)
    assert 1 == await cache.get("other")
    assert "healthy" == (await cache.health_check())["status"]


async def test_deadline_of_the_caller_gives_the_lease_up(cache):
    """A caller whose time is up leaves no lease for which others would wait."""

    async def slow():
        await asyncio.sleep(60)

    async def quick():
        return 1

    with pytest.raises(DeadlineExceededError), deadline(0.1):
        await cache.get_or_set("k", slow)
    async with asyncio.timeout(1.9):  # a lease would cost 2 s
        assert 1 == await cache.get_or_set("k", quick)


async def test_cache_reads_a_mapping_of_settings(redis):
    """Other services see the bytes of RedisCache as they were given; a CacheService keeps its own form."""
    cache = CacheService({"namespace": "other"}, redis=redis)
    await cache.set("k", 1)
    assert (await redis.get("other:k")).endswith(b"1")
    raw = RedisCache(redis, namespace="raw")
    await raw.set("k", b"1", ttl=5)
    assert b"1" == await redis.get("raw:k")
    assert RedisConfig(host="h").connect_arguments()[0] == "redis://h:6379/0"


async def test_raw_cache_keeps_bytes(redis):
    """RedisCache has one, many, tenants, times to live and a way to empty it."""
    raw = RedisCache(redis, namespace="raw*")
    await raw.set_many({"a": b"1", ("b", "c"): b"2", ("b", "d"): b"3"}, ttl=50)
    await raw.for_tenant("acme").set("a", b"acme's", ttl=50)
    assert [b"1", b"2", None] == await raw.get_many(["a", ("b", "c"), "z"])
    assert await raw.touch("a", 500)
    assert 400 < await redis.ttl(raw.key("a")) <= 500
    assert 2 == await raw.clear("b")
    assert b"1" == await raw.get("a")
    assert 1 == await raw.for_tenant("acme").clear()
    assert await raw.for_tenant("acme").get("a") is None
    assert 1 == await raw.delete("a", "z")
    with pytest.raises(MissingTenantError):
        raw.for_tenant("")


async def test_tenants_share_nothing(cache):
    """A tenant's keys, tags and clearing are his own, whatever his name holds; a missing tenant is an error."""
    names = ["a", "a:b", "a%3Ab", "%T", "b"]
    views = [cache.for_tenant(name) for name in names]
    for view, name in zip(views, names, strict=True):
        await view.set("k", name, tags=["t"])
    await cache.set(("a", "k"), "nobody's")
    assert names == [await view.get("k") for view in views]
    await views[0].invalidate("t")
    await views[1].clear()
    assert [None, None, *names[2:]] == [await view.get("k") for view in views]
    assert "nobody's" == await cache.get(("a", "k"))
    assert views[0] is cache.for_tenant("a")
    for missing in ("", "  ", None, 5):
        with pytest.raises(MissingTenantError, match="tenant"):
            cache.for_tenant(missing)


async def test_tags_forget_all_that_bears_them(cache):
    """However many values a tag has, one command forgets them; other values stay."""
    await cache.set_many({f"k{n}": n for n in range(20)}, tags=["all", "numbers"])
    await cache.set("other", 1, tags=["other"])
    assert 20 == len(await cache.get_many([f"k{n}" for n in range(20)]))
    assert await cache.invalidate("numbers")
    assert {"other": 1} == await cache.get_many([*(f"k{n}" for n in range(20)), "other"])
    await cache.set("k1", 5, tags=["numbers"])
    assert 5 == await cache.get("k1")
    assert await cache.invalidate()
    with pytest.raises(TypeError, match="give a list"):
        await cache.set("k", 1, tags="numbers")
    with pytest.raises(CacheKeyError):
        await cache.invalidate("")


async def test_value_from_before_an_invalidation_is_not_kept(cache):
    """Versions that were read before a value was computed make it outdated if the tag was invalidated since."""
    before = await cache.tag_versions("t")
    await cache.invalidate("t")
    assert await cache.set("k", "old", tags=before)
    assert await cache.get("k") is None
    now = await cache.tag_versions("t")
    await cache.set("k", "new", tags=now)
    assert "new" == await cache.get("k")


@pytest.mark.parametrize("change", ["delete", "set", "invalidate", "clear", "flush"])
async def test_what_is_made_during_a_change_is_not_kept(cache, redis, change):
    """The caller gets what the source said, but the cache doesn't keep what may be outdated."""

    async def make():
        if change == "delete":
            await cache.delete("k")
        elif change == "set":
            await cache.set("k", "newer")
        elif change == "invalidate":
            await cache.invalidate("t")
        elif change == "clear":
            await cache.clear()
        else:
            await redis.execute("FLUSHDB")
        return "old"

    assert "old" == await cache.get_or_set("k", make, tags=["t"])
    assert ("newer" if change == "set" else None) == await cache.get("k")


async def test_touch_prolongs_a_value_and_its_tags(cache, redis):
    """Only what is there can be touched."""
    await cache.set("k", 1, ttl=10, tags=["t"])
    assert await cache.touch("k", 1000)
    assert min([await redis.ttl("cache:k"), await redis.ttl("cache:%t:t")]) > 900
    assert 1 == await cache.get("k")
    assert not await cache.touch("missing", 5)
    await cache.invalidate("t")
    assert not await cache.touch("k")
    for refused in (0, -1):
        with pytest.raises(ValueError, match="keeps nothing"):
            await cache.touch("k", refused)


async def test_clear_removes_below_a_prefix(cache):
    """Keys that begin with the same parts go, those that only look like it stay."""
    await cache.set_many({("user", "1"): 1, "user": 2, "users": 3, ("user:", "1"): 4})
    assert 2 == await cache.clear("user")
    assert {"users": 3, ("user:", "1"): 4} == await cache.get_many([("user", "1"), "user", "users", ("user:", "1")])
    assert 2 == await cache.clear()


async def test_none_of_a_source_is_kept_for_its_own_time(cache, redis):
    """None is an answer, kept shorter than others, whatever type is asked for; 0 seconds keep none of it."""
    calls = []

    async def nobody():
        calls.append(1)

    for _ in range(2):
        assert await cache.get_or_set("k", nobody, ttl=500, type=User) is None
    assert [1] == calls
    assert 0 < await redis.ttl("cache:k") <= 30
    for _ in range(2):
        await cache.get_or_set("unkept", nobody, negative_ttl=0)
    assert 3 == len(calls)
    assert await cache.get("unkept", "none") == "none"


async def test_values_that_are_too_large_or_odd(redis):
    """set() refuses them before anything is sent; get_or_set() hands a large one on and keeps it not."""
    cache = CacheService(CacheConfig(max_value_bytes=10), redis=redis)
    await cache.set("k", "old")
    with pytest.raises(ValueTooLargeError, match="12 bytes"):
        await cache.set("k", "0123456789")
    with pytest.raises(UncacheableValueError, match="A object can't be cached"):
        await cache.set("k", object())
    assert "old" == await cache.get("k")

    async def large():
        return "x" * 50

    assert "x" * 50 == await cache.get_or_set("large", large)
    assert await cache.get("large") is None
    assert 1 == cache.counts.too_large
    await cache.on_shutdown()


class Model(BaseModel):
    name: str


async def test_pydantic_models_are_values(cache):
    """A model is written as its fields and read back as a model; one that doesn't fit counts as missing."""
    await cache.set("k", Model(name="ada"))
    assert Model(name="ada") == await cache.get("k", type=Model)
    await cache.set("k", {"name": [1]})
    assert await cache.get("k", type=Model) is None


@pytest.mark.parametrize("key", ["", (), ("a", ""), 5, None, ["a"], ("a", 5), b"a", ("a", ["b"]), "\ud800"])
async def test_what_is_no_key_is_refused(cache, key):
    """By every method, with an error that says so."""

    async def make():
        raise AssertionError

    for call in (cache.get, cache.delete, cache.touch, lambda key: cache.set(key, 1), lambda k: cache.get_many([k])):
        with pytest.raises(CacheKeyError, match="no cache key"):
            await call(key)
    with pytest.raises(CacheKeyError):
        await cache.get_or_set(key, make)
