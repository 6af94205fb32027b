"""ConnectionManager: the pools of one server's databases, and the connections outside of them."""

from __future__ import annotations

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from weakref import WeakSet, WeakValueDictionary

from svcframework.deadlines import effective_timeout
from svcframework.errors import (
    DeadlineExceededError,
    ExternalServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_postgres.codecs import Codec
from svcframework_postgres.config import PostgresConfig, address_of
from svcframework_postgres.connections import Connection, connect
from svcframework_postgres.errors import DRIVER_ERRORS
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.poolstatistics import PoolStatistics

T = TypeVar("T")

_CLOSE_TIMEOUT = 1.0  # seconds to take leave of the server


class HasDsn(Protocol):
    """A database server that another service runs, such as `EmbeddedPostgres`."""

    @property
    def dsn(self) -> str:
        """Its address; asked for at every connect, once the server runs."""
        ...


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Whether one database answers.

    Args:
        ok: It does, or no connection is open that could tell.
        message: What is wrong; of a database that answers, why calls have to wait.
        statistics: The pool's numbers.
    """

    ok: bool
    message: str
    statistics: PoolStatistics


class ConnectionManager:
    """Pools by database, opened when they are asked for; lives as long as its service, and opens again after a close.

    The `max_databases` used last keep idle connections; a pool that was pushed out still works for whoever holds it,
    and keeps none. Addresses are made of fields: no name of a database can lead elsewhere.

    Args:
        config: Where the server is, and how many connections.
        server: A server run by another service; its address wins over the configured one.
        codecs: What `PostgresService` was given.

    Example:
        >>> async def largest(manager: ConnectionManager, tenant: str) -> None:
        ...     pool = await manager.open_pool(tenant)
        ...     await pool.execute_one("SELECT max(total) FROM invoices")
    """

    def __init__(self, config: PostgresConfig, *, server: HasDsn | None = None, codecs: Sequence[Codec] = ()) -> None:
        self.config = config
        self._server, self._codecs = server, tuple(codecs)
        self._main: PostgresPool | None = None
        self._recent: OrderedDict[str, PostgresPool] = OrderedDict()
        # A pool that fell out of `_recent` still works for whoever holds it, and is found and closed through these.
        self._by_database: WeakValueDictionary[str, PostgresPool] = WeakValueDictionary()
        self._all: WeakSet[PostgresPool] = WeakSet()
        self._opening: dict[str, asyncio.Task[PostgresPool]] = {}
        self._outside: set[Connection] = set()
        self._connecting: set[asyncio.Task[Connection]] = set()

    # --- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the pool of the configured database, so that wrong settings show now.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer within `connect_timeout`.
        """
        if self._main is None:
            self._main = await self._opened(None)

    async def close(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - how long running calls have
        """Close every pool and every connection outside of them.

        Args:
            timeout: Seconds that running calls have to end; then they are cut off.
        """
        pools = list(self._all)  # held from here on, not only weakly
        self._main = None
        self._recent.clear()
        for task in (*self._opening.values(), *self._connecting):
            task.cancel()
        await asyncio.gather(
            *(pool.close(timeout=timeout) for pool in pools), *(_close(connection) for connection in self._outside)
        )
        await asyncio.gather(*self._opening.values(), *self._connecting, return_exceptions=True)
        self._all.clear()

    def renew(self) -> None:
        """Close every pool's connections, those in use when they come back: another server has become the primary."""
        for pool in list(self._all):
            pool.renew()

    # --- pools ------------------------------------------------------------------------------------------

    @property
    def main(self) -> PostgresPool:
        """The pool of the configured database.

        Raises:
            ServiceUnavailableError: The manager isn't open.
        """
        if self._main is None:
            raise ServiceUnavailableError("database", "its connections aren't open; start the service first")
        return self._main

    async def open_pool(self, database_name: str) -> PostgresPool:
        """The pool of another database on the same server, one per database however many ask at once.

        Args:
            database_name: The database, for example a tenant's.

        Raises:
            ValueError: The name is missing, or can't be one: it never means the default database.
            DatabaseError: There is no such database.
            ConnectionFailedError: The server can't be reached.
        """
        _ = self.main
        check_name(database_name)
        pool = self._by_database.get(database_name)
        if pool is None:
            pool = await self._open_once(database_name)
        self._touch(database_name, pool)
        return pool

    async def _open_once(self, database_name: str) -> PostgresPool:
        task = self._opening.get(database_name)
        if task is None:
            # A context of its own: the deadline of whoever asks first isn't that of the others.
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._opened(database_name), context=contextvars.Context())
            self._opening[database_name] = task
            task.add_done_callback(lambda done: self._has_opened(database_name, done))
        own = self.config.connect_timeout + self.config.command_timeout
        return await _outcome(task, f"open the pool of {database_name}", own)

    def _has_opened(self, database_name: str, task: asyncio.Task[PostgresPool]) -> None:
        del self._opening[database_name]
        if not task.cancelled() and task.exception() is None:
            # Taken in here, since whoever asked may have gone; a name in `_recent` keeps the pool alive.
            self._by_database[database_name] = task.result()
            self._touch(database_name, task.result())

    def _touch(self, database_name: str, pool: PostgresPool) -> None:
        if self._main is None:  # closed meanwhile
            return
        if database_name not in self._recent:
            pool.retire(retired=False)
        self._recent[database_name] = pool
        self._recent.move_to_end(database_name)
        while len(self._recent) > self.config.max_databases:
            self._recent.popitem(last=False)[1].retire()

    async def _opened(self, database: str | None) -> PostgresPool:
        config = self.config
        pool = PostgresPool(
            self._opener(database),
            address=address_of(self._arguments(database)),
            max_size=config.pool_max_size,
            min_size=config.pool_min_size if database is None else 0,
            idle_lifetime=config.pool_idle_lifetime,
            acquire_timeout=config.acquire_timeout,
            command_timeout=config.command_timeout,
            always_reset=config.reset == "always",
        )
        self._all.add(pool)
        try:
            await pool.open()
        except BaseException:
            await pool.close(timeout=0.0)
            raise
        return pool

    def _arguments(self, database: str | None) -> dict[str, Any]:
        dsn = None if self._server is None else self._server.dsn
        return self.config.connect_arguments(dsn, database=database)

    def _opener(self, database: str | None) -> Callable[[], Awaitable[Connection]]:
        async def open_connection() -> Connection:
            arguments = self._arguments(database)  # anew each time: a restarted server may have moved
            return await connect(arguments, address=address_of(arguments), codecs=self._codecs)

        return open_connection

    # --- connections outside the pools ------------------------------------------------------------------

    async def open_connection(self, database: str | None = None) -> Connection:
        """A driver connection of the caller's own, codecs set; the caller closes it, at the latest the manager does.

        For what holds a connection long, such as LISTEN. It counts towards no pool's limit. Its calls keep
        `command_timeout` and raise the driver's own errors.

        Args:
            database: Another database on the same server; the configured one when not given.

        Raises:
            ValueError: The name can't be one.
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer within `connect_timeout`.
        """
        _ = self.main
        if database is not None:
            check_name(database)
        # The driver can't be cut off cleanly while it connects; a connection that comes too late is closed.
        task = asyncio.get_running_loop().create_task(self._connect_outside(database))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        try:
            return await _outcome(task, "open a connection outside the pools", 2 * self.config.connect_timeout)
        except BaseException:
            task.add_done_callback(_end)
            raise

    async def _connect_outside(self, database: str | None) -> Connection:
        connection = await self._opener(database)()
        if self._main is None:
            connection.terminate()
            raise ServiceUnavailableError("database", "its connections are being closed")
        self._outside.add(connection)
        connection.add_termination_listener(self._outside.discard)
        return connection

    # --- how it is doing --------------------------------------------------------------------------------

    @property
    def outside(self) -> int:
        """How many connections of `open_connection` are open."""
        return len(self._outside)

    @property
    def pools(self) -> Mapping[str, PostgresPool]:
        """The pools of other databases that are open, by name; a copy."""
        return dict(self._by_database)

    async def health(self, *, timeout: float) -> dict[str, PoolHealth]:  # noqa: ASYNC109 - a limit for all of them
        """Ask every database that has a connection open, all at once; none is opened for it.

        Args:
            timeout: Seconds for one answer.

        Returns:
            By database; the configured one isn't among them.
        """
        pools = self.pools
        found = await asyncio.gather(*(pool_health(pool, timeout=timeout) for pool in pools.values()))
        return dict(zip(pools, found, strict=True))


async def pool_health(pool: PostgresPool, *, timeout: float, connect: bool = False) -> PoolHealth:  # noqa: ASYNC109 - a limit of its own
    """Whether a pool's database answers `SELECT 1` in time.

    Args:
        pool: The pool; one that is busy to its limit isn't asked: its calls tell.
        timeout: Seconds.
        connect: Open a connection if none is.
    """
    numbers = pool.statistics
    busy = numbers.in_use >= numbers.limit
    if busy:
        words = f"all {numbers.limit} connections are in use"
        message = f"{words}, and calls get no answer" if pool.is_suspect else words if numbers.waiting else ""
        return PoolHealth(ok=not pool.is_suspect, message=message, statistics=numbers)
    if not (numbers.idle or connect):
        return PoolHealth(ok=True, message="", statistics=numbers)
    try:
        await pool.execute_one("SELECT 1", timeout=timeout)
    except (ExternalServiceError, ServiceTimeoutError) as error:
        return PoolHealth(ok=False, message=str(error), statistics=numbers)
    return PoolHealth(ok=True, message="", statistics=numbers)


def check_name(database_name: object) -> None:
    """Refuse what isn't the name of one database: a missing one, and what PostgreSQL would cut to another's."""
    if not isinstance(database_name, str) or not database_name.strip():
        raise ValueError(f"{database_name!r} names no database; pass the tenant's own")
    Identifier(database_name)


async def _outcome(task: asyncio.Task[T], what: str, own: float) -> T:
    """What a task gives, which others may wait for as well: no caller's end is its end.

    Args:
        task: Bounded by limits of its own.
        what: What it does, for messages.
        own: Seconds that it takes at most; the caller's deadline may be shorter.
    """
    limit = effective_timeout(own)
    try:
        async with asyncio.timeout(limit):
            return await asyncio.shield(task)
    except ServiceTimeoutError:
        raise
    except TimeoutError as error:
        raise DeadlineExceededError(what, limit) from error
    except asyncio.CancelledError:
        if task.cancelled():
            raise ServiceUnavailableError("database", "its connections are being closed") from None
        raise


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=_CLOSE_TIMEOUT)
    except DRIVER_ERRORS:
        pass
    finally:
        connection.terminate()


def _end(task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
