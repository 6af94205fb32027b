"""What is compared: the rows, and the check that every contestant passes before it is timed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from benchmarks.data.contract import ITEMS, KEYS, TASKS, TEXTS, Bench, Ear, Receiver, Trip
from benchmarks.data.feeder import Feeder
from benchmarks.data.measure import trips
from benchmarks.data.resp import Resp
from benchmarks.workloads import WrongResultError, require

Once = Callable[[int], Awaitable[Any]]
Check = Callable[[Bench, Once], Awaitable[None]]
Kind = Literal["throughput", "publish", "receive", "latency", "local", "back"]
Server = Literal["postgres", "valkey"]

GET_TABLE = "Redis: GET"
SELECT_TABLE = "PostgreSQL: one row by its primary key"
REDIS_PUBLISH = "Redis: publish and receive"
POSTGRES_PUBLISH = "PostgreSQL: publish and receive"
LOCAL = "Cache hits in this process"
_NUMBER = re.compile(r'"id": *(\d+)\b')  # an envelope's own id is a text
BACK = "Back after the server was killed and has restarted"


@dataclass(frozen=True, slots=True)
class DataRow:
    """One column of the page.

    Args:
        key: On the command line.
        title: On the page.
        table: The heading of its table.
        kind: How it is measured.
        baseline: Whose figure is 1.
        server: Whose CPU time counts.
        check: What must hold before anything is timed; None where measuring is checking.
        tasks: How many at a time.
        batch: Messages, or keys, per operation.
    """

    key: str
    title: str
    table: str
    kind: Kind
    baseline: str
    server: Server = "valkey"
    check: Check | None = None
    tasks: int = 1
    batch: int = 1


# --- checks ---------------------------------------------------------------------------------------------


async def check_rows(_: Bench, once: Once) -> None:
    """Fifty tasks at a time, each gets the row that it asked for."""
    rows = await asyncio.gather(*[once(index % ITEMS) for index in range(2 * TASKS)])
    found = [(row["id"], row["name"], row["data"]) for row in rows]
    require(
        found == [(i % ITEMS, KEYS[i % ITEMS], TEXTS[i % ITEMS]) for i in range(2 * TASKS)], "not the rows asked for"
    )


async def check_transaction(bench: Bench, once: Once) -> None:
    """The same, in a transaction: its clock stands still."""
    await check_rows(bench, once)
    require(not (await once(1))["alone"], "the row was not read in a transaction")


async def check_values(_: Bench, once: Once) -> None:
    """Fifty tasks at a time, each gets the value that it asked for."""
    values = await asyncio.gather(*[once(index) for index in range(2 * TASKS)])
    require([_plain(value) for value in values] == [json.loads(TEXTS[i]) for i in range(2 * TASKS)], "not the values")


async def check_batch(_: Bench, once: Once) -> None:
    """All values, in order."""
    values = await once(0)
    require([_plain(value) for value in values] == [json.loads(text) for text in TEXTS], "not the values, in order")


async def check_local(_: Bench, once: Once) -> None:
    """The value that was kept."""
    require(await once(0) == "kept", "not the value")


def _plain(value: Any) -> Any:
    """A value as it was stored: clients return bytes, caches what was encoded."""
    return json.loads(value) if isinstance(value, bytes | str) else value


async def check_published(bench: Bench, once: Once, *, channel: str, row: DataRow) -> None:
    """Whatever fifty tasks publish is received by a listener of the bare driver, complete and each once."""
    operations = 2 if row.batch > 1 else 4 * TASKS
    async with listening(bench, row.server, channel) as messages:
        for first in range(0, operations, row.tasks):
            await asyncio.gather(*[once(first + index) for index in range(row.tasks)])
        expected = operations * row.batch
        await _until(lambda: len(messages) >= expected, f"of {expected} messages there came", messages)
        await asyncio.sleep(0.02)
    require(len(messages) == expected, f"{len(messages)} messages instead of {expected}")
    counted = sum(1 for message in messages if "package.ingested" in _searchable(message))
    require(counted == expected, "the text is not in the messages")


async def check_received(receiver: Receiver, feeder: Feeder) -> None:
    """All messages come, in order."""
    await feeder.load(receiver.channel, receiver.payloads)
    received, _ = await asyncio.gather(receiver.receive(2 * ITEMS), feeder.send(2 * ITEMS))
    numbers = [number_in(message) for message in received]
    require(numbers == [index % ITEMS for index in range(2 * ITEMS)], "not all messages, or not in order")


async def check_trip(trip: Trip, ear: Ear) -> None:
    """The message that is heard is the one that was sent."""
    for index in range(5):
        await trips(Trip(lambda _, index=index: trip.publish(index)), ear, 1)  # type: ignore[misc]
        require(number_in(ear.data) == index, "another message was heard")


def number_in(message: Any) -> int:
    """The number in a text, whatever a library has wrapped it in."""
    message = getattr(message, "payload", message)
    if isinstance(message, Mapping):
        return int(message["id"])
    found = _NUMBER.search(_searchable(message))
    if found is None:
        raise WrongResultError(f"no number in {message!r}")
    return int(found[1])


def _searchable(message: Any) -> str:
    text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
    return text.replace("\\", "")  # a text in an envelope has its quotes escaped


@asynccontextmanager
async def listening(bench: Bench, server: Server, channel: str) -> AsyncIterator[list[Any]]:
    """What comes on a channel, by the bare drivers."""
    messages: list[Any] = []
    if server == "valkey":
        connection = await Resp.connect(bench.valkey.url)
        connection.on_message = messages.append
        await connection.call(b"SUBSCRIBE", channel.encode())
        yield messages
        connection.close()
    else:
        listener = await asyncpg.connect(bench.postgres.dsn)
        try:
            await listener.add_listener(channel, lambda *found: messages.append(found[3]))
            yield messages
        finally:
            await listener.close()


async def captured(bench: Bench, server: Server, channel: str, publish: Callable[[int], Awaitable[Any]]) -> list[bytes]:
    """A batch of messages as a library writes them: what a receiver of the library is sent."""
    async with listening(bench, server, channel) as messages:
        for index in range(ITEMS):
            await publish(index)
        await _until(lambda: len(messages) >= ITEMS, "too few messages came:", messages)
    return [message.encode() if isinstance(message, str) else message for message in messages]


async def _until(condition: Callable[[], bool], what: str, messages: list[Any]) -> None:
    try:
        async with asyncio.timeout(5.0):
            while not condition():  # noqa: ASYNC110 - callbacks of five libraries fill the list
                await asyncio.sleep(0.002)
    except TimeoutError:
        require(condition=False, what=f"{what} {len(messages)}")


# --- the rows -------------------------------------------------------------------------------------------


def _messaging(server: Server, table: str, baselines: tuple[str, str, str]) -> list[DataRow]:
    publishing, batch, receive = baselines
    name = "redis" if server == "valkey" else "pg"
    return [
        DataRow(f"{name}-publish", "publish, one by one", table, "publish", publishing, server),
        DataRow(f"{name}-publish-50", "publish, 50 tasks", table, "publish", publishing, server, tasks=TASKS),
        DataRow(f"{name}-publish-batch", "publish, batches of 1,000", table, "publish", batch, server, batch=ITEMS),
        DataRow(f"{name}-receive", "receive", table, "receive", receive, server),
        DataRow(f"{name}-latency", "publish to callback", table, "latency", publishing, server),
    ]


def _reading(key: str, title: str, table: str, *, baseline: str, server: Server, check: Check) -> list[DataRow]:
    return [
        DataRow(key, f"{title}, one task", table, "throughput", baseline, server, check),
        DataRow(f"{key}-50", f"{title}, 50 tasks", table, "throughput", baseline, server, check, tasks=TASKS),
    ]


ROWS = [
    *_reading("pg-one", "a row", SELECT_TABLE, baseline="asyncpg pool", server="postgres", check=check_rows),
    *_reading(
        "pg-transaction",
        "a transaction",
        SELECT_TABLE,
        baseline="asyncpg pool",
        server="postgres",
        check=check_transaction,
    ),
    *_reading("redis-get", "GET", GET_TABLE, baseline="redis-py", server="valkey", check=check_values),
    DataRow(
        "redis-get-batch", "1,000 GETs at once", GET_TABLE, "throughput", "redis-py", check=check_batch, batch=ITEMS
    ),
    *_messaging("valkey", REDIS_PUBLISH, ("redis-py", "hand", "redis-py")),
    *_messaging("postgres", POSTGRES_PUBLISH, ("asyncpg pool", "hand", "hand")),
    DataRow("cache-hit", "a hit", LOCAL, "local", "bare await", check=check_local),
    DataRow("cache-decorated", "a decorated function's hit", LOCAL, "local", "bare await", check=check_local),
    DataRow("back-redis", "Redis, a command", BACK, "back", "redis-py"),
    DataRow("back-redis-subscriber", "Redis, a subscriber", BACK, "back", "redis-py"),
    DataRow("back-pg", "PostgreSQL, a row", BACK, "back", "asyncpg pool", "postgres"),
    DataRow("back-pg-subscriber", "PostgreSQL, a subscriber", BACK, "back", "asyncpg pool", "postgres"),
]
