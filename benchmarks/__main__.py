"""`python -m benchmarks`: run the comparison and print or keep the tables."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import importlib
import os
import platform
import re
import sys
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import many
from benchmarks.data import report as data_report
from benchmarks.data import run as data
from benchmarks.data.contract import CONNECTIONS
from benchmarks.data.report import DataRun
from benchmarks.data.rows import ROWS as DATA_ROWS
from benchmarks.goals import verdicts
from benchmarks.measure import Timing, compile_once, race
from benchmarks.report import OURS, Result, Run, as_json, as_markdown
from benchmarks.workloads import ROWS, Adapter, Operation, Row, fresh_graph

MODULES = (
    "hand", "svcframework", "wireup", "dishka", "diwire", "svcs", "that_depends", "aioinject", "rodi", "anydi",
    "modern_di", "dependency_injector", "fastapi", "tenacity", "stamina", "backoff", "structlog",
)  # fmt: skip
TABLES = {
    "resolve": "Injection", "async": "Injection", "sync": "Injection", "method": "Injection",
    "scoped": "Scopes", "scoped-dynamic": "Scopes", "transient": "Scopes", "scope": "Scopes",
    "fastapi-singleton": "FastAPI, requests in percent of the endpoint wired by hand",
    "fastapi-scoped": "FastAPI, requests in percent of the endpoint wired by hand",
    "service-method": "Overheads, beyond the bare call", "retry": "Overheads, beyond the bare call",
    "log": "Overheads, beyond the bare call",
}  # fmt: skip
MANY = ("build", "memory", "import", "start")
MANY_TABLE = "Many services: declare, validate, compile and resolve; memory; import"
START_TABLE = "Start"


def main() -> int:
    """Run what the command line says; 1 when svcframework itself fails a check."""
    options = parse()
    skipped: list[tuple[str, str, str]] = []
    if options.injection:
        run = asyncio.run(compare(options))
        skipped += run.skipped
        publish(as_markdown(run), options.markdown)
        keep(as_json(run), options.json)
        progress("\n".join(verdicts(run)))
    if options.data:
        found = data_run(options)
        asyncio.run(compare_data(options, found))
        skipped += found.skipped
        publish(data_report.as_markdown(found), options.data_markdown)
        keep(data_report.as_json(found), options.data_json)
        progress("\n".join(data_report.told(found)))
    return 1 if any(name.startswith(OURS) for name, _, _ in skipped) else 0


def publish(page: str, path: Path | None) -> None:
    """Write the page, or print it."""
    if path is None:
        print(page)
    else:
        keep(page, path)


def keep(text: str, path: Path | None) -> None:
    """Write a file, if one is asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    groups = {"injection": [*(row.key for row in ROWS), *MANY], "data": [row.key for row in DATA_ROWS]}
    keys = [*groups, *groups["injection"], *groups["data"]]
    parser.add_argument("--rows", nargs="+", choices=keys, default=list(groups), metavar="ROW", help=", ".join(keys))
    parser.add_argument("--peers", nargs="+", choices=MODULES, default=MODULES, metavar="PEER", help=", ".join(MODULES))
    parser.add_argument("--rounds", type=int, default=None, help="rounds per row (default 21)")
    parser.add_argument("--quick", action="store_true", help="few, short rounds: to see that it works")
    parser.add_argument("--json", type=Path, help="keep all figures of the injection rows there")
    parser.add_argument("--markdown", type=Path, help="write their docs page there instead of printing it")
    parser.add_argument("--data-json", type=Path, help="keep all figures of the data rows there")
    parser.add_argument("--data-markdown", type=Path, help="write their docs page there instead of printing it")
    options = parser.parse_args()
    options.injection = chosen(options.rows, "injection", groups["injection"])
    options.data = chosen(options.rows, "data", groups["data"])
    options.data_rounds = options.rounds or (3 if options.quick else 11)
    options.rounds = options.rounds or (3 if options.quick else 21)
    options.seconds = 0.005 if options.quick else 0.05
    return options


def chosen(rows: list[str], group: str, keys: list[str]) -> list[str]:
    """The rows of a group that were asked for, by their names or the group's."""
    return keys if group in rows else [key for key in keys if key in rows]


# --- the run --------------------------------------------------------------------------------------------


async def compare(options: argparse.Namespace) -> Run:
    """Everything that is asked for, row after row."""
    run = Run(today(), environment(), {}, options.rounds, await empty_loop())
    adapters = load(options.peers, run)
    for row in ROWS:
        if row.key in options.injection:
            progress(row.key)
            await compare_row(row, adapters, run, options)
    await compare_many(adapters, run, options)
    return run


def data_run(options: argparse.Namespace) -> DataRun:
    """A run of the data rows, with nothing found yet."""
    return DataRun(today(), environment(), options.data_rounds, CONNECTIONS)


async def compare_data(options: argparse.Namespace, run: DataRun) -> None:
    """The data rows that are asked for."""
    effort = data.Effort(rounds=run.rounds, seconds=0.02 if options.quick else 0.1, trips=20 if options.quick else 100)
    await data.compare_data(options.data, run, effort, lambda *what: skip(run, *what), progress)


async def empty_loop() -> float:
    """Seconds of one turn of the loop that is timed with every operation."""
    nothing = Operation("pass", {}, fresh_graph("nothing"), is_statement=True)
    return (await race({"nothing": nothing}, baseline=None, rounds=5, seconds=0.005))["nothing"].median


def load(names: list[str], run: Run) -> list[Adapter]:
    """The adapters whose libraries are installed; the versions go into the run."""
    adapters: list[Adapter] = []
    for name in names:
        try:
            module = importlib.import_module(f"benchmarks.adapters.{name}")
        except ImportError as error:
            run.skipped.append((name.replace("_", "-"), "all rows", reason(error)))
            continue
        adapters += getattr(module, "ADAPTERS", [module.ADAPTER])
    for adapter in adapters:
        if adapter.distribution is not None:
            try:
                run.versions[adapter.distribution] = version(adapter.distribution)
            except PackageNotFoundError:
                run.versions[adapter.distribution] = "unknown"
    return adapters


async def compare_row(row: Row, adapters: list[Adapter], run: Run, options: argparse.Namespace) -> None:
    """Prepare all, check all, time all."""
    operations: dict[str, Operation] = {}
    notes: dict[str, list[str]] = {}
    async with AsyncExitStack() as stack:
        for adapter in adapters:
            if row.key not in adapter.rows:
                continue
            try:
                # One stack each, so that what fails while it is prepared or checked is closed before the next.
                own = AsyncExitStack()
                async with own:
                    operation = await own.enter_async_context(adapter.rows[row.key]())
                    found = await row.check(operation.graph, compile_once(operation))
                    stack.push_async_exit(own.pop_all())
            except Exception as error:  # noqa: BLE001 - a library that fails a check is shown as such
                skip(run, adapter.name, row.key, error)
                continue
            operations[adapter.name] = operation
            known = [adapter.notes[row.key]] if row.key in adapter.notes else []
            if found or known:
                notes[adapter.name] = [*found, *known]
        timings = await race(operations, baseline=row.baseline, rounds=options.rounds, seconds=options.seconds)
    shown = "beyond" if row.over_baseline else "percent" if row.percent else "ratio"
    unit = "µs" if row.percent else "ns"
    if timings:
        run.results[row.key] = Result(row.title, TABLES[row.key], timings, unit=unit, shown=shown, notes=notes)


async def compare_many(adapters: list[Adapter], run: Run, options: argparse.Namespace) -> None:
    """The rows about many services."""

    def failed(name: str, row: str, error: BaseException) -> None:
        skip(run, name, row, error)

    def add(key: str, title: str, timings: dict[str, Timing], unit: str, table: str = MANY_TABLE) -> None:
        notes = {a.name: [a.notes["build"]] for a in adapters if key.startswith("build") and "build" in a.notes}
        if timings:
            run.results[key] = Result(title, table, timings, unit=unit, notes=notes)

    rounds = 1 if options.quick else min(options.rounds, 7)
    if "build" in options.injection:
        few, lots = (200, 2_000) if options.quick else (1_000, 10_000)
        progress("build")
        times = many.build_times(adapters, count=few, rounds=rounds, budget=5.0, failed=failed)
        add("build", f"{few:,} services", many.summary(times), "ms")
        own = [adapter for adapter in adapters if adapter.name in {"hand", "svcframework"}]
        times = many.build_times(own, count=lots, rounds=rounds, budget=30.0, failed=failed)
        add("build-large", f"{lots:,} services", many.summary(times), "ms")
    if "memory" in options.injection:
        progress("memory")
        sizes = many.memory_per_service(adapters, failed=failed)
        add("memory", "bytes per service", many.sizes_as_timings(sizes), "bytes")
    if "import" in options.injection:
        for purpose in ("import", "import and declare"):
            progress(purpose)
            times = many.import_times(adapters, purpose=purpose, rounds=rounds, failed=failed)
            add(purpose, purpose, many.summary(times), "ms")
    if "start" in options.injection:
        progress("start")
        clock, _ = await many.start_times(adapters, count=200, seconds=0.05, rounds=min(rounds, 3), failed=failed)
        add("start-slow", "200 services of 50 ms, by the clock", many.summary(clock), "ms", START_TABLE)
        count = 1_000 if options.quick else 10_000
        _, cpu = await many.start_times(adapters, count=count, seconds=0.0, rounds=min(rounds, 3), failed=failed)
        add("start-empty", f"{count:,} empty services, CPU", many.summary(cpu), "ms", START_TABLE)


# --- telling --------------------------------------------------------------------------------------------


def today() -> str:
    """ISO date."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def environment() -> dict[str, str]:
    """What it runs on."""
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
        "processors": f"{os.cpu_count()} processors",
    }


def skip(run: Run | DataRun, name: str, row: str, error: BaseException) -> None:
    """Keep why something isn't measured."""
    run.skipped.append((name, row, reason(error)))
    progress(f"{name} left out of {row}: {reason(error)}")


def reason(error: BaseException) -> str:
    """The error in a line without machine paths: the page is published."""
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {re.sub(r'(?:/[^/ )]+)+', '…', text)[:160]}"


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
