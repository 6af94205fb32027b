"""The pool of connections behind `RedisService`."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from svcframework_redis.config import RedisConfig


class ConnectionPool(BlockingConnectionPool):
    """redis-py's pool, whose release can't be cut off.

    The driver closes a connection whose command was cancelled, but it may have to wait for a lock to put it back: a
    cancellation there would lose the place in the pool for ever.
    """

    async def release(self, connection: Any) -> None:
        """Put a connection back, whatever happens to the caller."""
        try:
            await super().release(connection)
        except asyncio.CancelledError:
            if connection in self._in_use_connections:
                await asyncio.shield(super().release(connection))
            raise


def open_client(config: RedisConfig, url: str | None = None) -> Redis:
    """A client that connects with its first command; close it with `aclose()`.

    It repeats nothing: redis-py would send commands again that change something.

    Args:
        config: The settings.
        url: An address that wins over the configured one.
    """
    address, arguments = config.connect_arguments(url)
    pool = ConnectionPool.from_url(
        address,
        max_connections=config.max_connections,
        timeout=config.acquire_timeout,
        retry=Retry(NoBackoff(), 0),
        **arguments,
    )
    return Redis.from_pool(pool)
