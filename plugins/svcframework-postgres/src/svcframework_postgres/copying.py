"""COPY in and out: from records, bytes, files and iterables, to bytes, files and iterators.

What limits a COPY is the time without progress, since nobody can say how long a whole one takes: each chunk must get
through within `timeout`, and so must the server's last word. The caller's deadline holds for all of it.
"""

# ruff: noqa: A002, ASYNC109 - COPY's own word; a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

import anyio
import asyncpg

from svcframework_postgres.connections import Connection
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.statements import PostgresStatements
from svcframework_postgres.streaming import Progress

T = TypeVar("T")
CopyFormat = Literal["text", "csv", "binary"]
Records = Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]]
Data = bytes | bytearray | memoryview | str | os.PathLike[str] | Iterable[bytes] | AsyncIterable[bytes] | Any
"""Bytes, a path, an object with `read()`, or an iterable of bytes."""
Sink = Callable[[bytes], Awaitable[None]]

_CHUNK = 1 << 16  # bytes that are handed over at once
_ROWS = 256  # records between two signs of progress
_FOREVER = 30 * 86_400.0  # seconds; the driver's own limit is of the whole, ours is of each step


class CopyOptions(TypedDict, total=False):
    """What COPY's text and csv formats can be told; PostgreSQL's defaults where one isn't given."""

    header: bool | Literal["match"]
    delimiter: str
    null: str
    quote: str
    escape: str
    encoding: str
    force_null: Sequence[str]
    force_not_null: Sequence[str]
    force_quote: bool | Sequence[str]


class _SourceError(Exception):
    """Carries what the caller's own source or sink raised past what is made of the driver's errors."""

    def __init__(self, error: Exception) -> None:
        self.error = error


# --- in -------------------------------------------------------------------------------------------------


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
    place = _place(table, columns)

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
                return await connection.copy_records_to_table(records=guarded, timeout=_FOREVER, **place)
            except (TypeError, ArithmeticError, LookupError, AttributeError) as error:
                raise asyncpg.DataError(f"a record doesn't fit the columns: {error}") from error

    return await _run(target, "copy_in", f"COPY {_shown(table)}", work, timeout=timeout)


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
    place, told = _place(table, columns), _checked(options)

    async with _opened(data) as chunks:

        async def work(connection: Connection, _query: str, _args: Any, limit: float) -> str:
            async with Progress(limit) as progress:
                return await connection.copy_to_table(
                    source=_watched_async(chunks, progress, connection, every=1),
                    format=format,
                    timeout=_FOREVER,
                    **place,
                    **told,
                )

        return await _run(target, "copy_in", f"COPY {_shown(table)}", work, timeout=timeout)


def _watched(items: Iterable[T], progress: Progress, connection: Connection) -> Iterator[T]:
    """The caller's items; its errors are told from the driver's, and no more are taken once nobody gets them."""
    iterator, number = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise _SourceError(error) from error
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
            raise _SourceError(error) from error
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


# --- out ------------------------------------------------------------------------------------------------


async def copy_to(
    source: PostgresStatements,
    what: Identifier | str,
    args: tuple[Any, ...],
    to: str | os.PathLike[str] | Sink | Any,
    *,
    format: CopyFormat = "csv",
    timeout: float | None = None,
    **options: Unpack[CopyOptions],
) -> int:
    """COPY a table or the rows of a query to a file or a function.

    Args:
        source: A pool or a transaction.
        what: `Identifier("table")` for a table, or a query.
        args: The query's arguments.
        to: A path, an object with `write()`, or a function that is awaited with each chunk. A file at a path is there
            when all of it is, or not at all.
        format: COPY's format.
        timeout: Seconds without progress; None for `command_timeout`.
        options: As in `CopyOptions`.

    Returns:
        How many rows were copied.
    """
    if isinstance(to, (str, os.PathLike)):
        path = Path(to)
        part = path.with_name(path.name + ".part")
        file = await asyncio.to_thread(part.open, "wb")
        try:
            count = await copy_to(source, what, args, file, format=format, timeout=timeout, **options)
            await asyncio.to_thread(file.close)
            await asyncio.to_thread(part.replace, path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        return count
    sink = _written(to) if hasattr(to, "write") else cast("Sink", to)
    return await _copy_out(
        source, what, args, sink, format=format, timeout=timeout, options=_checked(options), pauses=False
    )


def _written(file: Any) -> Sink:
    async def write(chunk: bytes) -> None:
        if inspect.iscoroutinefunction(file.write):
            await file.write(chunk)
        else:
            await asyncio.to_thread(file.write, chunk)

    return write


async def copy_bytes(
    source: PostgresStatements,
    what: Identifier | str,
    args: tuple[Any, ...],
    *,
    format: CopyFormat = "csv",
    timeout: float | None = None,
    **options: Unpack[CopyOptions],
) -> bytes:
    """COPY a table or the rows of a query into memory. Arguments as `copy_to`."""
    chunks: list[bytes] = []

    async def keep(chunk: bytes) -> None:
        chunks.append(chunk)

    await _copy_out(source, what, args, keep, format=format, timeout=timeout, options=_checked(options), pauses=False)
    return b"".join(chunks)


async def copy_chunks(
    source: PostgresStatements,
    what: Identifier | str,
    args: tuple[Any, ...],
    *,
    format: CopyFormat = "csv",
    timeout: float | None = None,
    **options: Unpack[CopyOptions],
) -> AsyncGenerator[bytes, None]:
    """COPY a table or the rows of a query, chunk by chunk; the server waits while the caller does. As `copy_to`."""
    told = _checked(options)
    send, receive = anyio.create_memory_object_stream[bytes](1)

    async def pump() -> None:
        with send:
            await _copy_out(source, what, args, send.send, format=format, timeout=timeout, options=told, pauses=True)

    task = asyncio.get_running_loop().create_task(pump())
    try:
        with receive:
            async for chunk in receive:
                yield chunk
        await task
    finally:
        task.cancel()  # does nothing to one that has ended
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # raised above, or of no interest to a caller that has left


async def _copy_out(
    source: PostgresStatements,
    what: Identifier | str,
    args: tuple[Any, ...],
    sink: Sink,
    *,
    format: CopyFormat,
    timeout: float | None,
    options: dict[str, Any],
    pauses: bool,
) -> int:
    async def work(connection: Connection, query: str, args: Any, limit: float) -> str:
        async with Progress(limit) as progress:

            async def hand_over(chunk: bytes) -> None:
                progress.pause() if pauses else progress.made()
                try:
                    await sink(chunk)
                except Exception as error:
                    raise _SourceError(error) from error
                progress.made()

            told = {"output": hand_over, "format": format, "timeout": _FOREVER, **options}
            if isinstance(what, Identifier):
                return await connection.copy_from_table(**_place(what, None), **told)
            return await connection.copy_from_query(query, *args, **told)

    query = f"COPY {what}" if isinstance(what, Identifier) else what
    return await _run(source, "copy_out", query, work, timeout=timeout, args=args)


# --- both -----------------------------------------------------------------------------------------------


async def _run(
    target: PostgresStatements, operation: str, query: str, work: Any, *, timeout: float | None, args: Any = ()
) -> int:
    """Run a COPY; what the caller's own part of it raised is raised as it was."""
    try:
        status: str = await target.run(operation, query, work, args, timeout)
    except _SourceError as failed:
        error = failed.error
    else:
        return int(status.rpartition(" ")[2])
    raise error


def _place(table: Identifier | str, columns: Sequence[str] | None) -> dict[str, Any]:
    parts = (table if isinstance(table, Identifier) else Identifier(table)).parts
    if len(parts) > 2:  # noqa: PLR2004 - schema and table
        raise ValueError(f"{table!r} has too many parts; give Identifier('schema', 'table')")
    for column in columns or ():
        Identifier(column)
    return {
        "table_name": parts[-1],
        "schema_name": parts[0] if len(parts) > 1 else None,
        "columns": None if columns is None else list(columns),
    }


def _shown(table: Identifier | str) -> Identifier:
    return table if isinstance(table, Identifier) else Identifier(table)


def _checked(options: CopyOptions) -> dict[str, Any]:
    """The options; the driver puts `header` into the statement as it is, so nothing else than these may be it."""
    header: object = options.get("header", False)
    if not isinstance(header, bool) and header != "match":
        raise ValueError(f"header={header!r}: give True, False or 'match'")
    unknown = set(options) - set(CopyOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"COPY knows no {', '.join(sorted(unknown))}; there are {', '.join(CopyOptions.__annotations__)}"
        )
    return dict(options)
