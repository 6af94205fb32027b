"""RedisCache: bytes under namespaced keys in Redis. It knows nothing of values, sources or faults."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from svcframework_redis.caching.keyspace import Key, KeySpace
from svcframework_redis.caching.redisstore import RedisStore
from svcframework_redis.service import RedisService


class RedisCache:
    """A cache of bytes, and nothing but the bytes in Redis; lives as long as its owner.

    Args:
        redis: Where the bytes are.
        namespace: What every key begins with.
        ttl_jitter: Share of each ttl drawn by chance and taken off, so that values stored together end apart.
        draw: A number from 0 to 1, by chance.
    """

    def __init__(
        self,
        redis: RedisService,
        *,
        namespace: str,
        ttl_jitter: float = 0.0,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._redis, self._store = redis, RedisStore(redis)
        self._space = KeySpace(namespace)
        self._namespace, self._ttl_jitter, self._draw = namespace, ttl_jitter, draw

    def for_tenant(self, tenant: str) -> RedisCache:
        """The same for one tenant: no key of his is one of another's.

        Raises:
            MissingTenantError: The tenant is empty.
        """
        found = RedisCache(self._redis, namespace=self._namespace, ttl_jitter=self._ttl_jitter, draw=self._draw)
        found._space = KeySpace.of_tenant(self._namespace, tenant)
        return found

    def key(self, key: Key) -> str:
        """The key in Redis; different keys never share one.

        Raises:
            CacheKeyError: The key, or one of its parts, is empty.
        """
        return self._space.name(key)

    async def get(self, key: Key) -> bytes | None:
        """The value, None if there is none. Errors as `RedisService.execute`."""
        return await self._redis.get(self.key(key))

    async def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The values in the order of the keys, None for each that is missing."""
        return await self._redis.mget([self.key(key) for key in keys])

    async def set(self, key: Key, value: bytes, ttl: float) -> None:
        """Keep a value for about `ttl` seconds, never longer."""
        await self._redis.set(self.key(key), value, expire=self._jittered(ttl))

    async def set_many(self, values: Mapping[Key, bytes], ttl: float) -> None:
        """Keep many values, with one write to the server."""
        await self._store.write({self.key(key): (value, self._jittered(ttl)) for key, value in values.items()})

    async def touch(self, key: Key, ttl: float) -> bool:
        """Let a value live for `ttl` seconds from now; whether there is one."""
        return await self._redis.expire(self.key(key), ttl)

    async def delete(self, *keys: Key) -> int:
        """Remove values.

        Returns:
            How many there were.
        """
        return await self._redis.delete(*map(self.key, keys))

    async def clear(self, prefix: Key | None = None) -> int:
        """Remove every value, or those whose keys begin with these parts.

        Returns:
            How many there were.
        """
        return await self._store.remove_below(self._space.prefix if prefix is None else self.key(prefix))

    def _jittered(self, ttl: float) -> float:
        return ttl * (1 - self._ttl_jitter * self._draw())
