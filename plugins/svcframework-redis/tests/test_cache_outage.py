"""What the cache does while its store is away, and what it makes up for; in virtual time, on a store that fails."""

import asyncio

import pytest

from svcframework.errors import ConnectionFailedError, DatabaseError
from svcframework.testing.virtualtime import virtual_backend
from svcframework_redis import CacheConfig, MemoryCache, MemoryStore
from svcframework_redis.caching import outage as outage_module


@pytest.fixture(scope="module")
def anyio_backend():
    return virtual_backend("asyncio")


class Failing(MemoryStore):
    """Raises what it is told to, by the name of the method or for all."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.errors, self.calls = {}, []

    async def tried(self, name):
        self.calls.append(name)
        error = self.errors.get(name, self.errors.get("all"))
        if error is not None:
            raise error


for name in ("read", "write", "write_new", "swap", "touch", "versions", "extend", "remove", "remove_below", "ping"):

    def failing(name):
        works = getattr(MemoryStore, name)

        async def call(self, *args, **kwargs):
            await self.tried(name)
            return await works(self, *args, **kwargs)

        return call

    setattr(Failing, name, failing(name))

AWAY = {"all": ConnectionFailedError("the store is away")}
REFUSES = DatabaseError("the store refuses")


@pytest.fixture
async def store():
    return Failing(clock=asyncio.get_running_loop().time)


@pytest.fixture
async def cache(store):
    now = asyncio.get_running_loop().time
    cache = MemoryCache(CacheConfig(retry_interval=1), store=store, clock=now, wall=now)
    await cache.on_startup()
    yield cache
    await cache.on_shutdown()


async def test_store_is_left_alone_for_a_while(cache, store):
    """One call in each `retry_interval` finds out whether it is back; the others don't wait for it."""
    store.errors = AWAY
    for _ in range(30):
        assert await cache.get("k") is None
        await asyncio.sleep(0.1)
    assert 2 <= len(store.calls) <= 4
    health = await cache.health_check()
    assert ("degraded", 0) == (health["status"], health.details["owed"])
    assert health.details["skipped"] >= 27


async def test_every_method_bears_an_outage(cache, store):
    """None raises: reads find nothing, writes say that they didn't, what is computed comes from its source."""
    await cache.set("k", 1)
    store.errors = AWAY
    found = [
        await cache.get("k", "none"),
        await cache.get_many(["k"]),
        await cache.set("k", 2),
        await cache.set("k", 2, tags=["t"]),
        await cache.set_many({"k": 2}),
        await cache.touch("k"),
        await cache.delete("k"),
        await cache.invalidate("t"),
        await cache.clear(),
    ]
    assert ["none", {}, False, False, False, False, 0, False, 0] == found

    async def source():
        return 5

    versions = await cache.tag_versions("t")
    assert [5, 5] == [await cache.get_or_set("k", source, tags=["t"]), await cache.get_or_set("z", source)]
    store.errors = {}
    await asyncio.sleep(1.5)
    assert await cache.set("k", 3, tags=versions)
    assert await cache.get("k") is None


@pytest.mark.parametrize("name", ["read", "write_new", "versions", "swap", "extend", "remove"])
@pytest.mark.parametrize("error", [*AWAY.values(), REFUSES], ids=["away", "refuses"])
async def test_failure_of_any_step_costs_no_answer(cache, store, name, error):
    """Wherever a computation fails on its way through the cache, the caller has its value, and the next one too."""
    store.errors = {name: error}

    async def source():
        return 5

    assert 5 == await cache.get_or_set("k", source, tags=["t"])
    assert 5 == await cache.get_or_set("k", source, tags=["t"])
    await asyncio.sleep(10)
    store.errors = {}
    assert 5 == await cache.get_or_set("k", source, tags=["t"])
    assert 5 == await cache.get_or_set("k", source, tags=["t"])
    assert 5 == await cache.get("k")


async def test_without_degrade_every_error_reaches_the_caller():
    """Also in the middle of a computation, whose lease is then given up or ends."""
    store = Failing()
    cache = MemoryCache(CacheConfig(degrade=False), store=store)
    await cache.on_startup()

    async def source():
        return 5

    for error in (*AWAY.values(), REFUSES):
        for name in ("read", "write_new", "versions", "swap"):
            store.errors = {name: error}
            with pytest.raises(type(error)):
                await cache.get_or_set(f"{name}{error}", source, tags=["t"])
            store.errors = {}
            await cache.clear()
        store.errors = {"all": error}
        for call in (cache.get, cache.delete, cache.invalidate, lambda k: cache.set(k, 1), cache.clear):
            with pytest.raises(type(error)):
                await call("k")
    store.errors = AWAY
    assert "unhealthy" == (await cache.health_check())["status"]
    await cache.on_shutdown()


async def test_nothing_is_believed_until_removals_are_made_up_for(cache, store):
    """A store that is back, but doesn't remove what it should, is as good as away."""
    await cache.set("k", "old")
    store.errors = AWAY
    await cache.delete("k")
    for error in (REFUSES, ConnectionFailedError("still away")):
        store.errors = {"remove": error}
        await asyncio.sleep(2)
        assert await cache.get("k") is None
        assert "degraded" == (await cache.health_check())["status"]
    store.errors = {}
    await asyncio.sleep(2)
    assert await cache.get("k") is None
    assert "healthy" == (await cache.health_check())["status"]
    assert 0 == cache._engine.outage.owed


async def test_callers_that_come_while_removals_are_made_up_for(cache, store):
    """They don't wait and get no old value; what they remove meanwhile is made up for as well."""
    await cache.set_many({"a": "old", "b": "old"})
    store.errors = AWAY
    await cache.delete("a")
    store.errors = {}
    await asyncio.sleep(2)
    gate = asyncio.Event()
    removes = store.remove

    async def slow(names, news=None):
        await gate.wait()
        return await removes(names, news)

    store.remove = slow
    first = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0.1)
    assert [None, 0] == [await cache.get("b"), await cache.delete("b")]
    gate.set()
    assert await first is None
    assert [None, None] == [await cache.get("b"), await cache.get("a")]


async def test_too_many_removals_to_remember_become_one(cache, store, monkeypatch):
    """Past a bound everything is removed."""
    monkeypatch.setattr(outage_module, "_DEBTS", 10)
    await cache.set("kept", 1)
    await cache.for_tenant("x").set("k", 1)
    store.errors = AWAY
    for n in range(50):
        await cache.delete(f"k{n}")
    assert cache._engine.outage.owed <= 10
    store.errors = {}
    await asyncio.sleep(2)
    assert [None, None] == [await cache.get("kept"), await cache.for_tenant("x").get("k")]
    await cache.set("kept", 1)
    assert 1 == await cache.get("kept")


async def test_prefixes_that_could_not_be_cleared_are_cleared_later(cache, store):
    """One prefix is cleared as such; of several, everything is."""
    keys = [("a", "1"), ("b", "1"), ("c", "1")]
    for prefixes, kept in ((["a"], keys[1:]), (["a", "a"], keys[1:]), (["a", "b"], [])):
        await cache.set_many(dict.fromkeys(keys, 1))
        store.errors = AWAY
        for prefix in prefixes:
            await cache.clear(prefix)
        store.errors = {}
        await asyncio.sleep(2)
        await cache.get("k")
        assert kept == list(await cache.get_many(keys))
