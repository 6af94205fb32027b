"""HealthMonitor: checks services in the background and remembers what it found. It starts and stops nothing.

Two results are kept for each service. A *finding* is what the last check returned. A *settled* result follows it
only after several findings in a row, so that one lost packet does not take a host out of the load balancer.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import anyio

from svcframework._secrettext import redact_text
from svcframework._types import HealthResult, HealthStatus, ServiceState
from svcframework.errors import IllegalStateError, ServiceNotFoundError
from svcframework.events import Event, EventBus, HealthChanged, ServiceStateChanged
from svcframework.health.report import HealthReport, ServiceHealth
from svcframework.service import as_health_result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from anyio.abc import TaskGroup

    from svcframework.service import BaseService

Phase = Literal["starting", "started", "draining"]

_ABORTED_CHECKS = 3  # so many in a row, and the check is at fault and not a caller who left
_POLL = 1.0  # seconds: how late the loop may notice a service that nobody announced


@dataclass(frozen=True, slots=True)
class HealthTarget:
    """What the monitor knows of one service.

    Args:
        check: Returns how the service is; may raise or hang. A bool, a word and a mapping count as results too.
        state: Where the service is in its life; only a running one is checked.
        interval: Seconds between checks while all is well.
        timeout: Seconds one check may take.
        critical: Whether readiness fails with it; an optional service only causes a warning.
    """

    check: Callable[[], Awaitable[object]]
    state: Callable[[], ServiceState]
    interval: float = 10.0
    timeout: float = 2.0
    critical: bool = True

    @classmethod
    def of(cls, service: BaseService[Any]) -> HealthTarget:
        """A service's target, with the figures of its config (the defaults, where its config has none)."""
        config = service.config
        return cls(
            check=service.health_check,
            state=lambda: service.state,
            interval=getattr(config, "health_check_interval", 10.0),
            timeout=getattr(config, "health_check_timeout", 2.0),
            critical=getattr(config, "critical", True),
        )

    @property
    def expires_after(self) -> float:
        """Seconds after which a result says nothing any more: two missed checks."""
        return 2 * self.interval + self.timeout


class Spawner(Protocol):
    """A task group, as far as `HealthMonitor.start` needs one."""

    def start_soon(self, func: Callable[[], Awaitable[None]], /) -> object:
        """Run `func` in a task."""


class HealthMonitor:
    """Checks every running service on its own schedule; lives as long as its host.

    Probes (`liveness`, `readiness`, `startup`) read what is known and never cause a check, so they cost the same
    whoever calls them and however often.

    Args:
        services: The services there are now, by name; asked each time.
        emit: Called with a `HealthChanged` for each transition.
        clock: Seconds that only grow.
        failures_to_red: Bad findings in a row before a good service counts as bad.
        successes_to_green: Good findings in a row before a bad service counts as good.
        recheck: Seconds between checks while a service is bad or a change waits to be confirmed; at most a
            quarter of its interval.
    """

    def __init__(
        self,
        services: Callable[[], Mapping[str, HealthTarget]],
        *,
        emit: Callable[[Event], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        failures_to_red: int = 2,
        successes_to_green: int = 2,
        recheck: float = 1.0,
    ) -> None:
        self._services, self._emit, self._clock = services, emit, clock
        self._failures_to_red, self._successes_to_green = failures_to_red, successes_to_green
        self._recheck = recheck
        self._records: dict[str, _Record] = {}
        self._subscribers = EventBus()
        self._tasks: TaskGroup | None = None
        self._wake = anyio.Event()
        self._phase: Phase = "starting"

    # --- asking ---------------------------------------------------------------------------------------

    async def check(self, name: str, *, fresh: bool = False) -> HealthResult:
        """How one service is now; callers at the same time share one check.

        Args:
            name: The service.
            fresh: Check even though the last finding is younger than the service's interval.

        Returns:
            The finding, before thresholds. A check that hangs is unhealthy with the message `timeout …`.

        Raises:
            ServiceNotFoundError: There is no such service.
        """
        target, record = self._find(name)
        if not target.state().is_running:
            return self._take_state(name, target)
        if not fresh and record.finding is not None and self._clock() - record.found_at < target.interval:
            return record.finding
        return await self._join(name, target)

    async def check_all(self, *, fresh: bool = False, names: Collection[str] | None = None) -> dict[str, HealthResult]:
        """How every service is now, by name; checked concurrently, each within its own timeout.

        Args:
            fresh: Check even what has a young finding.
            names: Only those of these that there are.
        """
        found: dict[str, HealthResult] = {}

        async def check(name: str) -> None:
            found[name] = await self.check(name, fresh=fresh)

        names = [name for name in self._services() if names is None or name in names]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(check, name)
        return {name: found[name] for name in names}

    @property
    def last_results(self) -> dict[str, HealthResult]:
        """The settled result of every service; unknown where there is none or it has expired."""
        return {name: self._settled(name, target) for name, target in self._services().items()}

    def subscribe(self, callback: Callable[[HealthChanged], None]) -> Callable[[], None]:
        """Call `callback` at each transition of a settled result; the returned function ends it."""
        return self._subscribers.subscribe(cast("Callable[[Event], None]", callback))

    # --- probes ---------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """What the host said last: `starting`, `started` or `draining`."""
        return self._phase

    def enter(self, phase: Phase) -> None:
        """Say where the host is: it is ready only while `started`."""
        self._phase = phase
        self.poke()

    def liveness(self) -> HealthReport:
        """Whether the process should go on living. It answers, so yes; no service and no remote system is asked."""
        return HealthReport("liveness")

    def readiness(self) -> HealthReport:
        """Whether to send traffic: the host has started, does not drain, and no critical service is bad."""
        reason = "" if self._phase == "started" else self._phase
        return HealthReport("readiness", reason, self._lines())

    def startup(self) -> HealthReport:
        """Whether the start is complete; services that went bad later do not matter."""
        return HealthReport("startup", "starting" if self._phase == "starting" else "")

    def _lines(self) -> dict[str, ServiceHealth]:
        return {
            name: ServiceHealth(self._settled(name, target), target.state(), target.critical)
            for name, target in self._services().items()
        }

    # --- the background -------------------------------------------------------------------------------

    def start(self, tasks: Spawner) -> None:
        """Run the loop in a task of `tasks`, e.g. an anyio task group."""
        tasks.start_soon(self.run)

    def stop(self) -> None:
        """End the loop and every check that runs in it; results are kept until they expire."""
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()

    def poke(self) -> None:
        """Let the loop look at every service's state at once instead of within a second."""
        self._wake.set()

    def on_event(self, event: Event) -> None:
        """A listener: pokes the loop when a service changes its state."""
        if isinstance(event, ServiceStateChanged):
            self.poke()

    async def run(self) -> None:
        """Check every service at its interval until cancelled or stopped.

        Raises:
            IllegalStateError: It runs already.
        """
        if self._tasks is not None:
            raise IllegalStateError("run the health monitor", "running", fix="it needs one loop only; stop() it first")
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                while True:
                    self._wake = anyio.Event()
                    with anyio.move_on_after(self._start_due(tasks)):
                        await self._wake.wait()
            finally:
                if self._tasks is tasks:
                    self._tasks = None

    def _start_due(self, tasks: TaskGroup) -> float:
        """Begin each check that is due; the seconds until the next one is."""
        services, now = self._services(), self._clock()
        for gone in self._records.keys() - services.keys():
            del self._records[gone]
        wait = _POLL
        for name, target in services.items():
            record = self._records.setdefault(name, _Record())
            if not target.state().is_running:
                self._take_state(name, target)
                continue
            due = record.begun_at + self._pace(target, record) - now
            if due <= 0:
                self._begin(name, target, record, tasks)
                due = self._pace(target, record)
            wait = min(wait, due)
        return wait

    def _begin(self, name: str, target: HealthTarget, record: _Record, tasks: TaskGroup) -> None:
        if record.flight is None:
            flight = record.take_off(self._clock())
            tasks.start_soon(self._fly_apart, name, target, record, flight)
        elif record.flight.result is not None:  # it ignores its cancellation: one more timeout, not one more check
            record.begun_at = self._clock()
            self._note(name, target, record, _timeout(target))

    def _pace(self, target: HealthTarget, record: _Record) -> float:
        if record.settled and not record.streak:
            return target.interval
        return min(target.interval / 4, self._recheck)

    # --- one check ------------------------------------------------------------------------------------

    async def _join(self, name: str, target: HealthTarget) -> HealthResult:
        """The result of the check that is under way, or of a new one."""
        for _ in range(_ABORTED_CHECKS):
            record = self._records.setdefault(name, _Record())
            flight = record.flight
            if flight is None:
                flight = record.take_off(self._clock())
                if self._tasks is None:
                    await self._fly(name, target, record, flight)
                else:  # in the loop's task group, so that a caller who leaves doesn't end it for the others
                    self._tasks.start_soon(self._fly_apart, name, target, record, flight)
            await flight.landed.wait()
            if flight.result is not None:  # at once for a check that timed out and has not ended yet
                return flight.result
            # Whoever flew it was cancelled: the next one who waits takes over.
        return _cancelled()

    async def _fly(self, name: str, target: HealthTarget, record: _Record, flight: _Flight) -> None:
        """Check once. Those who wait are released at the timeout, even if the check ignores its cancellation."""

        async def limit() -> None:
            await anyio.sleep(target.timeout)
            self._land(name, target, record, flight, _timeout(target))
            tasks.cancel_scope.cancel()

        tasks = anyio.create_task_group()
        limiting = limit()
        try:
            async with tasks:
                tasks.start_soon(lambda: limiting)
                try:
                    started = self._clock()
                    found = await _ask(target)
                    if flight.result is None:
                        result = as_health_result(found, latency=self._clock() - started)
                        self._land(name, target, record, flight, result)
                    tasks.cancel_scope.cancel()
                finally:
                    record.flight = None
                    flight.landed.set()
                    self.poke()
        finally:
            limiting.close()  # a loop that ends cancels tasks before their first step: it was "never awaited" then

    async def _fly_apart(self, name: str, target: HealthTarget, record: _Record, flight: _Flight) -> None:
        """Check once in a task of the loop's group; a cancellation that nobody asked for must not end the group."""
        try:
            await self._fly(name, target, record, flight)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            self._note(name, target, record, _cancelled())

    def _land(self, name: str, target: HealthTarget, record: _Record, flight: _Flight, result: HealthResult) -> None:
        """Note a finding and release those who wait for it."""
        flight.result = result
        flight.landed.set()
        self._note(name, target, record, result)

    def _note(self, name: str, target: HealthTarget, record: _Record, result: HealthResult) -> None:
        if not target.state().is_running:
            self._take_state(name, target)  # it stopped meanwhile: what the check saw is of no use
            return
        record.finding, record.found_at = result, self._clock()
        self._settle(name, record, result)

    # --- settling -------------------------------------------------------------------------------------

    def _settle(self, name: str, record: _Record, result: HealthResult) -> None:
        old = record.settled
        needed = self._failures_to_red if old else self._successes_to_green
        if old is not None and bool(old) is not bool(result):
            record.streak += 1
            if record.streak < needed:
                return
        record.streak = 0
        record.settled, record.settled_at = result, self._clock()
        if old is None or old.status is not result.status:
            self._tell(HealthChanged(name, old, result))

    def _take_state(self, name: str, target: HealthTarget) -> HealthResult:
        """A service that does not run is what its state says; what was found before counts no more."""
        record = self._records.setdefault(name, _Record())
        result = _of_state(target.state())
        old, record.settled = record.settled, None
        record.finding, record.streak, record.begun_at = None, 0, -math.inf
        if old is not None:
            self._tell(HealthChanged(name, old, result))
        return result

    def _settled(self, name: str, target: HealthTarget) -> HealthResult:
        if not target.state().is_running:
            return _of_state(target.state())
        record = self._records.get(name)
        if record is None or record.settled is None:
            return HealthResult.unknown("not checked yet")
        if self._clock() - record.settled_at > target.expires_after:
            age = self._clock() - record.settled_at
            return replace(record.settled, status=HealthStatus.UNKNOWN, message=f"expired: {age:.0f} s old")
        return record.settled

    def _tell(self, event: HealthChanged) -> None:
        if self._emit is not None:
            self._emit(event)
        self._subscribers.emit(event)

    def _find(self, name: str) -> tuple[HealthTarget, _Record]:
        services = self._services()
        if name not in services:
            raise ServiceNotFoundError(name, known=services, needed_by="the health monitor")
        return services[name], self._records.setdefault(name, _Record())


class _Flight:
    """One check under way."""

    __slots__ = ("landed", "result")

    def __init__(self) -> None:
        self.landed = anyio.Event()
        self.result: HealthResult | None = None


class _Record:
    """What is remembered of one service."""

    __slots__ = ("begun_at", "finding", "flight", "found_at", "settled", "settled_at", "streak")

    def __init__(self) -> None:
        self.begun_at = -math.inf  # never: due at once
        self.flight: _Flight | None = None
        self.finding: HealthResult | None = None
        self.found_at = 0.0
        self.settled: HealthResult | None = None
        self.settled_at = 0.0
        self.streak = 0  # findings in a row that contradict the settled result

    def take_off(self, now: float) -> _Flight:
        self.begun_at, self.flight = now, _Flight()
        return self.flight


async def _ask(target: HealthTarget) -> object:
    try:
        return await target.check()
    except Exception as error:  # noqa: BLE001 - a boundary: a check that raises has found something
        return HealthResult.unhealthy(redact_text(f"{type(error).__name__}: {error}"))


def _timeout(target: HealthTarget) -> HealthResult:
    return replace(
        HealthResult.unhealthy(f"timeout after {target.timeout:g} s", reason="timeout"), latency=target.timeout
    )


def _cancelled() -> HealthResult:
    return HealthResult.unknown("the check was cancelled")


def _of_state(state: ServiceState) -> HealthResult:
    if state is ServiceState.FAILED:
        return HealthResult.unhealthy(state.value)
    return HealthResult.unknown(state.value)
