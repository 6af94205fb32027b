"""Who makes a value, who waits, and what happens in the background; in virtual time, on caches that share a store."""

import asyncio
import contextlib

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import DeadlineExceededError
from svcframework.testing.virtualtime import virtual_backend
from svcframework_redis import CacheConfig, MemoryCache, MemoryStore


@pytest.fixture(scope="module")
def anyio_backend():
    return virtual_backend("asyncio")


@pytest.fixture
async def store():
    return MemoryStore(clock=asyncio.get_running_loop().time)


@pytest.fixture
async def processes(store):
    """Four caches, as four processes have them."""
    now = asyncio.get_running_loop().time
    config = CacheConfig(ttl_jitter=0, lease_wait=2, lease_ttl=5)
    caches = [MemoryCache(config, store=store, clock=now, wall=now) for _ in range(4)]
    yield caches
    for cache in caches:
        await cache.on_shutdown()


class Source:
    """Counts how often it is asked, and takes its time."""

    def __init__(self, seconds=0.5):
        self.seconds, self.calls, self.error = seconds, 0, None

    async def __call__(self):
        self.calls += 1
        call = self.calls
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {"call": call}


async def test_processes_that_miss_together_ask_the_source_once(processes):
    """The first one leaves a lease; the others wait for what it makes."""
    source = Source()
    found = await asyncio.gather(*(cache.get_or_set("k", source) for cache in processes * 5))
    assert [{"call": 1}] * 20 == found
    assert 1 == source.calls
    assert 3 == sum(cache.counts.waited for cache in processes)
    assert 16 == sum(cache.counts.shared for cache in processes)


async def test_waiting_is_bounded(processes):
    """Whoever has waited `lease_wait` makes the value himself; the one with the lease still gets his stored."""
    source, now = Source(7), asyncio.get_running_loop().time
    begun = now()
    found = await asyncio.gather(*(cache.get_or_set("k", source) for cache in processes))
    assert [1, 2, 3, 4] == sorted(value["call"] for value in found)
    assert 9 <= now() - begun < 9.5
    assert {"call": 1} == await processes[0].get("k")


async def test_lease_of_a_dead_process_ends(processes, store):
    """A process that died while it made a value holds others up for a while, then one of them takes over."""
    await store.write_new("cache:k", b"l12345678", 5)
    now, source = asyncio.get_running_loop().time, Source(0.1)
    assert {"call": 1} == await processes[0].get_or_set("k", source)
    assert 2.1 <= now() < 2.5
    assert await processes[0].get("k") is None
    await asyncio.sleep(2)
    found = await asyncio.gather(*(cache.get_or_set("k", source) for cache in processes))
    assert [{"call": 2}] * 4 == found
    assert {"call": 2} == await processes[0].get("k")


async def test_error_of_the_maker_lets_the_next_one_try(processes):
    """Those in his process get the error, those in others ask the source themselves, one after the other."""
    source = Source()
    source.error = LookupError("no such user")
    found = await asyncio.gather(*(c.get_or_set("k", source) for c in processes[:2] * 2), return_exceptions=True)
    assert [LookupError] * 4 == [type(error) for error in found]
    assert 2 == source.calls
    source.error = None
    assert {"call": 3} == await processes[0].get_or_set("k", source)


async def test_cancelled_maker_gives_his_lease_up(processes):
    """Another process need not wait for the lease to end."""
    slow, quick, now = Source(100), Source(0), asyncio.get_running_loop().time
    task = asyncio.create_task(processes[0].get_or_set("k", slow))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {"call": 1} == await processes[1].get_or_set("k", quick)
    assert now() < 0.2


async def test_deadline_of_one_caller_is_not_that_of_another(processes):
    """A maker whose own time is up is relieved by one who has more."""
    source = Source(0.1)
    waiting = asyncio.Event()

    async def in_a_hurry():
        waiting.set()
        await asyncio.sleep(0.05)
        raise DeadlineExceededError("asking the source", 0.05)

    first = asyncio.create_task(processes[0].get_or_set("k", in_a_hurry))
    await waiting.wait()
    with deadline(5):
        assert {"call": 1} == await processes[0].get_or_set("k", source)
    with pytest.raises(DeadlineExceededError):
        await first


async def test_each_waiter_has_a_value_of_his_own(processes):
    """What one caller does to a value that can be changed, no other sees."""
    source = Source()
    found = await asyncio.gather(*(processes[0].get_or_set("k", source) for _ in range(3)))
    found[0]["call"] = "changed"
    found[1]["call"] = "changed"
    assert {"call": 1} == found[2] == await processes[0].get("k")


async def test_refresh_serves_the_old_value_meanwhile(processes):
    """After `refresh_after` nobody waits: one process makes the value anew in the background."""
    source, now = Source(3), asyncio.get_running_loop().time

    def ask(cache):
        return cache.get_or_set("k", source, ttl=100, refresh_after=10)

    await ask(processes[0])
    await asyncio.sleep(9)
    await ask(processes[0])
    assert 1 == source.calls
    await asyncio.sleep(2)
    begun = now()
    assert [{"call": 1}] * 8 == [await ask(cache) for cache in processes * 2]
    assert now() == begun
    await asyncio.sleep(4)
    assert [{"call": 2}] * 4 == [await ask(cache) for cache in processes]
    assert 2 == source.calls
    assert 1 == sum(cache.counts.refreshed for cache in processes)


async def test_failed_refresh_is_not_repeated_at_once(processes):
    """The old value stays; the source is left alone until the claim ends."""
    source = Source(0)
    await processes[0].get_or_set("k", source, ttl=100, refresh_after=1)
    source.error = OSError("the source is down")
    for _ in range(6):
        await asyncio.sleep(1.5)
        assert {"call": 1} == await processes[1].get_or_set("k", source, ttl=100, refresh_after=1)
    assert 3 == source.calls


async def test_refresh_never_brings_back_what_was_deleted(processes):
    """A value that was deleted or set during the refresh stays so."""
    source, keys = Source(0), ("deleted", "set", "invalidated", "refreshed")

    async def ask(key):
        tags = ["t"] if key == "invalidated" else []
        return await processes[0].get_or_set(key, source, ttl=100, refresh_after=1, tags=tags)

    first = [await ask(key) for key in keys]
    await asyncio.sleep(1.5)
    source.seconds = 2
    assert first == [await ask(key) for key in keys]
    await asyncio.sleep(1)
    assert 8 == source.calls
    await processes[1].delete("deleted")
    await processes[1].set("set", "newer")
    await processes[1].invalidate("t")
    await asyncio.sleep(5)
    found = [await processes[0].get(key) for key in keys]
    assert [None, "newer", None] == found[:3]
    assert first[3] != found[3]


async def test_source_that_forgets_a_value_empties_the_cache(processes):
    """A refresh that finds nothing, where nothing is not kept, removes the old value."""
    answers = ["there", None]

    async def source():
        return answers.pop(0)

    for _ in range(2):
        await processes[0].get_or_set("k", source, ttl=100, refresh_after=1, negative_ttl=0)
        await asyncio.sleep(2)
    assert "gone" == await processes[0].get("k", "gone")


async def test_shutdown_waits_for_refreshes_then_cancels_them(store):
    """A refresh has half of `stop_timeout`; nothing of the cache runs after its stop."""
    now = asyncio.get_running_loop().time
    for seconds, calls, expected in ((1, 2, {"call": 2}), (60, 2, {"call": 1})):
        cache = MemoryCache(CacheConfig(stop_timeout=10), store=store, clock=now, wall=now)
        source = Source(0)
        await cache.get_or_set("k", source, refresh_after=1, ttl=100)
        await asyncio.sleep(2)
        source.seconds = seconds
        await cache.get_or_set("k", source, refresh_after=1, ttl=100)
        await asyncio.sleep(0)
        begun = now()
        await cache.on_shutdown()
        assert now() - begun <= 5
        assert calls == source.calls
        assert not [task for task in asyncio.all_tasks() if "Flights" in repr(task)]
        assert expected == await cache.get("k")
        await cache.delete("k")
        await asyncio.sleep(10)


async def test_stop_leaves_nothing_behind(processes):
    """Cancelled at any step, a call leaves no flight, no ticket and no lease that is not given up."""
    for steps in range(40):
        source = Source(0)
        cache = processes[steps % 4]
        task = asyncio.create_task(cache.get_or_set(f"k{steps}", source, tags=["t"]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)
        assert not cache._flights._flights
        assert not cache._flights._tasks
        assert (await cache._engine.store.read([f"cache:k{steps}"]))[0] is None or await cache.get(f"k{steps}")


async def test_memory_is_bounded():
    """The least recently used entries go first, by number and by bytes."""
    store = MemoryStore(size=3, limit=100_000)
    cache = MemoryCache(CacheConfig(max_value_bytes=90_000), store=store)
    for key in "abc":
        await cache.set(key, key)
    await cache.get("a")
    await cache.set("d", "d")
    assert {"a": "a", "c": "c", "d": "d"} == await cache.get_many("abcd")
    await cache.set("large", "x" * 80_000)
    await cache.set("larger", "x" * 85_000)
    assert ["larger"] == list(await cache.get_many(["a", "c", "d", "large", "larger"]))
    small = MemoryCache(CacheConfig(memory_size=2))
    await small.set_many({"a": 1, "b": 2, "c": 3})
    assert {"b": 2, "c": 3} == await small.get_many("abc")


async def test_deaf_process_keeps_nothing_itself():
    """While news can't arrive nothing is kept here, and what was kept before is forgotten with the next reading."""

    class Deaf(MemoryStore):
        is_connected = True

    store = Deaf()
    cache = MemoryCache(CacheConfig(local_size=10, local_ttl=3600), store=store)
    await cache.on_startup()
    await cache.set("k", 1)
    store.is_connected = False
    assert [1, None] == [await cache.get("k"), await cache.get("missing")]
    await cache.set("other", 1)
    assert [1, 1] == [await cache.get("k"), await cache.get("other")]
    assert 0 == len(cache._engine.local)
    store.is_connected = True
    assert [1, 1] == [await cache.get("k"), await cache.get("k")]
    assert 1 == len(cache._engine.local)
    await cache.on_shutdown()
