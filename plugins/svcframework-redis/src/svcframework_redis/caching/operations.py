"""CacheOperations: what callers may do with a cache, whoever keeps its values and whosesoever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from svcframework.methods import service_method
from svcframework_redis.caching.counts import CacheCounts
from svcframework_redis.caching.engine import CacheEngine, Forgotten
from svcframework_redis.caching.flights import Flights, Order
from svcframework_redis.caching.keyspace import Key, KeySpace
from svcframework_redis.caching.local import LocalPlace
from svcframework_redis.caching.tags import Tags, TagVersions, names_of
from svcframework_redis.caching.values import MISSING

T = TypeVar("T")

# ruff: noqa: A002 - `type=` reads best


class CacheOperations:
    """Values by key, of one namespace or one tenant. What a cache service and each tenant's view of it can do.

    Errors of all methods: `CacheKeyError` for an empty key; with `degrade` off, `ConnectionFailedError` and
    `ServiceTimeoutError` while the store is away.
    """

    _engine: CacheEngine
    _flights: Flights
    _keyspace: KeySpace

    def _use(self, engine: CacheEngine, flights: Flights, space: KeySpace) -> None:
        self._engine, self._flights, self._keyspace = engine, flights, space
        # What a hit needs, one step away: it is to cost a third of a microsecond.
        self._names, self._local, self._clock, self._counts = (
            space.names, engine.local.entries, engine.clock, engine.counts,
        )  # fmt: skip

    # --- reading ----------------------------------------------------------------------------------------

    @overload
    async def get(self, key: Key, default: Any = None) -> Any: ...
    @overload
    async def get(self, key: Key, default: T, *, type: type[T]) -> T: ...
    @overload
    async def get(self, key: Key, default: None = None, *, type: type[T]) -> T | None: ...
    async def get(self, key: Key, default: Any = None, *, type: Any = Any) -> Any:
        """The value of a key.

        One that this process keeps is neither timed nor metered, only counted.

        Args:
            key: The key.
            default: What to return when there is none, or the store is away.
            type: What to read the value as: a dataclass, a `msgspec.Struct`, a pydantic model, `list[int]`; a value
                that doesn't fit counts as none.

        Raises:
            CacheKeyError: The key is empty.
            UncacheableValueError: Nothing can be read as that type.
            ConnectionFailedError: The store can't be reached and `degrade` is off; the same holds for all methods.
            ServiceTimeoutError: It did not answer in time and `degrade` is off.
        """
        try:
            name = self._names[key]
        except (KeyError, TypeError):  # the latter: it can't be hashed
            name = self._keyspace.name(key)
        found = self._local.get(name)
        if found is not None:
            if found.kind is type and found.deadline > self._clock():
                found.used = True
                self._counts.local_hits += 1
                return found.value
            value = self.peek(key, type)
            if value is not MISSING:
                return value
        value = await self._look(name, type)
        return default if value is MISSING else value

    def peek(self, key: Key, type: Any = Any) -> Any:
        """The value that this process keeps, without asking anybody; `values.MISSING` if none."""
        value = self._engine.local.peek(self._keyspace.name(key), type)
        if value is not MISSING:
            self._counts.local_hits += 1
        return value

    def place(self, key: Key, type: Any) -> LocalPlace:
        """Where this process would keep a value; for those who ask for the same one again and again."""
        return LocalPlace(self._keyspace.name(key), type, self._local, self._clock, self._counts)

    @service_method(name="get")
    async def _look(self, name: str, type: Any) -> Any:
        look = await self._engine.look(self._keyspace, name, type)
        if look.value is MISSING:
            self._counts.misses += 1
        else:
            self._counts.hits += 1
        return look.value

    @service_method
    async def get_many(self, keys: Iterable[Key], *, type: Any = Any) -> dict[Key, Any]:
        """The values of those keys that have one, with a single question to the store."""
        names = {key: self._keyspace.name(key) for key in keys}
        found = {key: self._engine.local.peek(name, type) for key, name in names.items()}
        asked = [key for key, value in found.items() if value is MISSING]
        self._counts.local_hits += len(found) - len(asked)
        if asked:
            values = await self._engine.look_at_many(self._keyspace, [names[key] for key in asked], type)
            found.update(zip(asked, values, strict=True))
        missing = sum(value is MISSING for value in found.values())
        self._counts.hits += len(asked) - missing
        self._counts.misses += missing
        return {key: value for key, value in found.items() if value is not MISSING}

    # --- writing ----------------------------------------------------------------------------------------

    @service_method
    async def set(self, key: Key, value: Any, ttl: float | None = None, *, tags: Tags = ()) -> bool:
        """Keep a value.

        Args:
            key: The key.
            value: Anything that the format can write.
            ttl: Seconds; the configured ones when not given. Up to `ttl_jitter` of them are taken off.
            tags: The value is gone when one of them is invalidated. With names, invalidated after this call; with
                what `tag_versions` returned, after that.

        Returns:
            Whether it was stored: not while the store is away. What was there before is then removed later.

        Raises:
            UncacheableValueError: The format has no form for the value.
            ValueTooLargeError: It has more than `max_value_bytes`.
        """
        return await self._set({self._keyspace.name(key): value}, ttl, tags)

    @service_method
    async def set_many(self, values: Mapping[Key, Any], ttl: float | None = None, *, tags: Tags = ()) -> bool:
        """Keep many values, with one write to the store. Arguments, result and errors as `set`."""
        named = {self._keyspace.name(key): value for key, value in values.items()}
        return not named or await self._set(named, ttl, tags)

    async def _set(self, values: Mapping[str, Any], ttl: float | None, tags: Tags) -> bool:
        engine, names, seconds = self._engine, names_of(tags), self._engine.seconds(ttl)
        bodies = {name: engine.encoded(value) for name, value in values.items()}
        versions: dict[str, bytes] | None = {}
        if isinstance(tags, TagVersions):
            versions = dict(tags.versions)
        elif names:
            versions = await engine.pin(self._keyspace, names, {}, seconds)
        if versions is None:  # the store went away
            await engine.remove(Forgotten(list(bodies)))
            return False
        packed = {name: engine.packed(body, seconds, versions=versions) for name, body in bodies.items()}
        return await engine.write(self._keyspace, packed, names)

    async def tag_versions(self, *tags: str) -> TagVersions:
        """What is current of some tags now, before a value is computed that `set(tags=…)` is to store.

        `get_or_set` does so by itself. While the store is away the versions are such that nothing is kept with them.
        """
        space, engine = self._keyspace, self._engine
        found = await engine.pin(space, names_of(tags), {}, engine.settings.ttl + engine.settings.lease_ttl)
        return TagVersions(tuple((found or dict.fromkeys(tags, b"")).items()))

    @service_method
    async def touch(self, key: Key, ttl: float | None = None) -> bool:
        """Let a value live for `ttl` seconds from now.

        Returns:
            Whether there is one.
        """
        return await self._engine.touch(self._keyspace, self._keyspace.name(key), self._engine.seconds(ttl))

    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        ttl: float | None = None,
        *,
        type: Any = Any,
        tags: Iterable[str] = (),
        negative_ttl: float | None = None,
        refresh_after: float | None = None,
    ) -> T:
        """The value of a key, made and kept if there is none.

        Callers in this process that ask for the same key at the same time share one call of `factory`; callers in
        other processes wait for it, at most `lease_wait` seconds. What it makes is not kept if the key was deleted
        or set, or one of the tags invalidated, while it was made.

        Args:
            key: The key.
            factory: Makes the value; an error of it reaches every caller that waits, and nothing is kept.
            ttl: Seconds; the configured ones when not given.
            type: What to read a kept value as.
            tags: The value is gone when one of them is invalidated.
            negative_ttl: Seconds that None is kept, 0 for not at all; the configured ones when not given.
            refresh_after: Seconds after which the value is made anew in the background, while callers still get the
                old one. `factory` may then run after the call has returned.

        Raises:
            UncacheableValueError: The format has no form for the value.
        """
        value = self.peek(key, type)
        if value is not MISSING:
            return value  # type: ignore[no-any-return]  # the factory's own T
        settings = self._engine.settings
        order = Order(
            self._keyspace,
            self._keyspace.name(key),
            factory,
            type,
            self._engine.seconds(ttl),
            names_of(tags),
            settings.negative_ttl if negative_ttl is None else negative_ttl,
            refresh_after,
        )
        return await self._obtain(order)  # type: ignore[no-any-return]  # the factory's own T

    @service_method(name="get_or_set")
    async def _obtain(self, order: Order) -> Any:
        return await self._flights.obtain(order)

    # --- forgetting -------------------------------------------------------------------------------------

    @service_method
    async def delete(self, *keys: Key) -> int:
        """Forget values, also those that are being made: they reach their callers but aren't kept.

        Returns:
            How many the store had; 0 while it is away, and they are then removed before it is next asked.
        """
        return await self._engine.remove(Forgotten([self._keyspace.name(key) for key in keys])) or 0 if keys else 0

    @service_method
    async def invalidate(self, *tags: str) -> bool:
        """Forget all values with one of these tags, however many there are, also those that are being made.

        Returns:
            Whether the store was told; if not, it is before it is next asked.
        """
        names = [self._keyspace.tag(tag) for tag in names_of(tags)]
        return not names or await self._engine.remove(Forgotten(tags=names)) is not None

    @service_method
    async def clear(self, prefix: Key | None = None) -> int:
        """Forget every value, of all tenants if this is no tenant's cache; or those whose keys begin with `prefix`.

        Looks at every key in the store: for administration and tests. Tags are the quick way.

        Args:
            prefix: The first parts of keys: `clear("user")` removes `("user", "1")` and `"user"`.

        Returns:
            How many entries were removed, those for the cache's own use included.
        """
        below = self._keyspace.prefix if prefix is None else self._keyspace.name(prefix)
        return await self._engine.remove(Forgotten(below=[below])) or 0

    # --- figures ----------------------------------------------------------------------------------------

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and what else has happened so far, of all tenants together."""
        return self._counts
