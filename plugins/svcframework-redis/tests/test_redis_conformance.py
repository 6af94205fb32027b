"""Both services pass what every service must."""

from svcframework.testing.conformance import ServiceConformance, deviates
from svcframework_redis import CacheConfig, CacheService, MemoryCache, RedisConfig, RedisService


class TestRedisConformance(ServiceConformance):
    service = RedisService
    server = "valkey_server"


class CacheAndRedis(CacheService):
    """The cache with the service below it, which a host would run; lives as long as a test."""

    async def on_startup(self):
        await self._redis.on_startup()
        await super().on_startup()

    async def on_shutdown(self):
        await super().on_shutdown()
        await self._redis.on_shutdown()


class TestCacheConformance(ServiceConformance):
    service = CacheService
    server = "valkey_server"

    def make_service(self, address, **settings):
        # A cache that degrades is healthy enough without Redis, which the tests of faults look for.
        config = CacheConfig(**{"degrade": False, **settings})
        return CacheAndRedis(config, redis=RedisService(RedisConfig(url=address)))


class TestMemoryCacheConformance(ServiceConformance):
    service = MemoryCache

    @deviates("it stands in for CacheService, and a host that found both could not tell which cache is meant")
    def test_entry_point_loads(self, root):
        """It is declared in a container, not discovered."""
        assert "MemoryCache" not in (root / "pyproject.toml").read_text(encoding="utf-8")
