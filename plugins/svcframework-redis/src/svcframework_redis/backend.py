"""RedisCache: bytes under namespaced keys in Redis. It knows nothing of values, sources or faults."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from svcframework_redis.service import RedisService

Key = str | tuple[str, ...]
"""A cache key: a word, or parts that stay apart, such as `("tenant", tenant_id, "user", user_id)`."""


class RedisCache:
    """A cache of bytes; lives as long as its owner.

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
        self._redis = redis
        self._prefix = _escaped(namespace)
        self._ttl_jitter, self._draw = ttl_jitter, draw

    def key(self, key: Key) -> str:
        """The key in Redis; different keys never share one.

        Raises:
            ValueError: The key, or one of its parts, is empty.
        """
        parts = (key,) if isinstance(key, str) else key
        if not parts or not all(parts):
            raise ValueError(f"{key!r} is no cache key: an empty part would let different owners share it")
        return ":".join([self._prefix, *map(_escaped, parts)])

    async def get(self, key: Key) -> bytes | None:
        """The value, None if there is none. Errors as `RedisService.execute`."""
        return await self._redis.get(self.key(key))

    async def get_many(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The values in the order of the keys, None for each that is missing."""
        return await self._redis.mget([self.key(key) for key in keys])

    async def set(self, key: Key, value: bytes, ttl: float) -> None:
        """Keep a value for about `ttl` seconds, never longer."""
        await self._redis.set(self.key(key), value, expire=ttl * (1 - self._ttl_jitter * self._draw()))

    async def delete(self, *keys: Key) -> int:
        """Remove values.

        Returns:
            How many there were.
        """
        return await self._redis.delete(*map(self.key, keys))


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace(":", "%3A")
