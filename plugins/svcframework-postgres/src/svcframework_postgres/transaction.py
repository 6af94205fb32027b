"""PostgresTransaction: statements that happen together or not at all."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Literal

import asyncpg

from svcframework.deadlines import effective_timeout, has_deadline
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    DeadlineExceededError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)
from svcframework_postgres import driver
from svcframework_postgres.connections import Connection
from svcframework_postgres.errors import (
    DRIVER_ERRORS,
    ReadOnlyServerError,
    TransactionConflictError,
    TransactionOutcomeUnknownError,
    translate,
)
from svcframework_postgres.failover import is_refused_write
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.sessions import changes_session
from svcframework_postgres.statements import PostgresStatements, T, Work

Isolation = Literal["read committed", "repeatable read", "serializable"]

_SHORTEST = 0.001  # seconds
_LEVELS = ("read committed", "repeatable read", "serializable")
_SET_LOCAL = "SELECT set_config(name, value, true) FROM unnest($1::text[], $2::text[]) AS given(name, value)"


@dataclass(frozen=True)
class TransactionOptions:
    """How a transaction runs; made once and used for many.

    Args:
        isolation: `read committed`, `repeatable read` or `serializable`; the server's default when None.
        readonly: Refuse statements that change rows.
        deferrable: Wait for a moment without conflicts; for long serializable read-only transactions.

    Raises:
        ValueError: There is no such isolation.
    """

    isolation: Isolation | None = None
    readonly: bool = False
    deferrable: bool = False

    @cached_property
    def begin(self) -> str:
        """The statement that begins it."""
        if self.isolation is not None and self.isolation not in _LEVELS:
            raise ValueError(f"isolation={self.isolation!r} is unknown; give one of {', '.join(_LEVELS)}")
        level = f" ISOLATION LEVEL {self.isolation.upper()}" if self.isolation else ""
        return f"BEGIN{level}{' READ ONLY' * self.readonly}{' DEFERRABLE' * self.deferrable}"


DEFAULT_OPTIONS = TransactionOptions()


class PostgresTransaction(PostgresStatements):
    """An open transaction; lives as long as its `async with` block.

    It is bound to one connection, so its statements run one after another.

    Args:
        connection: The driver's connection.
        address: Where it leads, for messages.
        command_timeout: Seconds one statement may take.
    """

    def __init__(self, connection: Connection, *, address: str, command_timeout: float) -> None:
        self.address = address
        self._connection = connection
        self.is_usable = True
        """False after a statement was cut off: the server has rolled back, or will."""
        self.is_on_standby = False
        """A write was refused because the server accepts none."""
        self._command_timeout = command_timeout
        self._readonly = False
        self._savepoints = 0
        self._conflict: TransactionConflictError | None = None

    @property
    def connection(self) -> Connection:
        """The driver's connection, for what is missing here; it is reset after the transaction.

        Its calls keep `command_timeout`, and raise the driver's own errors.
        """
        self._connection.is_changed = True  # what is done with it can't be seen here
        return self._connection

    async def give_back_to(self, pool: PostgresPool) -> None:
        """Return the connection, if the transaction has ended in a known way; `TransactionBlock` does."""
        connection = self._connection
        if self.is_usable and not connection.is_closed() and not connection.is_in_transaction():
            await pool.give_back(connection)
        else:
            pool.discard(connection)

    # The driver's names, for code that was written for its connections.
    fetch = PostgresStatements.execute_query
    fetchrow = PostgresStatements.execute_one

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first value of the first row, None if there is no row."""
        record = await self.execute_one(query, *args, timeout=timeout)
        return None if record is None else record[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """A savepoint for the length of a block: if it raises, what the block did is undone and no more."""
        self._savepoints += 1
        name = f"svcframework_{self._savepoints}"
        await self._control(f"SAVEPOINT {name}")
        try:
            yield self
        except (asyncio.CancelledError, GeneratorExit):
            self.is_usable = False  # undoing it would take time that nobody has, and it must not be kept
            raise
        except BaseException:
            with contextlib.suppress(ServiceFrameworkError):  # then the server rolls back, which is more
                await self._control(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")
                self._conflict = None
            raise
        await self._control(f"RELEASE SAVEPOINT {name}")

    async def set_local(self, values: Mapping[str, object]) -> None:
        """Change settings until the end of the transaction (`SET LOCAL`), for example what row-level security reads.

        Args:
            values: Names, such as `app.tenant` or `statement_timeout`, and their values; `role` is one as well.

        Raises:
            ValueError: A value is None, or that of a setting of the application's own is empty: a missing tenant
                never means a default one.
            DatabaseError: There is no such setting, or it can't be changed.
        """
        texts = {name: _setting_text(name, value) for name, value in values.items()}
        await self.run("set_local", "SELECT", _run_set_local, (list(texts), list(texts.values())), None)

    async def run(self, operation: str, query: str, work: Work[T], args: Any, timeout: float | None) -> T:
        """As `PostgresStatements.run`, on the transaction's connection."""
        limit = self._limit(operation, timeout)
        connection = self._connection
        if not connection.is_changed:
            connection.is_changed = changes_session(query)
        try:
            return await work(connection, query, args, limit)
        except DRIVER_ERRORS as error:
            raise self._failed(error, operation, limit) from error
        except BaseException:
            self.is_usable = False
            raise

    async def _control(self, statement: str) -> str:
        """A statement of the transaction's own, which leaves nothing in the session."""
        limit = self._limit(statement, None)
        try:
            return await self._connection.execute(statement, timeout=limit)
        except DRIVER_ERRORS as error:
            raise self._failed(error, statement.partition(" ")[0].lower(), limit) from error
        except BaseException:
            self.is_usable = False
            raise

    def _limit(self, operation: str, timeout: float | None) -> float:
        """Seconds that the next statement may take, if there may be one."""
        if not self.is_usable:
            raise DatabaseError(
                f"{operation} on {self.address}: an earlier statement was cut off, so the transaction is over",
                sqlstate="25P02",
            )
        limit = self._command_timeout if timeout is None else timeout
        if has_deadline():
            limit = effective_timeout(limit)
        return max(_SHORTEST, limit)

    def _failed(self, error: BaseException, operation: str, limit: float) -> ServiceFrameworkError:
        ours = translate(error, f"{operation} on {self.address}", limit)
        if not self._readonly and is_refused_write(error, self.connection):
            self.is_on_standby = True
            ours = ReadOnlyServerError(f"{operation} on {self.address}")
        refused = isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError))
        self.is_usable = refused and not isinstance(ours, ConnectionFailedError)
        if isinstance(ours, TransactionConflictError):
            self._conflict = ours
        return ours

    async def begin(self, options: TransactionOptions) -> None:
        """Begin it; `TransactionBlock` does."""
        self._readonly = options.readonly
        await self._control(options.begin)

    async def commit(self, options: TransactionOptions) -> None:
        """Commit it; `TransactionBlock` does.

        Raises:
            DatabaseError: It is rolled back; the error says why.
            ConnectionFailedError: The connection was lost before COMMIT was sent: it is rolled back.
            TransactionOutcomeUnknownError: COMMIT was sent, and no answer came.
        """
        what = f"commit on {self.address}"
        if self.is_usable and self._connection.is_closed():
            self.is_usable = False
            raise ConnectionFailedError(f"{what}: the connection was lost, and the transaction rolled back")
        if self.is_usable and has_deadline() and effective_timeout(1.0) < _SHORTEST:
            self.is_usable = False
            raise DeadlineExceededError(what, 0.0, hint="rolled back: the caller's deadline had passed before")
        try:
            answer = await self._control("COMMIT")
        except (ConnectionFailedError, ServiceTimeoutError) as error:
            if options.readonly:
                raise
            raise TransactionOutcomeUnknownError(what, _why(error)) from error
        except asyncio.CancelledError as error:
            error.add_note(f"{what} was cancelled on its way, so nobody knows whether it happened")
            raise
        if answer != "COMMIT":
            # The server answers ROLLBACK, and no error, if a statement had failed and the block went on.
            kind = DatabaseError if self._conflict is None else TransactionConflictError
            raise kind(
                f"{what}: rolled back, since a statement had failed; let its error out of the block",
                sqlstate="25P02" if self._conflict is None else self._conflict.sqlstate,
            ) from self._conflict

    async def roll_back(self) -> None:
        """Roll it back; `TransactionBlock` does. Never raises, but for cancellation: the server does it anyway."""
        try:
            await self._control("ROLLBACK")
        except ServiceFrameworkError:
            self.is_usable = False


class TransactionBlock(AbstractAsyncContextManager[PostgresTransaction]):
    """A transaction for the length of an `async with` block, on a connection of its own.

    Args:
        pool: Where the connection comes from.
        options: How it runs.
        settings: What is set with `set_local` before anything else.
    """

    __slots__ = ("_current", "_options", "_pool", "_settings")

    def __init__(
        self,
        pool: PostgresPool,
        options: TransactionOptions = DEFAULT_OPTIONS,
        *,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self._pool, self._options, self._settings = pool, options, settings
        self._current: PostgresTransaction | None = None

    async def __aenter__(self) -> PostgresTransaction:
        pool = self._pool
        if self._settings:
            for name, value in self._settings.items():
                _setting_text(name, value)  # refused before a connection is taken
        connection = await pool.take_now(pool.command_timeout)
        current = PostgresTransaction(connection, address=pool.address, command_timeout=pool.command_timeout)
        try:
            await current.begin(self._options)
            if self._settings:
                await current.set_local(self._settings)
        except BaseException as error:
            await self._undo(current, error)
            if not (isinstance(error, ConnectionFailedError) and connection.used_at):
                raise
        else:
            self._current = current
            return current
        # It had died while it was idle, and nothing has been done; each time there is one fewer of those.
        return await self.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        if error is not None:
            await self._undo(current, error)
            return
        try:
            await current.commit(self._options)
        except BaseException as failure:
            await self._release(current, failure)
            raise
        await current.give_back_to(self._pool)

    async def leave(self) -> None:
        """End it from within, without a commit; for a block that is left in a known state."""
        current, self._current = self._current, None
        if current is not None:
            await self._roll_back(current)

    async def _undo(self, current: PostgresTransaction, error: BaseException) -> None:
        # Whatever was cut off is closed, and the server rolls back; waiting for that here could hang.
        if current.is_usable and not isinstance(error, (asyncio.CancelledError, GeneratorExit, TimeoutError)):
            await self._roll_back(current)
        else:
            current.is_usable = False
            await self._release(current, error)

    async def _roll_back(self, current: PostgresTransaction) -> None:
        try:
            await current.roll_back()
        except BaseException as failure:
            await self._release(current, failure)
            raise
        await current.give_back_to(self._pool)

    async def _release(self, current: PostgresTransaction, error: BaseException) -> None:
        """Give back a connection on which `error` happened; one that was cut off is closed."""
        await current.give_back_to(self._pool)
        if isinstance(error, (ConnectionFailedError, ServiceTimeoutError, TransactionOutcomeUnknownError)):
            self._pool.suspect_others()
        if current.is_on_standby:
            self._pool.renew()


def _why(error: Exception) -> str:
    if isinstance(error, ServiceTimeoutError):
        return f"no answer came within {error.seconds:g} s"
    return "the connection was lost before an answer came"


# --- settings -------------------------------------------------------------------------------------------


async def _run_set_local(connection: Connection, _query: str, args: Any, timeout: float) -> None:
    await driver.fetch(connection, _SET_LOCAL, args, timeout)


def _setting_text(name: str, value: object) -> str:
    """A setting's value as the server reads it."""
    if value is None or (value == "" and "." in name):
        raise ValueError(f"set_local: {name!r} has no value; a missing one never means a default, so give it")
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if "\0" in text:
        raise ValueError(f"set_local: the value of {name!r} holds a NUL, which PostgreSQL can't take")
    return text
