"""Streams: rows or chunks that come while they are used, on a connection that is held for that long only."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import asyncpg
from asyncpg.cursor import Cursor

from svcframework_postgres.connections import Connection
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.transaction import PostgresTransaction, TransactionBlock, TransactionOptions

T = TypeVar("T")


class PostgresStream(Generic[T]):
    """Items of a statement as they come; lives for one loop over them.

    `async for item in stream:` is all it takes when the loop runs to its end. A loop that may be left early stands in
    `async with stream:`, which gives the connection back at once.

    Args:
        items: Yields the items, and gives everything back when it is closed.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._is_begun = False

    def __aiter__(self) -> AsyncIterator[T]:
        if self._is_begun:
            raise RuntimeError("a stream runs once; ask for another one")
        self._is_begun = True
        return self._items

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._items.aclose()


async def rows_of_pool(
    pool: PostgresPool, query: str, args: tuple[Any, ...], *, batch: int, timeout: float | None
) -> AsyncGenerator[asyncpg.Record, None]:
    """The rows of a statement in a transaction of its own, which is committed at their end."""
    _check_batch(batch)
    block = TransactionBlock(pool, TransactionOptions())
    tx = await block.__aenter__()
    try:
        async with contextlib.aclosing(rows_of(tx, query, args, batch=batch, timeout=timeout)) as rows:
            async for row in rows:
                yield row
    except GeneratorExit:
        await block.leave()  # the caller wants no more, and nothing is under way
        raise
    except BaseException as error:
        await block.__aexit__(type(error), error, error.__traceback__)
        raise
    await block.__aexit__(None, None, None)


async def rows_of(
    tx: PostgresTransaction, query: str, args: tuple[Any, ...], *, batch: int, timeout: float | None
) -> AsyncGenerator[asyncpg.Record, None]:
    """The rows of a statement in an open transaction.

    Args:
        tx: The transaction; other statements may run in it between two rows.
        query: The statement.
        args: Its arguments.
        batch: How many rows are asked for at once, and held in memory.
        timeout: Seconds for the first rows, and for each further batch; None for `command_timeout`.
    """
    _check_batch(batch)
    cursor = await tx.run("stream", query, _open_cursor, args, timeout)

    async def more(_connection: Connection, _query: str, _args: Any, limit: float) -> list[asyncpg.Record]:
        return await cursor.fetch(batch, timeout=limit)

    while rows := await tx.run("stream", "SELECT", more, (), timeout):
        for row in rows:
            yield row
        if len(rows) < batch:
            return


async def _open_cursor(connection: Connection, query: str, args: Any, limit: float) -> Cursor[asyncpg.Record]:
    return await connection.cursor(query, *args, timeout=limit)


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch={batch}: ask for 1 row or more at once")


class Progress:
    """A limit on the time between two signs of progress; lives as long as its `async with` block.

    Args:
        seconds: The limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        self._clock = asyncio.get_running_loop().time

    def made(self) -> None:
        """It goes on: the limit counts from now."""
        self._timeout.reschedule(self._clock() + self._seconds)

    def pause(self) -> None:
        """No limit until the next `made()`: it is the caller's turn."""
        self._timeout.reschedule(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, traceback)
