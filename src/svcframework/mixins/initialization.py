"""ServiceInitializationMixin: work that is done once before first use, whoever comes first."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MARK = "__initializes__"


class ServiceInitializationMixin:
    """Adds `initialize()` to a service: it calls `on_initialize` once, and a start does so, too.

    The start of the service initializes it before its `on_startup`, and a stop makes it uninitialized again, in
    whatever order the bases stand and whether or not `super()` is called.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for hook, wrap in (("on_startup", _initialize_before), ("on_shutdown", _forget_after)):
            found = getattr(cls, hook, None)  # None: mixed into something that isn't a service
            if found is not None and not hasattr(found, _MARK):
                setattr(cls, hook, wrap(found))

    async def on_initialize(self) -> None:
        """What is to be done once. An author fills it in."""

    @property
    def is_initialized(self) -> bool:
        """`on_initialize` has succeeded and the service has not been stopped since."""
        return bool(self.__dict__.get("_initialized"))

    async def initialize(self) -> None:
        """Call `on_initialize`, unless it has been done; tasks that come meanwhile wait for the same call.

        If it fails, all who wait get its error, and the next one who comes tries again. If the task that runs it
        is cancelled, another one of those who wait runs it.
        """
        while not self.is_initialized:
            attempt: _Attempt | None = self.__dict__.get("_initialization")
            if attempt is None:
                await self._initialize_now()
                return
            await attempt.ended.wait()
            if attempt.error is not None:
                raise attempt.error

    async def _initialize_now(self) -> None:
        attempt = self.__dict__["_initialization"] = _Attempt()
        try:
            await self.on_initialize()
            self.__dict__["_initialized"] = True
        except Exception as error:
            attempt.error = error
            raise
        finally:
            del self.__dict__["_initialization"]
            attempt.ended.set()


class _Attempt:
    """One call of `on_initialize` under way."""

    __slots__ = ("ended", "error")

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.error: Exception | None = None


def _initialize_before(on_startup: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    @functools.wraps(on_startup)
    async def initializing(self: ServiceInitializationMixin) -> None:
        await self.initialize()
        await on_startup(self)

    setattr(initializing, _MARK, True)
    return initializing


def _forget_after(on_shutdown: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    @functools.wraps(on_shutdown)
    async def forgetting(self: ServiceInitializationMixin) -> None:
        try:
            await on_shutdown(self)
        finally:
            self.__dict__["_initialized"] = False

    setattr(forgetting, _MARK, True)
    return forgetting
