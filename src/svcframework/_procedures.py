"""Starting and stopping a set of services in the order of their graph. One procedure at a time acts on a roster."""

from __future__ import annotations

import abc
import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence

import anyio

from svcframework._servicetask import GRACE, ServiceTask
from svcframework._types import ServiceState
from svcframework._units import Roster
from svcframework.errors import LifecycleError, ServiceTimeoutError

RESERVE = 0.5
"""Seconds of the budget kept for each service that is still to be stopped after one that hangs, at most."""


class Procedure(abc.ABC):
    """What one operation does, with a clock of its own; lives as long as the operation.

    Nothing here polls: services report, which pokes the one task that waits for the next report or alarm.
    """

    def __init__(self) -> None:
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._poked = anyio.Event()
        self._next = -math.inf

    @property
    @abc.abstractmethod
    def is_finished(self) -> bool:
        """There is nothing to wait for any more."""

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have `action` called at `time` of the loop's clock, or after the procedure never."""
        heapq.heappush(self._alarms, (time, next(self._number), action))
        if time < self._next:
            self.poke()

    def poke(self) -> None:
        """Look again whether it is finished."""
        self._poked.set()

    def interrupted(self) -> None:  # noqa: B027 - most go on: the loop waits for them
        """The loop itself is being closed."""

    async def wait(self) -> None:
        """Until it is finished; fires the alarms meanwhile."""
        while not self.is_finished:
            self._poked = anyio.Event()
            self._next = self._alarms[0][0] if self._alarms else math.inf
            try:
                with anyio.CancelScope(deadline=self._next):
                    await self._poked.wait()
            except anyio.get_cancelled_exc_class():
                self.interrupted()
            now = anyio.current_time()
            while self._alarms and self._alarms[0][0] <= now:
                heapq.heappop(self._alarms)[2]()


class Starting(Procedure):
    """Starts units as soon as what they require runs and what they want has been tried.

    Args:
        roster: All units.
        names: The ones to start, in start order; closed under `requires`.
        launch: Makes the task of a unit that has hooks.
        clock: Seconds, for measuring.
    """

    def __init__(
        self,
        roster: Roster,
        names: Sequence[str],
        launch: Callable[[str], ServiceTask],
        *,
        clock: Callable[[], float],
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.errors: dict[str, BaseException] = {}
        """What keeps the set from running, in the order it happened."""
        self.gates: dict[str, str] = {}
        """Which dependency each unit waited for last."""
        self.offsets: dict[str, float] = {}
        """Seconds from the beginning to the start of each unit."""
        self.ended: list[ServiceTask] = []
        """Services that failed and have been stopped already."""
        self.is_called_off = False
        self._roster, self._launch = roster, launch
        self._unsettled = dict.fromkeys(names)
        self._launched: dict[str, ServiceTask] = {}
        self._missing: dict[str, int] = {}
        self._ready: deque[str] = deque()
        self._is_pumping = False
        self._clock, self._began = clock, clock()

    @property
    def is_finished(self) -> bool:
        """All have been tried, or it is clear that they can't all run."""
        return not self._unsettled or bool(self.errors) or self.is_called_off

    @property
    def untried(self) -> tuple[str, ...]:
        """Units whose start was never entered."""
        return tuple(name for name in self._unsettled if name not in self._launched and not self._roster.is_up(name))

    def begin(self) -> None:
        """Start whatever needs nothing."""
        for name in self.names:
            unit = self._roster.units[name]
            missing = sum(1 for required in unit.requires if not self._roster.is_up(required))
            missing += sum(1 for wanted in unit.wants if wanted in self._unsettled and wanted not in unit.requires)
            self._missing[name] = missing
            if not missing:
                self._ready.append(name)
        for name in self.names:
            for required in self._roster.units[name].requires:
                error = self._why_never(required)
                if error is not None and name in self._unsettled and self._block(name, required, error):
                    self.service_failed(name, error, fatal=False)
        self._pump()

    def _why_never(self, name: str) -> BaseException | None:
        """Why a unit that isn't up won't come up by itself; None if it is or may."""
        if name in self._unsettled or self._roster.is_up(name):
            return None
        task = self._roster.tasks.get(name)
        return LifecycleError(f"{name!r} does not run") if task is None else task.start_error

    def call_off(self) -> None:
        """Start no more."""
        self.is_called_off = True
        self.poke()

    interrupted = call_off

    def overdue(self, seconds: float) -> None:
        """The whole start has had its `seconds`."""
        late = [name for name in self._unsettled if name in self._launched] or list(self._unsettled)
        for name in late:
            where = ServiceTimeoutError("the start of the host", seconds, hint=f"{name!r} was not up yet")
            self.errors.setdefault(name, where)
        self.poke()

    # --- reports ----------------------------------------------------------------------------------------

    def service_up(self, name: str) -> None:
        """What it kept waiting may start."""
        is_first = name in self._unsettled  # or it is back after a crash, or at last: who only wants it went on
        self._settle(name)
        for dependent in self._roster.dependents[name]:
            if is_first or name in self._roster.units[dependent].requires:
                self._release(dependent, name)
        self._pump()

    def service_down(self, name: str) -> None:
        """It crashed after all: what has not started yet waits for it again."""
        for dependent in self._roster.dependents[name]:
            if dependent in self._unsettled and name in self._roster.units[dependent].requires:
                self._missing[dependent] += 1

    def service_failed(self, name: str, error: BaseException, *, fatal: bool) -> None:
        """It doesn't run, and perhaps never will; `fatal` if the set can't do without it."""
        failed: deque[str] = deque([name])
        if fatal:
            self.errors.setdefault(name, error)
        while failed:
            name = failed.popleft()
            is_first = name in self._unsettled  # who only wants it has been told already, otherwise
            self._settle(name)
            for dependent in self._roster.dependents[name]:
                if dependent not in self._unsettled:
                    continue
                if name not in self._roster.units[dependent].requires:
                    if is_first:
                        self._release(dependent, name)
                elif self._block(dependent, name, error):
                    failed.append(dependent)
        self._pump()

    def _block(self, name: str, required: str, error: BaseException) -> bool:
        """Note that `name` can't start; whether it may be left out."""
        if self._roster.units[name].optional:
            self._roster.held[name] = None
            return True
        self.errors.setdefault(required, error)
        self.poke()
        return False

    def _settle(self, name: str) -> None:
        self._unsettled.pop(name, None)
        if not self._unsettled or self.errors:
            self.poke()

    def _release(self, name: str, dependency: str) -> None:
        if name in self._unsettled and name not in self._launched:
            self._missing[name] -= 1
            if not self._missing[name]:
                self.gates[name] = dependency
                self._ready.append(name)

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        while self._ready and not self.errors and not self.is_called_off:
            name = self._ready.popleft()
            if name not in self._unsettled or self._missing[name]:
                continue
            self.offsets[name] = self._clock() - self._began
            unit = self._roster.units[name]
            if unit.is_plain:
                self._roster.set_state(name, ServiceState.RUNNING)
                self.service_up(name)
            else:
                self._launched[name] = task = self._launch(name)
                end = anyio.current_time() + unit.start_timeout
                self.at(end, functools.partial(_if_starting, task, task.cut_start))
                self.at(end + GRACE, functools.partial(_if_starting, task, task.report_late_start))
        self._is_pumping = False


def _if_starting(task: ServiceTask, action: Callable[[], None]) -> None:
    """Act on a first start that isn't over yet."""
    if task.watched and not task.was_up:
        action()


class Stopping(Procedure):
    """Stops units once all that depends on them has ended, within a budget that holds even if all of them hang.

    A service has its own `stop_timeout`, but leaves a reserve of the budget for each service that can only stop
    after it. It is then interrupted, and left behind if that doesn't help either.

    Args:
        roster: All units.
        names: The ones to stop, in start order.
        budget: Seconds for all of them.
    """

    def __init__(self, roster: Roster, names: Sequence[str], *, budget: float) -> None:
        super().__init__()
        self.names = tuple(name for name in names if roster.is_live(name))
        self.errors: dict[str, BaseException] = {}
        self.hung: dict[str, str] = {}
        self._roster = roster
        self._remaining = dict.fromkeys(self.names)
        self._blockers = {
            name: sum(1 for dependent in roster.dependents[name] if dependent in self._remaining) for name in self.names
        }
        self._levels: dict[str, int] = {}
        for name in self.names:
            below = [
                self._levels[other] + (other in roster.tasks)
                for other in roster.units[name].edges
                if other in self._levels
            ]
            self._levels[name] = max(below, default=0)
        self._ready = deque(name for name in reversed(self.names) if not self._blockers[name])
        self._asked: dict[str, float] = {}
        self._is_pumping = False
        self._set_budget(anyio.current_time() + budget)

    @property
    def is_finished(self) -> bool:
        """Nothing runs any more, but for what was left behind."""
        return not self._remaining

    def begin(self) -> None:
        """Stop whatever nothing depends on."""
        self._pump()

    def hurry(self, timeout: float) -> None:
        """Be through in `timeout` seconds, if that is sooner."""
        end = anyio.current_time() + timeout
        if end < self._end:
            self._set_budget(end)
            for name in self._asked:
                if name in self._remaining:
                    self._set_alarms(self._roster.tasks[name])

    def service_ended(self, task: ServiceTask) -> None:
        """What it kept waiting may stop."""
        if task.hung_at is not None:
            self.hung[task.name] = task.hung_at
        if task.stop_error is not None:
            self.errors[task.name] = task.stop_error
        self._release(task.name)
        self._pump()

    def _set_budget(self, end: float) -> None:
        self._end = end
        levels = 1 + max(self._levels.values(), default=0)
        self._reserve = min(RESERVE, max(0.0, end - anyio.current_time()) / (2 * levels))
        self._grace = min(GRACE, self._reserve / 2)

    def _set_alarms(self, task: ServiceTask) -> None:
        asked, now = self._asked[task.name], anyio.current_time()
        last = self._end - self._reserve * self._levels[task.name] - self._grace
        cut = max(now, min(asked + task.unit.stop_timeout, last))
        # Half of the time for letting go of on_run or on_startup, the other half for on_shutdown.
        self.at(max(now, min(asked + task.unit.stop_timeout / 2, (now + cut) / 2)), task.shut_down_elsewhere)
        self.at(cut, task.cut_stop)
        self.at(cut + self._grace, task.abandon)

    def _release(self, name: str) -> None:
        if name not in self._remaining:
            return
        del self._remaining[name]
        for dependency in self._roster.units[name].edges:
            if dependency in self._blockers:
                self._blockers[dependency] -= 1
                if not self._blockers[dependency]:
                    self._ready.append(dependency)
        if not self._remaining:
            self.poke()

    def _pump(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True
        while self._ready:
            name = self._ready.popleft()
            task = self._roster.tasks.get(name)
            if task is not None:
                self._asked[name] = anyio.current_time()
                task.ask_stop()
                self._set_alarms(task)
            elif name in self._remaining:
                self._roster.set_state(name, ServiceState.STOPPED)
                self._release(name)
        self._is_pumping = False
