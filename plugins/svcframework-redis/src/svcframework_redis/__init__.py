"""Redis and Valkey for svcframework, on redis-py: commands with deadlines, errors of ours, and a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_redis.caching.backend import RedisCache
    from svcframework_redis.caching.integration import CacheIntegration, cached
    from svcframework_redis.caching.memory import MemoryCache, MemoryStore
    from svcframework_redis.caching.refusals import (
        CacheKeyError,
        MissingTenantError,
        UncacheableArgumentError,
        UncacheableValueError,
        ValueTooLargeError,
    )
    from svcframework_redis.caching.service import CacheService, TenantCache
    from svcframework_redis.caching.tags import TagVersions
    from svcframework_redis.config import CacheConfig, RedisConfig
    from svcframework_redis.errors import LockLostError, LockNotAcquiredError, TransactionConflictError
    from svcframework_redis.limiter import RateLimiter, RateWindow
    from svcframework_redis.lock import RedisLock
    from svcframework_redis.service import HasUrl, RedisService
    from svcframework_redis.subscriber import RedisSubscriber
    from svcframework_redis.sync import get_redis_client
    from svcframework_redis.transaction import RedisTransaction
    from svcframework_redis.transport import RedisStatistics

__all__ = [
    "CacheConfig",
    "CacheIntegration",
    "CacheKeyError",
    "CacheService",
    "HasUrl",
    "LockLostError",
    "LockNotAcquiredError",
    "MemoryCache",
    "MemoryStore",
    "MissingTenantError",
    "RateLimiter",
    "RateWindow",
    "RedisCache",
    "RedisConfig",
    "RedisLock",
    "RedisService",
    "RedisStatistics",
    "RedisSubscriber",
    "RedisTransaction",
    "TagVersions",
    "TenantCache",
    "TransactionConflictError",
    "UncacheableArgumentError",
    "UncacheableValueError",
    "ValueTooLargeError",
    "cached",
    "get_redis_client",
]

_HOME = {
    "CacheConfig": "config",
    "CacheIntegration": "caching.integration",
    "CacheKeyError": "caching.refusals",
    "CacheService": "caching.service",
    "HasUrl": "service",
    "LockLostError": "errors",
    "LockNotAcquiredError": "errors",
    "MemoryCache": "caching.memory",
    "MemoryStore": "caching.memory",
    "MissingTenantError": "caching.refusals",
    "RateLimiter": "limiter",
    "RateWindow": "limiter",
    "RedisCache": "caching.backend",
    "RedisConfig": "config",
    "RedisLock": "lock",
    "RedisService": "service",
    "RedisStatistics": "transport",
    "RedisSubscriber": "subscriber",
    "RedisTransaction": "transaction",
    "TagVersions": "caching.tags",
    "TenantCache": "caching.service",
    "TransactionConflictError": "errors",
    "UncacheableArgumentError": "caching.refusals",
    "UncacheableValueError": "caching.refusals",
    "ValueTooLargeError": "caching.refusals",
    "cached": "caching.integration",
    "get_redis_client": "sync",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
