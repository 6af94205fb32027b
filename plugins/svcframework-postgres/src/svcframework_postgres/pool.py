"""PostgresPool: a bounded set of connections to one database, each call with a deadline.

asyncpg's own pool pays a round trip at every release to reset the connection; this one only after a statement
that may have changed the session. A call that was cut off never gives its connection back (it is closed).
"""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg

from svcframework.deadlines import effective_timeout
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    DeadlineExceededError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_postgres.connections import Connection, changes_session
from svcframework_postgres.errors import DRIVER_ERRORS, translate

T = TypeVar("T")

_RESET_TIMEOUT = 1.0  # seconds; a server that answers at all resets in one round trip
_DISCARD_TIMEOUT = 1.0  # seconds to tell the server that a statement was given up
_SHORTEST = 0.001  # seconds; the driver takes 0 for an error of its own
_PROBE_TIMEOUT = 1.0  # seconds; asked of connections that were idle while another one timed out


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """How full a pool is.

    Args:
        size: Open connections, with those being opened or closed.
        idle: Those that wait for work.
        in_use: Those that a call holds.
        waiting: Calls that wait for a connection.
        limit: `pool_max_size`.
    """

    size: int
    idle: int
    in_use: int
    waiting: int
    limit: int


class PostgresPool:
    """Connections to one database, opened as needed; lives as long as its service.

    It survives its server: what died is replaced at the next call. Users get it from
    `PostgresService.get_org_pool` and hand it to the service's methods, or call its own.

    Args:
        opener: Opens a connection; raises our errors.
        address: Where the connections lead, for messages.
        max_size: Connections at most.
        min_size: Idle ones that are kept whatever their age.
        idle_lifetime: Seconds after which an idle one is closed.
        acquire_timeout: Seconds to wait for a free one.
        command_timeout: Seconds of one call, waiting included.
        always_reset: Reset after every use, whatever the statement was.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Connection]],
        *,
        address: str,
        max_size: int = 10,
        min_size: int = 0,
        idle_lifetime: float = 300.0,
        acquire_timeout: float = 5.0,
        command_timeout: float = 5.0,
        always_reset: bool = False,
    ) -> None:
        self.address = address
        self._opener = opener
        self._max_size, self._min_size, self._idle_lifetime = max_size, min_size, idle_lifetime
        self._acquire_timeout, self._command_timeout = acquire_timeout, command_timeout
        self._always_reset = always_reset
        self._idle: deque[Connection] = deque()  # the last one used is the first one taken
        self._held: set[Connection] = set()
        self._size = 0
        # While anybody waits nothing is idle: what comes back is handed over; None is leave to open one.
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._suspect_before = 0.0  # a connection last used before this loop time is probed first
        self._closing = False
        self._background: set[asyncio.Future[Any]] = set()
        self._all_back = asyncio.Event()
        self._all_back.set()

    # --- statements -------------------------------------------------------------------------------------

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
            raise no_row(self.address)
        return record

    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run a statement once for each of `rows`, all or none."""
        await self._run("execute_many", query, asyncpg.Connection.executemany, (rows,), timeout)

    async def _run(
        self,
        operation: str,
        query: str,
        method: Callable[..., Coroutine[Any, Any, T]],
        args: Iterable[Any],
        timeout: float | None,
    ) -> T:
        own = self._command_timeout if timeout is None else timeout
        limit = effective_timeout(own)
        connection = self._take_idle()
        if connection is None:
            started = asyncio.get_running_loop().time()
            connection = await self.take(limit, cut=limit < own)
            limit -= asyncio.get_running_loop().time() - started
        limit = max(_SHORTEST, limit)
        try:
            result = await method(connection, query, *args, timeout=limit)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # The server (or the driver, before it sent anything) refused: the session is in a known state.
            ours = self._ours(error, operation, own)
            connection.is_changed = connection.is_changed or changes_session(query)
            await self.give_back(connection, reusable=not isinstance(ours, ConnectionFailedError))
            raise ours from error
        except DRIVER_ERRORS as error:
            self.discard(connection)
            raise self._ours(error, operation, own, cut=limit < own) from error
        except BaseException:
            self.discard(connection)
            raise
        if self._always_reset or changes_session(query):
            connection.is_changed = True
            await self.give_back(connection)
        else:
            self._put_idle(connection)
        return result

    def _ours(self, error: BaseException, operation: str, seconds: float, *, cut: bool = False) -> Exception:
        """Our error; what it says about the other connections is noted."""
        ours = translate(error, f"{operation} on {self.address}", seconds)
        if isinstance(ours, (ConnectionFailedError, ServiceTimeoutError)):
            self._suspect_before = asyncio.get_running_loop().time()
        if isinstance(ours, ServiceTimeoutError) and cut:
            return DeadlineExceededError(ours.operation, ours.seconds, hint="the caller's deadline was shorter")
        return ours

    # --- connections ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Hold one of the driver's connections for a block; its session is reset afterwards.

        For what the methods here can't do: cursors, COPY, LISTEN. Its calls keep `command_timeout`, and raise
        the driver's own errors.

        Args:
            timeout: Seconds to wait for a connection; None for `acquire_timeout`.
        """
        connection = await self.take_now(self._acquire_timeout if timeout is None else timeout)
        connection.is_changed = True
        try:
            yield connection
        except (asyncio.CancelledError, TimeoutError, GeneratorExit):
            self.discard(connection)
            raise
        except BaseException:
            await self.give_back(connection, reusable=not connection.is_closed())
            raise
        await self.give_back(connection, reusable=not connection.is_closed())

    async def take_now(self, own: float) -> Connection:
        """A connection within `own` seconds or the caller's deadline; `give_back` or `discard` it."""
        limit = effective_timeout(own)
        return self._take_idle() or await self.take(limit, cut=limit < own)

    def _take_idle(self) -> Connection | None:
        """An idle connection that is fit for use at once, None if that needs waiting."""
        if self._closing or not self._idle:
            return None
        connection = self._idle[-1]
        if connection.is_closed() or connection.used_at <= self._suspect_before:
            return None
        self._idle.pop()
        return self._hold(connection)

    def _hold(self, connection: Connection) -> Connection:
        self._held.add(connection)
        self._all_back.clear()
        return connection

    async def take(self, limit: float, *, cut: bool = False) -> Connection:
        """Wait for a connection; `give_back` or `discard` it.

        Args:
            limit: Seconds left of the call.
            cut: The caller's deadline made it so short.

        Raises:
            ServiceTimeoutError: None was free, or could be opened, in time.
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
        """
        if self._closing:
            raise ServiceUnavailableError(self.address, "the pool is closed")
        seconds = min(limit, self._acquire_timeout)
        try:
            async with asyncio.timeout(seconds):
                return await self._obtain()
        except ServiceTimeoutError:
            raise
        except TimeoutError as error:
            kind = DeadlineExceededError if cut and limit <= self._acquire_timeout else ServiceTimeoutError
            raise kind(f"acquire a connection to {self.address}", seconds, hint=self._why_waiting()) from error

    def _why_waiting(self) -> str:
        if len(self._held) >= self._max_size:
            return f"all {self._max_size} are in use; raise pool_max_size or hold them shorter"
        return "none could be opened or closed in time"

    async def _obtain(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if await self._is_usable(connection):
                return self._hold(connection)
        if self._size < self._max_size:
            self._size += 1
        else:
            handed = await self._wait_turn()
            if handed is not None:
                return self._hold(handed)
        return self._hold(await self._open())

    async def _is_usable(self, connection: Connection) -> bool:
        """Whether an idle connection still works; one that doesn't is closed."""
        if not connection.is_closed() and connection.used_at > self._suspect_before:
            return True
        self._hold(connection)
        try:
            if not connection.is_closed():
                await connection.execute("SELECT 1", timeout=_PROBE_TIMEOUT)
                return True
        except DRIVER_ERRORS:
            self._close_idle(keep=0)  # they were idle as long as this one, or longer
        except BaseException:
            self.discard(connection)
            raise
        self.discard(connection)
        return False

    async def _wait_turn(self) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                handed = waiter.result()  # it came while we were being cancelled
                if handed is None:
                    self._free_slot()
                else:
                    self._put_idle(handed)
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    async def _open(self) -> Connection:
        """Open a connection in the slot that is counted already.

        A caller that gives up doesn't stop it: the driver can't be cut off cleanly while it connects, and the next
        caller will want the connection.
        """
        opening = asyncio.ensure_future(self._opener())
        self._keep(opening)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException:
            self._free_slot()
            raise

    def _adopt(self, opening: asyncio.Future[Connection]) -> None:
        """Take in a connection whose caller has gone."""
        if opening.cancelled() or opening.exception() is not None:
            self._free_slot()
        else:
            self._put_idle(self._hold(opening.result()))

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def give_back(self, connection: Connection, *, reusable: bool = True) -> None:
        """Return a connection, reset if its session may have changed. Never raises, but for cancellation."""
        if not reusable:
            self.discard(connection)
            return
        if connection.is_changed or self._always_reset:
            try:
                await connection.reset(timeout=_RESET_TIMEOUT)
            except DRIVER_ERRORS:
                self.discard(connection)
                return
            except BaseException:
                self.discard(connection)
                raise
            connection.is_changed = False
        self._put_idle(connection)

    def _put_idle(self, connection: Connection) -> None:
        if self._closing or connection.is_closed():
            self.discard(connection)
            return
        now = asyncio.get_running_loop().time()
        connection.used_at = now
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)  # and it stays held
                return
        self._held.discard(connection)
        self._idle.append(connection)
        if not self._held:
            self._all_back.set()
        if now - self._idle[0].used_at > self._idle_lifetime and self._size > self._min_size:
            self.discard(self._idle.popleft())

    def discard(self, connection: Connection) -> None:
        """Close a connection for good, in the background; the server is told to stop what it runs for it."""
        self._held.discard(connection)
        if not self._held:
            self._all_back.set()
        if connection.is_closed():
            connection.terminate()  # completes the driver's own clean-up
            self._free_slot()
            return
        self._keep(asyncio.ensure_future(self._close(connection)))

    async def _close(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=_DISCARD_TIMEOUT)  # waits for the cancellation, aborts when late
        except DRIVER_ERRORS:
            pass
        finally:
            connection.terminate()
            self._free_slot()

    def _free_slot(self) -> None:
        """One connection fewer: leave to open another goes to whoever has waited longest."""
        while self._waiters and not self._closing:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._size -= 1

    # --- life -------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> PoolStatistics:
        """The numbers of this moment."""
        return PoolStatistics(self._size, len(self._idle), len(self._held), len(self._waiters), self._max_size)

    async def open(self) -> None:
        """Open `min_size` connections, at least one, so that wrong settings show now.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
        """
        opened: list[Connection] = []
        try:
            while len(opened) < max(1, self._min_size):
                opened.append(await self.take(self._acquire_timeout))
            await opened[0].execute("SELECT 1", timeout=self._command_timeout)
        except DRIVER_ERRORS as error:
            raise translate(error, f"open the pool of {self.address}", self._acquire_timeout) from error
        finally:
            for connection in opened:
                self._put_idle(connection)

    def _close_idle(self, *, keep: int) -> None:
        while len(self._idle) > keep:
            self.discard(self._idle.popleft())

    def shrink(self) -> None:
        """Close what is idle. The pool stays usable."""
        self._close_idle(keep=0)

    async def close(self, *, timeout: float = 5.0) -> None:
        """Refuse new calls, wait for running ones, and close everything.

        Args:
            timeout: Seconds to wait; what is still held then is cut off.
        """
        self._closing = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ServiceUnavailableError(self.address, "the pool is closing"))
        self._waiters.clear()
        self._close_idle(keep=0)
        try:
            async with asyncio.timeout(timeout):
                await self._all_back.wait()
                await self._settle()
        except TimeoutError:
            pass
        finally:
            for connection in [*self._held, *self._idle]:
                connection.terminate()
            self._held.clear()
            self._idle.clear()
            self._all_back.set()
            for task in self._background:
                task.cancel()
        await self._settle()

    async def _settle(self) -> None:
        while self._background:
            await asyncio.wait(tuple(self._background))


def no_row(address: str) -> DatabaseError:
    """The error of `execute_returning` when nothing came back."""
    return DatabaseError(
        f"execute_returning on {address}: the statement returned no row; "
        "is RETURNING missing, or did WHERE or ON CONFLICT leave nothing?",
        sqlstate="02000",
    )
