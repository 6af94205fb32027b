"""The life of one service in one task: start, run, stop, and again as its restart policy says."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from contextvars import Context, ContextVar
from types import CodeType
from typing import ClassVar, Protocol

import anyio

from svcframework import _backend
from svcframework._types import ServiceState
from svcframework._units import Roster
from svcframework.errors import LifecycleError, ServiceTimeoutError
from svcframework.events import (
    RestartsExhausted,
    ServiceCrashed,
    ServiceHung,
    ServiceRestarting,
    ServiceStarted,
    ServiceStartFailed,
    ServiceStarting,
    ServiceStopped,
    ServiceStopping,
)
from svcframework.supervision import Again, GiveUp, Supervisor
from svcframework.ticks import StopSignal

GRACE = 0.5
"""Seconds between interrupting a hook and leaving the service behind, at most."""

current_service: ContextVar[ServiceTask | None] = ContextVar("svcframework_current_service", default=None)
"""The service whose task this is, or which spawned it."""


class Phase(enum.Enum):
    """Where the task is."""

    IDLE = "idle"
    STARTUP = "on_startup"
    RUN = "on_run"
    SHUTDOWN = "on_shutdown"
    PAUSE = "pause"
    ENDED = "ended"


class Owner(Protocol):
    """Who is told what becomes of a service. Called in the service's task; must neither wait nor raise."""

    def service_up(self, task: ServiceTask) -> None:
        """`on_startup` has returned."""

    def start_failed(self, task: ServiceTask, error: BaseException) -> None:
        """`on_startup` raised or was late; an optional service will try again."""

    def service_down(self, task: ServiceTask) -> None:
        """It ran, and crashed."""

    def service_ended(self, task: ServiceTask) -> None:
        """Nothing of it runs any more, or it was given up on; see its `defeat`, `hung_at` and `stop_error`."""


class ServiceTask:
    """One service from its start to its stop, restarts included.

    An author may open a task group in `on_startup` and close it in `on_shutdown`, and scopes must nest. So no
    scope of ours is opened between the two. A pair is opened around both: `_cut` interrupts the start; then
    `_shelter` is shielded from it, and `on_shutdown` runs undisturbed in the same task until the shield is lifted.

    While an operation of the lifecycle watches (`watched`), it keeps the time; otherwise the scopes' deadlines do.
    """

    code: ClassVar[CodeType]
    """The code that is on the stack while a hook of the service runs."""

    def __init__(
        self,
        name: str,
        roster: Roster,
        owner: Owner,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
        context: Context,
        watched: bool = True,
    ) -> None:
        self.name, self.unit, self.owner, self.watched = name, roster.units[name], owner, watched
        self.phase = Phase.IDLE
        self.start_error: BaseException | None = None
        """What the last start raised, until one succeeds."""
        self.stop_error: BaseException | None = None
        self.hung_at: str | None = None
        """Where the service was waiting when its time to stop was over."""
        self.defeat: BaseException | None = None
        """The error after which it was not restarted any more."""
        self.was_up = False
        self.seconds = 0.0
        """How long `on_startup` took."""
        self._roster, self._clock, self._context = roster, clock, context
        self._emit = roster.emit
        self._supervisor = Supervisor(self.unit.restart, draw)
        self._asked = anyio.Event()
        self._asked_at = 0.0
        self._moved_on = anyio.Event()
        self._cut = self._shelter = self._stop_cut = self._stop_shelter = anyio.CancelScope()
        self._run_scope: anyio.CancelScope | None = None
        self._run_signal = StopSignal()
        self._late: BaseException | None = None
        self._is_shutdown_called = self._is_cut_off = self._is_abandoned = False
        self._began = 0.0
        self._attempts = 0
        self._parts = 1
        self._spawned = self._stopper = _backend.spawn(
            self._live, name=f"service {name}", context=context, runs_hooks=True
        )

    # --- what the lifecycle asks of it ------------------------------------------------------------------

    @property
    def is_asked_to_stop(self) -> bool:
        """It is on its way down for good."""
        return self._asked.is_set()

    @property
    def _is_over(self) -> bool:
        """Nothing may begin again."""
        return self._asked.is_set() or self._is_abandoned or _backend.is_cancelled_by_loop()

    @property
    def has_ended(self) -> bool:
        """Nothing of it runs any more, or it was left behind."""
        return self.phase is Phase.ENDED or self._is_abandoned

    def retries(self, error: BaseException) -> bool:
        """Whether a start that ended with `error` is tried again for ever."""
        return self.unit.optional and isinstance(error, Exception) and not self._asked.is_set()

    def ask_stop(self) -> None:
        """Interrupt whatever it does and have `on_shutdown` called, if it was started."""
        if self._asked.is_set():
            return
        self.watched, self._asked_at = True, self._clock()
        self._asked.set()
        self._moved_on.set()
        if self.phase is Phase.STARTUP:
            self._cut.cancel()
        elif self._run_scope is not None:
            self._end_run(self._run_scope)

    def cut_start(self) -> None:
        """Interrupt `on_startup`, whose time is over."""
        if self.phase is not Phase.STARTUP or self._cut.cancel_called:
            return
        self._late = self._too_late(self._spawned.last_await())
        self._cut.cancel()

    def report_late_start(self) -> None:
        """Let the others go on: `on_startup` doesn't even react to being interrupted."""
        if self.phase is Phase.STARTUP and self._late is not None and not self._asked.is_set():
            self.seconds, self.start_error = self._clock() - self._began, self._late
            self._roster.set_state(self.name, ServiceState.FAILED)
            self.owner.start_failed(self, self._late)

    def shut_down_elsewhere(self) -> None:
        """Call `on_shutdown` in another task, since its own doesn't let go of `on_startup` or `on_run`.

        A last resort: often it closes what the other waits for.
        """
        if self.phase not in {Phase.STARTUP, Phase.RUN} or self._is_shutdown_called or self._is_abandoned:
            return
        self._is_shutdown_called = True
        self._hangs(self._spawned.last_await())
        self._parts += 1
        self._stopper = _backend.spawn(
            self._shut_down_apart, name=f"stop of service {self.name}", context=self._context, runs_hooks=True
        )

    def cut_stop(self) -> None:
        """Interrupt `on_shutdown`, whose time is over."""
        if self.has_ended or self._is_cut_off:
            return
        self._is_cut_off = True
        self._hangs(self._stopper.last_await())
        self._stop_cut.cancel()
        self._stop_shelter.shield = False

    def abandon(self) -> None:
        """Leave it behind: it doesn't even react to being interrupted."""
        if self.has_ended:
            return
        self._hangs(self._stopper.last_await())
        self._is_abandoned = self._is_shutdown_called = True
        self._shelter.shield = self._stop_shelter.shield = True  # or asyncio would cancel it in each turn of the loop
        self._roster.set_state(self.name, ServiceState.FAILED)
        self.owner.service_ended(self)

    # --- its life, all in one task ----------------------------------------------------------------------

    async def _live(self) -> None:
        current_service.set(self)
        error: BaseException | None = None
        try:
            while not self._asked.is_set():
                delay = await self._attempt()
                if delay is None:
                    break
                await self._pause(delay)
        except BaseException as caught:  # noqa: BLE001 - nothing may reach the loop: trio would end the whole run
            error = caught
        self._finish(error)

    async def _attempt(self) -> float | None:
        """Start, run, stop; the seconds until the next attempt, None if there is none."""
        self._attempts += 1
        self._is_shutdown_called = self._is_cut_off = False
        self.stop_error = self._late = None
        delay: float | None = None
        try:
            with anyio.CancelScope() as self._cut, anyio.CancelScope() as self._shelter:
                self._stop_cut, self._stop_shelter = self._cut, self._shelter
                delay = await self._attempt_in_scopes()
                await _backend.end_leftovers()
        except RuntimeError as error:  # the scopes don't nest: hooks raise nothing that gets here
            left = LifecycleError(
                f"on_startup of {self.name!r} opened a task group or cancel scope that on_shutdown did not close: "
                "close it there, or open it in on_run"
            )
            left.__cause__ = error
            self._keep_stop_error(left)
            return None
        return None if self._is_over else delay

    async def _attempt_in_scopes(self) -> float | None:
        self.start_error = await self._start_up()
        if self._is_shutdown_called:
            return None  # it took so long that it was stopped elsewhere
        if self.start_error is not None:
            return await self._after_failed_start(self.start_error)
        if not self._asked.is_set():
            self._comes_up()
            crashed, error = await self._run()
            if crashed:
                return await self._after_crash(error)
        await self._shut_down()
        return None

    async def _start_up(self) -> BaseException | None:
        """Call `on_startup`; what it raised, None when it succeeded or was called off."""
        if not self.was_up:
            self._roster.set_state(self.name, ServiceState.STARTING)
        self._emit(ServiceStarting(self.name))
        self.phase, self._began = Phase.STARTUP, self._clock()
        if not self.watched:
            self._cut.deadline = anyio.current_time() + self.unit.start_timeout
            self._guard_hook(self.unit.start_timeout)
        error: BaseException | None = None
        try:
            if self.unit.startup is not None:
                await self.unit.startup()
        except BaseException as caught:  # noqa: BLE001 - SystemExit as well must prevent no other's stop
            error = caught
        self._moved_on.set()
        self.seconds = self._clock() - self._began
        self._cut.deadline = math.inf
        if not self._cut.cancel_called:
            return error
        self._shelter.shield = True
        _backend.forget_cancellation()
        if error is not None and not _is_cancellation(error):
            return error
        if self._asked.is_set() and self._late is None:
            return None
        return self._late or self._too_late(_backend.raised_at(error))

    def _too_late(self, where: str) -> ServiceTimeoutError:
        return ServiceTimeoutError(f"on_startup of {self.name!r}", self.unit.start_timeout, hint=f"waiting at {where}")

    def _comes_up(self) -> None:
        self.was_up, self.watched = True, False
        self._supervisor.came_up()
        self._emit(ServiceStarted(self.name, self.seconds))
        self._roster.set_state(self.name, ServiceState.RUNNING)
        self.phase = Phase.RUN
        self.owner.service_up(self)
        if self._attempts > 1:
            self._roster.tell_dependents(self.name)

    def _end_run(self, scope: anyio.CancelScope) -> None:
        """Work that looks at the signal, such as `every()`, may finish what it is at; any other is cancelled."""
        self._run_signal.set()
        if self._run_signal.is_heeded:
            scope.deadline = anyio.current_time() + self.unit.stop_timeout / 2
        else:
            scope.cancel()

    async def _run(self) -> tuple[bool, BaseException | None]:
        """Call `on_run` and wait until asked to stop; whether it crashed instead, and with what."""
        try:
            if self.unit.run is not None:
                self._run_signal = StopSignal()
                with anyio.CancelScope() as self._run_scope, self._run_signal.bound():
                    if self._asked.is_set():
                        self._run_scope.cancel()
                    await self.unit.run()
                self._run_scope = None
                if not self._asked.is_set() and self._supervisor.bears(error=False):
                    return True, None
            await self._asked.wait()
        except BaseException as error:  # noqa: BLE001 - whatever it is, on_shutdown comes next
            self._run_scope = None
            if not self._asked.is_set():
                return True, error
            if not _is_cancellation(error):
                self.stop_error = error
        return False, None

    async def _shut_down(self) -> None:
        """Call `on_shutdown`, unless that has been done elsewhere."""
        if self._is_shutdown_called:
            return
        self._is_shutdown_called = True
        self.phase = Phase.SHUTDOWN
        self._shelter.shield = True
        if not self.watched:
            self._shelter.deadline = anyio.current_time() + self.unit.stop_timeout
            self._guard_hook(self.unit.stop_timeout)
        await self._call_shutdown()

    async def _shut_down_apart(self) -> None:
        error: BaseException | None = None
        try:
            with anyio.CancelScope() as self._stop_cut, anyio.CancelScope(shield=True) as self._stop_shelter:
                if self._is_cut_off:  # its time was over before it began
                    self._stop_cut.cancel()
                    self._stop_shelter.shield = False
                await self._call_shutdown()
        except BaseException as caught:  # noqa: BLE001 - nothing may reach the loop
            error = caught
        self._finish(error)

    async def _call_shutdown(self) -> None:
        self._emit(ServiceStopping(self.name))
        if self._asked.is_set() and self.start_error is None:
            self._roster.set_state(self.name, ServiceState.STOPPING)
        began = self._clock()
        error: BaseException | None = None
        try:
            if self.unit.shutdown is not None:
                await self.unit.shutdown()
        except BaseException as caught:  # noqa: BLE001 - it may prevent no other stop; it is reported
            error = caught
        self._moved_on.set()
        seconds = self._clock() - began
        if self._is_cut_off or self._stop_shelter.cancel_called:
            _backend.forget_cancellation()
            self._hangs(_backend.raised_at(error))
            if error is None or _is_cancellation(error):
                hint = f"waiting at {self.hung_at}"
                self._emit(
                    ServiceStopped(
                        self.name, seconds, ServiceTimeoutError(f"on_shutdown of {self.name!r}", seconds, hint=hint)
                    )
                )
                return
        self._keep_stop_error(error)
        self._emit(ServiceStopped(self.name, seconds, error))

    # --- when something goes wrong ----------------------------------------------------------------------

    async def _after_failed_start(self, error: BaseException) -> float | None:
        """Stop again; the seconds until the next try, None if there is none."""
        if _is_cancellation(error):
            # A task group that the author opened in on_startup has failed; closing it tells why.
            await self._shut_down()
            self.start_error = error = self.stop_error or error
            self.stop_error = None
        is_restart = self.was_up
        retries = self.retries(error)
        will_retry = retries or (is_restart and not self._asked.is_set())
        self._emit(ServiceStartFailed(self.name, error, self.seconds, will_retry=will_retry))
        self.watched = self.watched and not will_retry
        if retries or not will_retry:
            self._roster.set_state(self.name, ServiceState.FAILED)
            self.owner.start_failed(self, error)
        await self._shut_down()
        if retries:
            return self._announce(self._supervisor.after_failed_start())
        return self._judge(error) if will_retry else None

    async def _after_crash(self, error: BaseException | None) -> float | None:
        """Tell the dependents, stop, and judge."""
        interrupted = error is not None and _is_cancellation(error)
        if not interrupted:
            self._goes_down(error)
        await self._shut_down()
        if interrupted:
            error, self.stop_error = self.stop_error or error, None
            self._goes_down(error)
        return self._judge(error)

    def _goes_down(self, error: BaseException | None) -> None:
        self._roster.set_state(self.name, ServiceState.DEGRADED)
        self.owner.service_down(self)
        self._emit(ServiceCrashed(self.name, error, self._roster.tell_dependents(self.name)))

    def _judge(self, error: BaseException | None) -> float | None:
        if self._is_over:
            return None
        if error is not None and not isinstance(error, Exception) and not _is_cancellation(error):
            verdict: Again | GiveUp = GiveUp(0, self.unit.restart.within)  # SystemExit asks for the end
        else:
            verdict = self._supervisor.after_crash(error=error is not None, now=self._clock())
        if isinstance(verdict, Again):
            return self._announce(verdict)
        self.defeat = error or LifecycleError(f"on_run of {self.name!r} returned too often")
        self._emit(RestartsExhausted(self.name, verdict.max_restarts, verdict.within))
        self._roster.set_state(self.name, ServiceState.FAILED)
        self._roster.tell_dependents(self.name)
        return None

    def _guard_hook(self, limit: float) -> None:
        """While nobody watches, see to it that a restart doesn't hang in a hook for ever."""
        self._moved_on = anyio.Event()
        _backend.spawn(functools.partial(self._guard, limit), name=f"guard of service {self.name}")

    async def _guard(self, limit: float) -> None:
        if await self._moves_on(limit + GRACE):
            return
        hook = self.phase.value
        self.defeat = ServiceTimeoutError(
            f"{hook} of {self.name!r}", limit, hint=f"waiting at {self._spawned.last_await()}"
        )
        if self.phase is Phase.STARTUP:
            self._moved_on = anyio.Event()
            self.shut_down_elsewhere()
            if not await self._moves_on(self.unit.stop_timeout):
                self.cut_stop()
                await self._moves_on(GRACE)
        if not self._asked.is_set():
            self.abandon()
            self._roster.tell_dependents(self.name)

    async def _moves_on(self, limit: float) -> bool:
        """Whether the hook ends within `limit` seconds, or somebody else watches from now on."""
        moved_on = self._moved_on
        try:
            with anyio.move_on_after(limit):
                await moved_on.wait()
        except anyio.get_cancelled_exc_class():  # the loop closes, and nobody waits for a guard
            return True
        return moved_on.is_set() or self._asked.is_set()

    def _announce(self, again: Again) -> float:
        self._emit(ServiceRestarting(self.name, again.attempt, again.delay))
        return again.delay

    async def _pause(self, seconds: float) -> None:
        self.phase = Phase.PAUSE
        with anyio.move_on_after(seconds):
            await self._asked.wait()

    def _hangs(self, where: str) -> None:
        if self.hung_at is None:
            self.hung_at = where
            began = self._asked_at or self._began
            self._emit(ServiceHung(self.name, self._clock() - began, where))

    def _keep_stop_error(self, error: BaseException | None) -> None:
        if error is not None and self.stop_error is not None:
            error = BaseExceptionGroup(f"on_run and on_shutdown of {self.name!r} failed", [self.stop_error, error])
        self.stop_error = error or self.stop_error

    def _finish(self, error: BaseException | None) -> None:
        """The end of a task of this service: the last one to end reports."""
        self._parts -= 1
        if error is not None and not _is_cancellation(error):
            self._keep_stop_error(error)
        if self._parts:
            return
        self.phase = Phase.ENDED
        if self._is_abandoned:
            return
        if self.defeat is None and (self.start_error is None or self.unit.optional):
            self._roster.set_state(self.name, ServiceState.STOPPED)
        self.owner.service_ended(self)


ServiceTask.code = ServiceTask._live.__code__  # noqa: SLF001 - it is its own


def _is_cancellation(error: BaseException) -> bool:
    """Nothing but a cancellation, also of several tasks at once."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancellation(part) for part in error.exceptions)
    return isinstance(error, anyio.get_cancelled_exc_class())
