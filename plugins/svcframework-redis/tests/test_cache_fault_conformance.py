"""Every fault on a real server, as callers of the cache see it: they get their answer, from the source if need be."""

import asyncio

import pytest

from svcframework import ServiceConfig
from svcframework.testing import FaultConformance
from svcframework_embedded.testing import own_valkey
from svcframework_redis import CacheConfig, CacheService, RedisConfig, RedisService


@pytest.fixture(scope="module")
def mortal_server():
    """A server that only these tests kill."""
    with own_valkey() as server:
        yield server


class TestCacheFaults(FaultConformance):
    service = CacheService
    server = "mortal_server"
    limits = {"timeout": 0.3, "connect_timeout": 0.3, "acquire_timeout": 0.3}
    limit = 0.7  # one answer in time and one that doesn't come
    degrades = True
    not_applicable = {
        "overloaded": "Redis speaks no HTTP",
        "pool_exhausted": "nothing that the cache asks waits for a connection of its own",
        "disk_full": "a cache whose server takes nothing in fails no call",
    }

    def make_services(self, address, **settings):
        common = {name: value for name, value in settings.items() if name in ServiceConfig.model_fields}
        redis = RedisService(RedisConfig(url=address, **settings))
        # Nothing is kept here: each call is to ask the server.
        return [redis, CacheService(CacheConfig(retry_interval=0.1, lease_wait=0.1, **common), redis=redis)]

    async def call(self, service, key):
        async def source():
            return key

        return await service.get_or_set(("faults", key), source, tags=["faults"])

    async def change(self, service, key):
        """A value is made under a lease, and forgotten by its tag, again and again."""

        async def source():
            await asyncio.sleep(0)
            return [key, key]

        await service.get_or_set("shared", source, tags=["shared"])
        await service.invalidate("shared")

    async def check_changes(self, service):
        """A value is whole or not there, and no lease of the dead is in the way for long."""

        async def source():
            return ["new", "new"]

        left, right = await service.get_or_set("shared", source)
        assert left == right
