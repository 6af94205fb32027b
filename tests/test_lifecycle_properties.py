"""The promises of the lifecycle, on random graphs of services that fail, hang, crash and are cancelled anywhere.

Every schedule runs in virtual time: delays are counted in turns of the event loop, and time jumps ahead whenever
nothing is ready, so a service that hangs for ever costs nothing. `SOAK=20` runs twenty times as many schedules.
"""

from __future__ import annotations

import asyncio
import os
import selectors
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svcframework._types import Restart, ServiceState
from svcframework.errors import (
    HostFailedError,
    IllegalStateError,
    LifecycleError,
    ShutdownError,
    StartupCancelledError,
    StartupError,
)
from svcframework.lifecycle import Lifecycle, Unit

SOAK = int(os.environ.get("SOAK", "1"))
BUDGET = 20.0
"""Seconds of virtual time for a stop."""
FOR_EVER = 1000.0
"""Seconds of virtual time after which a schedule counts as a deadlock."""
MINIMA = {
    ("scripts", "asyncio"): 1500 * SOAK,
    ("scripts", "trio"): 500 * SOAK,
    ("cancelled starts", "asyncio"): 2500 * SOAK,
    ("cancelled starts", "native"): 2500 * SOAK,
    ("cancelled starts", "trio"): 1000 * SOAK,
    ("cancelled stops", "asyncio"): 1000 * SOAK,
    ("cancelled stops", "native"): 1000 * SOAK,
    ("cancelled stops", "trio"): 500 * SOAK,
}
"""Schedules that each test has run, at least."""


# --- virtual time -----------------------------------------------------------------------------------------


class _Selector(selectors.DefaultSelector):
    """Doesn't wait: says how long it was asked to."""

    asked = 0.0

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise DeadlockError
        self.asked += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time is the sum of what it would have waited."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.asked


class DeadlockError(Exception):
    """The loop waits for nothing."""


def run(backend: str, function: Callable[[], Awaitable[None]], broken: list[str]) -> None:
    """Run `function` in virtual time."""
    try:
        _run(backend, function)
    except DeadlockError:
        broken.append("L13: the loop can't be closed")


def _run(backend: str, function: Callable[[], Awaitable[None]]) -> None:
    if backend == "trio":
        import trio
        from trio.testing import MockClock

        async def alarm() -> None:
            await trio.sleep(10 * FOR_EVER)
            raise DeadlockError

        async def main() -> None:
            trio.lowlevel.spawn_system_task(alarm)
            await function()

        try:
            anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
        except trio.TrioInternalError as error:
            raise DeadlockError from error
    else:
        anyio.run(function, backend="asyncio", backend_options={"loop_factory": VirtualLoop})


def tasks_alive() -> int:
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


# --- services that misbehave as planned -------------------------------------------------------------------

OK, RAISE, EXIT, HANG, STUCK, FLAKY = "ok", "raise", "exit", "hang", "stuck", "flaky"


class BoomError(Exception):
    """What a hook raises."""


@dataclass(frozen=True)
class Plan:
    """How one service behaves; `requires` and `wants` are indexes of earlier services."""

    requires: frozenset[int] = frozenset()
    wants: frozenset[int] = frozenset()
    up: tuple[int, str] = (0, OK)
    loop: tuple[int, str] | None = None
    down: tuple[int, str] = (0, OK)
    optional: bool = False
    critical: bool = True
    grouped: bool = False

    def __str__(self) -> str:
        wants = sorted(self.wants - self.requires)
        words = [f"up {self.up}", f"loop {self.loop}", f"down {self.down}", f"requires {sorted(self.requires)}"]
        words += [f"wants {wants}"] * bool(wants) + ["optional"] * self.optional + ["grouped"] * self.grouped
        return ", ".join([*words, *["critical"] * self.critical])

    @property
    def may_be_left_behind(self) -> bool:
        """It doesn't react to being interrupted."""
        return STUCK in {self.up[1], self.down[1], self.loop and self.loop[1]} or self.down[1] == HANG

    @property
    def may_crash(self) -> bool:
        return self.loop is not None and self.loop[1] not in {HANG, STUCK}


@dataclass
class Life:
    """One life of one service, from on_startup to on_shutdown."""

    phase: str = "starting"
    is_undone: bool = False
    number: int = 0


@dataclass
class World:
    """A lifecycle of planned services, and every broken promise that was seen."""

    plans: Sequence[Plan]
    broken: list[str] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)
    stops: dict[str, int] = field(default_factory=dict)
    lives: dict[str, Life] = field(default_factory=dict)
    in_flight: int = 0

    def __post_init__(self) -> None:
        self.free = anyio.Event()
        self.names = [f"s{index}" for index in range(len(self.plans))]
        self.dependents: dict[str, list[str]] = {name: [] for name in self.names}
        for name, plan in zip(self.names, self.plans, strict=True):
            for index in sorted(plan.requires | plan.wants):
                self.dependents[self.names[index]].append(name)
        self.failures: list[HostFailedError] = []
        self.lifecycle = Lifecycle(
            [self._unit(name, plan) for name, plan in zip(self.names, self.plans, strict=True)],
            emit=lambda event: None,
            stop_timeout=BUDGET,
            on_failure=self.failures.append,
            block_threshold=None,
            clock=anyio.current_time,
            random=lambda: 0.5,
        )
        self.tasks_before = tasks_alive()

    def _unit(self, name: str, plan: Plan) -> Unit:
        group: list[Any] = []

        async def up() -> None:
            life = self._enter_start(name, plan)
            try:
                if plan.grouped:
                    group[:] = [anyio.create_task_group()]
                    await group[0].__aenter__()
                    group[0].start_soon(anyio.sleep_forever)
                await self._act(name, *plan.up, times=self.starts[name])
            except BaseException:
                life.phase = "failed" if life.phase == "starting" else life.phase
                raise
            if life.phase == "starting":
                life.phase = "up"

        async def loop() -> None:
            life = self.lives[name]
            try:
                await self._act(name, *plan.loop, times=self.starts[name])
            finally:
                if life.phase == "up":
                    life.phase = "crashed" if plan.loop[1] in {RAISE, EXIT, FLAKY} else "up"

        async def down() -> None:
            life = self._enter_stop(name, plan)
            try:
                if plan.grouped:
                    group[0].cancel_scope.cancel()
                    await group[0].__aexit__(None, None, None)
                await self._act(name, *plan.down, times=self.starts[name])
            finally:
                life.phase = "down"

        return Unit(
            name,
            startup=up,
            run=None if plan.loop is None else loop,
            shutdown=down,
            requires=tuple(self.names[index] for index in sorted(plan.requires)),
            wants=tuple(self.names[index] for index in sorted(plan.wants - plan.requires)),
            start_timeout=5.0,
            stop_timeout=3.0,
            restart=Restart.transient(max_restarts=2, delay=0.5, max_delay=100.0),
            optional=plan.optional,
            critical=plan.critical,
        )

    async def _act(self, name: str, steps: int, outcome: str, *, times: int) -> None:
        await turns(steps)
        if outcome == RAISE or (outcome == FLAKY and times % 3):
            raise BoomError(name)
        if outcome == EXIT:
            raise SystemExit(name)
        if outcome == HANG:
            await anyio.sleep_forever()
        if outcome == STUCK:
            with anyio.CancelScope(shield=True):
                await self.free.wait()

    # --- the promises, checked as it happens ---

    def _enter_start(self, name: str, plan: Plan) -> Life:
        old = self.lives.get(name)
        if old is not None and old.phase != "down" and not plan.may_be_left_behind:
            self.broken.append(f"L1: {name} is started while {old.phase}")
        for index in plan.requires:
            phase = self.lives[self.names[index]].phase if self.names[index] in self.lives else "down"
            if phase != "up" and not self.plans[index].may_crash:
                self.broken.append(f"L3: {name} starts while {self.names[index]} is {phase}")
        self.starts[name] = self.starts.get(name, 0) + 1
        life = self.lives[name] = Life(number=sum(self.starts.values()))
        return life

    def _enter_stop(self, name: str, plan: Plan) -> Life:
        self.stops[name] = self.stops.get(name, 0) + 1
        life = self.lives[name]
        if life.is_undone:
            self.broken.append(f"L1: {name} is stopped twice")
        life.is_undone = True
        if life.phase not in {"failed", "crashed"}:
            for dependent in self.dependents[name]:
                other = self.lives.get(dependent)
                theirs = self.plans[self.names.index(dependent)]
                needs = self.names.index(name) in theirs.requires
                if other is None or (other.number < life.number and not needs):
                    continue  # it only wants this one, and had been started without it
                left_behind = theirs.may_be_left_behind
                if other.phase != "down" and not (other.is_undone and left_behind):
                    self.broken.append(f"L2: {name} is stopped while its dependent {dependent} is {other.phase}")
        life.phase = "stopping"
        return life

    def check_all_is_down(self, where: str) -> None:
        """L1, L4: whatever was started has been stopped, once each."""
        for name in self.names:
            if self.starts.get(name, 0) != self.stops.get(name, 0):
                self.broken.append(f"L1 {where}: {name}: {self.starts.get(name)} starts, {self.stops.get(name)} stops")
            life = self.lives.get(name)
            if life is not None and life.phase != "down" and not self.plans[self.names.index(name)].may_be_left_behind:
                self.broken.append(f"L4 {where}: {name} is {life.phase}")

    async def end(self) -> None:
        """Stop whatever still runs; then nothing may be left."""
        began = anyio.current_time()
        hanging = [
            name
            for name, plan in zip(self.names, self.plans, strict=True)
            if plan.down[1] in {HANG, STUCK} and self.lives.get(name, Life("down")).phase == "up"
        ]
        raising = [
            name
            for name, plan in zip(self.names, self.plans, strict=True)
            if plan.down[1] in {RAISE, EXIT} and self.lives.get(name, Life("down")).phase == "up"
        ]
        if self.lifecycle._operation is not None:
            hanging = raising = []  # a stop because of a failure is under way, and has a budget of its own
        try:
            await self.lifecycle.stop()
        except ShutdownError as error:
            self._check_report(error, hanging, raising)
        except SystemExit as error:
            if not any(plan.down[1] == EXIT for plan in self.plans) or not error.__notes__:
                self.broken.append("L7: SystemExit out of nowhere")
        else:
            if hanging or raising:
                self.broken.append(f"L6/L7: {hanging} hung and {raising} raised, and nobody was told")
        if anyio.current_time() - began > BUDGET + 1e-6:
            self.broken.append(f"L6: the stop took {anyio.current_time() - began} s")
        self.check_all_is_down("at the end")
        if self.lifecycle.state not in {ServiceState.STOPPED, ServiceState.FAILED, ServiceState.REGISTERED}:
            self.broken.append(f"at the end the lifecycle is {self.lifecycle.state}")
        self.free.set()
        await turns(20)
        if tasks_alive() != self.tasks_before:
            self.broken.append(f"L5: {tasks_alive() - self.tasks_before} tasks are left")

    def _check_report(self, error: ShutdownError, hanging: list[str], raising: list[str]) -> None:
        told = set(error.hung) | set(error.errors)
        if not told.issuperset([*hanging, *raising]):
            self.broken.append(f"L6/L7: {hanging} hung and {raising} raised, and the report names {sorted(told)}")
        if not all("test_lifecycle_properties.py" in where for where in error.hung.values()):
            self.broken.append(f"L6: the report doesn't say where: {error.hung}")

    def check_start_error(self, error: BaseException) -> None:
        """L4: the first error is the cause, and the rest is attached."""
        if isinstance(error, StartupError) and error.__cause__ is not next(iter(error.errors.values())):
            self.broken.append(f"L4: the cause of {error} is {error.__cause__!r}")
        known = StartupError | StartupCancelledError | IllegalStateError | SystemExit
        if not isinstance(error, known):
            self.broken.append(f"L4: start raised {error!r}")


# --- strategies -------------------------------------------------------------------------------------------

STEPS = st.integers(0, 3)
UPS = st.sampled_from([OK] * 12 + [RAISE, EXIT, HANG, STUCK, FLAKY])
DOWNS = st.sampled_from([OK] * 12 + [RAISE, EXIT, HANG, STUCK])
LOOPS = st.sampled_from([None, None, None, None, HANG, HANG, OK, RAISE, FLAKY, EXIT, STUCK])


@st.composite
def graphs(draw: st.DrawFn, largest: int, *, calm: bool = False) -> tuple[Plan, ...]:
    """Acyclic graphs of services; in calm ones each start and stop ends by itself."""
    count = draw(st.integers(1, largest))
    plans = []
    for index in range(count):
        sources = st.frozensets(st.integers(0, index - 1), max_size=3) if index else st.just(frozenset())
        up, down, loop = draw(UPS), draw(DOWNS), draw(LOOPS)
        if calm:
            up, down = (OK if hook in {HANG, STUCK, FLAKY} else hook for hook in (up, down))
            loop = None if loop is None else HANG
        plan = Plan(
            requires=draw(sources),
            wants=draw(sources) if draw(st.booleans()) else frozenset(),
            up=(draw(STEPS), up),
            loop=None if loop is None else (draw(STEPS), loop),
            down=(draw(STEPS), down),
            optional=draw(st.integers(0, 3)) == 0,
            critical=draw(st.booleans()),
        )
        grouped = not plan.may_be_left_behind and draw(st.booleans())
        plans.append(Plan(**{**vars(plan), "grouped": grouped}))
    return tuple(plans)


def story(plans: Sequence[Plan], commands: Sequence[object] = ()) -> str:
    """A schedule as one reads it."""
    return "\n".join([f"s{index}: {plan}" for index, plan in enumerate(plans)] + [str(each) for each in commands])


COMMANDS = st.lists(
    st.tuples(
        st.integers(0, 12),  # turns of the loop before it
        st.sampled_from(
            ["start", "start", "start", "stop", "stop", "start one", "stop one", "restart", "hurry", "wait"]
        ),
        st.integers(0, 29),  # which service
        st.none() | st.integers(0, 20),  # turns until its caller is cancelled
    ),
    min_size=1,
    max_size=6,
)


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


# --- schedules --------------------------------------------------------------------------------------------


async def play(world: World, commands: Sequence[tuple[int, str, int, int | None]]) -> None:
    """Give all commands, each from a task of its own, then stop for good."""

    async def give(verb: str, which: int, patience: int | None) -> None:
        name = world.names[which % len(world.names)]
        calls = {
            "start": world.lifecycle.start,
            "stop": lambda: world.lifecycle.stop(timeout=BUDGET),
            "start one": lambda: world.lifecycle.start([name]),
            "stop one": lambda: world.lifecycle.stop([name]),
            "restart": lambda: world.lifecycle.restart(name),
        }
        scope = anyio.CancelScope()

        async def cancel() -> None:
            await turns(patience)
            scope.cancel()

        async with anyio.create_task_group() as group:
            if patience is not None:
                group.start_soon(cancel)
            world.in_flight += 1
            with scope:
                try:
                    await calls[verb]()
                except (LifecycleError, SystemExit) as error:
                    if verb.startswith("start"):
                        world.check_start_error(error)
            world.in_flight -= 1
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for pause, verb, which, patience in commands:
            await turns(pause)
            if verb == "hurry":
                world.lifecycle.hurry(1.0)
            elif verb == "wait":
                await anyio.sleep(0.3)
            else:
                group.start_soon(give, verb, which, patience)
    if world.lifecycle._operation is None and world.lifecycle.state is ServiceState.STOPPED:
        world.check_all_is_down("after the commands")
    await world.end()


async def cancelled(
    backend: str, function: Callable[[], Awaitable[None]], turn: int
) -> tuple[bool, BaseException | None]:
    """Call `function` and cancel it after so many turns; whether that came in time, and what it raised."""
    outcome: list[BaseException | None] = []
    scope = anyio.CancelScope()

    async def victim() -> None:
        try:
            with scope:
                await function()
                outcome.append(None)
        except (LifecycleError, SystemExit) as error:
            outcome.append(error)

    if backend == "native":
        task = asyncio.ensure_future(victim())
        await anyio.lowlevel.checkpoint()  # a task that is cancelled before its first step never calls anything
        for _ in range(turn):
            if task.done():
                break
            await anyio.lowlevel.checkpoint()
        task.cancel()
        await asyncio.wait([task])
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            for _ in range(turn):
                if outcome:
                    break
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    return not outcome, outcome[0] if outcome else None


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.timeout(300 * SOAK)
def test_promises_hold_for_any_commands(backend):
    """L1-L7, L10, L11, L13, L15: commands from many tasks at once, in any order, some of them cancelled."""
    ran = 0
    minimum = MINIMA["scripts", backend]

    @examples(minimum)
    @given(plans=graphs(30), commands=COMMANDS)
    def check(plans, commands):
        nonlocal ran
        ran += 1
        world: list[World] = []

        async def main() -> None:
            world.append(World(plans))
            with anyio.move_on_after(FOR_EVER) as scope:
                await play(world[0], commands)
            if scope.cancelled_caught:
                world[0].broken.append("L13: deadlock")
                world[0].free.set()

        run(backend, main, broken := [])
        assert [] == [*world[0].broken, *broken], story(plans, commands)

    check()
    assert ran >= minimum


@pytest.mark.parametrize("backend", ["asyncio", "native", "trio"])
@pytest.mark.timeout(300 * SOAK)
def test_promises_hold_for_a_start_cancelled_anywhere(backend):
    """L8: start() is cancelled at each turn of the loop; it raises when all is undone, and can start again."""
    ran = 0
    minimum = MINIMA["cancelled starts", backend]

    @examples(minimum // 9)  # a graph gives about fifteen schedules: enough to spare
    @given(plans=graphs(6))
    def check(plans):
        nonlocal ran
        broken: list[str] = []

        async def main() -> None:
            nonlocal ran
            for turn in range(60):
                ran += 1
                world = World(plans)
                with anyio.move_on_after(FOR_EVER) as scope:
                    was_cancelled, error = await cancelled(backend, world.lifecycle.start, turn)
                    if error is not None:
                        world.check_start_error(error)
                    if was_cancelled or error is not None:
                        world.check_all_is_down(f"after a start cancelled at turn {turn}")
                    await world.end()
                broken.extend(world.broken)
                if scope.cancelled_caught:
                    world.free.set()
                    broken.append(f"L13: deadlock after a cancellation at turn {turn}")
                if not was_cancelled or broken:
                    break

        run(backend, main, broken)
        assert [] == broken, story(plans)

    check()
    assert ran >= minimum


@pytest.mark.parametrize("backend", ["asyncio", "native", "trio"])
@pytest.mark.timeout(300 * SOAK)
def test_promises_hold_for_a_stop_cancelled_anywhere(backend):
    """L8: stop() is cancelled at each turn of the loop; it goes on to its end before it raises."""
    ran = 0
    minimum = MINIMA["cancelled stops", backend]

    @examples(minimum // 6)
    @given(plans=graphs(6))
    def check(plans):
        nonlocal ran
        plans = tuple(Plan(**{**vars(plan), "up": (plan.up[0], OK)}) for plan in plans)
        broken: list[str] = []

        async def main() -> None:
            nonlocal ran
            for turn in range(60):
                ran += 1
                world = World(plans)
                with anyio.move_on_after(FOR_EVER) as scope:
                    try:
                        await world.lifecycle.start()
                    except (LifecycleError, SystemExit) as error:
                        world.check_start_error(error)
                    began = anyio.current_time()
                    was_cancelled, _ = await cancelled(backend, world.lifecycle.stop, turn)
                    if anyio.current_time() - began > BUDGET + 1e-6:
                        broken.append(f"L6: a cancelled stop took {anyio.current_time() - began} s")
                    world.check_all_is_down(f"after a stop cancelled at turn {turn}")
                    await world.end()
                broken.extend(world.broken)
                if scope.cancelled_caught:
                    world.free.set()
                    broken.append(f"L13: deadlock after a cancellation at turn {turn}")
                if not was_cancelled or broken:
                    break

        run(backend, main, broken)
        assert [] == broken, story(plans)

    check()
    assert ran >= minimum


def test_enough_schedules_are_run():
    """Together the tests above run ten thousand schedules."""
    assert sum(MINIMA.values()) >= 10_000 * SOAK
