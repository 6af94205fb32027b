"""The health monitor: cached, settled, never stale, never stuck. Time is virtual on both backends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anyio
import pytest
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from svcframework._types import HealthResult, HealthStatus, ServiceState
from svcframework.config import ServiceConfig
from svcframework.errors import IllegalStateError, ServiceNotFoundError
from svcframework.events import Event, HealthChanged, ServiceStateChanged
from svcframework.health import HealthMonitor, HealthReport, HealthTarget
from svcframework.health.report import ServiceHealth
from svcframework.service import BaseService
from svcframework.testing.virtualtime import VirtualLoop, virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with clocks that jump."""
    return virtual_backend(request.param)


class Patient:
    """A service to be checked: says what it is told to say, or hangs, and counts."""

    def __init__(self, *, interval: float = 10.0, timeout: float = 2.0, critical: bool = True) -> None:
        self.says: object = HealthResult.healthy()
        self.state = ServiceState.RUNNING
        self.takes = 0.0
        self.deaf = 0.0
        self.calls = self.running = self.most = 0
        self.target = HealthTarget(self.check, lambda: self.state, interval, timeout, critical)

    async def check(self) -> object:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(self.takes)
            if self.deaf:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(self.deaf)
            if isinstance(self.says, Exception):
                raise self.says
            return self.says
        finally:
            self.running -= 1


def monitor_of(emit: Any = None, **patients: Patient) -> HealthMonitor:
    monitor = HealthMonitor(
        lambda: {name: patient.target for name, patient in patients.items()}, emit=emit, clock=anyio.current_time
    )
    monitor.enter("started")
    return monitor


async def test_finding_is_cached_for_the_interval() -> None:
    """A second look within the interval asks nobody; a fresh one does, and so does one after it."""
    db = Patient()
    monitor = monitor_of(db=db)
    await monitor.check("db")
    await monitor.check("db")
    assert 1 == db.calls
    await monitor.check("db", fresh=True)
    assert 2 == db.calls
    await anyio.sleep(10)
    await monitor.check("db")
    assert 3 == db.calls


@pytest.mark.parametrize("in_background", [False, True])
async def test_callers_share_one_check(*, in_background: bool) -> None:
    """Ten callers at once cause one check and all get its result."""
    db = Patient()
    db.takes = 1.0
    monitor = monitor_of(db=db)
    results: list[HealthResult] = []

    async def ask() -> None:
        results.append(await monitor.check("db", fresh=True))

    async with anyio.create_task_group() as outer:
        if in_background:
            monitor.start(outer)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        monitor.stop()
    assert 1 == db.calls
    assert 10 == len(results)
    assert 1.0 == results[0].latency
    assert len({id(result) for result in results}) == 1


async def test_leaving_caller_takes_nobody_along() -> None:
    """If the caller who runs the check is cancelled, the next one who waits runs it."""
    db = Patient()
    db.takes = 1.0
    monitor = monitor_of(db=db)
    results: list[HealthResult] = []
    leader = anyio.CancelScope()

    async def lead() -> None:
        with leader:
            await monitor.check("db")

    async def follow() -> None:
        results.append(await monitor.check("db"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        leader.cancel()
    assert [HealthStatus.HEALTHY] == [result.status for result in results]
    assert 2 == db.calls


async def test_hanging_check_is_a_timeout() -> None:
    """A check that never ends is cut off at its timeout and is unhealthy for that reason."""
    db = Patient(timeout=2.0)
    db.takes = 1e6
    before = anyio.current_time()
    result = await monitor_of(db=db).check("db")
    assert 2.0 == anyio.current_time() - before
    assert (HealthStatus.UNHEALTHY, "timeout after 2 s") == (result.status, result.message)
    assert 0 == db.running


async def test_hanging_check_delays_no_other() -> None:
    """Others are checked on their own schedule meanwhile."""
    slow, quick = Patient(timeout=100.0, interval=1.0), Patient(interval=1.0)
    slow.takes = 1e6
    monitor = monitor_of(slow=slow, quick=quick)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(10.5)
        monitor.stop()
    assert 1 == slow.calls
    assert 11 == quick.calls


async def test_check_that_ignores_cancellation_runs_once_at_a_time() -> None:
    """Its callers are released at the timeout, it goes red, and no second check is started beside it."""
    deaf = Patient(interval=4.0, timeout=1.0)
    monitor = monitor_of(deaf=deaf)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(0.5)
        assert monitor.readiness()
        deaf.deaf = 100.0
        before = anyio.current_time()
        assert "timeout after 1 s" == (await monitor.check("deaf", fresh=True)).message
        assert 1.0 == anyio.current_time() - before
        assert "timeout after 1 s" == (await monitor.check("deaf", fresh=True)).message
        assert 1.0 == anyio.current_time() - before
        await anyio.sleep(3.0)
        assert HealthStatus.UNHEALTHY == monitor.last_results["deaf"].status
        assert not monitor.readiness()
        monitor.stop()
    assert (2, 1) == (deaf.calls, deaf.most)


async def test_each_service_has_its_interval() -> None:
    """A service is checked at start and then once per interval."""
    often, seldom = Patient(interval=1.0), Patient(interval=5.0)
    monitor = monitor_of(often=often, seldom=seldom)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(10.5)
        monitor.stop()
    assert (11, 3) == (often.calls, seldom.calls)


async def test_one_bad_finding_does_not_turn_it_red() -> None:
    """The settled result follows only the second bad finding in a row; a good one in between starts over."""
    db = Patient()
    monitor = monitor_of(db=db)
    await monitor.check("db", fresh=True)
    db.says = False
    assert HealthStatus.UNHEALTHY == (await monitor.check("db", fresh=True)).status
    assert HealthStatus.HEALTHY == monitor.last_results["db"].status
    db.says = True
    await monitor.check("db", fresh=True)
    db.says = False
    await monitor.check("db", fresh=True)
    assert HealthStatus.HEALTHY == monitor.last_results["db"].status
    await monitor.check("db", fresh=True)
    assert HealthStatus.UNHEALTHY == monitor.last_results["db"].status


async def test_one_good_finding_does_not_turn_it_green() -> None:
    """A bad service counts as good after the second good finding in a row."""
    db = Patient()
    db.says = False
    monitor = monitor_of(db=db)
    await monitor.check("db", fresh=True)
    db.says = HealthResult.degraded("slow")
    await monitor.check("db", fresh=True)
    assert not monitor.readiness()
    await monitor.check("db", fresh=True)
    assert "warn" == monitor.readiness().verdict


async def test_turns_and_recovers_quickly_in_the_background() -> None:
    """A fault shows within one interval and the confirmation; the end of it shows within five seconds."""
    db = Patient(interval=10.0)
    monitor = monitor_of(db=db)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(0.5)
        db.says = ConnectionError("gone")
        await anyio.sleep(10.0)
        assert monitor.readiness()
        await anyio.sleep(1.1)
        assert not monitor.readiness()
        await anyio.sleep(60)
        db.says = True
        await anyio.sleep(5)
        assert monitor.readiness()
        monitor.stop()


async def test_old_result_is_never_healthy() -> None:
    """Without further checks a result expires after two intervals and the timeout, and is unknown then."""
    db = Patient(interval=10.0, timeout=2.0)
    monitor = monitor_of(db=db)
    await monitor.check("db")
    await anyio.sleep(21.9)
    assert HealthStatus.HEALTHY == monitor.last_results["db"].status
    await anyio.sleep(0.2)
    result = monitor.last_results["db"]
    assert (HealthStatus.UNKNOWN, "expired: 22 s old") == (result.status, result.message)
    assert not monitor.readiness()


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (ServiceState.REGISTERED, HealthStatus.UNKNOWN),
        (ServiceState.STARTING, HealthStatus.UNKNOWN),
        (ServiceState.STOPPING, HealthStatus.UNKNOWN),
        (ServiceState.STOPPED, HealthStatus.UNKNOWN),
        (ServiceState.FAILED, HealthStatus.UNHEALTHY),
    ],
)
async def test_only_running_services_are_checked(state: ServiceState, status: HealthStatus) -> None:
    """The result of any other follows from its state, which it names, and its check is not called."""
    db = Patient()
    db.state = state
    result = await monitor_of(db=db).check("db", fresh=True)
    assert (status, state.value, 0) == (result.status, result.message, db.calls)


async def test_stopped_service_forgets_its_results() -> None:
    """After a restart the old findings count no more: the first new one settles at once."""
    db = Patient()
    seen: list[Event] = []
    monitor = monitor_of(emit=seen.append, db=db)
    await monitor.check("db")
    db.state = ServiceState.STOPPED
    await monitor.check("db")
    db.state, db.says = ServiceState.RUNNING, False
    assert HealthStatus.UNKNOWN == monitor.last_results["db"].status
    await monitor.check("db")
    assert HealthStatus.UNHEALTHY == monitor.last_results["db"].status
    assert ["healthy", "unknown", "unhealthy"] == [event.new.status.value for event in seen]


async def test_service_that_stops_during_its_check_is_not_healthy() -> None:
    """What a check saw of a service that has stopped meanwhile is dropped."""
    db = Patient()
    db.takes = 1.0
    monitor = monitor_of(db=db)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.check, "db")
        await anyio.sleep(0.5)
        db.state = ServiceState.STOPPED
        await anyio.sleep(1.0)
    db.state = ServiceState.RUNNING
    assert "not checked yet" == monitor.last_results["db"].message


async def test_state_change_wakes_the_loop() -> None:
    """A service that begins to run is checked at once when the monitor hears of it."""
    db = Patient()
    db.state = ServiceState.STARTING
    monitor = monitor_of(db=db)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.wait_all_tasks_blocked()
        before = anyio.current_time()
        db.state = ServiceState.RUNNING
        monitor.on_event(ServiceStateChanged("db", ServiceState.STARTING, ServiceState.RUNNING))
        await anyio.sleep(0.01)
        assert 1 == db.calls
        assert anyio.current_time() - before < 0.1
        monitor.stop()


async def test_subscribers_hear_transitions_only() -> None:
    """A callback gets one event per change of the status, until it unsubscribes; the host gets the same."""
    db = Patient()
    emitted: list[Event] = []
    heard: list[HealthChanged] = []
    monitor = monitor_of(emit=emitted.append, db=db)
    unsubscribe = monitor.subscribe(heard.append)
    for says in [True, True, "degraded", "degraded", True]:
        db.says = says
        await monitor.check("db", fresh=True)
    unsubscribe()
    db.says = "degraded"
    await monitor.check("db", fresh=True)
    assert [(None, "healthy"), ("healthy", "degraded"), ("degraded", "healthy")] == [
        (event.old and event.old.status.value, event.new.status.value) for event in heard
    ]
    assert heard == emitted[:3]
    assert 4 == len(emitted)


async def test_check_all_is_concurrent_and_in_order() -> None:
    """All services are checked at the same time, each result under its name."""
    patients = {name: Patient() for name in ("a", "b", "c")}
    for patient in patients.values():
        patient.takes = 1.0
    patients["b"].says = ValueError("broken")
    before = anyio.current_time()
    results = await monitor_of(**patients).check_all()
    assert 1.0 == anyio.current_time() - before
    assert ["a", "b", "c"] == list(results)
    assert ["healthy", "unhealthy: ValueError: broken", "healthy"] == [str(result) for result in results.values()]


async def test_unknown_name_is_an_error_with_a_hint() -> None:
    """Asking for a service that isn't there names the nearest."""
    with pytest.raises(ServiceNotFoundError, match="Did you mean 'cache'"):
        await monitor_of(cache=Patient()).check("cahce")


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})]
)  # trio's can't be raised by hand
async def test_check_that_cancels_itself_ends(anyio_backend: object) -> None:
    """A check that always raises asyncio's own cancellation gives unknown, and the loop goes on."""
    odd, db = Patient(), Patient(interval=1.0)

    async def check() -> None:
        raise asyncio.CancelledError

    odd.target = HealthTarget(check, lambda: ServiceState.RUNNING, 1000.0)
    monitor = monitor_of(odd=odd, db=db)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(10.5)
        assert HealthStatus.UNKNOWN == (await monitor.check("odd")).status
        assert 11 == db.calls
        monitor.stop()


async def test_second_loop_is_refused_and_stopped_one_can_run_again() -> None:
    """There is one loop at a time; after stop() the monitor can be started again."""
    db = Patient()
    monitor = monitor_of(db=db)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(0.1)
        with pytest.raises(IllegalStateError, match="stop"):
            await monitor.run()
        monitor.stop()
        monitor.start(tasks)
        await anyio.sleep(0.1)
        monitor.stop()
    assert 1 == db.calls


async def test_vanished_service_is_forgotten() -> None:
    """A service that is unregistered leaves no result behind."""
    patients = {"db": Patient()}
    monitor = HealthMonitor(lambda: {n: p.target for n, p in patients.items()}, clock=anyio.current_time)
    async with anyio.create_task_group() as tasks:
        monitor.start(tasks)
        await anyio.sleep(0.1)
        gone = patients.pop("db")
        await anyio.sleep(2)
        assert {} == monitor.last_results
        patients["db"] = gone
        assert "not checked yet" == monitor.last_results["db"].message
        monitor.stop()


async def test_liveness_asks_nobody() -> None:
    """Liveness passes whatever the services are like."""
    db = Patient()
    db.says = False
    monitor = monitor_of(db=db)
    await monitor.check("db")
    assert ("pass", {"status": "pass"}) == (monitor.liveness().verdict, monitor.liveness().public_view())
    assert 1 == db.calls


async def test_readiness_follows_the_phase() -> None:
    """It is off before the start is complete and from the moment of draining; startup stays on."""
    db = Patient()
    monitor = monitor_of(db=db)
    await monitor.check("db")
    answers = []
    for phase in ("starting", "started", "draining"):
        monitor.enter(phase)
        answers.append((phase, bool(monitor.readiness()), bool(monitor.startup())))
    assert [("starting", False, False), ("started", True, True), ("draining", False, True)] == answers
    assert {"status": "fail"} == monitor.readiness().public_view()
    assert "draining" == monitor.readiness().details_view()["output"]


async def test_probes_cause_no_checks() -> None:
    """Reading readiness a hundred times checks nothing."""
    db = Patient()
    monitor = monitor_of(db=db)
    for _ in range(100):
        assert not monitor.readiness()
    assert 0 == db.calls


async def test_optional_service_only_warns() -> None:
    """Readiness holds without it, with a warning; without a critical one it fails."""
    cache, db = Patient(critical=False), Patient()
    cache.says = False
    monitor = monitor_of(cache=cache, db=db)
    await monitor.check_all()
    assert ("warn", 200) == (monitor.readiness().verdict, monitor.readiness().status_code)
    db.state = ServiceState.FAILED
    assert ("fail", 503) == (monitor.readiness().verdict, monitor.readiness().status_code)


BEHAVIOURS = st.sampled_from(["good", "bad", "raises", "hangs", "deaf", "stopped"])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40)
@given(story=st.lists(st.tuples(BEHAVIOURS, st.floats(0.0, 40.0)), min_size=1, max_size=8))
def test_whatever_happens_nothing_is_stale_stuck_or_doubled(backend: str, story: list[tuple[str, float]]) -> None:
    """Healthy means that a check said so lately; a check runs once at a time; another service is never held up."""

    async def play() -> None:
        odd, calm = Patient(interval=4.0, timeout=1.0), Patient(interval=2.0)
        good_at = -1e9
        check = odd.check

        async def noting() -> object:
            nonlocal good_at
            said = await check()
            good_at = anyio.current_time() if said is True else good_at
            return said

        odd.target = HealthTarget(noting, lambda: odd.state, 4.0, 1.0)
        monitor = monitor_of(odd=odd, calm=calm)
        begun = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            monitor.start(tasks)
            for behaviour, seconds in story:
                odd.says = ValueError("broken") if behaviour == "raises" else behaviour != "bad"
                odd.takes = 1e6 if behaviour == "hangs" else 0.0
                odd.deaf = 7.0 if behaviour == "deaf" else 0.0
                odd.state = ServiceState.STOPPED if behaviour == "stopped" else ServiceState.RUNNING
                for _ in range(5):
                    await anyio.sleep(seconds / 5)
                    if monitor.last_results["odd"].status is HealthStatus.HEALTHY:
                        assert anyio.current_time() - good_at <= odd.target.expires_after
                        assert behaviour != "stopped"
                    assert odd.most <= 1
                    assert calm.calls >= (anyio.current_time() - begun) // 2.0
            monitor.stop()

    options: dict[str, Any] = {"loop_factory": VirtualLoop}
    if backend == "trio":
        options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    anyio.run(play, backend=backend, backend_options=options)


def test_details_view_is_json() -> None:
    """Everything a check put into its details can be sent, and the words are those of the draft."""
    result = HealthResult.degraded("slow", pool={"free": 0}, seen={1, 2}, owner=object, state=ServiceState.DEGRADED)
    report = HealthReport("readiness", services={"db": ServiceHealth(result, ServiceState.RUNNING, critical=True)})
    view = json.loads(json.dumps(report.details_view()))
    check = view["checks"]["db"][0]
    assert ("warn", "warn", "slow", "running") == (view["status"], check["status"], check["output"], check["state"])
    assert {"free": 0} == check["details"]["pool"]
    assert "degraded" == check["details"]["state"]
    assert check["time"].endswith("Z")
    assert {"status": "warn"} == report.public_view()


async def test_details_hold_no_secrets() -> None:
    """Passwords in an error's text, and details with a secret's name or type, are masked in the view."""
    db = Patient()
    db.says = ConnectionError("can't reach postgres://app:hunter2@db/app")
    monitor = monitor_of(db=db)
    await monitor.check("db")
    assert "hunter2" not in json.dumps(monitor.readiness().details_view())
    db.says = HealthResult.unhealthy("password=hunter2", api_key="hunter2", key=SecretStr("hunter2"))
    await monitor.check("db", fresh=True)
    view = json.dumps(monitor.readiness().details_view())
    assert "hunter2" not in view
    assert "api_key" in view


def test_target_of_a_service_takes_its_config() -> None:
    """Interval, timeout and importance are the config's; another settings object gets the defaults."""

    class Service(BaseService):
        pass

    target = HealthTarget.of(Service(ServiceConfig(health_check_interval=3, health_check_timeout=1, critical=False)))
    assert (3.0, 1.0, False) == (target.interval, target.timeout, target.critical)
    foreign = HealthTarget.of(Service(object()))
    assert (10.0, 2.0, True) == (foreign.interval, foreign.timeout, foreign.critical)
