"""What a run of the data rows found, as JSON and as the Markdown page of the docs. Knows no library."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Self

from benchmarks.data.goals import verdicts
from benchmarks.data.rows import BACK, DataRow
from benchmarks.measure import Timing
from benchmarks.report import LIMIT, OURS, TIE

PREAMBLE = """\
PostgreSQL and Redis through every library, in the fastest idiom that its documentation shows, side by side in one run;
made by `make bench`. The servers are real, started by the run from `svcframework-embedded`. Before it is timed, each
contestant must pass the check of its row: fifty tasks at a time, each with its own answer; every message there, once.

- **What one core does.** A rate is 1 / (CPU seconds of the client + CPU seconds of the server) for one operation, both
  on one core: what is saved in the client is not moved to the server. A time is the clock's.
- At the front is the ratio to the column's baseline, which has a rate alone, in the same round: 2.0 does twice as much
  per second. For times less is better.
- Medians over {rounds} rounds, interleaved; ± is half the distance between the quartiles. **Differences under 10 % are
  ties.**
- `hand` is the limit: the tightest code written by hand for this one row (a 60-line protocol on hiredis, bare asyncpg
  connections without a pool), with no reconnects, no deadlines, no reset and no errors. Bold is the best *library*.
- Every pool has {connections} connections. An item and a message are 100 bytes of JSON. Ours travels in an envelope
  with an id and a time, 61 bytes, and is written as JSON on the way; *`hand`, with an envelope* sends as much.
- *Receive* has its publisher in a process of its own, which isn't counted. *Publish to callback* is one message at a
  time, p50 (p99). *Back* is from when a bare client could log in again to the first success.

To run it yourself: `make bench`, or a part of it with `python -m benchmarks --rows pg-one-50 redis-publish` (all of
this page: `--rows data`) in an environment with `benchmarks/requirements.txt`.
"""


@dataclass(slots=True)
class DataResult:
    """One row's figures.

    Args:
        title: The column's head.
        table: The heading of the table it belongs to.
        kind: How it was measured.
        baseline: Whose ratio is 1.
        timings: Contestant to figures, in seconds for one operation, message or key.
        p99: Contestant to seconds that 99 of 100 trips stay below.
        notes: Contestant to what it does differently.
    """

    title: str
    table: str
    kind: str
    baseline: str
    timings: dict[str, Timing] = field(default_factory=dict)
    p99: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: DataRow) -> Self:
        """With no figures yet."""
        return cls(row.title, row.table, row.kind, row.baseline)


@dataclass(slots=True)
class DataRun:
    """Everything a run found; as `benchmarks.report.Run`."""

    date: str
    environment: dict[str, str]
    rounds: int
    connections: int
    versions: dict[str, str] = field(default_factory=dict)
    results: dict[str, DataResult] = field(default_factory=dict)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)


def as_json(run: DataRun) -> str:
    """All figures, in seconds."""
    return json.dumps(asdict(run), indent=2, sort_keys=True) + "\n"


def as_markdown(run: DataRun) -> str:
    """The docs page."""
    machine = ", ".join(run.environment.values())
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    parts = [
        "# Benchmarks of the data plane\n",
        PREAMBLE.format(rounds=run.rounds, connections=run.connections),
        f"{run.date}; {machine}.\n\nVersions: {versions}.\n",
    ]
    for table in dict.fromkeys(result.table for result in run.results.values()):
        parts += [f"## {table}\n", _table([result for result in run.results.values() if result.table == table])]
    parts += ["## Goals\n", _goals(run), "## Where a peer is ahead\n", _ahead(run)]
    parts += _section("## What is done differently\n", _differences(run))
    parts += _section("## Not measured\n", [f"- {who}, {row}: {why}" for who, row, why in run.skipped])
    return "\n".join(parts).rstrip() + "\n"


def _section(heading: str, lines: list[str]) -> list[str]:
    return [heading, "\n".join(lines) + "\n"] if lines else []


# --- tables ---------------------------------------------------------------------------------------------


def _table(results: list[DataResult]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result.timings))
    names.sort(
        key=lambda name: (not name.startswith(LIMIT), not name.startswith(OURS))
    )  # stable: the others as the run has them
    lines = [_line(["", *(_head(result) for result in results)]), _line(["---", *("---:" for _ in results)])]
    lines += [_line([_shown(name), *(_cell(r, name) for r in results)]) for name in names]
    return "\n".join(lines) + "\n"


def _shown(name: str) -> str:
    return name.replace(LIMIT, f"`{LIMIT}`", 1) if name.startswith(LIMIT) else name


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(result: DataResult) -> str:
    unit = {"local": ", µs beyond a bare await", "latency": ", ms", "back": ", ms"}.get(result.kind, ", per second")
    return f"{result.title}{unit}"


def _cell(result: DataResult, name: str) -> str:
    timing = result.timings.get(name)
    if timing is None:
        return ""
    mark = "\\*" if name in result.notes else ""
    text = _figure(result, name, timing)
    return f"**{text[0]}**{mark}{text[1]}" if name in winners(result) else f"{text[0]}{mark}{text[1]}"


def _figure(result: DataResult, name: str, timing: Timing) -> tuple[str, str]:
    """What may be bold, and what is beside it."""
    spread = f"±{timing.spread * 100:.0f} %"
    if result.kind == "back":
        return f"{timing.median * 1e3:.0f}", ""
    if result.kind == "latency":
        return f"{timing.median * 1e3:.2f}", f" ({result.p99[name] * 1e3:.2f})" if name in result.p99 else ""
    if result.kind == "local":
        own = timing.median if name == result.baseline else (timing.beyond or 0.0)
        return f"{own * 1e6:.2f}", ""
    rate = f"{significant(1 / timing.median)} {spread}"
    if timing.ratio is None or name == result.baseline:
        return rate, ""
    return f"{1 / timing.ratio:.2f}", f" ({rate})"


def significant(rate: float) -> str:
    """Three digits say enough."""
    digits = max(0, len(str(round(rate))) - 3)
    return f"{round(rate, -digits):,.0f}"


def measure_of(result: DataResult, name: str) -> float:
    """What contestants of a row are compared by: less is better."""
    timing = result.timings[name]
    if result.kind == "local":
        return max(timing.beyond or 0.0, 1e-9)
    if result.kind == "back":
        return max(timing.median, 5e-3)  # less is the machine
    return timing.median if timing.ratio is None else timing.ratio


def libraries(result: DataResult) -> list[str]:
    """Contestants that are no limit and no yardstick."""
    yardstick = result.baseline if result.kind == "local" else LIMIT
    return [name for name in result.timings if name != yardstick and not name.startswith(LIMIT)]


def winners(result: DataResult) -> set[str]:
    """The best libraries, ties included."""
    measures = {name: measure_of(result, name) for name in libraries(result)}
    best = min(measures.values(), default=0.0)
    return {name for name, value in measures.items() if value <= best * TIE}


def told(run: DataRun) -> list[str]:
    """One line per goal, for the developer."""
    return [f"{'kept  ' if v.kept else 'MISSED'} {v.row}: {v.found}, {v.asked}" for v in verdicts(run.results)]


# --- prose ----------------------------------------------------------------------------------------------


def _goals(run: DataRun) -> str:
    lines = [_line(["row", "goal", "found", ""]), "| --- | --- | ---: | --- |"]
    lines += [_line([v.row, v.asked, v.found, "kept" if v.kept else "**missed**"]) for v in verdicts(run.results)]
    return "\n".join(lines) + "\n"


def _ahead(run: DataRun) -> str:
    lines = []
    for result in run.results.values():
        ours = [measure_of(result, name) for name in libraries(result) if name.startswith(OURS)]
        if not ours:
            continue
        own = min(ours)
        peers = sorted((measure_of(result, name), name) for name in libraries(result) if not name.startswith(OURS))
        where = result.table if result.table == BACK else result.table.partition(":")[0]
        for value, name in peers:
            if value < own:
                word = "ties with" if own <= value * TIE else "is ahead of"
                lines.append(f"- {where}: {result.title}: {name} {word} {OURS} ({own / value:.2f} times as good)")
    return ("\n".join(lines) if lines else "Nowhere in this run.") + "\n"


def _differences(run: DataRun) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for result in run.results.values():
        for name, note in result.notes.items():
            found.setdefault((name, note), []).append(result.title)
    return [f"- {name}: {note} ({'; '.join(titles)})" for (name, note), titles in found.items()]
