"""CacheService: values by key with a time to live, in Redis and, if wanted, for a moment in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import msgspec

from svcframework import HealthResult
from svcframework.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.methods import service_method
from svcframework.service import BaseService
from svcframework_redis.backend import Key, RedisCache
from svcframework_redis.config import CacheConfig
from svcframework_redis.local import LocalCache
from svcframework_redis.service import RedisService

T = TypeVar("T")

_AWAY = (ConnectionFailedError, ServiceTimeoutError, ServiceUnavailableError)  # the last: it has not been started

_MISSING: Any = object()  # None is a value like any other
_CALLED_OFF: Any = object()  # the one who made the value was cancelled; another caller takes over


class CacheService(BaseService[CacheConfig]):
    """Values by key with a time to live; lives as long as its host.

    Values are written as JSON or msgpack, never pickled; `type=` says what to read them as. While Redis is away the
    cache is empty and takes nothing in (`degrade`), which its health says; callers see no error. A key is a word, or
    a tuple whose parts stay apart whatever they hold: `("tenant", tenant_id, "user", user_id)`.

    Args:
        config: Settings; from the section `cache` when not given.
        redis: Where values are kept.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        config: CacheConfig | Mapping[str, Any] | None = None,
        *,
        redis: RedisService,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config)
        self._redis, self._clock = redis, clock
        settings = self.config
        self._backend = RedisCache(redis, namespace=settings.namespace, ttl_jitter=settings.ttl_jitter)
        self._local = LocalCache(size=settings.local_size, ttl=settings.local_ttl, clock=clock)
        self._flights: dict[str, asyncio.Future[Any]] = {}
        self._away_until = 0.0
        self._degraded_by = ""
        self._skipped = 0
        self._format: Any = msgspec.json if settings.format == "json" else msgspec.msgpack

    async def on_shutdown(self) -> None:
        """Forget what is kept in this process."""
        self._local.clear()

    async def _service_health_check(self) -> HealthResult:
        """Healthy while Redis answers; degraded while the cache does without it."""
        timeout = self.config.health_check_timeout * 0.9
        try:
            await self._redis.ping(timeout=timeout)
        except _AWAY as error:
            message = f"no cache, calls go to the source: {error}"
            found = HealthResult.degraded if self.config.degrade else HealthResult.unhealthy
            return found(message, skipped=self._skipped, local=len(self._local))
        self._back()
        return HealthResult.healthy(local=len(self._local))

    # --- values -----------------------------------------------------------------------------------------

    @overload
    async def get(self, key: Key, default: Any = None) -> Any: ...
    @overload
    async def get(self, key: Key, default: T, *, type: type[T]) -> T: ...
    @overload
    async def get(self, key: Key, default: None = None, *, type: type[T]) -> T | None: ...
    @service_method
    async def get(self, key: Key, default: Any = None, *, type: Any = Any) -> Any:  # noqa: A002 - reads best
        """The value of a key.

        Args:
            key: The key.
            default: What to return when there is none, or Redis is away.
            type: What to read the value as: a dataclass, a `msgspec.Struct`, `list[int]`; a value that doesn't fit
                counts as none.

        Raises:
            ConnectionFailedError: Redis can't be reached and `degrade` is off; the same holds for all methods.
            ServiceTimeoutError: It did not answer in time and `degrade` is off.
        """
        found = await self._read(key)
        value = _MISSING if found is None else self._decoded(found, type)
        return default if value is _MISSING else value

    @service_method
    async def get_many(self, keys: Sequence[Key], *, type: Any = Any) -> dict[Key, Any]:  # noqa: A002 - reads best
        """The values of those keys that have one, with a single question to Redis."""
        nothing: list[bytes | None] = [None] * len(keys)
        found = await self._guarded(self._backend.get_many(keys), nothing)
        values = {key: self._decoded(data, type) for key, data in zip(keys, found, strict=True) if data is not None}
        return {key: value for key, value in values.items() if value is not _MISSING}

    @service_method
    async def set(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        """Keep a value.

        Args:
            key: The key.
            value: Anything that the format can write.
            ttl: Seconds; the configured ones when not given. Up to `ttl_jitter` of them are taken off.

        Returns:
            Whether it was stored: not while Redis is away.
        """
        data, seconds = self._encoded(value), self.config.ttl if ttl is None else ttl
        name = self._backend.key(key)
        self._local.delete(name)
        if not await self._guarded(self._stored(key, data, seconds), otherwise=False):
            return False
        self._local.set(name, data, seconds)
        return True

    @service_method
    async def delete(self, *keys: Key) -> int:
        """Forget values.

        Returns:
            How many Redis had.
        """
        for key in keys:
            self._local.delete(self._backend.key(key))
        return await self._guarded(self._backend.delete(*keys), 0)

    @service_method
    async def get_or_set(
        self,
        key: Key,
        factory: Callable[[], Awaitable[T]],
        ttl: float | None = None,
        *,
        type: Any = Any,  # noqa: A002 - reads best
    ) -> T:
        """The value of a key, made and kept if there is none.

        Callers in this process that ask for the same key at the same time share one call of `factory`.

        Args:
            key: The key.
            factory: Makes the value; an error of it reaches every caller that waits, and nothing is kept.
            ttl: Seconds; the configured ones when not given.
            type: What to read a kept value as.
        """
        name = self._backend.key(key)
        while True:
            flight = self._flights.get(name)
            if flight is None:
                return await self._lead(name, key, factory, ttl, type)
            value = await asyncio.shield(flight)  # a caller that gives up takes nobody with it
            if value is not _CALLED_OFF:
                return value  # type: ignore[no-any-return]  # the factory's own T

    async def _lead(self, name: str, key: Key, factory: Callable[[], Awaitable[T]], ttl: float | None, type_: Any) -> T:
        flight: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._flights[name] = flight
        try:
            value: T = await self.get(key, _MISSING, type=type_)
            if value is _MISSING:
                value = await factory()
                await self.set(key, value, ttl)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # seen, also when nobody else waits
            raise
        except BaseException:
            flight.set_result(_CALLED_OFF)
            raise
        else:
            flight.set_result(value)
            return value
        finally:
            del self._flights[name]

    # --- the way to Redis -------------------------------------------------------------------------------

    async def _read(self, key: Key) -> bytes | None:
        name = self._backend.key(key)
        data = self._local.get(name)
        if data is None:
            data = await self._guarded(self._backend.get(key), None)
            if data is not None:
                self._local.set(name, data, self.config.local_ttl)
        return data

    async def _stored(self, key: Key, data: bytes, seconds: float) -> bool:
        await self._backend.set(key, data, seconds)
        return True

    async def _guarded(self, call: Awaitable[T], otherwise: T) -> T:
        """What `call` returns, `otherwise` while Redis is away and that is to be borne."""
        if self._clock() < self._away_until:
            self._skipped += 1
            _close(call)
            return otherwise
        try:
            result = await call
        except DeadlineExceededError:
            raise  # the caller's time is up, for the source as well
        except _AWAY as error:
            if not self.config.degrade:
                raise
            self._away(error)
            return otherwise
        if self._degraded_by:
            self._back()
        return result

    def _away(self, error: Exception) -> None:
        self._away_until = self._clock() + self.config.retry_interval
        self._skipped += 1
        if not self._degraded_by:
            self._degraded_by = str(error)
            self.logger.warning("cache_degraded", reason=str(error))

    def _back(self) -> None:
        if self._degraded_by:
            self.logger.info("cache_restored", skipped=self._skipped)
        self._degraded_by, self._skipped, self._away_until = "", 0, 0.0

    def _encoded(self, value: Any) -> bytes:
        data: bytes = self._format.encode(value)
        return data

    def _decoded(self, data: bytes, type_: Any) -> Any:
        try:
            return self._format.decode(data, type=type_)
        except msgspec.MsgspecError:  # written by an older version, or by something else
            return _MISSING


def _close(call: Awaitable[Any]) -> None:
    """Drop a coroutine that was never begun, without the interpreter's warning."""
    close = getattr(call, "close", None)
    if close is not None:
        close()
