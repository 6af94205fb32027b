"""The cache against a model: a dict that knows when values end, and schedules in which everything overlaps."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from svcframework.testing.virtualtime import VirtualLoop
from svcframework_redis import CacheConfig, MemoryCache, MemoryStore

KEYS = ["a", "b", ("a", "b"), ("a", "%t"), "a:b"]
TENANTS = [None, "x", "a", "x:a"]
TAGS = ["s", "t", "a:b"]
VALUES = st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers(0, 3), max_size=2))
HOW = {"key": st.sampled_from(KEYS), "tenant": st.sampled_from(TENANTS), "which": st.integers(0, 1)}


class CacheMachine(RuleBasedStateMachine):
    """Two caches that share a store, with values of their own in between, do what one dict with times does."""

    @initialize(local_size=st.sampled_from([0, 2, 50]), form=st.sampled_from(["json", "msgpack"]))
    def begin(self, local_size, form):
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.loop = self.runner.get_loop()
        self.store = MemoryStore(clock=self.loop.time)
        config = CacheConfig(ttl_jitter=0, local_size=local_size, local_ttl=1000, format=form, ttl=50, negative_ttl=20)
        self.caches = [
            MemoryCache(config, store=self.store, clock=self.loop.time, wall=self.loop.time) for _ in range(2)
        ]
        self.model = {}
        for cache in self.caches:
            self.run(cache.on_startup())

    def run(self, work):
        return self.runner.run(work)

    def view(self, which, tenant):
        cache = self.caches[which]
        return cache if tenant is None else cache.for_tenant(tenant)

    def expected(self, tenant, key):
        found = self.model.get((tenant, key))
        return "missing" if found is None or found[1] <= self.loop.time() else found[0]

    @rule(**HOW, value=VALUES, ttl=st.integers(1, 60), tags=st.sets(st.sampled_from(TAGS)))
    def set(self, key, tenant, which, value, ttl, tags):
        assert self.run(self.view(which, tenant).set(key, value, ttl, tags=tags))
        self.model[tenant, key] = (value, self.loop.time() + ttl, tags)

    @rule(**HOW)
    def get(self, key, tenant, which):
        assert self.expected(tenant, key) == self.run(self.view(which, tenant).get(key, "missing"))

    @rule(tenant=HOW["tenant"], which=HOW["which"])
    def get_many(self, tenant, which):
        expected = {key: value for key in KEYS if (value := self.expected(tenant, key)) != "missing"}
        assert expected == self.run(self.view(which, tenant).get_many(KEYS))

    @rule(**HOW, value=VALUES, ttl=st.integers(1, 60), tags=st.sets(st.sampled_from(TAGS)))
    def get_or_set(self, key, tenant, which, value, ttl, tags):
        async def make():
            return value

        expected = self.expected(tenant, key)
        found = self.run(self.view(which, tenant).get_or_set(key, make, ttl, tags=tags))
        if expected == "missing":
            expected = value
            kept = min(ttl, 20) if value is None else ttl
            self.model[tenant, key] = (value, self.loop.time() + kept, tags)
        assert expected == found

    @rule(**HOW)
    def delete(self, key, tenant, which):
        there = self.model.pop((tenant, key), None)
        removed = self.run(self.view(which, tenant).delete(key))
        assert removed <= 1
        assert removed or there is None or there[1] <= self.loop.time() or there[2]

    @rule(tag=st.sampled_from(TAGS), tenant=HOW["tenant"], which=HOW["which"])
    def invalidate(self, tag, tenant, which):
        self.run(self.view(which, tenant).invalidate(tag))
        for place, kept in list(self.model.items()):
            if place[0] == tenant and tag in kept[2]:
                del self.model[place]

    @rule(**HOW, ttl=st.integers(1, 60))
    def touch(self, key, tenant, which, ttl):
        is_there = self.expected(tenant, key) != "missing"
        assert is_there == self.run(self.view(which, tenant).touch(key, ttl))
        if is_there:
            value, _, tags = self.model[tenant, key]
            self.model[tenant, key] = (value, self.loop.time() + ttl, tags)

    @rule(prefix=st.sampled_from([None, "a", ("a", "b")]), tenant=HOW["tenant"], which=HOW["which"])
    def clear(self, prefix, tenant, which):
        self.run(self.view(which, tenant).clear(prefix))
        first = () if prefix is None else (prefix,) if isinstance(prefix, str) else prefix
        for place in list(self.model):
            parts = (place[1],) if isinstance(place[1], str) else place[1]
            everybodys = tenant is None and prefix is None
            if everybodys or (place[0] == tenant and parts[: len(first)] == first):
                del self.model[place]

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds):
        self.run(asyncio.sleep(seconds))

    @invariant()
    def bounds_hold(self):
        for cache in getattr(self, "caches", ()):
            assert len(cache._engine.local) <= cache.config.local_size
            assert not cache._engine.local._tickets  # nothing is being read

    def teardown(self):
        if hasattr(self, "runner"):
            for cache in self.caches:
                self.run(cache.on_shutdown())
            self.runner.close()


TestCacheModel = CacheMachine.TestCase
TestCacheModel.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


class SlowStore(MemoryStore):
    """Memory as if it were far away: each call takes a while to get there and another to come back, news too."""

    def __init__(self, chance, **kwargs):
        super().__init__(**kwargs)
        self.chance = chance

    @asynccontextmanager
    async def way(self):
        await asyncio.sleep(self.chance.random() * 0.02)
        yield
        await asyncio.sleep(self.chance.random() * 0.02)

    def _tell(self, news):
        if news is not None:
            for heard in tuple(self._ears.get(news[0], ())):
                asyncio.get_running_loop().call_later(self.chance.random() * 0.03, heard, news[1])


for name in ("read", "write", "write_new", "swap", "touch", "versions", "extend", "remove", "remove_below"):

    def far(name):
        near = getattr(MemoryStore, name)

        async def call(self, *args, **kwargs):
            async with self.way():
                return await near(self, *args, **kwargs)

        return call

    setattr(SlowStore, name, far(name))


@pytest.mark.parametrize("local_size", [0, 3])
def test_nothing_outdated_survives_any_schedule(local_size):
    """Whatever overlaps: a caller in the process that forgot sees no older value, and in the end nobody does."""
    for seed in range(120):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(_overlap(random.Random(seed), local_size))


async def _overlap(chance, local_size):
    loop = asyncio.get_running_loop()
    store = SlowStore(chance, clock=loop.time)
    config = CacheConfig(local_size=local_size, local_ttl=1000, lease_wait=chance.choice([0, 0.05, 2]), lease_ttl=0.3)
    caches = [MemoryCache(config, store=store, clock=loop.time, wall=loop.time) for _ in range(2)]
    source, forgotten = {"a": 0, "b": 0}, [{"a": 0, "b": 0} for _ in caches]
    for cache in caches:
        await cache.on_startup()

    async def read(which, key):
        async def make():
            version = source[key]
            await asyncio.sleep(chance.random() * 0.1)
            return version

        await asyncio.sleep(chance.random())
        least = forgotten[which][key]
        refresh_after = chance.choice([None, 0.05])
        found = await caches[which].get_or_set(key, make, tags=[f"tag of {key}"], refresh_after=refresh_after)
        assert found >= least

    async def change(which, key):
        await asyncio.sleep(chance.random())
        source[key] += 1
        version = source[key]
        how = chance.choice(["delete", "invalidate", "clear"])
        cache = caches[which]
        await {"delete": cache.delete, "invalidate": lambda _: cache.invalidate(f"tag of {key}"), "clear": cache.clear}[
            how
        ](key)
        forgotten[which][key] = max(forgotten[which][key], version)

    work = [read(chance.randrange(2), chance.choice("ab")) for _ in range(14)]
    work += [change(chance.randrange(2), chance.choice("ab")) for _ in range(5)]
    tasks = [asyncio.create_task(one) for one in work]
    for task in chance.sample(tasks[:14], 2):
        loop.call_later(chance.random(), task.cancel)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [] == [error for error in ended if isinstance(error, Exception)]
    await asyncio.sleep(5)
    for cache in caches:
        for key, version in source.items():
            assert await cache.get(key) in {None, version}
        assert not cache._flights._flights
        assert not cache._engine.local._tickets
        await cache.on_shutdown()
