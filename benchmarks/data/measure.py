"""Turns: what one contestant does between two looks at the clock. Knows no library and no row."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from benchmarks.data.contract import Attempt, Ear, Operation, Receiver, Trip
from benchmarks.data.feeder import Feeder
from benchmarks.data.servers import Cpu
from benchmarks.measure import compiled
from benchmarks.workloads import WrongResultError

Turn = Callable[[int], Awaitable[float]]
"""Does a number of things and says how many seconds that took."""

TRIP_PATIENCE = 5.0  # seconds for one message
BACK_PATIENCE = 10.0  # seconds for a contestant to find its server again
LEAST = 50  # operations of a turn


def once(operation: Operation) -> Callable[[int], Awaitable[Any]]:
    """A coroutine function that runs the operation of that number and returns its value."""
    made = compiled(operation.names, f"async def made(i):\n  return {operation.code}")
    return cast("Callable[[int], Awaitable[Any]]", made)


def throughput(operation: Operation, *, tasks: int, cpu: Cpu) -> Turn:
    """CPU seconds, the server's included, of a number of operations by so many tasks."""
    # Neighbours are in flight together, so that no two of them have the same text.
    source = f"async def made(__first, __count):\n  for i in range(__first, __count, {tasks}):\n   {operation.code}"
    loop = compiled(operation.names, source)

    async def turn(count: int) -> float:
        cpu.start()
        if tasks == 1:
            await loop(0, count)
        else:
            await asyncio.gather(*[loop(first, count) for first in range(tasks)])
        return cpu.stop()

    return turn


def receiving(receiver: Receiver, *, feeder: Feeder, cpu: Cpu) -> Turn:
    """CPU seconds, the server's included but not the publisher's, to receive a number of messages."""

    async def turn(count: int) -> float:
        await feeder.load(receiver.channel, receiver.payloads)
        cpu.start()
        received, _ = await asyncio.gather(receiver.receive(count), feeder.send(count))
        taken = cpu.stop()
        if len(received) != count:
            raise RuntimeError(f"{len(received)} of {count} messages have come")
        return taken

    return turn


async def trips(trip: Trip, ear: Ear, count: int) -> list[float]:
    """Seconds of the clock from before a message is published until its callback runs, one after the other."""
    taken = []
    for index in range(count):
        heard = ear.expect()
        started = time.perf_counter()
        await trip.publish(index)
        if not heard.done():
            async with asyncio.timeout(TRIP_PATIENCE):
                await heard
        taken.append(ear.at - started)
    return taken


async def calibrate(turn: Turn, seconds: float, *, least: int = LEAST) -> int:
    """How many operations take about `seconds`."""
    count = least
    while True:
        took = await turn(count)
        if took >= seconds / 4:
            return max(least, round(count * seconds / took))
        count *= 4


def quantile(values: list[float], share: float) -> float:
    """The value that this share of them is below."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]


async def time_until(attempt: Attempt, *, interval: float) -> float:
    """When, by the clock, a call succeeded again.

    Raises:
        WrongResultError: It never did, for as long as we had patience.
    """
    deadline = time.perf_counter() + BACK_PATIENCE
    while time.perf_counter() < deadline:
        try:
            async with asyncio.timeout(TRIP_PATIENCE):
                await attempt.call()
        except Exception:  # noqa: BLE001 - whatever a library raises while its server is away
            await asyncio.sleep(interval)
        else:
            return time.perf_counter()
    raise WrongResultError(f"not back within {BACK_PATIENCE:g} s")
