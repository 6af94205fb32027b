"""Start and stop of all services: ordered, concurrent, undone when it fails, bounded in time. Logs nothing."""

from __future__ import annotations

import contextlib
import contextvars
import os
import random as random_module
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from svcframework import _backend
from svcframework._operation import Operation, exit_among, outlast, shutdown_error
from svcframework._procedures import Starting, Stopping
from svcframework._servicetask import ServiceTask, current_service
from svcframework._types import ServiceState
from svcframework._units import Hook, Roster, Unit
from svcframework._watchdog import Watchdog
from svcframework.errors import (
    EventLoopError,
    ForkError,
    HostFailedError,
    IllegalStateError,
    ServiceNotFoundError,
    StartupCancelledError,
    StartupError,
    describe,
)
from svcframework.events import Event, HostStarted, HostStarting, HostStopped, HostStopping

__all__ = ["Hook", "Lifecycle", "Unit"]


class Lifecycle:
    """Starts, supervises and stops a graph of services; lives as long as its host and can start again after a stop.

    Every service runs in a task of its own that no caller's scope encloses, so `start` and `stop` may be called
    from different tasks. One operation runs at a time; equal calls share it.

    Args:
        units: The services, in a deterministic order; each names what it depends on. No rings.
        emit: Takes every event, at once; must neither wait nor raise.
        stop_timeout: Seconds for a whole stop or rollback, even if every service hangs.
        start_timeout: Seconds for a whole start; None leaves it to each service's own.
        on_failure: Called once a service has crashed for good and everything has been stopped because of it.
        block_threshold: Seconds that the event loop may stand still during start and stop before a `LoopBlocked`
            event tells where; None does not look.
        clock: Seconds, for measuring and for restart windows.
        random: Numbers from 0 up to 1, for jitter.

    Raises:
        ValueError: The units are no acyclic graph.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        *,
        emit: Callable[[Event], None],
        stop_timeout: float = 30.0,
        start_timeout: float | None = None,
        on_failure: Callable[[HostFailedError], None] | None = None,
        block_threshold: float | None = 0.1,
        clock: Callable[[], float] = time.perf_counter,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self.stop_timeout, self.start_timeout = stop_timeout, start_timeout
        self.failure: HostFailedError | None = None
        """Why everything was stopped, when a service crashed for good; None otherwise, and from the next start."""
        self._emit, self._clock, self._random = emit, clock, random
        self._on_failure, self._block_threshold = on_failure, block_threshold
        self._roster = Roster(units, emit)
        self._state = ServiceState.REGISTERED
        self._wanted: dict[str, None] = {}
        self._operation: Operation | None = None
        self._last_start: Operation | None = None
        self._over: anyio.Event | None = None
        self._token: EventLoopToken | None = None
        self._pid: int | None = None
        self._lost: ServiceTask | None = None
        """A critical service that was given up, until that has been acted upon."""
        self._lock = threading.Lock()
        self._context: contextvars.Context | None = None
        """The context of whoever started: what one service sets in its own isn't seen by the next."""
        self._started_in: dict[str, float] = {}
        self._offsets: dict[str, float] = {}
        self._gates: dict[str, str] = {}

    # --- what can be seen -------------------------------------------------------------------------------

    @property
    def order(self) -> tuple[str, ...]:
        """All names in start order."""
        return self._roster.order

    @property
    def states(self) -> Mapping[str, ServiceState]:
        """The state of each service, live."""
        return MappingProxyType(self._roster.states)

    @property
    def state(self) -> ServiceState:
        """The state of the whole: degraded while anything that was started does not run."""
        if self._state is ServiceState.RUNNING and not all(map(self._roster.is_up, self._wanted)):
            return ServiceState.DEGRADED
        return self._state

    @property
    def started_in(self) -> Mapping[str, float]:
        """Seconds that each service's last start took."""
        return MappingProxyType(self._started_in)

    @property
    def critical_path(self) -> tuple[str, ...]:
        """The chain of services that the last start waited for, first to last."""
        if not self._offsets:
            return ()
        name: str | None = max(self._offsets, key=lambda each: self._offsets[each] + self._started_in.get(each, 0.0))
        path: list[str] = []
        while name is not None:
            path.append(name)
            name = self._gates.get(name)
        return tuple(reversed(path))

    def timeline(self) -> list[tuple[str, float, float]]:
        """Name, seconds from the beginning of the last start to its own, and seconds it took; in start order."""
        return [(name, offset, self._started_in.get(name, 0.0)) for name, offset in self._offsets.items()]

    # --- what can be asked ------------------------------------------------------------------------------

    async def start(self, names: Collection[str] | None = None) -> None:
        """Start every service, or none: what had started is stopped again if one fails.

        What already runs stays; concurrent calls are one start. When the last of its callers is cancelled, the
        start is called off and undone before the cancellation goes on.

        Args:
            names: Only these and what they require.

        Raises:
            StartupError: Services failed or were late; holds all the errors.
            StartupCancelledError: `stop` was called meanwhile.
            IllegalStateError: A stop is under way.
            EventLoopError: It was started on another event loop.
            ForkError: It was started in a parent process.
            ServiceNotFoundError: A name that isn't there.
        """
        closure = self._known(names, self._roster.with_required)
        self._claim_loop()
        try:
            while (operation := self._operation) is not None:
                if operation.is_on_the_way_down:
                    raise IllegalStateError("start", ServiceState.STOPPING, fix="wait until the stop has ended")
                self._refuse_inside("start")
                if operation.kind == "start" and all(
                    name in operation.names or self._roster.is_live(name) for name in closure
                ):
                    break
                await operation.done.wait()
            if operation is None:
                missing = [n for n in closure if not self._roster.is_live(n) and n not in self._roster.held]
                if not missing and self._state is ServiceState.RUNNING:
                    if self._last_start is not None:
                        self._last_start.is_claimed = True
                    return
                self._context = contextvars.copy_context()
                operation = self._begin("start", missing, self._start, reason="")
                self._last_start = operation
            await self._join_start(operation)
        finally:
            self._free_loop()

    async def stop(
        self,
        names: Collection[str] | None = None,
        *,
        reason: str = "requested",
        timeout: float | None = None,  # noqa: ASYNC109 - a budget that is enforced here, not a cancellation
    ) -> None:
        """Stop every service, dependents first; goes on past errors and ends in time.

        A start under way is called off and undone. When the caller is cancelled, the stop goes on to its end
        before the cancellation does.

        Args:
            names: Only these and all that depend on them.
            reason: For the log.
            timeout: Seconds for the whole; the lifecycle's `stop_timeout` if not given.

        Raises:
            ShutdownError: Everything was stopped, but some services raised or hung.
            EventLoopError: It was started on another event loop.
            ForkError: It was started in a parent process.
            ServiceNotFoundError: A name that isn't there.
        """
        closure = self._known(names, self._roster.with_dependents)
        self.check_loop()
        interruption: BaseException | None = None
        outcome: BaseException | None = None
        while (operation := self._operation_to_stop(closure, names, reason, timeout)) is not None:
            try:
                await operation.done.wait()
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation mustn't leave the stop half done
                interruption = interruption or error
                if self._caller is not None:
                    break  # called by one of the services: it would wait for its own end
                await outlast(operation.done)
            if operation.kind != "stop":
                outcome = outcome or shutdown_error(operation)
            elif set(operation.names).issuperset(closure) or names is None:
                outcome = outcome or operation.error
                break
        if interruption is not None:
            raise interruption
        if outcome is not None:
            raise outcome

    async def restart(self, name: str) -> None:
        """Stop a service and all that depends on it, then start them again.

        When the caller is cancelled, the restart goes on to its end before the cancellation does.

        Raises:
            StartupError: One of them did not start again; all of them are stopped then.
            StartupCancelledError: `stop` was called meanwhile.
            IllegalStateError: A stop is under way, or nothing has been started.
            EventLoopError: It was started on another event loop.
            ForkError: It was started in a parent process.
            ServiceNotFoundError: No such name.
        """
        closure = self._known([name], self._roster.with_dependents)
        self.check_loop()
        self._refuse_inside("restart")
        while (running := self._operation) is not None:
            if running.is_on_the_way_down:
                raise IllegalStateError("restart", ServiceState.STOPPING, fix="wait until the stop has ended")
            await running.done.wait()
        if self._state is not ServiceState.RUNNING:
            raise IllegalStateError("restart", self._state, fix="start first")
        names = [each for each in closure if each == name or self._roster.is_live(each)]
        operation = self._begin("restart", names, self._restart, reason=f"restart of {name!r}")
        try:
            await operation.done.wait()
        except GeneratorExit:
            raise
        except BaseException:
            await outlast(operation.done)
            raise
        if operation.error is not None:
            raise operation.error

    def hurry(self, timeout: float) -> None:
        """Shorten the budget of a stop or rollback that is under way to `timeout` seconds from now."""
        operation = self._operation
        if operation is not None:
            operation.budget = min(operation.budget, timeout)
            if isinstance(operation.procedure, Stopping):
                operation.procedure.hurry(timeout)

    async def wait_failed(self) -> None:
        """Wait until everything has stopped.

        Raises:
            HostFailedError: A service crashed for good, and that was the reason.
        """
        if self._over is not None:
            await self._over.wait()
        if self.failure is not None:
            raise self.failure

    # --- one operation at a time ------------------------------------------------------------------------

    def _begin(
        self,
        kind: Literal["start", "stop", "restart"],
        names: Collection[str],
        body: Callable[[Operation], Coroutine[Any, Any, None]],
        *,
        reason: str,
        budget: float | None = None,
    ) -> Operation:
        operation = Operation(kind, names, reason=reason, budget=self.stop_timeout if budget is None else budget)
        self._operation = operation
        _backend.spawn(lambda: self._drive(operation, body), name=f"svcframework {kind}")
        return operation

    async def _drive(self, operation: Operation, body: Callable[[Operation], Coroutine[Any, Any, None]]) -> None:
        try:
            with anyio.CancelScope(shield=True), self._watch():
                await body(operation)
        except BaseException as error:  # noqa: BLE001 - nothing may reach the loop; whoever waits gets it
            operation.error = operation.error or error
        operation.procedure = self._operation = None
        self._settle()
        operation.done.set()
        self._escalate()

    def _watch(self) -> contextlib.AbstractContextManager[object]:
        if self._block_threshold is None:
            return contextlib.nullcontext()
        return Watchdog(
            current_token().native_token, self._emit, threshold=self._block_threshold, code=ServiceTask.code
        )

    def _operation_to_stop(
        self, closure: Collection[str], names: Collection[str] | None, reason: str, timeout: float | None
    ) -> Operation | None:
        """What a stop has to wait for next; begins it if need be. None when all is down."""
        operation = self._operation
        if operation is None:
            targets = [name for name in closure if self._roster.is_live(name)]
            if targets or (names is None and self._state is ServiceState.RUNNING):
                return self._begin("stop", targets, self._stop, reason=reason, budget=timeout)
            for name in closure:
                self._roster.held.pop(name, None)
            return None
        if operation.kind != "stop" and (names is None or not set(operation.names).isdisjoint(closure)):
            operation.call_off(reason)
        if timeout is not None and operation.is_on_the_way_down:
            self.hurry(timeout)
        return operation

    async def _join_start(self, operation: Operation) -> None:
        operation.waiters += 1
        try:
            await operation.done.wait()
        except BaseException as error:
            operation.waiters -= 1
            if not operation.waiters and not operation.is_claimed:
                await self._undo(operation, wait=not isinstance(error, GeneratorExit))
            raise
        operation.waiters -= 1
        operation.is_claimed = True
        if operation.error is not None:
            raise operation.error

    async def _undo(self, operation: Operation, *, wait: bool) -> None:
        """Nobody wants this start any more."""
        if not operation.done.is_set():
            operation.call_off("its caller was cancelled")
        elif operation.error is None and self._operation is None:
            targets = [name for name in operation.names if self._roster.is_live(name)]
            operation = self._begin("stop", targets, self._stop, reason="the caller of start was cancelled")
        if wait:
            await outlast(operation.done)

    # --- the operations, each in a task of its own ------------------------------------------------------

    async def _start(self, operation: Operation) -> None:
        is_whole = self._state is not ServiceState.RUNNING
        if is_whole:
            self._state, self.failure, self._over = ServiceState.STARTING, None, anyio.Event()
            self._offsets, self._gates = {}, {}
            self._emit(HostStarting(operation.names))
        began = self._clock()
        await self._bring_up(operation, operation.names)
        if operation.error is None and is_whole:
            self._state = ServiceState.RUNNING
            self._emit(HostStarted(self._clock() - began, self.critical_path))

    async def _stop(self, operation: Operation) -> None:
        for name in operation.names:
            self._wanted.pop(name, None)
        await self._bring_down(operation, operation.names, reason=operation.reason)
        operation.error = shutdown_error(operation)

    async def _restart(self, operation: Operation) -> None:
        await self._bring_down(operation, operation.names, reason=None)
        operation.stop_errors, operation.hung = {}, {}  # told by events; what counts now is the start
        if operation.off is not None:
            operation.error = StartupCancelledError(f"The restart was called off: {operation.off}")
            return
        needed = self._roster.with_required(operation.names)
        await self._bring_up(operation, [name for name in needed if not self._roster.is_live(name)])

    async def _bring_up(self, operation: Operation, names: Collection[str]) -> None:
        """Start `names`, or undo it and note why."""
        starting = Starting(self._roster, tuple(names), self._launch, clock=self._clock)
        operation.procedure = starting
        if self.start_timeout is not None:
            limit = self.start_timeout
            starting.at(anyio.current_time() + limit, lambda: starting.overdue(limit))
        if operation.off is not None:
            starting.call_off()
        starting.begin()
        await starting.wait()
        self._offsets.update(starting.offsets)
        self._gates.update(starting.gates)
        if not starting.errors and not starting.is_called_off:
            self._wanted.update(dict.fromkeys(names))
            return
        had_started = tuple(name for name in starting.names if self._roster.is_up(name))
        untried = starting.untried
        reason = f"the start was called off: {operation.off}" if operation.off else "a service failed to start"
        await self._bring_down(operation, names, reason=reason, ended=starting.ended)
        operation.error = self._startup_error(operation, starting, had_started, untried)

    async def _bring_down(
        self,
        operation: Operation,
        names: Collection[str],
        *,
        reason: str | None,
        ended: Iterable[ServiceTask] = (),
    ) -> None:
        """Stop `names`; a `reason` is given when that may be the end of the whole."""
        began = self._clock()
        is_whole = reason is not None and set(self._roster.live()).issubset(names)
        if is_whole and reason is not None:
            self._state = ServiceState.STOPPING
            self._emit(HostStopping(reason))
        for name in names:
            self._roster.held.pop(name, None)
        stopping = Stopping(self._roster, self._in_order(names), budget=operation.budget)
        operation.procedure = stopping
        stopping.begin()
        await stopping.wait()
        operation.note(stopping, ended)
        if is_whole:
            self._wanted.clear()
            self._state = ServiceState.STOPPED if self.failure is None else ServiceState.FAILED
            self._emit(HostStopped(self._clock() - began, tuple(operation.hung)))

    def _in_order(self, names: Collection[str]) -> list[str]:
        chosen = set(names)
        return [name for name in self._roster.order if name in chosen]

    def _startup_error(
        self, operation: Operation, starting: Starting, had_started: tuple[str, ...], untried: tuple[str, ...]
    ) -> BaseException:
        errors = starting.errors
        if operation.off is not None:
            called_off = StartupCancelledError(f"The start was called off and undone: {operation.off}")
            called_off.__cause__ = next(iter(errors.values()), None)
            return called_off
        stop_errors = dict(operation.stop_errors)
        for name, where in operation.hung.items():
            stop_errors.setdefault(name, TimeoutError(f"on_shutdown hung, last waiting at {where}"))
        units = self._roster.units
        failed = StartupError(
            errors,
            total=len(operation.names),
            labels={name: self._label(name) for name in errors},
            rolled_back=tuple(name for name in had_started if name not in errors),
            not_started=untried,
            stop_errors=stop_errors,
            hints={name: hints() for name in errors if (hints := units[name].hints) is not None},
        )
        failed.__cause__ = next(iter(errors.values()))
        return exit_among([*errors.values(), *stop_errors.values()], failed) or failed

    def _label(self, name: str) -> str:
        label = self._roster.units[name].label or name
        seconds = self._started_in.get(name)
        return label if seconds is None else f"{label} after {seconds:.1f} s"

    def _settle(self) -> None:
        """After an operation: note it when nothing runs any more."""
        if self._roster.tasks or self._state not in {
            ServiceState.STOPPED,
            ServiceState.FAILED,
        }:
            return
        if self._over is not None:
            self._over.set()
        self._free_loop()

    # --- reports of the services (Owner) ----------------------------------------------------------------

    def _launch(self, name: str, *, watched: bool = True) -> ServiceTask:
        task = ServiceTask(
            name,
            self._roster,
            self,
            clock=self._clock,
            draw=self._random,
            context=self._context or contextvars.copy_context(),
            watched=watched,
        )
        self._roster.tasks[name] = task
        return task

    def service_up(self, task: ServiceTask) -> None:
        """Not to be called: a service reports that `on_startup` has returned."""
        self._started_in[task.name] = task.seconds
        procedure = None if self._operation is None else self._operation.procedure
        if isinstance(procedure, Starting):
            procedure.service_up(task.name)
        if not isinstance(procedure, Stopping):
            self._start_held(task.name)

    def start_failed(self, task: ServiceTask, error: BaseException) -> None:
        """Not to be called: a service reports that its start failed."""
        self._started_in[task.name] = task.seconds
        starting = self._starting
        if starting is not None:
            starting.service_failed(task.name, error, fatal=not task.retries(error))

    def service_down(self, task: ServiceTask) -> None:
        """Not to be called: a service reports a crash."""
        if self._starting is not None:
            self._starting.service_down(task.name)

    def service_ended(self, task: ServiceTask) -> None:
        """Not to be called: a service reports that nothing of it runs any more."""
        if self._roster.tasks.get(task.name) is task:
            del self._roster.tasks[task.name]
        operation = self._operation
        procedure = None if operation is None else operation.procedure
        escalates = task.defeat is not None and (
            not isinstance(task.defeat, Exception) or (task.unit.critical and not task.unit.optional)
        )
        if isinstance(procedure, Stopping):
            procedure.service_ended(task)
        elif isinstance(procedure, Starting):
            procedure.ended.append(task)
            if task.defeat is not None:
                procedure.service_failed(task.name, task.defeat, fatal=escalates)
        elif operation is None and not escalates and not self._roster.live():
            self._state = ServiceState.STOPPED  # the loop closed under it
            self._settle()
        if escalates and not isinstance(procedure, Starting) and not task.is_asked_to_stop:
            self._lost = task
            self._escalate()

    @property
    def _starting(self) -> Starting | None:
        procedure = None if self._operation is None else self._operation.procedure
        return procedure if isinstance(procedure, Starting) else None

    def _start_held(self, name: str) -> None:
        """Start in the background what had to wait for an optional service."""
        came_up = [name]
        while came_up:
            for dependent in self._roster.dependents[came_up.pop()]:
                unit = self._roster.units[dependent]
                if dependent not in self._roster.held or not all(map(self._roster.is_up, unit.requires)):
                    continue
                del self._roster.held[dependent]
                if unit.is_plain:
                    self._roster.set_state(dependent, ServiceState.RUNNING)
                    came_up.append(dependent)
                else:
                    self._launch(dependent, watched=False)

    def _escalate(self) -> None:
        """If a service is lost that the host can't do without, stop everything, then say so."""
        if self._lost is None or self._operation is not None:
            return  # when the operation has ended
        task, self._lost = self._lost, None
        error = task.defeat
        if error is None or self._state is not ServiceState.RUNNING:
            return  # everything has been stopped meanwhile
        self.failure = HostFailedError(task.name, describe(error))
        self.failure.__cause__ = error
        reason = f"{task.name!r} failed: {describe(error)}"
        self._begin("stop", self._roster.live(), self._stop_for_failure, reason=reason)

    async def _stop_for_failure(self, operation: Operation) -> None:
        await self._stop(operation)
        if self._on_failure is not None and self.failure is not None:
            self._on_failure(self.failure)

    # --- wrong use --------------------------------------------------------------------------------------

    def _known(
        self, names: Collection[str] | None, closure: Callable[[Collection[str] | None], tuple[str, ...]]
    ) -> tuple[str, ...]:
        for name in names or ():
            if name not in self._roster.units:
                raise ServiceNotFoundError(name, known=self._roster.units)
        return closure(names)

    def _claim_loop(self) -> None:
        with self._lock:
            self.check_loop()
            if self._token is None:
                self._token, self._pid = current_token(), os.getpid()

    def _free_loop(self) -> None:
        """Nothing runs: the next start may be on another loop."""
        if self._operation is None and not self._roster.tasks and self._state is not ServiceState.RUNNING:
            self._token = self._pid = self._context = None

    def check_loop(self) -> None:
        """Refuse what comes from elsewhere than where the services run.

        Raises:
            EventLoopError: They were started on another event loop.
            ForkError: They were started in a parent process.
        """
        if self._pid is not None and self._pid != os.getpid():
            raise ForkError(
                f"The services were started in process {self._pid}, and this is its fork {os.getpid()}: "
                "start them after the fork, in each process of its own."
            )
        if self._token is not None and self._token != current_token():
            raise EventLoopError(
                "The services were started on another event loop than this one: use one loop for all, or stop "
                "them on the first before starting on the second."
            )

    def _refuse_inside(self, operation: str) -> None:
        if self._caller is not None:
            state = f"{self._caller!r} is part of what runs"
            raise IllegalStateError(operation, state, fix="a service can't wait for itself; ask from outside")

    @property
    def _caller(self) -> str | None:
        """The service of ours that calls, if it is one."""
        service = current_service.get()
        return service.name if service is not None and service.owner is self and not service.has_ended else None
