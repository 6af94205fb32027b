"""The door to asyncpg's statements: its public methods, and a shorter way to the same for what runs most.

`Connection.fetch` goes through four coroutines before it reaches the protocol, a third of the time of a small
statement. A statement that the connection has prepared already needs none of them, so it is handed to the protocol
here. That uses four private names of asyncpg; where one is missing, the public methods are used for everything.
"""

# ruff: noqa: ASYNC109 - handed on to the driver
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from svcframework_postgres.connections import Connection

_HAS_SHORT_WAY = all(hasattr(asyncpg.Connection, name) for name in ("_stmt_cache", "_protocol", "_query_loggers"))
_NO_LIMIT = 0


async def fetch(
    connection: Connection, query: str, args: Sequence[Any], timeout: float, *, most: int = _NO_LIMIT
) -> list[asyncpg.Record]:
    """The rows of a statement.

    Args:
        connection: Nobody else uses it.
        query: The statement.
        args: Its arguments, a tuple.
        timeout: Seconds.
        most: Ask for so many rows only; 0 for all.
    """
    inner: Any = connection  # the private names have no types
    statement = inner._stmt_cache.get((query, asyncpg.Record, False)) if _HAS_SHORT_WAY else None  # noqa: SLF001 - see above
    if statement is None or inner._query_loggers:  # noqa: SLF001 - see above
        return await _fetch(connection, query, args, timeout, most)
    try:
        rows: list[asyncpg.Record] = await inner._protocol.bind_execute(statement, args, "", most, False, timeout)  # noqa: FBT003, SLF001 - see above
    except asyncpg.exceptions.OutdatedSchemaCacheError:
        await connection.reload_schema_state()  # it has run and can't be repeated; the next time it is right
        raise
    except asyncpg.InvalidCachedStatementError:
        # A table has changed since the statement was prepared; nothing was done.
        await connection.reload_schema_state()
        if connection.is_in_transaction():
            raise
        return await _fetch(connection, query, args, timeout, most)
    return rows


async def fetch_one(connection: Connection, query: str, args: Sequence[Any], timeout: float) -> asyncpg.Record | None:
    """The first row of a statement, None if there is none. Arguments as in `fetch`."""
    rows = await fetch(connection, query, args, timeout, most=1)
    return rows[0] if rows else None


async def _fetch(
    connection: Connection, query: str, args: Sequence[Any], timeout: float, most: int
) -> list[asyncpg.Record]:
    if most == _NO_LIMIT:
        return await connection.fetch(query, *args, timeout=timeout)
    row = await connection.fetchrow(query, *args, timeout=timeout)
    return [] if row is None else [row]


async def execute_many(connection: Connection, query: str, rows: Iterable[Sequence[Any]], timeout: float) -> None:
    """Run a statement once for each of `rows`, all or none."""
    await connection.executemany(query, rows, timeout=timeout)


async def execute(connection: Connection, query: str, args: Sequence[Any], timeout: float) -> str:
    """Run a statement for its effect; without arguments it may be several."""
    return await connection.execute(query, *args, timeout=timeout)
