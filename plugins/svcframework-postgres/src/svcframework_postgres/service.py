"""PostgresService: the database service that other services depend on."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, overload
from weakref import WeakSet, WeakValueDictionary

import asyncpg

from svcframework import HealthResult
from svcframework.bases import DatabaseService
from svcframework.errors import (
    ExternalServiceError,
    PluginError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.methods import service_method
from svcframework_postgres.config import PostgresConfig, address_of
from svcframework_postgres.connections import Connection, connect
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.transaction import Isolation, PostgresTransaction, transaction_in


class HasDsn(Protocol):
    """A database server that another service runs, such as `EmbeddedPostgres`."""

    @property
    def dsn(self) -> str:
        """Its address; asked for at every connect, once the server runs."""
        ...


class PostgresService(DatabaseService[PostgresConfig]):
    """Statements and transactions on PostgreSQL; lives as long as its host.

    Every call ends within `command_timeout`, its own `timeout` or the caller's deadline. A connection whose call was
    cut off is closed, never used again. When the server goes away calls raise `ConnectionFailedError` at once, and
    work again as soon as it is back. `json` and `jsonb` columns are Python values.

    A pool from `get_org_pool` may stand before the statement, which then runs on that pool's database.

    Args:
        config: Settings; from the section `database` when not given.
        server: A server run by another service; its address wins over the configured one.
    """

    def __init__(self, config: PostgresConfig | Mapping[str, Any] | None = None, server: HasDsn | None = None) -> None:
        super().__init__(config)
        self._server = server
        self._main: PostgresPool | None = None
        self._recent: OrderedDict[str, PostgresPool] = OrderedDict()
        # A pool that fell out of `_recent` still works for whoever holds it, and is found and closed through these.
        self._by_database: WeakValueDictionary[str, PostgresPool] = WeakValueDictionary()
        self._all: WeakSet[PostgresPool] = WeakSet()

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Open the pool.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer within `connect_timeout`.
            PluginError: The host doesn't run on asyncio, which the driver needs.
        """
        _require_asyncio(self.name)
        pool = self._new_pool(None)
        try:
            await pool.open()
        except BaseException:
            await pool.close(timeout=0.0)
            raise
        self._main = pool

    async def on_shutdown(self) -> None:
        """Close every pool: running calls have most of `stop_timeout` to end, then they are cut off."""
        pools = list(self._all)
        self._main = None
        self._recent.clear()
        limit = self.config.stop_timeout * 0.8
        await asyncio.gather(*(pool.close(timeout=limit) for pool in pools))
        self._all.clear()

    async def _service_health_check(self) -> HealthResult:
        """`SELECT 1` within `health_check_timeout`; the pool's numbers are the details."""
        if self._main is None:
            return HealthResult.unhealthy("not started")
        numbers = self._main.statistics
        details = {
            "size": numbers.size,
            "idle": numbers.idle,
            "in_use": numbers.in_use,
            "waiting": numbers.waiting,
            "limit": numbers.limit,
            "databases": 1 + len(self._by_database),
        }
        if numbers.in_use >= numbers.limit and numbers.waiting:
            return HealthResult.degraded(f"all {numbers.limit} connections are in use", **details)
        try:
            await self._main.execute_one("SELECT 1", timeout=self.config.health_check_timeout * 0.9)
        except (ExternalServiceError, ServiceTimeoutError) as error:
            return HealthResult.unhealthy(str(error), **details)
        return HealthResult.healthy(f"{numbers.in_use} of {numbers.limit} connections in use", **details)

    # --- pools ------------------------------------------------------------------------------------------

    @property
    def pool(self) -> PostgresPool:
        """The pool of the configured database.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        if self._main is None:
            raise ServiceUnavailableError(self.name, "it isn't started; enter the host with `async with host:` first")
        return self._main

    async def get_org_pool(self, database_name: str) -> PostgresPool:
        """The pool of another database on the same server, one per database.

        The `max_databases` used last keep their idle connections open.

        Args:
            database_name: The database, for example a tenant's.

        Raises:
            ValueError: The name is empty: a missing tenant never means the default one.
            DatabaseError: There is no such database.
            ConnectionFailedError: The server can't be reached.
        """
        _ = self.pool
        if not database_name:
            raise ValueError("get_org_pool('') names no database; pass the tenant's own")
        pool = self._by_database.get(database_name)
        if pool is None:
            pool = self._by_database[database_name] = self._new_pool(database_name)
            try:
                await pool.open()
            except BaseException:
                if self._by_database.get(database_name) is pool:
                    del self._by_database[database_name]
                await pool.close(timeout=0.0)
                raise
        self._recent[database_name] = pool
        self._recent.move_to_end(database_name)
        while len(self._recent) > self.config.max_databases:
            self._recent.popitem(last=False)[1].shrink()
        return pool

    async def open_connection(self, database: str | None = None) -> Connection:
        """A connection outside the pool, for LISTEN; the caller closes it."""
        _ = self.pool
        return await self._opener(database)()

    def _new_pool(self, database: str | None) -> PostgresPool:
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
        return pool

    def _arguments(self, database: str | None) -> dict[str, Any]:
        dsn = None if self._server is None else self._server.dsn
        return self.config.connect_arguments(dsn, database=database)

    def _opener(self, database: str | None) -> Callable[[], Awaitable[Connection]]:
        async def open_connection() -> Connection:
            arguments = self._arguments(database)  # anew each time: a restarted server may have moved
            return await connect(arguments, address=address_of(arguments))

        return open_connection

    # --- statements -------------------------------------------------------------------------------------

    @overload  # type: ignore[override]  # the driver's rows fit the contract's, but list[] is invariant
    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]: ...
    @overload
    async def execute_query(
        self, pool: PostgresPool, query: str, /, *args: Any, timeout: float | None = None
    ) -> list[asyncpg.Record]: ...
    @service_method
    async def execute_query(self, query: Any, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]:
        """Run a statement and return every row.

        Args:
            query: The statement, with `$1`, `$2`, … for the arguments; a pool may stand before it.
            args: The arguments.
            timeout: Seconds for this statement; None for `command_timeout`.

        Raises:
            DatabaseError: The statement failed; `sqlstate` says why.
            ServiceTimeoutError: It took too long, or no connection was free.
            ConnectionFailedError: The server can't be reached.
        """
        if isinstance(query, str):
            return await self.pool.execute_query(query, *args, timeout=timeout)
        return await _pool(query).execute_query(*args, timeout=timeout)

    @overload
    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record | None: ...
    @overload
    async def execute_one(
        self, pool: PostgresPool, query: str, /, *args: Any, timeout: float | None = None
    ) -> asyncpg.Record | None: ...
    @service_method
    async def execute_one(self, query: Any, *args: Any, timeout: float | None = None) -> asyncpg.Record | None:
        """Run a statement and return its first row, None if there is none. Arguments as in `execute_query`."""
        if isinstance(query, str):
            return await self.pool.execute_one(query, *args, timeout=timeout)
        return await _pool(query).execute_one(*args, timeout=timeout)

    @overload
    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record: ...
    @overload
    async def execute_returning(
        self, pool: PostgresPool, query: str, /, *args: Any, timeout: float | None = None
    ) -> asyncpg.Record: ...
    @service_method
    async def execute_returning(self, query: Any, *args: Any, timeout: float | None = None) -> asyncpg.Record:
        """Run a changing statement that returns one row (`INSERT … RETURNING`). Arguments as in `execute_query`.

        Raises:
            DatabaseError: The statement failed or returned no row.
        """
        if isinstance(query, str):
            return await self.pool.execute_returning(query, *args, timeout=timeout)
        return await _pool(query).execute_returning(*args, timeout=timeout)

    @overload
    async def execute_many(
        self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None
    ) -> None: ...
    @overload
    async def execute_many(
        self, pool: PostgresPool, query: str, rows: Iterable[Sequence[Any]], /, *, timeout: float | None = None
    ) -> None: ...
    @service_method
    async def execute_many(
        self, query: Any, rows: Any, statement_rows: Any = None, *, timeout: float | None = None
    ) -> None:
        """Run a statement once for each of `rows`, all or none. Arguments as in `execute_query`."""
        if isinstance(query, str):
            await self.pool.execute_many(query, rows, timeout=timeout)
        else:
            await _pool(query).execute_many(rows, statement_rows, timeout=timeout)

    def transaction(
        self, pool: PostgresPool | None = None, *, isolation: Isolation | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a transaction for the length of an `async with` block.

        It is committed at the end, and rolled back if the block raises or is cancelled.

        Args:
            pool: The database, from `get_org_pool`; the configured one when not given.
            isolation: `read committed`, `repeatable read` or `serializable`; the server's default when not given.
            readonly: Refuse statements that change rows.

        Raises:
            DatabaseError: The commit failed, or a statement had failed and its error did not leave the block.
        """
        return transaction_in(
            self.pool if pool is None else _pool(pool),
            isolation=isolation,
            readonly=readonly,
            command_timeout=self.config.command_timeout,
        )


AuroraService = PostgresService


def _pool(given: object) -> PostgresPool:
    if isinstance(given, PostgresPool):
        return given
    raise TypeError(f"The statement, or a pool from get_org_pool() before it, was expected; not {type(given).__name__}")


def _require_asyncio(service: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise PluginError(
            service, "asyncpg runs on asyncio only", fix="run the host on asyncio or uvloop, not on trio"
        ) from None
