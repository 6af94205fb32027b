"""get_redis_client: redis-py's blocking client on the settings of `RedisService`, for threads and sync frameworks."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from svcframework.config import load_config
from svcframework_redis.config import RedisConfig
from svcframework_redis.driver import client_arguments, sentinel_arguments, untyped


def get_redis_client(config: RedisConfig | None = None) -> Redis:
    """A blocking client, the same one each time for the same settings; safe to share between threads.

    Its calls end within `timeout` and are never repeated. It connects with its first command, raises redis-py's own
    errors, and answers in bytes. In async code use `RedisService`.

    Args:
        config: Settings; the configuration's section `redis` when not given.

    Raises:
        ConfigurationError: A setting is missing or malformed.
    """
    return _client(config or load_config(RedisConfig))


def open_sync_client(config: RedisConfig, url: str | None = None) -> Redis:
    """A blocking client of its own; close it after use."""
    target = config.target(url)
    retry = Retry(NoBackoff(), 0)
    if target.kind == "sentinel":
        manager: Any = untyped(Sentinel)(
            target.places, sentinel_kwargs={"retry": retry, **sentinel_arguments(config, target)}
        )
        return cast("Redis", manager.master_for(target.master, retry=retry, **client_arguments(config, target)))
    if target.kind == "cluster":
        nodes = [untyped(ClusterNode)(host, port) for host, port in target.places]
        return cast("Redis", RedisCluster(startup_nodes=nodes, retry=retry, **client_arguments(config, target)))
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        target.url,
        max_connections=config.max_connections,
        timeout=config.acquire_timeout,
        retry=retry,
        **config.connect_arguments()[1],
    )
    return Redis.from_pool(pool)


# The cast is for pyright, which doesn't know that frozen models are hashable.
_client = cast("Callable[[RedisConfig], Redis]", lru_cache(maxsize=16)(open_sync_client))
