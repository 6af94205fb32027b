"""The arithmetic of the benchmarks: what becomes of times that were taken. Nothing here is timed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from benchmarks.data.contract import BYTES, ITEMS, Operation, Receiver
from benchmarks.data.goals import GOALS, verdicts
from benchmarks.data.measure import calibrate, once, quantile, throughput
from benchmarks.data.report import DataResult, DataRun, as_markdown, significant, winners
from benchmarks.data.rows import ROWS, check_received, check_values, number_in
from benchmarks.data.servers import Cpu, cpu_seconds
from benchmarks.measure import summarise
from benchmarks.workloads import WrongResultError


@pytest.fixture
def anyio_backend() -> str:
    """The benchmarks run on asyncio."""
    return "asyncio"


def result(key: str, times: dict[str, list[float]]) -> DataResult:
    """A row with these times of its contestants, round by round."""
    row = next(row for row in ROWS if row.key == key)
    found = DataResult.of(row)
    found.timings = summarise(times, baseline=row.baseline)
    return found


def test_ratio_is_that_of_the_same_round() -> None:
    """A machine that slows down slows both: the ratio doesn't move."""
    timings = summarise({"base": [1.0, 2.0, 8.0], "other": [0.5, 1.0, 4.0]}, baseline="base")

    assert (0.5, 1.0) == (timings["other"].ratio, timings["base"].ratio)
    assert 2.0 == timings["base"].median


def test_rate_is_shown_with_its_ratio_and_spread() -> None:
    """Half the seconds are twice the rate; the baseline has no ratio."""
    run = DataRun("2026-11-25", {}, 3, 10)
    run.results["redis-get"] = result("redis-get", {"redis-py": [2e-4] * 3, "svcframework": [1e-4] * 3})

    page = as_markdown(run)

    assert "| svcframework | **2.00** (10,000 ±0 %) |" in page
    assert "| redis-py | 5,000 ±0 % |" in page
    assert "| Redis: GET, one task | at least 0.9 x redis-py | 2.00 | kept |" in page
    assert "Nowhere in this run." in page


def test_peer_that_is_ahead_is_named() -> None:
    """So is a goal that is missed."""
    run = DataRun("2026-11-25", {}, 3, 10)
    run.results["redis-get"] = result("redis-get", {"redis-py": [1e-4] * 3, "svcframework": [2e-4] * 3})

    page = as_markdown(run)

    assert "redis-py is ahead of svcframework (2.00 times as good)" in page
    assert "0.50 | **missed** |" in page


def test_limit_and_yardstick_win_nothing() -> None:
    """The best library is bold, with whoever is within a tenth of it."""
    assert {"b", "c"} == winners(result("redis-get", {"hand": [1.0], "redis-py": [9.0], "b": [2.0], "c": [2.1]}))
    assert {"b"} == winners(result("cache-hit", {"hand": [1.1], "bare await": [1.0], "b": [2.0], "c": [9.0]}))


@pytest.mark.parametrize(
    ("row", "times", "kept"),
    [
        ("pg-one-50", {"asyncpg pool": [1.7], "svcframework": [1.0]}, True),
        ("pg-one-50", {"asyncpg pool": [1.6], "svcframework": [1.0]}, False),
        ("redis-latency", {"redis-py": [1.0], "svcframework": [0.3e-3]}, True),
        ("cache-hit", {"bare await": [1.0e-7], "svcframework": [3.9e-7]}, True),
        ("cache-hit", {"bare await": [1.0e-7], "svcframework": [4.1e-7]}, False),
    ],
)
def test_goal_is_kept_or_missed(row: str, times: dict[str, list[float]], kept: bool) -> None:
    """A ratio, a time, and a time beyond the baseline."""
    assert [kept] == [verdict.kept for verdict in verdicts({row: result(row, times)})]


def test_every_goal_is_about_a_row() -> None:
    """A goal whose row nobody measures would never be missed."""
    assert set() == {goal.row for goal in GOALS} - {row.key for row in ROWS}


def test_digits_that_mean_nothing_are_left_out() -> None:
    """Three are enough."""
    assert ["7", "1,230", "161,000"] == [significant(rate) for rate in (7.4, 1234.5, 161_432.0)]


def test_quantile_is_below_what_it_says() -> None:
    """The median and the hundredth."""
    values = [float(number) for number in range(101)]

    assert (50.0, 99.0) == (quantile(values, 0.5), quantile(values, 0.99))


def test_number_is_found_in_any_envelope() -> None:
    """As text, as bytes, escaped in another JSON, or parsed already."""
    text = '{"id":   12, "event": "x"}'

    assert [12] * 4 == [
        number_in(m) for m in (text, text.encode(), '{"data": "{\\"id\\":   12, \\"e\\"}"}', {"id": 12})
    ]


async def test_contestant_with_swapped_answers_is_not_timed() -> None:
    """Fifty tasks at a time, each must get its own value."""

    async def right(index: int) -> bytes:
        return BYTES[index % ITEMS]

    async def swapped(index: int) -> bytes:
        return BYTES[index ^ 1]

    bench: Any = None
    await check_values(bench, right)
    with pytest.raises(WrongResultError):
        await check_values(bench, swapped)


async def test_message_that_is_lost_or_out_of_order_is_found() -> None:
    """A receiver is only timed if all messages come, in order."""

    class Silent:
        async def load(self, *_: object) -> None: ...
        async def send(self, _: int) -> None: ...

    feeder: Any = Silent()

    async def in_order(count: int) -> list[bytes]:
        return [BYTES[index % ITEMS] for index in range(count)]

    async def backwards(count: int) -> list[bytes]:
        return list(reversed(await in_order(count)))

    await check_received(Receiver(in_order, "c"), feeder)
    with pytest.raises(WrongResultError):
        await check_received(Receiver(backwards, "c"), feeder)


async def test_each_operation_runs_once() -> None:
    """Whatever the number of tasks; neighbours run together."""
    seen: list[int] = []

    async def note(index: int) -> int:
        seen.append(index)
        return index

    operation = Operation("await note(i)", {"note": note})
    await throughput(operation, tasks=50, cpu=Cpu(psutil.Process().pid))(120)

    assert sorted(seen) == list(range(120))
    assert 7 == await once(operation)(7)


async def test_turn_is_as_long_as_asked_for() -> None:
    """The count follows from what a shorter turn took."""

    async def turn(count: int) -> float:
        return count / 1000

    assert 2000 == await calibrate(turn, 2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such clock")
def test_cpu_clock_of_another_process_is_its_own() -> None:
    """What the parent has used agrees with what the system says of it."""
    parent = psutil.Process().parent()
    assert parent is not None

    times = parent.cpu_times()

    assert abs(times.user + times.system - cpu_seconds(parent)) < 1.0 + 0.1 * cpu_seconds(parent)


def test_own_work_counts_once() -> None:
    """The clock of this process grows as it works, the waiting server's doesn't."""
    cpu = Cpu(psutil.Process().pid)
    cpu.start()
    started = time.process_time()
    while time.process_time() - started < 0.02:
        pass

    # The "server" is this process as well, so its work counts twice.
    assert cpu.stop() >= 0.04


def test_page_is_reachable() -> None:
    """`make bench` writes it where the docs link to it."""
    root = Path(__file__).parents[1]

    assert "docs/reference/benchmarks-data.md" in (root / "Makefile").read_text()
    assert "reference/benchmarks-data.md" in (root / "mkdocs.yml").read_text()
