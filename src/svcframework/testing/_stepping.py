"""Cancels a call at each of its awaits: where it waits, and in the very moment its answer comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Moment = Literal["waiting", "answered"]
"""When a call is cancelled: as soon as it waits, or when what it waits for is there and it hasn't seen it yet."""


class Stepped(Generic[T]):
    """A coroutine that counts how often it waits, and does something the n-th time; await it once.

    Args:
        coroutine: Not started.
        at: The wait, from 1; 0 for none.
        act: Called with what is waited for, which is None for a bare turn of the loop.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, at: int, act: Callable[[Any], None]) -> None:
        self._coroutine, self._at, self._act = coroutine, at, act
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, T]:
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731 - replaced below
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                result: T = end.value
                return result
            self.waits += 1
            if self.waits == self._at:
                self._act(awaited)
            try:
                sent = yield awaited
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                step = _thrower(self._coroutine, error)
            else:
                step = _sender(self._coroutine, sent)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


def _thrower(coroutine: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)


async def cancelled_at_wait(
    make: Callable[[], Coroutine[Any, Any, Any]], wait: int, moment: Moment
) -> tuple[bool, Any | BaseException]:
    """Run a call that is cancelled at its n-th wait.

    Args:
        make: Makes the call.
        wait: The n.
        moment: When exactly.

    Returns:
        Whether it waited so often, and its result or error.
    """

    def act(awaited: Any) -> None:
        if moment == "answered" and isinstance(awaited, asyncio.Future):
            awaited.add_done_callback(lambda _: task.cancel())  # before the task's own callback, which is added later
        else:
            asyncio.get_running_loop().call_soon(task.cancel)

    stepped = Stepped(make(), at=wait, act=act)
    task = asyncio.ensure_future(_awaited(stepped))
    return await _ended(task, lambda: stepped.waits >= wait)


async def cancelled_after_turns(make: Callable[[], Coroutine[Any, Any, Any]], turns: int) -> tuple[bool, Any]:
    """Run a call that is cancelled after so many turns of the loop. Returns as `cancelled_at_wait`."""
    task = asyncio.ensure_future(make())
    for _ in range(turns):
        await asyncio.sleep(0)
    reached = not task.done()
    task.cancel()
    return await _ended(task, lambda: reached)


async def _awaited(stepped: Awaitable[T]) -> T:
    return await stepped


async def _ended(task: asyncio.Future[Any], reached: Callable[[], bool]) -> tuple[bool, Any | BaseException]:
    await asyncio.wait([task])
    return reached(), asyncio.CancelledError() if task.cancelled() else task.exception() or task.result()
