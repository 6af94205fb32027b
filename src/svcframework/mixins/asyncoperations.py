"""AsyncOperationMixin: several things at once, within limits. Structured: nothing outlives the call that began it."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, Unpack, cast, overload

import anyio
import anyio.abc
import anyio.to_thread

from svcframework.deadlines import effective_timeout
from svcframework.errors import DeadlineExceededError, ServiceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable
    from typing import Literal

T = TypeVar("T")
U = TypeVar("U")
Args = TypeVarTuple("Args")

_LIMIT = 10  # calls at once, where nobody says otherwise


class AsyncOperationMixin:
    """Adds bounded concurrency to a service; works on any class."""

    @overload
    async def gather(
        self, *calls: Awaitable[T] | Callable[[], Awaitable[T]], limit: int = ..., return_errors: Literal[False] = ...
    ) -> list[T]: ...
    @overload
    async def gather(
        self, *calls: Awaitable[T] | Callable[[], Awaitable[T]], limit: int = ..., return_errors: Literal[True]
    ) -> list[T | Exception]: ...
    async def gather(
        self, *calls: Awaitable[Any] | Callable[[], Awaitable[Any]], limit: int = _LIMIT, return_errors: bool = False
    ) -> Any:
        """The results of all calls, in their order.

        Args:
            calls: Coroutines, or functions without arguments that return one.
            limit: So many run at once.
            return_errors: Return the errors in place of the results, instead of raising the first one and
                cancelling the rest.

        Raises:
            Exception: What the first call that failed raised.
        """
        return await _run_all([_Call(call) for call in calls], limit, return_errors=return_errors)

    async def map_concurrently(
        self, function: Callable[[U], Awaitable[T]], items: Iterable[U], *, limit: int = _LIMIT
    ) -> list[T]:
        """`function` of each item, in the order of the items; at most `limit` at once.

        Raises:
            Exception: What the first call that failed raised; the others are cancelled.
        """
        calls = [_Call(functools.partial(function, item)) for item in items]
        return cast("list[T]", await _run_all(calls, limit, return_errors=False))

    async def with_timeout(self, call: Awaitable[T] | Callable[[], Awaitable[T]], seconds: float) -> T:
        """The result of a call, if it comes in time.

        Args:
            call: A coroutine, or a function without arguments that returns one.
            seconds: Its limit; the caller's deadline holds as well.

        Raises:
            ServiceTimeoutError: The time was up, and the call has been cancelled.
        """
        wrapped = _Call(call)
        allowed = effective_timeout(seconds)
        with anyio.move_on_after(allowed):
            return cast("T", await wrapped.start())
        wrapped.close()
        kind = DeadlineExceededError if allowed < seconds else ServiceTimeoutError
        raise kind(wrapped.name, allowed)

    async def first_of(self, *calls: Awaitable[T] | Callable[[], Awaitable[T]]) -> T:
        """The result of whichever call succeeds first; the others are cancelled.

        Raises:
            ExceptionGroup: All of them failed.
            ValueError: There are no calls.
        """
        if not calls:
            raise ValueError("first_of() needs at least one call")
        return cast("T", await _first([_Call(call) for call in calls]))

    async def run_in_thread(
        self,
        function: Callable[[Unpack[Args]], T],
        *args: *Args,
        limiter: anyio.CapacityLimiter | None = None,
    ) -> T:
        """`function(*args)` in a worker thread, so that it does not hold up the event loop.

        A thread can't be cancelled: a cancelled caller waits for its end.

        Args:
            function: A plain, blocking function.
            args: What it is called with.
            limiter: How many threads at once; anyio's common 40 by default.
        """
        return await anyio.to_thread.run_sync(function, *args, limiter=limiter)

    async def single_flight(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`, shared with everybody who asks for the same key meanwhile.

        If it fails, all who wait get its error. If the caller who runs it is cancelled, another one of those who
        wait runs it. Nothing is kept: who asks after its end makes a new call.

        Args:
            key: What makes two calls the same.
            call: A function without arguments that returns a coroutine.
        """
        flights: dict[Hashable, _Flight[T]] = self.__dict__.setdefault("_single_flights", {})
        while True:
            flight = flights.get(key)
            if flight is None:
                return await _fly(flights, key, call)
            await flight.landed.wait()
            if flight.error is not None:
                raise flight.error
            if flight.result:
                return flight.result[0]


class _Call:
    """A coroutine or a function that returns one; closed when it is never started, so that Python doesn't warn."""

    __slots__ = ("_call",)

    def __init__(self, call: Awaitable[Any] | Callable[[], Awaitable[Any]]) -> None:
        self._call = call

    @property
    def name(self) -> str:
        return str(getattr(self._call, "__qualname__", None) or type(self._call).__qualname__)

    def start(self) -> Awaitable[Any]:
        if inspect.isawaitable(self._call):
            return self._call
        return self._call()

    def close(self) -> None:
        if inspect.iscoroutine(self._call):
            self._call.close()  # of one that has ended it does nothing


async def _run_all(calls: list[_Call], limit: int, *, return_errors: bool) -> list[Any]:
    """Workers take the calls in turn, so that a thousand calls need no thousand tasks."""
    if limit < 1:
        raise ValueError(f"limit={limit}: at least one call runs at a time")
    results: list[Any] = [None] * len(calls)
    waiting = iter(enumerate(calls))
    failures: list[Exception] = []

    async def work(group: anyio.abc.TaskGroup) -> None:
        for place, call in waiting:
            try:
                results[place] = await call.start()
            except Exception as error:  # noqa: BLE001 - returned or raised to the caller below
                results[place] = error
                if not return_errors:
                    failures.append(error)
                    group.cancel_scope.cancel()
                    return

    try:
        async with anyio.create_task_group() as group:
            for _ in range(min(limit, len(calls))):
                group.start_soon(work, group)
    finally:
        for call in calls:
            call.close()
    if failures:
        raise failures[0]
    return results


async def _first(calls: list[_Call]) -> Any:
    won: list[Any] = []
    errors: list[Exception] = []

    async def run(group: anyio.abc.TaskGroup, call: _Call) -> None:
        try:
            result = await call.start()
        except Exception as error:  # noqa: BLE001 - raised to the caller below if nobody wins
            errors.append(error)
        else:
            won.append(result)
            group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            for call in calls:
                group.start_soon(run, group, call)
    finally:
        for call in calls:
            call.close()
    if won:
        return won[0]
    raise ExceptionGroup("all calls failed", errors)


class _Flight(Generic[T]):
    """One shared call under way."""

    __slots__ = ("error", "landed", "result")

    def __init__(self) -> None:
        self.landed = anyio.Event()
        self.error: Exception | None = None
        self.result: list[T] = []  # empty: none yet, since None may be one


async def _fly(flights: dict[Hashable, _Flight[T]], key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
    flight = flights[key] = _Flight[T]()
    try:
        result = await call()
    except Exception as error:
        flight.error = error
        raise
    else:
        flight.result.append(result)
        return result
    finally:
        del flights[key]
        flight.landed.set()
