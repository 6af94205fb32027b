"""The servers of a run, what is in them, and the CPU time that they take."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import psutil
from redis.asyncio import Redis

from benchmarks.data.contract import BYTES, KEYS, TEXTS, Bench
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey, running


@asynccontextmanager
async def open_bench() -> AsyncIterator[Bench]:
    """Two servers that stay and two that may be killed, all from wheels, in temporary directories."""
    async with AsyncExitStack() as stack:
        bench = Bench(
            postgres=await stack.enter_async_context(running(EmbeddedPostgres(), restart=False)),
            valkey=await stack.enter_async_context(running(EmbeddedValkey(), restart=False)),
            mortal_postgres=await stack.enter_async_context(running(EmbeddedPostgres())),
            mortal_valkey=await stack.enter_async_context(running(EmbeddedValkey())),
        )
        await fill(bench)
        yield bench


async def fill(bench: Bench) -> None:
    """The items: rows of a table, and keys."""
    connection = await asyncpg.connect(bench.postgres.dsn)
    try:
        await connection.execute("CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, data text NOT NULL)")
        rows = [(index, key, TEXTS[index]) for index, key in enumerate(KEYS)]
        await connection.copy_records_to_table("item", records=rows)
        await connection.execute("VACUUM ANALYZE item")
    finally:
        await connection.close()
    async with Redis.from_url(bench.valkey.url) as redis:
        await redis.mset(dict(zip(KEYS, BYTES, strict=True)))


async def versions(bench: Bench) -> dict[str, str]:
    """The servers' own versions."""
    connection = await asyncpg.connect(bench.postgres.dsn)
    try:
        number: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    async with Redis.from_url(bench.valkey.url) as redis:
        about = await redis.info("server")
    return {"PostgreSQL": number, "Valkey": str(about.get("valkey_version", about["redis_version"]))}


# --- CPU time -------------------------------------------------------------------------------------------


class Cpu:
    """The CPU seconds of this process and a server's whole process tree."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        self._before: dict[int, float] = {}
        self._own = 0.0

    def start(self) -> None:
        """From here on."""
        self._before = self._taken()
        self._own = time.process_time()

    def stop(self) -> float:
        """Seconds since `start`; a process that began in between counts in full."""
        own = time.process_time() - self._own
        return own + sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._taken().items())

    def _taken(self) -> dict[int, float]:
        taken = {}
        for process in [self._server, *self._server.children(recursive=True)]:
            with contextlib.suppress(psutil.Error, OSError):  # it has just ended
                taken[process.pid] = cpu_seconds(process)
        return taken


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has used. /proc counts in steps of 10 ms, its CPU clock in nanoseconds."""
    if sys.platform == "linux":
        return time.clock_gettime((~process.pid << 3) | 2)  # CPUCLOCK_SCHED of clock_getcpuclockid(3)
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core: a figure is then what one core does."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
