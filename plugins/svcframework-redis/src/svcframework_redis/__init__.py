"""Redis and Valkey for svcframework, on redis-py: commands with deadlines, errors of ours, and a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_redis.backend import RedisCache
    from svcframework_redis.cache import CacheService
    from svcframework_redis.config import CacheConfig, RedisConfig
    from svcframework_redis.errors import LockLostError, LockNotAcquiredError, TransactionConflictError
    from svcframework_redis.service import HasUrl, RedisService
    from svcframework_redis.subscriber import RedisSubscriber
    from svcframework_redis.sync import get_redis_client
    from svcframework_redis.transport import RedisStatistics

__all__ = [
    "CacheConfig",
    "CacheService",
    "HasUrl",
    "LockLostError",
    "LockNotAcquiredError",
    "RedisCache",
    "RedisConfig",
    "RedisService",
    "RedisStatistics",
    "RedisSubscriber",
    "TransactionConflictError",
    "get_redis_client",
]

_HOME = {
    "CacheConfig": "config",
    "CacheService": "cache",
    "HasUrl": "service",
    "LockLostError": "errors",
    "LockNotAcquiredError": "errors",
    "RedisCache": "backend",
    "RedisConfig": "config",
    "RedisService": "service",
    "RedisStatistics": "transport",
    "RedisSubscriber": "subscriber",
    "TransactionConflictError": "errors",
    "get_redis_client": "sync",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
