"""Start, stop and supervision of services, rule by rule, on asyncio, uvloop and trio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from svcframework._types import Restart, ServiceState
from svcframework.errors import (
    EventLoopError,
    ForkError,
    HostFailedError,
    IllegalStateError,
    ServiceNotFoundError,
    ServiceTimeoutError,
    ShutdownError,
    StartupCancelledError,
    StartupError,
)
from svcframework.events import (
    Event,
    HookFailed,
    HostStarted,
    HostStarting,
    HostStopped,
    HostStopping,
    LoopBlocked,
    RestartsExhausted,
    ServiceCrashed,
    ServiceHung,
    ServiceRestarting,
    ServiceStartFailed,
    ServiceStopped,
)
from svcframework.lifecycle import Lifecycle, Unit

RUNNING, DEGRADED, STOPPED, FAILED = (
    ServiceState.RUNNING,
    ServiceState.DEGRADED,
    ServiceState.STOPPED,
    ServiceState.FAILED,
)


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def anyio_backend(request):
    """Every event loop that the core supports."""
    if request.param == "uvloop":
        return "asyncio", {"use_uvloop": True}
    return request.param


async def nothing() -> None:
    """A hook that only lets others run."""
    await anyio.lowlevel.checkpoint()


async def hang() -> None:
    """A hook that doesn't end, not even when it is interrupted."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(1.0)


class Journal:
    """Services that write down when they are started (`+a`) and stopped (`-a`)."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[Event] = []

    def unit(
        self,
        name: str,
        *requires: str,
        up: Callable[[], Awaitable[None]] = nothing,
        down: Callable[[], Awaitable[None]] = nothing,
        **options,
    ) -> Unit:
        async def startup() -> None:
            self.lines.append(f"+{name}")
            await up()

        async def shutdown() -> None:
            self.lines.append(f"-{name}")
            await down()

        return Unit(name, f"{name} (Fake)", startup=startup, shutdown=shutdown, requires=requires, **options)

    def lifecycle(self, *units: Unit, **options) -> Lifecycle:
        return Lifecycle(units, emit=self.events.append, **options)

    def of(self, kind: type) -> list:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def journal():
    return Journal()


def raising(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def hook() -> None:
        await nothing()
        raise error

    return hook


async def until(claim: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    with anyio.fail_after(30):
        while not claim():
            await anyio.sleep(0.001)


async def cancelled_when(claim: Callable[[], bool], call: Callable[[], Awaitable[object]]) -> None:
    """Call, and cancel the call as soon as something is so."""
    ended_by_itself = False

    async def run() -> None:
        nonlocal ended_by_itself
        await call()
        ended_by_itself = True

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(claim)
        group.cancel_scope.cancel()
    assert not ended_by_itself


# --- start and stop ---------------------------------------------------------------------------------------


async def test_dependencies_start_first_and_stop_last(journal):
    """A chain starts from its bottom and stops from its top."""
    lifecycle = journal.lifecycle(journal.unit("c", "b"), journal.unit("b", "a"), journal.unit("a"))
    await lifecycle.start()
    assert RUNNING is lifecycle.state
    await lifecycle.stop()
    assert ["+a", "+b", "+c", "-c", "-b", "-a"] == journal.lines
    assert STOPPED is lifecycle.state
    assert {STOPPED} == set(lifecycle.states.values())
    kinds = [HostStarting, HostStarted, HostStopping, HostStopped]
    assert kinds == [type(event) for event in journal.events if type(event) in kinds]


async def test_independent_services_start_and_stop_together(journal):
    """Each of 50 services waits for all the others, in on_startup and in on_shutdown."""
    count = 50
    arrived = {"up": 0, "down": 0}
    complete = {"up": anyio.Event(), "down": anyio.Event()}

    def meet(where: str) -> Callable[[], Awaitable[None]]:
        async def hook() -> None:
            arrived[where] += 1
            if arrived[where] == count:
                complete[where].set()
            await complete[where].wait()

        return hook

    lifecycle = journal.lifecycle(*(journal.unit(f"s{i}", up=meet("up"), down=meet("down")) for i in range(count)))
    await lifecycle.start()
    await lifecycle.stop()
    assert {"up": count, "down": count} == arrived


async def test_all_hooks_run_in_one_task(journal):
    """on_startup, on_run and on_shutdown of a service run in one task, and each service has another."""
    tasks: dict[str, list[int]] = {"a": [], "b": []}

    def unit(name: str) -> Unit:
        async def note() -> None:
            tasks[name].append(anyio.get_current_task().id)

        return Unit(name, startup=note, run=note, shutdown=note)

    lifecycle = journal.lifecycle(unit("a"), unit("b"))
    await lifecycle.start()
    await until(lambda: all(len(ids) == 2 for ids in tasks.values()))
    await lifecycle.stop()
    assert [3, 3] == [len(ids) for ids in tasks.values()]
    assert [1, 1] == [len(set(ids)) for ids in tasks.values()]
    assert tasks["a"][0] != tasks["b"][0]


async def test_services_without_hooks_cost_no_task(journal):
    """Plain objects are started and stopped inline, in the order of the graph."""
    before = tasks_alive()
    lifecycle = journal.lifecycle(Unit("c", requires=("b",)), Unit("b", requires=("a",)), Unit("a"))
    await lifecycle.start()
    assert before == tasks_alive()
    assert [("a", RUNNING), ("b", RUNNING), ("c", RUNNING)] == list(
        {name: lifecycle.states[name] for name in lifecycle.order}.items()
    )
    await lifecycle.stop()
    assert {STOPPED} == set(lifecycle.states.values())


async def test_a_service_sees_the_context_of_start_and_of_no_other_service(journal):
    """A context variable set by the caller arrives in the hooks; one set by a service stays in it."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def overwrite() -> None:
        seen.append(variable.get())
        variable.set("by a")

    async def look() -> None:
        seen.append(variable.get())

    variable.set("by the caller")
    lifecycle = journal.lifecycle(Unit("a", startup=overwrite, shutdown=look), Unit("b", startup=look, requires=("a",)))
    await lifecycle.start()
    await lifecycle.stop()
    assert ["by the caller", "by the caller", "by a"] == seen


async def test_double_start_and_double_stop_do_nothing(journal):
    """A second start or stop finds everything done."""
    lifecycle = journal.lifecycle(journal.unit("a"))
    await lifecycle.start()
    await lifecycle.start()
    await lifecycle.stop()
    await lifecycle.stop()
    assert ["+a", "-a"] == journal.lines


async def test_stop_before_any_start_does_nothing(journal):
    """There is nothing to stop, and the states say that nothing ever ran."""
    lifecycle = journal.lifecycle(journal.unit("a"))
    await lifecycle.stop()
    assert ServiceState.REGISTERED is lifecycle.state
    assert [] == journal.events


async def test_start_after_stop(journal):
    """A lifecycle can be started again."""
    lifecycle = journal.lifecycle(journal.unit("a"))
    for _ in range(2):
        await lifecycle.start()
        await lifecycle.stop()
    assert ["+a", "-a"] * 2 == journal.lines


async def test_a_host_without_services_starts_and_stops(journal):
    """Nothing to start is a start too."""
    lifecycle = journal.lifecycle()
    await lifecycle.start()
    assert RUNNING is lifecycle.state
    await lifecycle.stop()
    assert STOPPED is lifecycle.state


async def test_concurrent_starts_are_one(journal):
    """Ten callers share one start and one stop."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a"))
    for operation in (lifecycle.start, lifecycle.stop):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(operation)
    assert ["+a", "+b", "-b", "-a"] == journal.lines


async def test_start_and_stop_from_different_tasks(journal):
    """The task that stops need not be the one that started, which may be long gone."""
    lifecycle = journal.lifecycle(journal.unit("a"))
    async with anyio.create_task_group() as group:
        group.start_soon(lifecycle.start)
    async with anyio.create_task_group() as group:
        group.start_soon(lifecycle.stop)
    assert ["+a", "-a"] == journal.lines


async def test_times_and_critical_path(journal):
    """The chain that the start waited for is named, with the seconds of each service."""
    lifecycle = journal.lifecycle(
        journal.unit("quick"),
        journal.unit("slow", up=lambda: anyio.sleep(0.3)),
        journal.unit("top", "quick", "slow"),
    )
    await lifecycle.start()
    await lifecycle.stop()
    assert ("slow", "top") == lifecycle.critical_path
    assert ["quick", "slow", "top"] == [name for name, _, _ in lifecycle.timeline()]
    assert lifecycle.started_in["slow"] >= 0.25 > lifecycle.started_in["quick"]


# --- failed starts ----------------------------------------------------------------------------------------


async def test_failed_start_is_undone(journal):
    """Services that had started are stopped again, the failed one too, and the error says all of it."""
    boom = ValueError("boom")
    lifecycle = journal.lifecycle(
        journal.unit("a"),
        journal.unit("b", "a", up=raising(boom), hints=lambda: ["is it on?"]),
        journal.unit("c", "b"),
    )
    with pytest.raises(
        StartupError, match=r"1 of 3 services failed to start.*\n  b \(Fake\) after .*boom\n    is it on"
    ) as caught:
        await lifecycle.start()
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    error = caught.value
    assert ({"b": boom}, ("a",), ("c",)) == (error.errors, error.rolled_back, error.not_started)
    assert boom is error.__cause__
    assert {"a": STOPPED, "b": FAILED, "c": ServiceState.REGISTERED} == lifecycle.states


async def test_a_failed_start_interrupts_the_others(journal):
    """A service that is still starting is cut off at once and stopped as well."""
    lifecycle = journal.lifecycle(
        journal.unit("slow", up=anyio.sleep_forever), journal.unit("b", up=raising(OSError("no")))
    )
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert ["b"] == list(caught.value.errors)
    assert ["+b", "+slow", "-b", "-slow"] == sorted(journal.lines, key=lambda line: (line[0] == "-", line))


async def test_errors_of_the_rollback_are_attached(journal):
    """What a stop raises during the rollback is in the error too, and prevents no other stop."""
    sad = RuntimeError("sad")
    lifecycle = journal.lifecycle(
        journal.unit("a"), journal.unit("b", "a", down=raising(sad)), journal.unit("c", "b", up=raising(OSError("no")))
    )
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert {"b": sad} == caught.value.stop_errors
    assert ["+a", "+b", "+c", "-c", "-b", "-a"] == journal.lines


async def test_late_start_is_cut_off(journal):
    """on_startup that takes longer than its start_timeout fails, with the line where it was waiting."""
    lifecycle = journal.lifecycle(journal.unit("a", up=anyio.sleep_forever, start_timeout=0.02))
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert isinstance(caught.value.errors["a"], ServiceTimeoutError)
    assert "test_lifecycle.py:" in str(caught.value)
    assert ["+a", "-a"] == journal.lines


async def test_whole_start_has_a_limit(journal):
    """start_timeout of the lifecycle bounds the start of all services together."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", up=anyio.sleep_forever), start_timeout=0.02)
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert ["b"] == list(caught.value.errors)
    assert ["+a", "+b", "-b", "-a"] == journal.lines


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_exit_in_a_start_undoes_everything_first(journal, kind):
    """SystemExit in on_startup is raised as itself, once the rest has been stopped."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", up=raising(kind(3))))
    with pytest.raises(kind) as caught:
        await lifecycle.start()
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert "1 of 2 services failed to start" in caught.value.__notes__[0]


async def test_start_again_after_a_failure(journal):
    """A failed start leaves nothing behind that would prevent the next."""
    attempts = iter([OSError("no"), None])

    async def up() -> None:
        error = next(attempts)
        if error is not None:
            raise error

    lifecycle = journal.lifecycle(journal.unit("a", up=up))
    with pytest.raises(StartupError):
        await lifecycle.start()
    await lifecycle.start()
    assert RUNNING is lifecycle.state
    await lifecycle.stop()
    assert ["+a", "-a"] * 2 == journal.lines


# --- cancelled starts -------------------------------------------------------------------------------------


async def test_cancelled_start_is_undone_before_it_returns(journal):
    """A caller that gives up gets its cancellation when everything has been stopped again."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", up=anyio.sleep_forever))
    await cancelled_when(lambda: "+b" in journal.lines, lifecycle.start)
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert STOPPED is lifecycle.state


async def test_one_of_two_callers_gives_up(journal):
    """The start goes on for the other caller."""
    gate = anyio.Event()
    lifecycle = journal.lifecycle(journal.unit("a", up=gate.wait))
    async with anyio.create_task_group() as group:
        group.start_soon(lifecycle.start)
        await until(lambda: journal.lines == ["+a"])
        with anyio.move_on_after(0.01) as scope:
            await lifecycle.start()
        assert scope.cancelled_caught
        gate.set()
    assert RUNNING is lifecycle.state
    await lifecycle.stop()


async def test_stop_during_start_calls_it_off(journal):
    """Both return when the start has been undone; the starter learns why."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", up=anyio.sleep_forever))
    outcome: list[Exception] = []

    async def start() -> None:
        try:
            await lifecycle.start()
        except StartupCancelledError as error:
            outcome.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(start)
        await until(lambda: "+b" in journal.lines)
        await lifecycle.stop(reason="SIGTERM")
        assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert ["The start was called off and undone: SIGTERM"] == [str(error) for error in outcome]


async def test_start_during_stop_is_refused(journal):
    """The error names the state and what to do."""
    gate = anyio.Event()
    lifecycle = journal.lifecycle(journal.unit("a", down=gate.wait))
    await lifecycle.start()
    async with anyio.create_task_group() as group:
        group.start_soon(lifecycle.stop)
        await until(lambda: "-a" in journal.lines)
        with pytest.raises(IllegalStateError, match="Can't start while stopping: wait"):
            await lifecycle.start()
        gate.set()
    assert STOPPED is lifecycle.state


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_cancellations_pierce_shields_but_leave_nothing_half_done(journal, anyio_backend):
    """However often asyncio cancels the caller, start() raises only when all is undone."""
    gate = asyncio.Event()
    lifecycle = journal.lifecycle(journal.unit("a", down=gate.wait), journal.unit("b", "a", up=anyio.sleep_forever))
    task = asyncio.ensure_future(lifecycle.start())
    await until(lambda: "+b" in journal.lines)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0.001)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["+a", "+b", "-b", "-a"] == journal.lines


# --- stops that fail or hang ------------------------------------------------------------------------------


async def test_stop_goes_on_past_errors(journal):
    """Every error of a stop is reported, and none prevents another stop; a stray cancellation is one of them."""
    sad, odd = RuntimeError("sad"), anyio.get_cancelled_exc_class()
    stray = asyncio.CancelledError("stray") if odd is asyncio.CancelledError else OSError("stray")
    lifecycle = journal.lifecycle(
        journal.unit("a"), journal.unit("b", "a", down=raising(sad)), journal.unit("c", "b", down=raising(stray))
    )
    await lifecycle.start()
    with pytest.raises(ShutdownError) as caught:
        await lifecycle.stop()
    assert ["+a", "+b", "+c", "-c", "-b", "-a"] == journal.lines
    assert {"c": stray, "b": sad} == caught.value.errors
    assert STOPPED is lifecycle.state


async def test_an_exit_in_a_stop_prevents_no_other(journal):
    """SystemExit in on_shutdown is raised as itself, once everything has been stopped."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", down=raising(SystemExit(7))))
    await lifecycle.start()
    with pytest.raises(SystemExit) as caught:
        await lifecycle.stop()
    assert 7 == caught.value.code
    assert ["+a", "+b", "-b", "-a"] == journal.lines


async def test_late_stop_is_cut_off_and_named(journal):
    """A service that overruns its stop_timeout is interrupted; the report says where it was waiting."""
    lifecycle = journal.lifecycle(
        journal.unit("a"), journal.unit("b", "a", down=anyio.sleep_forever, stop_timeout=0.02)
    )
    await lifecycle.start()
    with pytest.raises(
        ShutdownError, match=r"b hung, last waiting at .*test_lifecycle\.py:\d+ in .*shutdown"
    ) as caught:
        await lifecycle.stop()
    assert ["b"] == list(caught.value.hung)
    assert {} == caught.value.errors
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert ["b"] == [event.service for event in journal.of(ServiceHung)]
    assert ("b",) == journal.of(HostStopped)[0].culprits


async def test_a_service_that_never_returns_is_left_behind(journal):
    """The budget holds although every service of a chain hangs and reacts to nothing; each is asked once."""
    names = ["a", "b", "c", "d"]
    lifecycle = journal.lifecycle(
        *(journal.unit(name, *names[:index][-1:], down=hang) for index, name in enumerate(names)), stop_timeout=0.3
    )
    await lifecycle.start()
    began = time.perf_counter()
    with pytest.raises(ShutdownError) as caught:
        await lifecycle.stop()
    assert time.perf_counter() - began < 8.0  # the budget and the slowness of the machine; each alone has ten seconds
    assert ["-d", "-c", "-b", "-a"] == journal.lines[4:]
    assert {"d", "c", "b", "a"} == set(caught.value.hung)
    assert {FAILED} == set(lifecycle.states.values())


async def test_a_loop_that_does_not_let_go_is_stopped_elsewhere(journal):
    """on_shutdown of a service whose on_run ignores cancellation is called in another task, and frees it."""
    free = anyio.Event()

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await free.wait()

    async def down() -> None:
        free.set()

    lifecycle = journal.lifecycle(journal.unit("a", run=run, down=down, stop_timeout=0.1))
    await lifecycle.start()
    with pytest.raises(ShutdownError, match=r"in .*run"):
        await lifecycle.stop()
    assert ["+a", "-a"] == journal.lines


async def test_cancelled_stop_goes_on_to_its_end(journal):
    """The cancellation of the caller of stop() arrives when everything has been stopped."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", down=lambda: anyio.sleep(0.03)))
    await lifecycle.start()
    await cancelled_when(lambda: "-b" in journal.lines, lifecycle.stop)
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert STOPPED is lifecycle.state


async def test_hurry_shortens_a_stop_under_way(journal):
    """A second signal leaves less time to a service that hangs."""
    lifecycle = journal.lifecycle(journal.unit("a", down=anyio.sleep_forever))
    await lifecycle.start()
    began = time.perf_counter()
    async with anyio.create_task_group() as group:

        async def stop() -> None:
            with pytest.raises(ShutdownError):
                await lifecycle.stop()

        group.start_soon(stop)
        await until(lambda: "-a" in journal.lines)
        lifecycle.hurry(0.05)
    assert time.perf_counter() - began < 8.0  # without it: the service's ten seconds


async def test_a_service_may_ask_for_the_stop_of_all(journal):
    """on_run that calls stop() is cancelled by it rather than waiting for its own end."""
    lifecycle = None
    gate = anyio.Event()

    async def run() -> None:
        await gate.wait()
        await lifecycle.stop(reason="a has enough")

    lifecycle = journal.lifecycle(journal.unit("a", run=run), journal.unit("b", "a"))
    await lifecycle.start()
    gate.set()
    await lifecycle.wait_failed()
    assert ["+a", "+b", "-b", "-a"] == journal.lines
    assert "a has enough" == journal.of(HostStopping)[0].reason
    assert [] == journal.of(ServiceHung)


# --- what authors do in their hooks -----------------------------------------------------------------------


class Grouped:
    """A service that keeps a task group open from on_startup to on_shutdown."""

    def __init__(
        self, *children: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]] = nothing
    ) -> None:
        self.children, self.after = children, after
        self.begun = self.quiet = False

    async def startup(self) -> None:
        self.begun = True
        self.group = anyio.create_task_group()
        await self.group.__aenter__()
        for child in self.children:
            self.group.start_soon(child)
        await self.after()

    async def shutdown(self) -> None:
        self.group.cancel_scope.cancel()
        await self.group.__aexit__(None, None, None)
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            assert 0 == asyncio.current_task().cancelling()
        with anyio.fail_after(30):
            await anyio.sleep(0.001)
        self.quiet = True

    def unit(self, name: str = "grouped", **options) -> Unit:
        return Unit(name, startup=self.startup, shutdown=self.shutdown, **options)


async def test_a_task_group_may_stay_open_between_the_hooks(journal):
    """It is opened in on_startup and closed in on_shutdown."""
    service = Grouped(anyio.sleep_forever)
    lifecycle = journal.lifecycle(service.unit(run=anyio.sleep_forever))
    await lifecycle.start()
    await lifecycle.stop()
    assert service.quiet


async def test_a_task_group_is_closed_after_a_start_that_was_cut_off(journal):
    """on_shutdown runs undisturbed although the start around it was cancelled."""
    service = Grouped(anyio.sleep_forever, after=anyio.sleep_forever)
    lifecycle = journal.lifecycle(service.unit(start_timeout=0.02))
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert service.quiet
    assert {} == caught.value.stop_errors


async def test_a_task_group_is_closed_when_the_start_is_cancelled(journal):
    """A caller that gives up disturbs no on_shutdown either."""
    service = Grouped(anyio.sleep_forever, after=anyio.sleep_forever)
    lifecycle = journal.lifecycle(service.unit())
    await cancelled_when(lambda: service.begun, lifecycle.start)
    assert service.quiet


async def test_a_failed_child_task_is_a_crash_of_its_service(journal):
    """An error in a task group that spans the hooks is handled by the restart policy, and named."""
    errors = iter([OSError("child"), None])
    gate = anyio.Event()

    async def child() -> None:
        await gate.wait()
        error = next(errors)
        if error is not None:
            raise error

    service = Grouped(child)

    async def shutdown() -> None:
        await service.group.__aexit__(None, None, None)

    lifecycle = journal.lifecycle(
        Unit("a", startup=service.startup, shutdown=shutdown, restart=Restart.transient(delay=0.001))
    )
    await lifecycle.start()
    gate.set()
    await until(lambda: bool(journal.of(ServiceRestarting)) and lifecycle.state is RUNNING)
    await lifecycle.stop()
    (crash,) = journal.of(ServiceCrashed)
    assert "child" in repr(crash.error)


async def test_a_failed_child_task_is_why_a_start_failed(journal):
    """An error in a task group that fails while on_startup still runs is the error of the start."""
    service = Grouped(raising(OSError("child")), after=anyio.sleep_forever)

    async def shutdown() -> None:
        await service.group.__aexit__(None, None, None)

    lifecycle = journal.lifecycle(Unit("a", startup=service.startup, shutdown=shutdown))
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert "child" in repr(caught.value.errors["a"])
    assert {} == caught.value.stop_errors


async def test_a_task_group_left_open_is_reported(journal):
    """on_shutdown that doesn't close what on_startup opened is an error, and the others are stopped."""
    service = Grouped(anyio.sleep_forever)
    lifecycle = journal.lifecycle(
        journal.unit("a"), Unit("b", startup=service.startup, shutdown=nothing, requires=("a",))
    )
    await lifecycle.start()
    with pytest.raises(ShutdownError, match=r"b: .*task group or cancel scope"):
        await lifecycle.stop()
    assert ["+a", "-a"] == journal.lines


# --- supervision ------------------------------------------------------------------------------------------


def failing_run(times: int, error: Exception) -> Callable[[], Awaitable[None]]:
    """An on_run that raises so many times before it works."""
    left = iter(range(times))

    async def run() -> None:
        await nothing()
        if next(left, None) is not None:
            raise error
        await anyio.sleep_forever()

    return run


async def test_a_crash_is_answered_with_a_restart(journal):
    """The service is stopped and started again in place; dependents are told twice."""
    told: list[tuple[str, ServiceState]] = []
    boom = OSError("boom")
    lifecycle = journal.lifecycle(
        journal.unit("a", run=failing_run(1, boom), restart=Restart.transient(delay=0.01)),
        journal.unit("b", "a", on_dependency_change=lambda name, state: told.append((name, state))),
    )
    await lifecycle.start()
    await until(lambda: journal.lines.count("+a") == 2 and lifecycle.state is RUNNING)
    await lifecycle.stop()
    assert [("a", DEGRADED), ("a", RUNNING)] == told
    assert [ServiceCrashed("a", boom, ("b",))] == journal.of(ServiceCrashed)
    assert ["-b", "-a"] == journal.lines[-2:]


async def test_exhausted_restarts_stop_the_host(journal):
    """After too many crashes everything is stopped in order, and the failure has the error as its cause."""
    boom = OSError("boom")
    told: list[HostFailedError] = []
    lifecycle = journal.lifecycle(
        journal.unit("a", run=failing_run(9, boom), restart=Restart.transient(max_restarts=2, delay=0.001)),
        journal.unit("b", "a"),
        on_failure=told.append,
    )
    await lifecycle.start()
    with pytest.raises(HostFailedError, match="because 'a' failed: boom") as caught:
        await lifecycle.wait_failed()
    assert boom is caught.value.__cause__
    assert [lifecycle.failure] == told
    assert 3 == journal.lines.count("+a") == journal.lines.count("-a")
    assert "-b" == journal.lines[-1]
    assert FAILED is lifecycle.state
    assert [RestartsExhausted("a", 2, 60.0)] == journal.of(RestartsExhausted)


async def test_a_service_that_is_not_critical_fails_alone(journal):
    """The rest runs on, degraded."""
    lifecycle = journal.lifecycle(
        journal.unit("a", run=failing_run(9, OSError("boom")), restart=Restart.temporary(), critical=False),
        journal.unit("b"),
    )
    await lifecycle.start()
    await until(lambda: lifecycle.states["a"] is FAILED)
    assert (DEGRADED, RUNNING) == (lifecycle.state, lifecycle.states["b"])
    await lifecycle.stop()
    assert 1 == journal.lines.count("-a")


async def test_a_return_is_a_normal_end(journal):
    """on_run of a transient service may return; the service stays up until the stop."""
    lifecycle = journal.lifecycle(journal.unit("a", run=nothing))
    await lifecycle.start()
    await anyio.sleep(0.01)
    assert RUNNING is lifecycle.state
    await lifecycle.stop()
    assert ["+a", "-a"] == journal.lines


async def test_a_permanent_service_may_not_return(journal):
    """on_run that returns is restarted, and escalates when it does so too often."""
    lifecycle = journal.lifecycle(
        journal.unit("a", run=nothing, restart=Restart.permanent(max_restarts=1, delay=0.001))
    )
    await lifecycle.start()
    with pytest.raises(HostFailedError, match="returned too often"):
        await lifecycle.wait_failed()
    assert ["+a", "-a"] * 2 == journal.lines


async def test_stop_interrupts_a_pause_between_restarts(journal):
    """A service that waits for its restart is down already; a stop needn't wait and stops it no second time."""
    lifecycle = journal.lifecycle(
        journal.unit("a", run=failing_run(9, OSError()), restart=Restart.transient(delay=60.0))
    )
    await lifecycle.start()
    await until(lambda: bool(journal.of(ServiceRestarting)))
    await lifecycle.stop()
    assert ["+a", "-a"] == journal.lines
    assert STOPPED is lifecycle.states["a"]


async def test_an_exit_in_on_run_ends_the_host(journal):
    """SystemExit in a background loop stops everything, whatever the policy says."""
    lifecycle = journal.lifecycle(journal.unit("a", run=raising(SystemExit(5)), critical=False), journal.unit("b"))
    await lifecycle.start()
    with pytest.raises(HostFailedError) as caught:
        await lifecycle.wait_failed()
    assert isinstance(caught.value.__cause__, SystemExit)


async def test_a_callback_that_raises_is_reported(journal):
    """on_dependency_change of one service can't break another."""

    def refuse(name: str, state: ServiceState) -> None:
        raise LookupError(name)

    lifecycle = journal.lifecycle(
        journal.unit("a", run=failing_run(1, OSError()), restart=Restart.transient(delay=0.001)),
        journal.unit("b", "a", on_dependency_change=refuse),
    )
    await lifecycle.start()
    await until(lambda: len(journal.of(HookFailed)) == 2)
    await lifecycle.stop()
    assert {("b", "on_dependency_change")} == {(event.service, event.hook) for event in journal.of(HookFailed)}


# --- optional services ------------------------------------------------------------------------------------


async def test_an_optional_service_is_tried_in_the_background(journal):
    """The host runs degraded without it; when it comes up, who wants it is told."""
    works = False
    told: list[tuple[str, ServiceState]] = []

    async def up() -> None:
        if not works:
            raise OSError("refused")

    lifecycle = journal.lifecycle(
        journal.unit("a", up=up, optional=True, restart=Restart.transient(delay=0.001, max_delay=0.002)),
        journal.unit("b", wants=("a",), on_dependency_change=lambda *change: told.append(change)),
    )
    await lifecycle.start()
    assert (DEGRADED, RUNNING) == (lifecycle.state, lifecycle.states["b"])
    assert journal.of(ServiceStartFailed)[0].will_retry
    await until(lambda: journal.lines.count("-a") > 8)
    works = True
    await until(lambda: lifecycle.state is RUNNING)
    await lifecycle.stop()
    assert [("a", RUNNING)] == told
    assert journal.lines.count("+a") == journal.lines.count("-a")
    assert ["-b", "-a"] == journal.lines[-2:]


async def test_optional_services_wait_for_what_they_require(journal):
    """An optional service above one that is down starts as soon as that one runs."""
    works = False

    async def up() -> None:
        if not works:
            raise OSError("refused")

    lifecycle = journal.lifecycle(
        journal.unit("a", up=up, optional=True, restart=Restart.transient(delay=0.001, max_delay=0.002)),
        journal.unit("b", "a", optional=True),
        Unit("plain", requires=("b",), optional=True),
        journal.unit("c"),
    )
    await lifecycle.start()
    assert (DEGRADED, "+b" in journal.lines) == (lifecycle.state, False)
    works = True
    await until(lambda: lifecycle.state in {RUNNING, FAILED})
    await until(lambda: lifecycle.states["b"] is RUNNING)
    await lifecycle.stop()
    assert ["-b", "-a"] == [line for line in journal.lines if line[0] == "-" and line != "-c"][-2:]


async def test_a_mandatory_service_cannot_do_without_what_it_requires(journal):
    """If an optional service fails that a mandatory one requires, the start fails."""
    no = OSError("refused")
    lifecycle = journal.lifecycle(journal.unit("a", up=raising(no), optional=True), journal.unit("b", "a"))
    with pytest.raises(StartupError) as caught:
        await lifecycle.start()
    assert ({"a": no}, ("b",)) == (caught.value.errors, caught.value.not_started)
    assert ["+a", "-a"] == journal.lines


async def test_a_start_that_resists_interruption_keeps_nobody_waiting(journal):
    """An optional service stuck in on_startup counts as failed, also for who requires it later."""
    free = anyio.Event()

    async def up() -> None:
        with anyio.CancelScope(shield=True):
            await free.wait()

    lifecycle = journal.lifecycle(
        journal.unit("a", up=up, optional=True, start_timeout=0.01, stop_timeout=0.1), journal.unit("b", "a")
    )
    with anyio.fail_after(5):
        await lifecycle.start(["a"])
        assert FAILED is lifecycle.states["a"]
        with pytest.raises(StartupError, match="no answer within"):
            await lifecycle.start(["b"])
        with pytest.raises(ShutdownError):
            await lifecycle.stop()
    free.set()
    assert ["+a", "-a"] == journal.lines


# --- groups and restarts on request -----------------------------------------------------------------------


async def test_a_group_starts_with_what_it_requires_and_stops_with_what_needs_it(journal):
    """start(names) and stop(names) follow the edges in their direction."""
    lifecycle = journal.lifecycle(
        journal.unit("a"), journal.unit("b", "a"), journal.unit("c", "b"), journal.unit("other")
    )
    await lifecycle.start(["b"])
    assert ["+a", "+b"] == journal.lines
    assert RUNNING is lifecycle.state
    await lifecycle.start()
    await lifecycle.stop(["b"])
    assert ["-c", "-b"] == journal.lines[4:]
    assert RUNNING is lifecycle.state
    await lifecycle.stop()
    assert ["-a", "-other"] == sorted(journal.lines[6:])


async def test_a_failed_group_leaves_the_rest_running(journal):
    """Only what the failed start itself had started is undone."""
    lifecycle = journal.lifecycle(
        journal.unit("a"), journal.unit("b", "a"), journal.unit("c", "b", up=raising(OSError("no")))
    )
    await lifecycle.start(["a"])
    with pytest.raises(StartupError):
        await lifecycle.start(["c"])
    assert ["+a", "+b", "+c", "-c", "-b"] == journal.lines
    assert RUNNING is lifecycle.state
    await lifecycle.stop()


async def test_restart_takes_the_dependents_along(journal):
    """A service is restarted with all that depends on it, and nothing else."""
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a"), journal.unit("c", "b"))
    await lifecycle.start()
    journal.lines.clear()
    await lifecycle.restart("b")
    assert ["-c", "-b", "+b", "+c"] == journal.lines
    assert RUNNING is lifecycle.state
    await lifecycle.stop()


async def test_restart_needs_something_that_runs(journal):
    """Restarting a stopped host is refused, with what to do instead."""
    lifecycle = journal.lifecycle(journal.unit("a"))
    with pytest.raises(IllegalStateError, match="start first"):
        await lifecycle.restart("a")


async def test_unknown_names_are_refused(journal):
    """The error lists the nearest name."""
    lifecycle = journal.lifecycle(journal.unit("cache"))
    for call in (lifecycle.start(["cahce"]), lifecycle.stop(["cahce"]), lifecycle.restart("cahce")):
        with pytest.raises(ServiceNotFoundError, match="'cache'"):
            await call


async def test_malformed_graphs_are_refused():
    """Rings, unknown dependencies and equal names can't be scheduled."""
    for units, text in [
        ([Unit("a", requires=("b",)), Unit("b", requires=("a",))], "ring"),
        ([Unit("a", requires=("b",))], "not a unit"),
        ([Unit("a"), Unit("a")], "two units"),
    ]:
        with pytest.raises(ValueError, match=text):
            Lifecycle(units, emit=lambda event: None)


# --- the machine around it --------------------------------------------------------------------------------


def tasks_alive() -> int:
    """How many tasks the running loop has, without trio's own."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


async def test_a_blocked_loop_is_reported_with_its_stack(journal):
    """A call that blocks the event loop in on_startup is found, with the service and the line."""

    async def block() -> None:
        time.sleep(1.0)

    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a", up=block), block_threshold=0.05)
    await lifecycle.start()
    await lifecycle.stop()
    report = journal.of(LoopBlocked)[0]
    assert "b" == report.service
    assert "time.sleep(1.0)" in report.stack
    assert report.seconds > 0.1


async def test_no_threads_and_no_tasks_remain(journal):
    """After the stop nothing of the framework runs, and while services run only their own tasks do."""
    tasks, threads = tasks_alive(), threading.active_count()
    lifecycle = journal.lifecycle(journal.unit("a"), journal.unit("b", "a"))
    await lifecycle.start()
    each = 1 if anyio.get_cancelled_exc_class() is asyncio.CancelledError else 2  # trio: a task and its container
    assert (tasks + 2 * each, threads) == (tasks_alive(), threading.active_count())
    await lifecycle.stop()
    assert (tasks, threads) == (tasks_alive(), threading.active_count())


async def test_a_thousand_cycles_grow_nothing(journal):
    """Objects, tasks, threads and file descriptors are the same after 1,000 starts and stops."""
    boom = OSError("boom")
    units = [
        Unit("a", startup=nothing, shutdown=nothing),
        Unit("b", startup=nothing, run=anyio.sleep_forever, shutdown=nothing, requires=("a",)),
        Unit("bad", startup=raising(boom), requires=("b",)),
        Unit("plain", requires=("b",)),
    ]
    lifecycle = Lifecycle(units, emit=lambda event: None)

    async def cycle() -> None:
        await lifecycle.start(["plain"])
        await lifecycle.stop()
        with pytest.raises(StartupError):
            await lifecycle.start()
        boom.__traceback__ = boom.__context__ = None

    def count() -> tuple[int, int, int, int]:
        gc.collect()
        fds = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
        return len(gc.get_objects()), tasks_alive(), threading.active_count(), fds

    for _ in range(20):
        await cycle()
    before = count()
    for _ in range(1000):
        await cycle()
    after = count()
    assert after[0] - before[0] < 200  # a leak of one object for each cycle would be 1,000
    assert [] == [then - now for then, now in zip(before[1:], after[1:], strict=True) if now > then]


def test_a_second_event_loop_is_refused(journal):
    """Services that run on one loop can't be used from another; after a stop they can."""
    lifecycle = journal.lifecycle(journal.unit("a"))

    async def here() -> None:
        await lifecycle.start()
        found: list[BaseException] = []

        async def there() -> None:
            for call in (lifecycle.start(), lifecycle.stop(), lifecycle.restart("a")):
                with pytest.raises(EventLoopError, match="another event loop"):
                    await call
            found.append(EventLoopError())

        await anyio.to_thread.run_sync(anyio.run, there)
        assert 1 == len(found)
        await lifecycle.stop()

    for _ in range(2):
        anyio.run(here)
    assert ["+a", "-a"] * 2 == journal.lines


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_use_after_fork_is_detected():
    """A child process of a fork can't use the services of its parent."""
    code = """
        import anyio, os, warnings
        from svcframework.errors import ForkError
        from svcframework.lifecycle import Lifecycle, Unit
        warnings.simplefilter("ignore")

        async def main():
            lifecycle = Lifecycle([Unit("a", startup=anyio.lowlevel.checkpoint)], emit=lambda event: None)
            await lifecycle.start()
            child = os.fork()
            if not child:
                try:
                    await lifecycle.stop()
                except ForkError as error:
                    os._exit(42 if "its fork" in str(error) else 1)
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
            await lifecycle.stop()

        anyio.run(main)
    """
    assert 0 == subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=60).returncode


def test_order_does_not_depend_on_the_hash_seed():
    """The same declaration gives the same start and stop order in every process."""
    code = """
        import anyio
        from svcframework.lifecycle import Lifecycle, Unit
        lines = []

        def unit(name, *requires):
            async def up(): lines.append("+" + name)
            async def down(): lines.append("-" + name)
            return Unit(name, startup=up, shutdown=down, requires=requires)

        async def main():
            names = [f"service_{number}" for number in range(30)]
            needs = [{names[number // 2], names[number // 3]} - {names[number]} for number in range(30)]
            units = [unit(name, *needs[number]) for number, name in enumerate(names)]
            lifecycle = Lifecycle(units, emit=lambda event: None)
            await lifecycle.start()
            await lifecycle.stop()

        anyio.run(main)
        print(lines)
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in range(4)
    }
    assert 1 == len(found)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_without_a_stop_does_not_hang(journal, backend):
    """Forgetting to stop is not punished: on_shutdown is called while the loop closes, and nothing restarts."""
    lifecycle = journal.lifecycle(
        journal.unit("a", run=anyio.sleep_forever, restart=Restart.permanent(delay=0.0)), journal.unit("b", "a")
    )
    anyio.run(lifecycle.start, backend=backend)
    assert ["+a", "+b", "-a", "-b"] == sorted(journal.lines, key=lambda line: (line[0] == "-", line))
    assert STOPPED is lifecycle.state


def test_stop_errors_reach_the_events(journal):
    """ServiceStopped carries what on_shutdown raised."""
    sad = RuntimeError("sad")

    async def main() -> None:
        lifecycle = journal.lifecycle(journal.unit("a", down=raising(sad)))
        await lifecycle.start()
        with pytest.raises(ShutdownError):
            await lifecycle.stop()

    anyio.run(main)
    assert [sad] == [event.error for event in journal.of(ServiceStopped)]


def test_fork_error_is_a_lifecycle_error():
    """A handler of lifecycle errors catches the wrong uses too."""
    assert issubclass(ForkError, IllegalStateError.__base__)
