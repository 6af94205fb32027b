"""Cache: what services may expect of a cache, wherever it keeps its values. No driver here."""

# ruff: noqa: A002 - `type=` reads best
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

T = TypeVar("T")

CacheKey = str | tuple[str, ...]
"""A word, or parts that stay apart whatever they hold: `("user", user_id)`."""


class Cache(Protocol):
    """The contract of every cache; what domain services depend on and not on a driver.

    Times to live are in seconds; None means the cache's own. A cache may be away: it then has nothing and keeps
    nothing, so that callers go to their source. `svcframework-redis` has one in Redis and one in memory.
    """

    @overload
    async def get(self, key: CacheKey, default: Any = None) -> Any: ...
    @overload
    async def get(self, key: CacheKey, default: T, *, type: type[T]) -> T: ...
    @overload
    async def get(self, key: CacheKey, default: None = None, *, type: type[T]) -> T | None: ...
    async def get(self, key: CacheKey, default: Any = None, *, type: Any = Any) -> Any:
        """The value of a key, read as `type`; `default` if there is none."""

    async def get_many(self, keys: Iterable[CacheKey], *, type: Any = Any) -> dict[CacheKey, Any]:
        """The values of those keys that have one."""

    async def get_or_set(
        self,
        key: CacheKey,
        factory: Callable[[], Awaitable[T]],
        ttl: float | None = None,
        *,
        type: Any = Any,
        tags: Iterable[str] = (),
        negative_ttl: float | None = None,
        refresh_after: float | None = None,
    ) -> T:
        """The value of a key, made by `factory` and kept if there is none; callers at the same time share one call.

        Args:
            key: The key.
            factory: Makes the value.
            ttl: Seconds it is kept.
            type: What to read a kept value as.
            tags: It is forgotten when one of them is invalidated, also while it is being made.
            negative_ttl: Seconds that None is kept.
            refresh_after: Seconds after which it is made anew in the background.
        """

    async def set(self, key: CacheKey, value: Any, ttl: float | None = None, *, tags: Iterable[str] = ()) -> bool:
        """Keep a value; whether it was stored."""

    async def set_many(
        self, values: Mapping[CacheKey, Any], ttl: float | None = None, *, tags: Iterable[str] = ()
    ) -> bool:
        """Keep many values; whether they were stored."""

    async def touch(self, key: CacheKey, ttl: float | None = None) -> bool:
        """Let a value live for `ttl` from now; whether there is one."""

    async def delete(self, *keys: CacheKey) -> int:
        """Forget values, also those that are being made; how many there were."""

    async def invalidate(self, *tags: str) -> bool:
        """Forget all values with one of these tags, also those that are being made."""

    async def clear(self, prefix: CacheKey | None = None) -> int:
        """Forget every value, or those whose keys begin with these parts; how many there were."""

    def for_tenant(self, tenant: str) -> Cache:
        """The cache of one tenant, whose keys and tags are nobody else's.

        Raises:
            ValueError: The tenant is empty.
        """
