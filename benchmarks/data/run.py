"""The run of the data rows: prepare all contestants of a row, check all, time them in turns."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import asyncpg

from benchmarks.data import measure
from benchmarks.data.contract import Adapter, Attempt, Bench, Operation, Receiver, Trip
from benchmarks.data.feeder import Feeder
from benchmarks.data.report import DataResult, DataRun
from benchmarks.data.resp import Resp
from benchmarks.data.rows import ROWS, DataRow, check_published, check_received, check_trip
from benchmarks.data.servers import Cpu, one_core, open_bench, versions
from benchmarks.measure import race, summarise
from svcframework import ServiceState

MODULES = (
    "hand", "hand_postgres", "svcframework", "svcframework_pubsub", "redis_py", "asyncpg", "sqlalchemy", "glide",
    "broadcaster", "faststream", "cashews",
)  # fmt: skip
BACK_ROUNDS = 5
HEARING = 0.02  # seconds a published message has before it counts as lost

Failed = Callable[[str, str, BaseException], None]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Args:
        rounds: Turns of each contestant.
        seconds: CPU seconds of one turn.
        trips: Messages of one turn that times trips.
    """

    rounds: int
    seconds: float
    trips: int


async def compare_data(keys: list[str], run: DataRun, effort: Effort, failed: Failed, progress: Progress) -> None:
    """Every data row that is asked for, on servers started for it."""
    adapters = load(run, failed)
    with one_core():
        async with open_bench() as bench, feeders(bench) as publishers:
            run.versions |= await versions(bench)
            for row in ROWS:
                if row.key in keys:
                    progress(row.key)
                    race_of_row = _Race(row, bench, publishers[row.server], effort)
                    result = await race_of_row.run(adapters, failed)
                    if result.timings:
                        run.results[row.key] = result


def load(run: DataRun, failed: Failed) -> list[Adapter]:
    """The adapters whose libraries are installed; the versions go into the run."""
    adapters: list[Adapter] = []
    for name in MODULES:
        try:
            module = importlib.import_module(f"benchmarks.data.adapters.{name}")
        except ImportError as error:
            failed(name.replace("_", "-"), "all rows", error)
            continue
        adapters += module.ADAPTERS
    for distribution in (name for adapter in adapters for name in adapter.distributions):
        try:
            run.versions[distribution] = version(distribution)
        except PackageNotFoundError:
            run.versions[distribution] = "unknown"
    return adapters


@asynccontextmanager
async def feeders(bench: Bench) -> AsyncIterator[dict[str, Feeder]]:
    """A publisher to each server."""
    made = {
        "valkey": await Feeder.start(bench.valkey.url),
        "postgres": await Feeder.start(bench.postgres.dsn),
    }
    try:
        yield made
    finally:
        for feeder in made.values():
            await feeder.stop()


class _Race:
    """One row."""

    def __init__(self, row: DataRow, bench: Bench, feeder: Feeder, effort: Effort) -> None:
        self.row, self.bench, self.feeder, self.effort = row, bench, feeder, effort
        self.cpu = Cpu((bench.valkey if row.server == "valkey" else bench.postgres).pid)

    async def run(self, adapters: list[Adapter], failed: Failed) -> DataResult:
        """Whoever passes the check is timed."""
        row, result = self.row, DataResult.of(self.row)
        async with AsyncExitStack() as stack:
            contestants: dict[str, Any] = {}
            for adapter in adapters:
                if row.key not in adapter.rows:
                    continue
                try:
                    own = AsyncExitStack()
                    async with own:
                        contestant = await own.enter_async_context(adapter.rows[row.key](self.bench))
                        await asyncio.wait_for(self.check(contestant), 30.0)
                        stack.push_async_exit(own.pop_all())
                except Exception as error:  # noqa: BLE001 - a library that fails a check is shown as such
                    failed(adapter.name, row.key, error)
                    continue
                contestants[adapter.name] = contestant
                if row.key in adapter.notes:
                    result.notes[adapter.name] = adapter.notes[row.key]
            if row.kind == "local":
                seconds = self.effort.seconds / 2
                result.timings = await race(
                    contestants, baseline=row.baseline, rounds=self.effort.rounds, seconds=seconds
                )
            else:
                await self.take_turns(contestants, result, failed)
        return result

    async def check(self, contestant: Any) -> None:
        """Raise unless it does what the row is about."""
        row = self.row
        if row.kind == "publish":
            await check_published(self.bench, measure.once(contestant), channel=contestant.channel, row=row)
        elif row.kind == "receive":
            await check_received(contestant, self.feeder)
        elif row.kind == "latency":
            await check_trip(contestant, self.bench.ear)
        elif row.kind == "back":
            await self.attempt(contestant).call()
        elif row.check is not None:
            await row.check(self.bench, measure.once(contestant))

    async def take_turns(self, contestants: dict[str, Any], result: DataResult, failed: Failed) -> None:
        """Round after round, the order rotating, so that nobody always runs after the same one."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        trips: dict[str, list[float]] = {name: [] for name in contestants}
        turns: dict[str, measure.Turn] = {}
        counts: dict[str, int] = {}
        for name, contestant in contestants.items():
            turns[name] = self.turn(contestant, trips[name])
            counts[name] = await self.count(turns[name])
            trips[name].clear()
        rounds = min(self.effort.rounds, BACK_ROUNDS) if self.row.kind == "back" else self.effort.rounds
        gc.collect()
        gc.freeze()
        try:
            for turn in range(rounds):
                order = list(turns)
                shift = turn % max(1, len(order))
                for name in order[shift:] + order[:shift]:
                    gc.collect()
                    try:
                        taken = await turns[name](counts[name])
                    except Exception as error:  # noqa: BLE001 - one that breaks down is shown as such
                        failed(name, self.row.key, error)
                        for kept in (turns, times, trips):
                            del kept[name]
                        continue
                    times[name].append(taken / self.divisor(counts[name]))
        finally:
            gc.unfreeze()
        result.timings = summarise(times, baseline=self.row.baseline)
        result.p99 = {name: measure.quantile(taken, 0.99) for name, taken in trips.items() if len(taken) > 1}

    def turn(self, contestant: Any, trips: list[float]) -> measure.Turn:
        """What one turn of a contestant is."""
        if isinstance(contestant, Operation):
            return measure.throughput(contestant, tasks=self.row.tasks, cpu=self.cpu)
        if isinstance(contestant, Receiver):
            return measure.receiving(contestant, feeder=self.feeder, cpu=self.cpu)
        if self.row.kind == "back":
            return lambda _: self.back(self.attempt(contestant))

        async def median_trip(count: int) -> float:
            taken = await measure.trips(contestant, self.bench.ear, count)
            trips.extend(taken)
            return measure.quantile(taken, 0.5)

        return median_trip

    async def count(self, turn: measure.Turn) -> int:
        """How many operations make a turn."""
        if self.row.kind == "latency":
            await turn(self.effort.trips)
            return self.effort.trips
        if self.row.kind == "back":
            return 1
        least = 1 if self.row.batch > 1 else measure.LEAST
        return await measure.calibrate(turn, self.effort.seconds, least=least)

    def divisor(self, count: int) -> int:
        """What a turn's seconds are for."""
        return count * self.row.batch if self.row.kind in {"throughput", "publish", "receive"} else 1

    # --- a server that comes back -----------------------------------------------------------------------

    def attempt(self, contestant: Attempt | Trip) -> Attempt:
        """A call, or a message that is heard."""
        if isinstance(contestant, Attempt):
            return contestant

        async def one_is_heard() -> None:
            heard = self.bench.ear.expect()
            await contestant.publish(0)
            async with asyncio.timeout(HEARING):
                await heard

        return Attempt(one_is_heard)

    async def back(self, attempt: Attempt) -> float:
        """Seconds from the server's being up, as a bare client sees it, to the first success."""
        is_redis = self.row.server == "valkey"
        server = self.bench.mortal_valkey if is_redis else self.bench.mortal_postgres
        prober = Attempt(_probe_redis(server.url) if is_redis else _probe_postgres(server.dsn))  # type: ignore[union-attr]
        await server.kill()
        up = asyncio.create_task(measure.time_until(prober, interval=0.001))
        try:
            again = await measure.time_until(attempt, interval=0.002)
        finally:
            was_up = await up
            while server.state is not ServiceState.RUNNING:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        return max(1e-6, again - was_up)  # never 0: ratios are made of it


def _probe_redis(url: str) -> Callable[[], Any]:
    async def probe() -> None:
        connection = await Resp.connect(url)
        connection.close()

    return probe


def _probe_postgres(dsn: str) -> Callable[[], Any]:
    async def probe() -> None:
        connection = await asyncpg.connect(dsn, timeout=1.0)
        await connection.close()

    return probe
