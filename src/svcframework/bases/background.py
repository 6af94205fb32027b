"""AsyncService: background tasks and periodic jobs that end with their service."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVarTuple, Unpack, cast

import anyio
import anyio.abc
from pydantic import Field
from typing_extensions import TypeVar  # typing's own has no default before Python 3.13

from svcframework._types import ServiceState
from svcframework.config import ServiceConfig
from svcframework.errors import IllegalStateError
from svcframework.service import BaseService
from svcframework.ticks import StopSignal, every

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Args = TypeVarTuple("Args")

# ruff: noqa: SLF001 - a task, its service and the group that they meet in are one idea in three classes

_ENDED = {ServiceState.STOPPING, ServiceState.STOPPED, ServiceState.FAILED}


class AsyncServiceConfig(ServiceConfig):
    """Settings of a service with background work."""

    drain_timeout: float = Field(
        default=5.0, ge=0, description="Seconds that background tasks have to end by themselves at a stop."
    )


AsyncConfigT = TypeVar("AsyncConfigT", bound=AsyncServiceConfig, default=AsyncServiceConfig)


class BackgroundTask:
    """A handle on one spawned task or job; lives as long as someone holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: Exception | None = None
        """What it raised, if it did."""
        self._scope: anyio.CancelScope | None = None
        self._cancelled = False
        self._ended = anyio.Event()

    @property
    def is_done(self) -> bool:
        """It has ended, or will never be started."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Cancel it. One that has not begun is never started."""
        self._cancelled = True
        if self._scope is None:
            self._ended.set()
        else:
            self._scope.cancel()

    async def wait(self) -> None:
        """Return when it has ended, also with its service; `error` then says how."""
        await self._ended.wait()

    async def _run(self, function: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        if self._cancelled:
            return
        self._ended = anyio.Event() if self._ended.is_set() else self._ended  # a job begins again after a crash
        try:
            with anyio.CancelScope() as self._scope:
                await function(*args)
        except Exception as error:
            self.error = error
            raise
        finally:
            self._scope = None
            self._ended.set()

    def __repr__(self) -> str:
        state = "done" if self.is_done else "waiting" if self._scope is None else "running"
        return f"<BackgroundTask {self.name!r} {state}>"


class AsyncService(BaseService[AsyncConfigT]):
    """A service that owns background work; it lives as long as its host, and so does the work at most.

    What is begun in `on_startup` waits until the service runs. At a stop, periodic jobs finish the call they are
    in, tasks have `drain_timeout` seconds to end, and what is left is cancelled. The tasks live in `on_run`: a
    subclass that has an `on_run` of its own awaits `super().on_run()` in it.

    A task or job that raises does not disturb the others: `on_task_error` is told. With `critical=True` its error
    ends `on_run` instead, and the service's restart policy says what then.
    """

    config_type = AsyncServiceConfig

    # --- what its author calls ------------------------------------------------------------------------

    def spawn(
        self,
        function: Callable[[Unpack[Args]], Awaitable[object]],
        *args: *Args,
        name: str | None = None,
        critical: bool = False,
    ) -> BackgroundTask:
        """Run `function(*args)` in the background, once.

        Args:
            function: A coroutine function.
            args: What it is called with.
            name: What errors and logs call it; the function's own name by default.
            critical: Whether its error is the service's.

        Raises:
            IllegalStateError: The service is stopping.
        """
        task = BackgroundTask(name or _name_of(function))
        self._work.begin(_Order(task, cast("Callable[..., Awaitable[object]]", function), args, critical))
        return task

    def every(
        self,
        seconds: float,
        function: Callable[[], Awaitable[object]],
        *,
        delay: float = 0.0,
        name: str | None = None,
        critical: bool = False,
    ) -> BackgroundTask:
        """Call `function` every `seconds`, until the service stops.

        One call at a time: a call that takes too long makes beats be left out. A call that raises is reported and
        the next one is made nevertheless, unless the job is critical. A job with the name of another one takes
        its place, so that an `on_startup` that runs again after a crash does not double it.

        Args:
            seconds: Between the begins of two calls.
            function: A coroutine function without arguments.
            delay: Seconds before the first call.
            name: The job's name; the function's own by default.
            critical: Whether an error is the service's.

        Raises:
            ValueError: `seconds` is not above 0.
            IllegalStateError: The service is stopping.
        """
        every(seconds, delay=delay)  # refuses wrong figures here and not in the background
        task = BackgroundTask(name or _name_of(function))

        async def job() -> None:
            async for _ in every(seconds, delay=delay):
                try:
                    await function()
                except Exception as error:
                    if critical:
                        raise
                    self._report_task_error(task.name, error)

        self._work.begin(_Order(task, job, (), critical, job=True))
        return task

    @property
    def background_tasks(self) -> tuple[BackgroundTask, ...]:
        """The tasks and jobs that run or wait for the service to run, oldest first."""
        return self._work.tasks

    def on_task_error(self, name: str, error: Exception) -> None:
        """A task or job raised. The default logs it; it must not wait.

        Args:
            name: The task's name.
            error: What it raised.
        """
        self.logger.error("background task failed", task=name, exc_info=error)

    # --- life -----------------------------------------------------------------------------------------

    async def on_run(self) -> None:
        """Hold the tasks until the service is stopped, then let them end."""
        await self._work.run(getattr(self.config, "drain_timeout", 5.0))

    def _report_task_error(self, name: str, error: Exception) -> None:
        try:
            self.on_task_error(name, error)
        except Exception:  # a boundary: the author's hook must not end the other tasks
            logging.getLogger("svcframework").exception("on_task_error of %r failed for task %r", self.name, name)

    @property
    def _work(self) -> _Work:
        # made on first use, so that a subclass which forgets super().__init__() works
        work = self.__dict__.get("_background_work")
        if work is None:
            work = self.__dict__["_background_work"] = _Work(self)
        return cast("_Work", work)


@dataclass(slots=True, eq=False)
class _Order:
    """What was asked for: a task, or a job to be started again with each run."""

    task: BackgroundTask
    function: Callable[..., Awaitable[object]]
    args: tuple[Any, ...]
    critical: bool
    job: bool = False


class _Work:
    """The orders of one service, and the task group they run in."""

    def __init__(self, service: AsyncService[Any]) -> None:
        self._service = service
        self._orders: list[_Order] = []
        self._group: anyio.abc.TaskGroup | None = None
        self._stop: StopSignal | None = None
        self._failure: Exception | None = None
        self._failed = anyio.Event()

    @property
    def tasks(self) -> tuple[BackgroundTask, ...]:
        return tuple(order.task for order in self._orders if not order.task._cancelled)

    def begin(self, order: _Order) -> None:
        if self._service.state in _ENDED or (self._stop is not None and self._stop.is_set):
            raise IllegalStateError(
                f"begin background task {order.task.name!r} of {self._service.name!r}",
                "stopping",
                fix="begin it while the service runs, or await the work in on_shutdown",
            )
        for old in [known for known in self._orders if order.job and known.job and known.task.name == order.task.name]:
            self._orders.remove(old)
            old.task.cancel()
        self._orders.append(order)
        if self._group is not None:
            self._launch(self._group, order)

    async def run(self, drain_timeout: float) -> None:
        """Run the orders until cancelled; those that are under way then end under a shield."""
        stop = self._stop = StopSignal()
        self._failure, self._failed = None, anyio.Event()
        shield = anyio.CancelScope(shield=True)
        try:
            async with anyio.create_task_group() as outer:
                outer.start_soon(self._hold, shield, stop)
                try:
                    await self._failed.wait()
                finally:
                    stop.set()
                    shield.deadline = anyio.current_time() + drain_timeout
        finally:
            self._stop = None
        if self._failure is not None:
            raise self._failure

    async def _hold(self, shield: anyio.CancelScope, stop: StopSignal) -> None:
        """Keep the task group out of reach of the cancellation that `run` gets."""
        with shield, stop.bound():
            try:
                async with anyio.create_task_group() as group:
                    self._group = group
                    for order in () if stop.is_set else tuple(self._orders):
                        self._launch(group, order)
                    await stop.wait()
            finally:
                self._group = None

    def _launch(self, group: anyio.abc.TaskGroup, order: _Order) -> None:
        group.start_soon(self._carry_out, order, name=f"{self._service.name}: {order.task.name}")

    async def _carry_out(self, order: _Order) -> None:
        try:
            with nullcontext() if self._stop is None else self._stop.bound():  # whoever spawned it has another signal
                await order.task._run(order.function, order.args)
        except Exception as error:  # noqa: BLE001 - a boundary: one task's error must not end the others
            if order.critical:
                self._failure = self._failure or error
                self._failed.set()
            else:
                self._service._report_task_error(order.task.name, error)
        finally:
            if order in self._orders and (not order.job or order.task._cancelled):
                self._orders.remove(order)


def _name_of(function: object) -> str:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))
