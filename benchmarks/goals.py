"""What svcframework is held to, and whether a run kept it; told to the developer, not to the docs."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.report import LIMIT, OURS, Result, Run, measure_of


@dataclass(frozen=True, slots=True)
class Goal:
    """The most that one figure may be.

    Args:
        most: Times the limit's, or in the unit of `scale`.
        scale: Units per second (1e9 for ns): the goal is about our own time; None when it is about the ratio.
    """

    most: float
    scale: float | None = None


GOALS = {
    "resolve": Goal(1.1),
    "async": Goal(1.6),
    "sync": Goal(2.2),
    "method": Goal(1.45),
    "scoped": Goal(1.1),
    "scoped-dynamic": Goal(1.8),
    "transient": Goal(1.15),
    "scope": Goal(1.0),
    "fastapi-singleton": Goal(100 / 97),
    "fastapi-scoped": Goal(1.0),
    "service-method": Goal(500, 1e9),
    "retry": Goal(200, 1e9),
    "log": Goal(200, 1e9),
    "build": Goal(100, 1e3),
    "build-large": Goal(1_000, 1e3),
    "import": Goal(15, 1e3),
}


def verdicts(run: Run) -> list[str]:
    """One line per goal that the run measured; peers that are ahead are named."""
    return [line for key, result in run.results.items() if (line := _verdict(key, result))]


def _verdict(key: str, result: Result) -> str:
    ours = result.timings.get(OURS)
    if ours is None:
        return ""
    own = measure_of(result, ours)
    ahead = [
        n for n, t in result.timings.items() if n != LIMIT and not n.startswith(OURS) and measure_of(result, t) < own
    ]
    behind = f", behind {', '.join(ahead)}" if ahead else ""
    goal = GOALS.get(key)
    if goal is None:
        return f"   -   {key}: {own:.3g}{behind}"
    if goal.scale is None:
        found = ours.ratio
    else:
        found = (ours.beyond if result.shown == "beyond" and ours.beyond is not None else ours.median) * goal.scale
    if found is None:
        return ""
    return f"{'kept  ' if found <= goal.most else 'MISSED'} {key}: {found:.3g}, at most {goal.most:.3g}{behind}"
