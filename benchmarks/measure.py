"""Timing: process CPU time, interleaved rounds, medians. Knows no library and no workload."""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from benchmarks.workloads import Operation

Loop = Callable[[int], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one contestant took.

    Args:
        median: Seconds per operation, the median of the rounds.
        spread: Half the distance between the quartiles, as a share of the median.
        ratio: The median over the rounds of this one's time to the baseline's in the same round.
        beyond: The median over the rounds of the seconds by which this one is above the baseline.
        rounds: How many rounds.
    """

    median: float
    spread: float
    ratio: float | None
    beyond: float | None
    rounds: int


def compile_once(operation: Operation) -> Callable[[], Awaitable[Any]]:
    """A coroutine function that runs the operation once and returns its value."""
    body = operation.code if operation.is_statement else f"return {operation.code}"
    return cast("Callable[[], Awaitable[Any]]", compiled(operation.names, f"async def made():\n  {body}"))


def compile_loop(operation: Operation) -> Loop:
    """A coroutine function that runs the operation n times and returns the CPU seconds that took.

    What doesn't await runs in a plain function, so that no row pays for a coroutine that it doesn't need.
    """
    is_async = "await " in operation.code or "async " in operation.code
    lines = [
        f"{'async ' if is_async else ''}def made(__n):",
        "  __started = __clock()",
        "  for __ in __repeat(None, __n):",
        f"    {operation.code}",
        "  return __clock() - __started",
    ]
    loop = compiled({**operation.names, "__clock": time.process_time, "__repeat": repeat}, "\n".join(lines))
    if is_async:
        return cast("Loop", loop)

    async def run(count: int) -> float:
        return cast("float", loop(count))

    return run


def compiled(names: Mapping[str, Any], source: str) -> Any:
    """What the source defines as `made`, the names given being its closure.

    Closure variables are as fast as a handler's own globals at best, and the same for every contestant.
    """
    text = f"def factory({', '.join(names)}):\n " + source.replace("\n", "\n ") + "\n return made\n"
    scope: dict[str, Any] = {}
    exec(compile(text, "<operation>", "exec"), scope)  # noqa: S102 - the code is the adapters'
    return scope["factory"](**names)


async def calibrate(loop: Loop, seconds: float) -> int:
    """How many operations take about `seconds`."""
    count = 1
    while True:
        took = await loop(count)
        if took >= seconds / 4:
            return max(1, round(count * seconds / took))
        count *= 4


async def race(
    contestants: dict[str, Operation], *, baseline: str | None, rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time all of them side by side.

    Args:
        contestants: Name to operation, ready to run.
        baseline: Whose time is 1; None or absent gives no ratios.
        rounds: Times that each has its turn; the order rotates, so that nobody always runs after the same one.
        seconds: CPU seconds of one turn.
    """
    if not contestants:
        return {}
    loops = {name: compile_loop(operation) for name, operation in contestants.items()}
    counts = {name: await calibrate(loop, seconds) for name, loop in loops.items()}
    times: dict[str, list[float]] = {name: [] for name in loops}
    order = list(loops)
    gc.collect()
    gc.freeze()  # what the preparations left behind is nobody's garbage
    try:
        for turn in range(rounds):
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                gc.collect()
                times[name].append(await loops[name](counts[name]) / counts[name])
    finally:
        gc.unfreeze()
    return summarise(times, baseline=baseline)


def summarise(times: dict[str, list[float]], *, baseline: str | None) -> dict[str, Timing]:
    """Medians and ratios of times that were taken round by round."""
    base = times.get(baseline) if baseline else None
    return {name: _timing(taken, base) for name, taken in times.items() if taken}


def _timing(taken: Sequence[float], base: Sequence[float] | None) -> Timing:
    median = statistics.median(taken)
    quartiles = statistics.quantiles(taken, n=4) if len(taken) > 1 else [median] * 3
    spread = (quartiles[2] - quartiles[0]) / 2 / median if median else 0.0
    ratio = beyond = None
    if base:
        # The same round, so that a machine that slows down slows both; fewer rounds of a slow one compare with the
        # baseline's first.
        pairs = list(zip(taken, base, strict=False))
        ratio = statistics.median(one / other for one, other in pairs)
        beyond = statistics.median(one - other for one, other in pairs)
    return Timing(median, spread, ratio, beyond, len(taken))


def in_clean_process(source: str) -> float:
    """The number that the source prints last, run by this interpreter in a process of its own."""
    done = subprocess.run(  # noqa: S603 - the source is ours
        [sys.executable, "-c", source], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return float(done.stdout.split()[-1])
