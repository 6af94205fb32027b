"""Ticks keep their rate, never catch up in a burst, and end when asked. Time is virtual on both backends."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from svcframework import BaseService, ServiceHost
from svcframework.testing.virtualtime import virtual_backend
from svcframework.ticks import StopSignal, Tick, every, stop_signal


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with clocks that jump."""
    return virtual_backend(request.param)


async def test_first_tick_comes_at_once_and_the_rate_does_not_drift() -> None:
    """Beats fall on multiples of the interval, whatever the body takes."""
    start, at = anyio.current_time(), []
    async for tick in every(10.0):
        at.append(round(anyio.current_time() - start, 6))
        await anyio.sleep(3)
        if tick.number == 4:
            break
    assert [0, 10, 20, 30] == at


async def test_delay_puts_off_the_first_tick() -> None:
    """The first beat comes after the delay, the second an interval later."""
    start, at = anyio.current_time(), []
    async for tick in every(10.0, delay=5.0):
        at.append(round(anyio.current_time() - start, 6))
        if tick.number == 2:
            break
    assert [5, 15] == at


async def test_slow_body_leaves_beats_out() -> None:
    """Beats that fell into the body are counted as missed and not made up for; the one that is due comes late."""
    start, seen = anyio.current_time(), []
    async for tick in every(10.0):
        seen.append((round(anyio.current_time() - start, 6), tick.missed, round(tick.late, 6)))
        if tick.number == 3:
            break
        await anyio.sleep(35 if tick.number == 1 else 0)
    assert [(0, 0, 0), (35, 2, 5), (40, 0, 0)] == seen


async def test_stop_ends_the_wait() -> None:
    """A loop that waits for its next beat ends at once when it is asked to stop."""
    stop, beats = StopSignal(), []

    async def work() -> None:
        async for tick in every(1000.0, stop=stop):
            beats.append(tick)

    before = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await anyio.sleep(5)
        stop.set()
    assert (5.0, [Tick(1)]) == (anyio.current_time() - before, beats)


async def test_stop_lets_the_body_finish() -> None:
    """A body that runs when the loop is asked to stop is finished; no further beat follows."""
    finished = 0
    with StopSignal().bound() as stop:
        async for _ in every(1.0):
            stop.set()
            await anyio.sleep(10)
            finished += 1
    assert 1 == finished
    assert stop.is_heeded


async def test_signal_is_inherited_by_what_is_started_within() -> None:
    """A bound signal is seen by child tasks, and by nobody after the block."""
    seen = []

    async def child() -> None:
        seen.append(stop_signal())

    with StopSignal().bound() as stop:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
    assert [stop] == seen
    assert stop_signal() is None
    assert not stop.is_heeded


async def test_cancellation_ends_it_like_any_other_code() -> None:
    """Without a signal a loop can be cancelled in its wait and in its body."""
    beats = []
    with anyio.move_on_after(25):
        async for tick in every(10.0):
            beats.append(tick.number)
    assert [1, 2, 3] == beats


async def test_busy_loop_lets_others_run() -> None:
    """A body that always takes too long does not keep other tasks from running, and can be stopped."""
    others = 0

    async def other() -> None:
        nonlocal others
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
            others += 1

    with StopSignal().bound() as stop:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            ticks = every(1e-9)
            async for _ in ticks:
                if others == 10:
                    stop.set()
    assert 10 == others


@pytest.mark.parametrize(("seconds", "delay"), [(0, 0), (-1, 0), (float("nan"), 0), (1, -1)])
def test_wrong_figures_are_refused(seconds: float, delay: float) -> None:
    """An interval that is not above zero and a negative delay are named in the error."""
    with pytest.raises(ValueError, match=r"every\("):
        every(seconds, delay=delay)


async def test_host_lets_a_beat_finish() -> None:
    """A service that stops in the middle of a beat ends that beat, and begins no other."""
    entered = anyio.Event()

    class Beating(BaseService):
        begun = ended = 0

        async def on_run(self) -> None:
            async for _ in every(0.001):
                self.begun += 1
                entered.set()
                await anyio.sleep(0.05)
                self.ended += 1

    host = ServiceHost()
    host.register(Beating)
    async with host:
        await entered.wait()
    service = host[Beating]
    assert service.begun == service.ended > 0
