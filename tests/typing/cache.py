"""What type checkers must see of the cache. Never run: mypy and pyright read it, and every line must hold."""

from __future__ import annotations

from typing import Any, assert_type

from svcframework import BaseService, Cache
from svcframework_redis import CacheIntegration, CacheService, MemoryCache, RedisService, TenantCache, cached


class Users(BaseService):
    """Depends on the contract, and caches a method."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.cache = cache

    @cached(ttl=60, tags=["user:{user_id}"])
    async def load(self, user_id: str, *, deep: bool = False) -> int | None:
        """A method keeps its parameters and its result."""
        return len(user_id) if deep else None


@cached()
async def double(n: int) -> float:
    """A function does as well."""
    return 2.0 * n


async def number() -> int:
    """A source."""
    return 1


async def reads(users: Users) -> None:
    """A call of a cached function is a call of the function."""
    assert_type(await users.load("1"), int | None)
    assert_type(await users.load("1", deep=True), int | None)
    assert_type(await double(2), float)
    assert_type(await Users.load(users, "1"), int | None)
    await users.load.invalidate("1", deep=True)
    await double.invalidate(n=2)
    assert_type(double.key(2), str | tuple[str, ...])

    await users.load(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await users.load.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await double("2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @cached()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def sync(n: int) -> int:
        return n

    sync.key(2)


async def services(redis: RedisService) -> None:
    """Both caches, and a tenant's view of one, keep the contract."""
    service, memory = CacheService(redis=redis), MemoryCache()
    caches: list[Cache] = [service, memory, service.for_tenant("acme")]
    Users(caches[0])
    CacheIntegration(memory)
    CacheIntegration(service.for_tenant("acme"))
    CacheIntegration("cache_service")
    CacheIntegration(CacheService)
    assert_type(service.for_tenant("acme"), TenantCache)
    assert_type(caches[0].for_tenant("acme"), Cache)
    assert_type(await service.get("k", type=int), int | None)
    assert_type(await service.get("k", 5, type=int), int)
    assert_type(await service.get("k"), Any)
    assert_type(await service.get_or_set("k", number), int)
    assert_type(await caches[0].get_or_set(("a", "b"), number, tags=["t"]), int)
    await service.set("k", 1, tags=await service.tag_versions("t"))
