"""Every fault on a real server, and what the service promises under it; `make faults` writes the results down."""

import pytest

from svcframework.testing import FaultConformance
from svcframework_embedded.testing import own_valkey
from svcframework_redis import RedisService


@pytest.fixture(scope="module")
def mortal_server():
    """A server that only these tests kill."""
    with own_valkey() as server:
        yield server


class TestRedisFaults(FaultConformance):
    service = RedisService
    server = "mortal_server"
    settings = {"max_connections": 3}
    limits = {"timeout": 0.3, "connect_timeout": 0.3, "acquire_timeout": 0.3}
    limit = 0.3
    pool_size = 3
    not_applicable = {
        "overloaded": "Redis speaks no HTTP",
        "pool_exhausted/b": "only blocking commands wait for a connection of their own; all others go on",
    }

    async def call(self, service, key):
        return (await service.execute("ECHO", key)).decode()

    async def slow_call(self, service, seconds):
        return await service.execute("BLPOP", "faults:empty", seconds, timeout=seconds + 1)

    async def pooled_call(self, service, key):
        await service.execute("RPUSH", f"faults:{key}", key)
        _, found = await service.execute("BLPOP", f"faults:{key}", 0.2)
        return found.decode()

    async def change(self, service, key):
        """Two keys that belong together, in one script: both are new, or neither is."""
        both = "redis.call('SET', KEYS[1], ARGV[1]); redis.call('SET', KEYS[2], ARGV[1])"
        await service.execute("EVAL", both, 2, "{faults}:left", "{faults}:right", key)

    async def check_changes(self, service):
        left, right = await service.mget(["{faults}:left", "{faults}:right"])
        assert left == right
        assert left is not None

    def server_on(self, folder):
        return own_valkey(data_dir=folder / "data")
