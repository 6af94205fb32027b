"""What svcframework is held to on the data rows, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.measure import Timing
from benchmarks.report import OURS


class HasTimings(Protocol):
    """A row's figures."""

    title: str
    table: str
    timings: dict[str, Timing]


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise.

    Args:
        row: Its row.
        limit: At least so many times `against` for a ratio; at most so many seconds for a time, and beyond the
            baseline.
        kind: ratio, time or beyond.
        against: The contestant whose figure is 1; None for the row's baseline.
        who: Which of ours.
    """

    row: str
    limit: float
    kind: Literal["ratio", "time", "beyond"] = "ratio"
    against: str = ""
    who: str = OURS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a promise."""

    row: str
    asked: str
    found: str
    kept: bool


GOALS = [
    Goal("pg-one-50", 1.7, against="asyncpg pool"),
    Goal("pg-transaction", 0.97, against="asyncpg pool"),
    Goal("pg-transaction-50", 0.97, against="asyncpg pool"),
    Goal("pg-publish-50", 10, against="asyncpg pool"),
    Goal("redis-publish-50", 5, against="redis-py"),
    Goal("pg-publish-batch", 0.9, against="hand"),
    Goal("redis-publish-batch", 0.9, against="hand"),
    Goal("pg-publish-batch", 0.9, against="hand, with an envelope"),
    Goal("redis-publish-batch", 0.9, against="hand, with an envelope"),
    Goal("pg-latency", 0.3e-3, "time"),
    Goal("redis-latency", 0.3e-3, "time"),
    Goal("pg-receive", 0.9, against="hand"),
    Goal("pg-receive", 0.9, against="hand, with an envelope"),
    Goal("redis-receive", 2, against="redis-py"),
    Goal("cache-hit", 0.3e-6, "beyond"),
    Goal("cache-decorated", 1e-6, "beyond"),
    Goal("redis-get-50", 5, against="redis-py"),
    Goal("redis-get", 0.9, against="redis-py"),
    Goal("redis-get-50", 5, against="redis-py", who=f"{OURS}, `CacheService`"),
    Goal("redis-get", 0.9, against="redis-py", who=f"{OURS}, `CacheService`"),
    Goal("back-redis", 0.1, "time"),
    Goal("back-redis-subscriber", 0.1, "time"),
    Goal("back-pg", 0.1, "time"),
    Goal("back-pg-subscriber", 0.1, "time"),
]


def verdicts(results: Mapping[str, HasTimings]) -> Iterator[Verdict]:
    """One for each goal whose row was measured."""
    for goal in GOALS:
        result = results.get(goal.row)
        ours = None if result is None else result.timings.get(goal.who)
        if result is None or ours is None:
            continue
        row = f"{result.table.partition(':')[0]}: {result.title}" + goal.who.removeprefix(OURS)
        if goal.kind == "ratio":
            other = result.timings.get(goal.against)
            if other is not None:
                yield _ratio(row, goal, ours, other)
        else:
            seconds = ours.median if goal.kind == "time" else ours.beyond or 0.0
            unit, scale = ("µs", 1e6) if goal.kind == "beyond" else ("ms", 1e3)
            asked = f"at most {goal.limit * scale:g} {unit}"
            yield Verdict(row, asked, f"{seconds * scale:.2f} {unit}", kept=seconds <= goal.limit)


def _ratio(row: str, goal: Goal, ours: Timing, other: Timing) -> Verdict:
    # The ratios of the same rounds, when there are any.
    found = other.ratio / ours.ratio if ours.ratio and other.ratio else other.median / ours.median
    return Verdict(row, f"at least {goal.limit:g} x {goal.against}", f"{found:.2f}", kept=found >= goal.limit)
