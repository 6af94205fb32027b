"""CacheService: values by key with a time to live, in Redis and, if wanted, for a moment in this process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from svcframework import HealthResult
from svcframework.log import ServiceLogger
from svcframework.metrics import ServiceMetrics
from svcframework.service import BaseService
from svcframework_redis.caching.engine import CacheEngine
from svcframework_redis.caching.flights import Flights
from svcframework_redis.caching.keyspace import KeySpace
from svcframework_redis.caching.operations import CacheOperations
from svcframework_redis.caching.outage import AWAY
from svcframework_redis.caching.redisstore import RedisStore
from svcframework_redis.caching.store import CacheStore
from svcframework_redis.config import CacheConfig
from svcframework_redis.service import RedisService

_TENANTS = 256  # views that are kept


class StoredCache(CacheOperations, BaseService[CacheConfig]):
    """A cache service over any store; what `CacheService` and `MemoryCache` have in common.

    Args:
        config: Settings; from the section `cache` when not given.
        make_store: Makes the place where values are kept.
        clock: Seconds that only grow.
        wall: Seconds since 1970.
        draw: A number from 0 to 1, by chance.
    """

    def __init__(
        self,
        config: CacheConfig | Mapping[str, Any] | None,
        make_store: Callable[[CacheConfig], CacheStore],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        super().__init__(config)
        engine = CacheEngine(
            make_store(self.config),
            self.config,
            clock=clock,
            wall=wall,
            draw=draw,
            on_change=self._on_store_change,
            on_refusal=self._on_refusal,
        )
        self._use(engine, Flights(engine, self._complain), engine.root)
        self._tenants: dict[str, TenantCache] = {}
        self._stack = AsyncExitStack()

    def for_tenant(self, tenant: str) -> TenantCache:
        """The cache of one tenant: no key and no tag of his is one of another's, whatever characters they hold.

        Args:
            tenant: Whose values these are. There is no default: a caller that doesn't know must not get any.

        Raises:
            MissingTenantError: It is empty.
        """
        try:
            return self._tenants[tenant]
        except (KeyError, TypeError):
            view = TenantCache(self, KeySpace.of_tenant(self.config.namespace, tenant))
        if len(self._tenants) >= _TENANTS:
            self._tenants.clear()
        self._tenants[tenant] = view
        return view

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Begin to hear what other processes change, if values are kept in this one."""
        engine = self._engine
        if engine.settings.local_size:
            ears = engine.store.listen(engine.root.channel, engine.heard, engine.forget_all)
            engine.ears = await self._stack.enter_async_context(ears)

    async def on_shutdown(self) -> None:
        """Let refreshes end within half of `stop_timeout`, and forget what is kept in this process."""
        await self._flights.drain(self.config.stop_timeout / 2)
        self._engine.ears = None
        await self._stack.aclose()
        self._engine.local.clear()

    async def _service_health_check(self) -> HealthResult:
        """Healthy while the store answers; degraded while the cache does without it."""
        engine = self._engine
        details: dict[str, Any] = {
            **engine.counts.snapshot(),
            "local": len(engine.local),
            "refused": engine.outage.refused,
        }
        try:
            await engine.store.ping(self.config.health_check_timeout * 0.9)
            problem = "" if await engine.outage.make_up() else engine.outage.reason or "removals are owed"
        except AWAY as error:
            problem = str(error)
        if not problem:
            return HealthResult.healthy(**details)
        found = HealthResult.degraded if self.config.degrade else HealthResult.unhealthy
        skipped, owed = engine.outage.skipped, engine.outage.owed
        return found(f"no cache, calls go to the source: {problem}", skipped=skipped, owed=owed, **details)

    def _on_store_change(self, reason: str | None) -> None:
        if reason is None:
            self.logger.info("cache_restored")
        else:
            self.logger.warning("cache_degraded", reason=reason)

    def _on_refusal(self, error: Exception) -> None:
        self.logger.warning("cache_refused", reason=str(error))

    def _complain(self, what: str, error: Exception) -> None:
        self.logger.warning(what, exc_info=error)


class CacheService(StoredCache):
    """Values by key with a time to live; lives as long as its host.

    Values are written as JSON or msgpack, never pickled; `type=` says what to read them as. While Redis is away the
    cache is empty and takes nothing in (`degrade`), which its health says; callers see no error. A key is a word, or
    a tuple whose parts stay apart whatever they hold: `("user", user_id)`. Keys of tenants are kept apart by
    `for_tenant(tenant)`.

    Args:
        config: Settings; from the section `cache` when not given.
        redis: Where values are kept.
        clock: Seconds that only grow.
        wall: Seconds since 1970.
        draw: A number from 0 to 1, by chance.
    """

    def __init__(
        self,
        config: CacheConfig | Mapping[str, Any] | None = None,
        *,
        redis: RedisService,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(config, lambda _settings: RedisStore(redis), clock=clock, wall=wall, draw=draw)
        self._redis = redis


class TenantCache(CacheOperations):
    """One tenant's view of a cache; lives as long as the cache, and is cheap to get. Made by `for_tenant`."""

    def __init__(self, cache: StoredCache, space: KeySpace) -> None:
        self._cache = cache
        self._use(cache._engine, cache._flights, space)  # noqa: SLF001 - two classes of one idea

    # What `@service_method` looks for: a tenant's calls count as the service's.
    @property
    def name(self) -> str:
        """The service's name."""
        return self._cache.name

    @property
    def config(self) -> CacheConfig:
        """The service's settings."""
        return self._cache.config

    @property
    def metrics(self) -> ServiceMetrics:
        """The service's metrics."""
        return self._cache.metrics

    @property
    def logger(self) -> ServiceLogger:
        """The service's logger."""
        return self._cache.logger

    def for_tenant(self, tenant: str) -> TenantCache:
        """The cache of another tenant; a tenant has none below it."""
        return self._cache.for_tenant(tenant)
