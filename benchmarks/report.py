"""What a run found, as JSON and as the Markdown page of the docs. Knows no library."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from benchmarks.measure import Timing
from benchmarks.workloads import MEMORY_SERVICES

OURS = "svcframework"
LIMIT = "hand"
TIE = 1.1  # differences under 10 % say nothing on a shared machine
PREAMBLE = """\
Every library in the fastest idiom that its documentation shows, side by side in one run; made by `make bench`.
Before it is timed, each must pass the checks of its row: the right instances, shared where they should be, torn down
exactly once, also when the handler raises.

- **Ratios, not times.** A cell is the time divided by that of `hand`, the tightest wiring written by hand, in the same
  round: 2.0 takes twice as long. The first line has the time itself, to judge what a ratio costs.
- Process CPU time, rounds interleaved, medians over {rounds} rounds. **Differences under 10 % are ties.**
- Bold is the fastest library of its column, and whoever ties with it.
- The loop around an operation is timed with it (about {loop:.0f} ns), the same for all.
- No figure: the library has no such thing, or failed the row's check (see below).

The **scoped graph**: per call a scope with seven objects that need one another, one of them opened by a generator and
one by an async generator, injected ten times into an async function, torn down in reverse order. *Injected* is what a
decorator does, *asked for* opens a scope and asks it for each. **Many services** are in layers of 100, each needing
three of the layer before; who takes more than 5 s has one round. **Memory** is that of {memory} such services.

To run it yourself: `make bench`, or a part of it with
`python -m benchmarks --rows resolve async --rounds 11` in an environment with `benchmarks/requirements.txt`.

PostgreSQL, Redis, pub/sub and caches have [a page of their own](benchmarks-data.md).
"""


@dataclass(slots=True)
class Result:
    """One row's figures.

    Args:
        title: The column's head.
        table: The heading of the table it belongs to.
        timings: Adapter to figures.
        unit: ns, ms, s or bytes: what the limit's own figure is shown in.
        shown: ratio, percent (throughput of the limit's) or beyond (time above the limit's).
        notes: Adapter to what it does differently.
    """

    title: str
    table: str
    timings: dict[str, Timing]
    unit: str = "ns"
    shown: str = "ratio"
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Run:
    """Everything a run found.

    Args:
        date: ISO date.
        environment: Python, platform, processors.
        versions: Library to version.
        rounds: Rounds per row.
        loop: Seconds of one turn of the empty loop.
        results: Row key to figures.
        skipped: (adapter, row, reason).
    """

    date: str
    environment: dict[str, str]
    versions: dict[str, str]
    rounds: int
    loop: float
    results: dict[str, Result] = field(default_factory=dict)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)


SCALES = {"ns": 1e9, "µs": 1e6, "ms": 1e3, "s": 1.0, "bytes": 1.0}


def as_json(run: Run) -> str:
    """All figures, in seconds."""
    return json.dumps(asdict(run), indent=2, sort_keys=True) + "\n"


def as_markdown(run: Run) -> str:
    """The docs page."""
    parts = [
        "# Benchmarks\n",
        PREAMBLE.format(rounds=run.rounds, loop=run.loop * 1e9, memory=MEMORY_SERVICES),
        _environment(run),
    ]
    for table in dict.fromkeys(result.table for result in run.results.values()):
        results = [result for result in run.results.values() if result.table == table]
        parts += [f"## {table}\n", _table(results)]
    parts += ["## Where a peer is ahead\n", _ahead(run)]
    parts += _section("## What is done differently\n", _differences(run))
    parts += _section("## Not measured\n", [f"- {who}, {row}: {why}" for who, row, why in run.skipped])
    return "\n".join(parts).rstrip() + "\n"


def _section(heading: str, lines: list[str]) -> list[str]:
    return [heading, "\n".join(lines) + "\n"] if lines else []


def _environment(run: Run) -> str:
    machine = ", ".join(run.environment.values())
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return f"{run.date}; {machine}.\n\nVersions: {versions}.\n"


# --- tables ---------------------------------------------------------------------------------------------


def _table(results: list[Result]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result.timings))
    names.sort(key=lambda name: (name != LIMIT, name != OURS))  # stable: the others as the run has them
    lines = [_line(["", *(_head(result) for result in results)]), _line(["---", *("---:" for _ in results)])]
    lines += [_line([f"`{name}`" if name == LIMIT else name, *(_cell(r, name) for r in results)]) for name in names]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(result: Result) -> str:
    if result.shown == "beyond":
        return f"{result.title}, {result.unit} more"
    return result.title


def _cell(result: Result, name: str) -> str:
    timing = result.timings.get(name)
    if timing is None:
        return ""
    text = _figure(result, timing, is_limit=name == LIMIT)
    mark = "\\*" if result.notes.get(name) else ""
    return f"**{text}**{mark}" if name in winners(result) else text + mark


def _figure(result: Result, timing: Timing, *, is_limit: bool) -> str:
    own = _amount(timing.median, result.unit)
    if is_limit or timing.ratio is None:
        return own
    if result.shown == "percent":
        return f"{100 / timing.ratio:.0f} %"
    if result.shown == "beyond":
        return _amount(timing.beyond or 0.0, result.unit).removesuffix(f" {result.unit}")
    return f"{timing.ratio:.2f}" if timing.ratio < 10 else f"{timing.ratio:,.0f}"  # noqa: PLR2004 - two digits say enough


def _amount(value: float, unit: str) -> str:
    scaled = value * SCALES[unit]
    return f"{scaled:,.0f} {unit}" if abs(scaled) >= 10 else f"{scaled:.2g} {unit}"  # noqa: PLR2004 - same


def measure_of(result: Result, timing: Timing) -> float:
    """What contestants of a row are compared by: less is better."""
    if result.shown == "beyond" and timing.beyond is not None:
        return max(timing.beyond, 1e-9)
    return timing.median if timing.ratio is None else timing.ratio


def winners(result: Result) -> set[str]:
    """The fastest libraries, ties included; the limit isn't one."""
    measures = {name: measure_of(result, timing) for name, timing in result.timings.items() if name != LIMIT}
    if not measures:
        return set()
    best = min(measures.values())
    return {name for name, value in measures.items() if value <= best * TIE}


# --- prose ----------------------------------------------------------------------------------------------


def _ahead(run: Run) -> str:
    lines = []
    if not any(OURS in result.timings for result in run.results.values()):
        return f"{OURS} was not measured in this run.\n"
    for result in run.results.values():
        ours = result.timings.get(OURS)
        if ours is None:
            continue
        limit = measure_of(result, ours)
        peers = {n: measure_of(result, t) for n, t in result.timings.items() if n != LIMIT and not n.startswith(OURS)}
        faster = sorted((value, name) for name, value in peers.items() if value < limit)
        for value, name in faster:
            word = "ties with" if limit <= value * TIE else "is ahead of"
            lines.append(f"- {result.title}: {name} {word} {OURS} ({limit / value:.2f} times as fast)")
    return ("\n".join(lines) if lines else "Nowhere in this run.") + "\n"


def _differences(run: Run) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for result in run.results.values():
        for name, notes in result.notes.items():
            for note in notes:
                found.setdefault((name, note), []).append(result.title)
    return [f"- {name}: {note} ({'; '.join(titles)})" for (name, note), titles in found.items()]
