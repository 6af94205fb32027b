"""The only place of the kernel that isn't plain anyio: tasks that no caller's scope encloses, and a look into them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any, cast

import anyio
from anyio.lowlevel import current_token

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

    import trio

_RUNTIMES = ("_asyncio", "anyio", "asyncio", "contextlib", "outcome", "svcframework._servicetask", "trio", "uvloop")
"""Packages and modules whose frames don't say what a service was waiting for."""

_PATIENCE = 0.5
"""Seconds that tasks which an author forgot have for their end."""

_alive: set[asyncio.Task[None]] = set()
"""Tasks that run: an event loop refers to its tasks weakly only."""


class Spawned:
    """A task of the framework; lives until its coroutine returns."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, None] | None = None) -> None:
        self.coroutine = coroutine

    def last_await(self) -> str:
        """Where the task waits now, as `file:line in function`."""
        return waiting_at(self.coroutine)


def spawn(
    function: Callable[[], Coroutine[Any, Any, None]],
    *,
    name: str,
    context: contextvars.Context | None = None,
    runs_hooks: bool = False,
) -> Spawned:
    """Run `function` in a task that belongs to no scope of the caller's; it must not raise.

    A failure of a caller can so never cut a service off in the middle, start and stop may come from different
    tasks, and a service that hangs can be left behind. The task has a copy of `context`, or of the caller's.
    A task that `runs_hooks` of an author's is kept from doing harm to the loop.
    """
    context = contextvars.copy_context() if context is None else context.copy()
    loop = current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        coroutine = function()
        # Not loop.create_task: an eager task factory would run the service inside of its spawner.
        task = asyncio.Task(coroutine, loop=loop, name=name, context=context)
        _alive.add(task)
        task.add_done_callback(_alive.discard)
        return Spawned(coroutine)
    import trio  # noqa: PLC0415 - optional: only there when the caller runs on it

    if not runs_hooks:
        return Spawned(trio.lowlevel.spawn_system_task(function, name=name, context=context).coro)
    spawned = Spawned()

    async def run() -> None:
        spawned.coroutine = trio.lowlevel.current_task().coro
        await function()

    async def contain() -> None:
        # Trio ends the whole run if a system task fails, and a task that leaves a nursery of an author's open
        # fails whatever its function catches. So it runs in a nursery of ours, which takes the blame.
        with contextlib.suppress(BaseException):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, name=name)

    trio.lowlevel.spawn_system_task(contain, name=f"{name} (container)", context=context)
    return spawned


async def end_leftovers() -> None:
    """End what an author left open in this task, so that nothing outlives it. On trio; asyncio can't tell."""
    if _asyncio_task() is not None:
        return
    import trio  # noqa: PLC0415 - optional

    for nursery in reversed(trio.lowlevel.current_task().child_nurseries):
        nursery.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.move_on_after(_PATIENCE):
            while nursery.child_tasks:  # noqa: ASYNC110 - they tell nobody when they end
                await anyio.sleep(_PATIENCE / 100)


def forget_cancellation() -> None:
    """Forget that this task was cancelled, once its owner has dealt with it.

    On asyncio, `timeout()` and `TaskGroup` act on the count of cancellations, so what runs next in the task
    would misbehave.
    """
    task = _asyncio_task()
    while task is not None and task.cancelling():
        task.uncancel()


def is_cancelled_by_loop() -> bool:
    """Whether this task was cancelled by asyncio itself: the loop closes, so nothing may begin again."""
    task = _asyncio_task()
    return task is not None and task.cancelling() > 0


def call_soon(token: object, function: Callable[[], None]) -> None:
    """Have an event loop call `function`, from any thread.

    Args:
        token: The `native_token` of the loop.
        function: Called without arguments; must not raise.

    Raises:
        RuntimeError: The loop has ended.
    """
    if isinstance(token, asyncio.AbstractEventLoop):
        token.call_soon_threadsafe(function)
    else:
        cast("trio.lowlevel.TrioToken", token).run_sync_soon(function)


def waiting_at(awaitable: object) -> str:
    """The innermost line of an author's code that `awaitable` is suspended in, as `file:line in function`."""
    frames: list[FrameType] = []
    while awaitable is not None:
        frame = _first(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            frames.append(frame)
        awaitable = _first(awaitable, "cr_await", "gi_yieldfrom", "ag_await")
    return _innermost([(frame, frame.f_lineno) for frame in frames])


def raised_at(error: BaseException | None) -> str:
    """The innermost line of an author's code that `error` passed through, as `file:line in function`."""
    frames: list[tuple[FrameType, int]] = []
    traceback = None if error is None else error.__traceback__
    while traceback is not None:
        frames.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _innermost(frames)


def _innermost(frames: list[tuple[FrameType, int]]) -> str:
    told = [place for place in frames if not _is_runtime(place[0])]
    for frame, line in reversed(told or frames):
        return f"{frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}"
    return "an unknown place"


def _is_runtime(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return any(module == runtime or module.startswith(f"{runtime}.") for runtime in _RUNTIMES)


def _first(awaitable: object, *names: str) -> Any:  # Any: coroutines, generators and futures have no common type
    return next((found for name in names if (found := getattr(awaitable, name, None)) is not None), None)


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no asyncio loop runs: this is trio
        return None
