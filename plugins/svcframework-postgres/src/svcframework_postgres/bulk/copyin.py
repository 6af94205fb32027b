"""COPY in: from records, bytes, files and iterables."""

# ruff: noqa: A002, ASYNC109 - COPY's own word; a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, Unpack

import asyncpg

from svcframework_postgres.bulk.copying import (
    FOREVER,
    CopyFormat,
    CopyOptions,
    SourceError,
    checked,
    place_of,
    run_copy,
    shown,
)
from svcframework_postgres.bulk.streaming import Progress
from svcframework_postgres.connections import Connection
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.statements import PostgresStatements

T = TypeVar("T")
Records = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
Data = bytes | bytearray | memoryview | str | os.PathLike[str] | Iterable[bytes] | AsyncIterable[bytes] | Any
"""Bytes, a path, an object with `read()`, or an iterable of bytes."""

_CHUNK = 1 << 16  # bytes that are handed over at once
_ROWS = 256  # records between two signs of progress


async def copy_records(
    target: PostgresStatements,
    table: Identifier | str,
    records: Records,
    *,
    columns: Sequence[str] | None = None,
    timeout: float | None = None,
) -> int:
    """COPY records into a table in the binary format.

    Args:
        target: A pool or a transaction.
        table: The table; `Identifier("schema", "table")` for one of a schema.
        records: Tuples, in the order of the columns.
        columns: The columns; all of the table's when not given.
        timeout: Seconds without progress; None for `command_timeout`.

    Returns:
        How many rows were copied; all or none are.
    """
    place = place_of(table, columns)

    async def work(connection: Connection, _query: str, _args: Any, limit: float) -> str:
        async with Progress(limit) as progress:
            # The driver lets the loop run between the items of an asynchronous source only. That costs half a
            # microsecond each, which a list, whose end is known, is spared.
            guarded = (
                _watched(records, progress, connection)
                if isinstance(records, Collection)
                else _watched_async(_iterated(records), progress, connection)
            )
            try:
                return await connection.copy_records_to_table(records=guarded, timeout=FOREVER, **place)
            except (TypeError, ArithmeticError, LookupError, AttributeError) as error:
                raise asyncpg.DataError(f"a record doesn't fit the columns: {error}") from error

    return await run_copy(target, "copy_in", f"COPY {shown(table)}", work, timeout=timeout)


async def copy_data(
    target: PostgresStatements,
    table: Identifier | str,
    data: Data,
    *,
    columns: Sequence[str] | None = None,
    format: CopyFormat = "csv",
    timeout: float | None = None,
    **options: Unpack[CopyOptions],
) -> int:
    """COPY data that is in one of COPY's formats into a table. Arguments and result as `copy_records`."""
    place, told = place_of(table, columns), checked(options)

    async with _opened(data) as chunks:

        async def work(connection: Connection, _query: str, _args: Any, limit: float) -> str:
            async with Progress(limit) as progress:
                return await connection.copy_to_table(
                    source=_watched_async(chunks, progress, connection, every=1),
                    format=format,
                    timeout=FOREVER,
                    **place,
                    **told,
                )

        return await run_copy(target, "copy_in", f"COPY {shown(table)}", work, timeout=timeout)


def _watched(items: Iterable[T], progress: Progress, connection: Connection) -> Iterator[T]:
    """The caller's items; its errors are told from the driver's, and no more are taken once nobody gets them."""
    iterator, number = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise SourceError(error) from error
        if number % _ROWS == 0:
            _go_on(progress, connection)
        number += 1
        yield item


async def _watched_async(
    items: AsyncIterable[T], progress: Progress, connection: Connection, *, every: int = _ROWS
) -> AsyncIterator[T]:
    """As `_watched`."""
    iterator, number = aiter(items), 0
    while True:
        try:
            item = await anext(iterator)
        except StopAsyncIteration:
            return
        except Exception as error:
            raise SourceError(error) from error
        if number % every == 0:
            await asyncio.sleep(0)
            _go_on(progress, connection)
        number += 1
        yield item


def _go_on(progress: Progress, connection: Connection) -> None:
    if connection.is_closed():  # the driver would write into the void for as long as there are items
        raise asyncpg.ConnectionDoesNotExistError("the connection was closed in the middle of a COPY")
    progress.made()


@contextlib.asynccontextmanager
async def _opened(data: Data) -> AsyncIterator[AsyncIterable[bytes]]:
    """The data as chunks; a file that is opened here is closed here."""
    if isinstance(data, (str, os.PathLike)):
        file = await asyncio.to_thread(open, data, "rb")
        try:
            yield _read(file)
        finally:
            await asyncio.to_thread(file.close)
    elif isinstance(data, (bytes, bytearray, memoryview)):
        yield _sliced(data)
    elif hasattr(data, "read"):
        yield _read(data)
    else:
        yield _iterated(data)


async def _read(file: Any) -> AsyncIterator[bytes]:
    while True:
        # A blocking file's read in a thread; an asynchronous one's gives something to await at once.
        is_async = inspect.iscoroutinefunction(file.read)
        chunk = await file.read(_CHUNK) if is_async else await asyncio.to_thread(file.read, _CHUNK)
        if not chunk:
            return
        yield chunk.encode() if isinstance(chunk, str) else chunk


async def _sliced(data: bytes | bytearray | memoryview) -> AsyncIterator[bytes]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), _CHUNK):
        yield bytes(view[start : start + _CHUNK])


async def _iterated(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
