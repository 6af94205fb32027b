"""PostgresTransaction: statements that happen together or not at all."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import asyncpg

from svcframework.deadlines import effective_timeout
from svcframework.errors import ConnectionFailedError, DatabaseError, ServiceTimeoutError
from svcframework_postgres.connections import Connection, changes_session
from svcframework_postgres.errors import DRIVER_ERRORS, translate
from svcframework_postgres.pool import PostgresPool, no_row

T = TypeVar("T")
Isolation = Literal["read committed", "repeatable read", "serializable"]

_SHORTEST = 0.001  # seconds


class PostgresTransaction:
    """An open transaction; lives as long as its `async with` block.

    It is bound to one connection, so its statements run one after another.

    Args:
        connection: The driver's connection.
        address: Where it leads, for messages.
        command_timeout: Seconds one statement may take.
    """

    def __init__(self, connection: Connection, *, address: str, command_timeout: float) -> None:
        self.connection = connection
        """The driver's connection, for what is missing here: cursors, COPY."""
        self.is_usable = True
        """False after a statement was cut off: the server has rolled back, or will."""
        self._address, self._command_timeout = address, command_timeout
        self._savepoints = 0

    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]:
        """Run a statement and return every row. Arguments and errors as `PostgresService.execute_query`."""
        return await self._run("execute_query", query, asyncpg.Connection.fetch, args, timeout)

    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record | None:
        """Run a statement and return its first row, None if there is none."""
        return await self._run("execute_one", query, asyncpg.Connection.fetchrow, args, timeout)

    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record:
        """Run a changing statement that returns one row.

        Raises:
            DatabaseError: It failed or returned no row.
        """
        record: asyncpg.Record | None = await self._run(
            "execute_returning", query, asyncpg.Connection.fetchrow, args, timeout
        )
        if record is None:
            raise no_row(self._address)
        return record

    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run a statement once for each of `rows`, all or none."""
        await self._run("execute_many", query, asyncpg.Connection.executemany, (rows,), timeout)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement for its effect; without arguments it may be several.

        Returns:
            The server's word for it, such as `INSERT 0 1`.
        """
        return await self._run("execute", query, asyncpg.Connection.execute, args, timeout)

    # The driver's names, for code that was written for its connections.
    fetch = execute_query
    fetchrow = execute_one

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first value of the first row, None if there is no row."""
        record = await self.execute_one(query, *args, timeout=timeout)
        return None if record is None else record[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """A savepoint for the length of a block: if it raises, what the block did is undone and no more."""
        self._savepoints += 1
        name = f"svcframework_{self._savepoints}"
        await self.execute(f"SAVEPOINT {name}")
        try:
            yield self
        except BaseException:
            if self.is_usable:
                await self.execute(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")
            raise
        await self.execute(f"RELEASE SAVEPOINT {name}")

    async def _run(
        self,
        operation: str,
        query: str,
        method: Callable[..., Coroutine[Any, Any, T]],
        args: Iterable[Any],
        timeout: float | None,
    ) -> T:
        what = f"{operation} on {self._address}"
        if not self.is_usable:
            raise DatabaseError(
                f"{what}: an earlier statement was cut off, so the transaction is over", sqlstate="25P02"
            )
        own = self._command_timeout if timeout is None else timeout
        limit = max(_SHORTEST, effective_timeout(own))
        if not self.connection.is_changed:
            self.connection.is_changed = changes_session(query)
        try:
            return await method(self.connection, query, *args, timeout=limit)
        except DRIVER_ERRORS as error:
            ours = translate(error, what, limit)
            refused = isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError))
            self.is_usable = refused and not isinstance(ours, ConnectionFailedError)
            raise ours from error
        except BaseException:
            self.is_usable = False
            raise

    async def _begin(self, isolation: Isolation | None, *, readonly: bool) -> None:
        level = f" ISOLATION LEVEL {isolation.upper()}" if isolation else ""
        await self.execute(f"BEGIN{level}{' READ ONLY' if readonly else ''}")
        self.connection.is_changed = False  # BEGIN counts as a change; COMMIT and ROLLBACK undo it

    async def _commit(self) -> None:
        changed = self.connection.is_changed
        # The server answers ROLLBACK, and no error, if a statement had failed and the block went on.
        if await self.execute("COMMIT") != "COMMIT":
            raise DatabaseError(
                f"commit on {self._address}: rolled back, since a statement had failed; let its error out of the block",
                sqlstate="25P02",
            )
        self.connection.is_changed = changed

    async def _rollback(self) -> None:
        changed = self.connection.is_changed
        await self.execute("ROLLBACK")
        self.connection.is_changed = changed


@asynccontextmanager
async def transaction_in(
    pool: PostgresPool,
    *,
    isolation: Isolation | None = None,
    readonly: bool = False,
    command_timeout: float,
) -> AsyncIterator[PostgresTransaction]:
    """Open a transaction on a connection of `pool` for a block.

    Raises:
        DatabaseError: The commit failed, or a statement had failed inside the block and its error was swallowed.
    """
    connection = await pool.take_now(command_timeout)
    current = PostgresTransaction(connection, address=pool.address, command_timeout=command_timeout)
    clean = False
    try:
        await current._begin(isolation, readonly=readonly)  # noqa: SLF001 - of this module
        try:
            yield current
        except BaseException as error:
            if current.is_usable and not isinstance(
                error, (asyncio.CancelledError, GeneratorExit, ServiceTimeoutError)
            ):
                await current._rollback()  # noqa: SLF001 - of this module
                clean = True
            raise
        await current._commit()  # noqa: SLF001 - of this module
        clean = True
    finally:
        # Whatever was cut off is closed, and the server rolls back; waiting for that here could hang.
        if clean and current.is_usable and not connection.is_closed():
            await pool.give_back(connection)
        else:
            pool.discard(connection)
