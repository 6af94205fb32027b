"""COPY out: to bytes, files, functions and iterators."""

# ruff: noqa: A002, ASYNC109 - COPY's own word; a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Unpack, cast

import anyio
import asyncpg

from svcframework_postgres.bulk.copying import (
    FOREVER,
    CopyFormat,
    CopyOptions,
    SourceError,
    checked,
    place_of,
    run_copy,
)
from svcframework_postgres.bulk.streaming import Progress
from svcframework_postgres.connections import Connection
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.statements import PostgresStatements

Sink = Callable[[bytes], Awaitable[None]]


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
        source, what, args, sink, format=format, timeout=timeout, options=checked(options), pauses=False
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

    await _copy_out(source, what, args, keep, format=format, timeout=timeout, options=checked(options), pauses=False)
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
    told = checked(options)
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
                    raise SourceError(error) from error
                progress.made()

            told = {"output": hand_over, "format": format, "timeout": FOREVER, **options}
            try:
                if isinstance(what, Identifier):
                    return await connection.copy_from_table(**place_of(what, None), **told)
                return await connection.copy_from_query(query, *args, **told)
            except asyncpg.PostgresError:
                raise
            except BaseException:
                # The driver fails when data comes between a COPY that was cut off and the end of its connection. The
                # server sends, so that it learns of the end without being told.
                connection.terminate()
                raise

    query = f"COPY {what}" if isinstance(what, Identifier) else what
    return await run_copy(source, "copy_out", query, work, timeout=timeout, args=args)
