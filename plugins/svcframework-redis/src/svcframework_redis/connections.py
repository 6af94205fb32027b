"""redis-py's own clients, for what `RedisService` has no method for."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError  # noqa: A004 - the pool's callers expect the driver's own

from svcframework_redis.address import Target
from svcframework_redis.config import RedisConfig
from svcframework_redis.driver import client_arguments, sentinel_arguments, untyped
from svcframework_redis.errors import DRIVER_ERRORS


class ConnectionPool(BlockingConnectionPool):
    """redis-py's pool, without three of its faults.

    The driver closes a connection whose command was cancelled, but it may have to wait for a lock to put it back: a
    cancellation there would lose the place in the pool for ever. And it doesn't see that an idle connection was reset:
    the next command would fail inside asyncio with an AttributeError. And what connects while the pool is closed
    would stay open.
    """

    is_closed = False

    async def ensure_connection(self, connection: Any) -> None:
        """Connect if need be, also when the server has reset the connection."""
        writer = connection._writer  # noqa: SLF001 - the driver has no other way to ask
        if writer is not None and writer.is_closing():
            await connection.disconnect()
        await super().ensure_connection(connection)
        if self.is_closed:
            await connection.disconnect(nowait=True)
            raise ConnectionError("the client is closed")

    async def aclose(self) -> None:
        """Close every connection, now or as soon as it is open."""
        self.is_closed = True
        await self.disconnect()

    async def release(self, connection: Any) -> None:
        """Put a connection back, whatever happens to the caller."""
        try:
            await super().release(connection)
        except asyncio.CancelledError:
            if connection in self._in_use_connections:
                await asyncio.shield(super().release(connection))
            raise


def open_client(config: RedisConfig, target: Target) -> Redis:
    """A client that connects with its first command; close it with `close_clients`.

    It repeats nothing: redis-py would send commands again that change something.

    Args:
        config: The settings.
        target: Where the server is.
    """
    retry = Retry(NoBackoff(), 0)
    if target.kind == "sentinel":
        manager: Any = untyped(Sentinel)(
            target.places, sentinel_kwargs={"retry": retry, **sentinel_arguments(config, target)}
        )
        return cast("Redis", manager.master_for(target.master, retry=retry, **client_arguments(config, target)))
    if target.kind == "cluster":
        nodes = [untyped(ClusterNode)(host, port) for host, port in target.places]
        return cast("Redis", RedisCluster(startup_nodes=nodes, retry=retry, **client_arguments(config, target)))
    pool = ConnectionPool.from_url(
        target.url,
        max_connections=config.max_connections,
        timeout=config.acquire_timeout,
        retry=retry,
        **config.connect_arguments()[1],
    )
    return Redis.from_pool(pool)


async def close_clients(client: Redis | None, sync_client: SyncRedis | None, seconds: float) -> None:
    """Close redis-py's clients; give up after `seconds`."""
    if sync_client is not None:
        close_sync_client(sync_client)
    if client is not None:
        try:
            async with asyncio.timeout(seconds):
                pool: Any = getattr(client, "connection_pool", None)  # a cluster's client has none
                if isinstance(pool, ConnectionPool):
                    await pool.aclose()
                elif pool is not None:
                    await pool.disconnect()
                    await pool.sentinel_manager.aclose()
                await client.aclose()
        except DRIVER_ERRORS:  # there is nothing left that could be closed
            pass


def close_sync_client(client: SyncRedis) -> None:
    """Close a blocking client and all that it has opened."""
    pool: Any = getattr(client, "connection_pool", None)  # a cluster's client has none
    client.close()
    if pool is not None:
        pool.disconnect()
        for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
            sentinel.close()
            sentinel.connection_pool.disconnect()
