"""PostgresService: the database service that other services depend on."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, overload

import asyncpg

from svcframework import HealthResult
from svcframework.bases import DatabaseService
from svcframework.errors import PluginError, ServiceUnavailableError
from svcframework.methods import service_method
from svcframework_postgres.bulk.methods import BulkMethods
from svcframework_postgres.codecs import Codec
from svcframework_postgres.config import PostgresConfig
from svcframework_postgres.connections import Connection
from svcframework_postgres.manager import ConnectionManager, HasDsn, check_name, pool_health
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.reading.reader import PostgresReader
from svcframework_postgres.reading.readside import ReadSide
from svcframework_postgres.reading.replicas import written_position
from svcframework_postgres.reading.routing import ReadRouter, View
from svcframework_postgres.retrying import T, TransactionRunner, TransactionWork
from svcframework_postgres.transaction import Isolation, PostgresTransaction, TransactionBlock, TransactionOptions


class PostgresService(BulkMethods, DatabaseService[PostgresConfig]):
    """Statements and transactions on PostgreSQL; lives as long as its host.

    Every call ends within `command_timeout`, its own `timeout` or the caller's deadline. A connection whose call was
    cut off is closed, never used again. When the server goes away calls raise `ConnectionFailedError` at once, and
    work again as soon as it is back. `json` and `jsonb` columns are Python values, `vector` ones lists of floats.

    A pool from `get_org_pool` may stand before the statement, which then runs on that pool's database.

    Args:
        config: Settings; from the section `database` when not given.
        server: A server run by another service; its address wins over the configured one.
        codecs: How values of further types travel, on every connection.
        replicas: Replicas run by other services, beside the configured ones.
    """

    def __init__(
        self,
        config: PostgresConfig | Mapping[str, Any] | None = None,
        server: HasDsn | None = None,
        codecs: Sequence[Codec] = (),
        replicas: tuple[HasDsn, ...] = (),
    ) -> None:
        super().__init__(config)
        self._server, self._codecs = server, tuple(codecs)
        self._connections: ConnectionManager | None = None
        self._main: PostgresPool | None = None
        self._replicas = tuple(replicas)
        self._router: ReadRouter | None = None
        self._transactions = TransactionRunner()

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
        connections = ConnectionManager(self.config, server=self._server, codecs=self._codecs)
        await connections.open()
        self._connections, self._main = connections, connections.main
        self._router = ReadSide(
            self.config,
            self._server,
            self._replicas,
            self._codecs,
            self.metrics,
            on_new_primary=self._follow_new_primary,
            on_change=self._tell_of_replica,
        ).router()

    async def on_run(self) -> None:
        """Measure how far the replicas are behind, if there are any."""
        if self._router is not None and self._router.has_replicas:
            await self._router.run()

    def _follow_new_primary(self) -> None:
        self.logger.warning("another server has become the primary; connections to the old one are closed")
        if self._connections is not None:
            self._connections.renew()

    def _tell_of_replica(self, address: str, problem: str) -> None:
        if problem:
            self.logger.warning("replica is out", replica=address, reason=problem)
        else:
            self.logger.info("replica is usable", replica=address)

    async def on_shutdown(self) -> None:
        """Close every connection: running calls have most of `stop_timeout` to end, then they are cut off."""
        connections, self._connections, self._main = self._connections, None, None
        router, self._router = self._router, None
        limit = self.config.stop_timeout * 0.8
        closing = [part.close(timeout=limit) for part in (connections, router) if part is not None]
        await asyncio.gather(*closing)

    async def _service_health_check(self) -> HealthResult:
        """`SELECT 1` on each database with open connections; the pools' numbers are the details."""
        if self._connections is None or self._main is None:
            return HealthResult.unhealthy("not started")
        limit = self.config.health_check_timeout * 0.9
        main, others = await asyncio.gather(
            pool_health(self._main, timeout=limit, connect=True), self._connections.health(timeout=limit)
        )
        numbers = main.statistics
        details = {
            **numbers.as_dict(),
            "databases": 1 + len(others),
            "outside": self._connections.outside,
            "pools": {name: {"ok": found.ok, **found.statistics.as_dict()} for name, found in others.items()},
        }
        ill = [f"{name}: {found.message}" for name, found in others.items() if not found.ok]
        if not main.ok:
            return HealthResult.unhealthy(main.message, **details)
        if self._router is not None and self._router.has_replicas:
            details["replicas"], unused = self._router.health()
            ill += unused
        if main.message or ill:
            return HealthResult.degraded(main.message or "; ".join(ill), **details)
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

    @property
    def connections(self) -> ConnectionManager:
        """The pools of all databases.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        if self._connections is None:
            raise ServiceUnavailableError(self.name, "it isn't started; enter the host with `async with host:` first")
        return self._connections

    async def get_org_pool(self, database_name: str) -> PostgresPool:
        """The pool of another database on the same server, one per database.

        The `max_databases` used last keep their idle connections open.

        Args:
            database_name: The database, for example a tenant's.

        Raises:
            ValueError: The name is missing: a missing tenant never means the default one.
            DatabaseError: There is no such database.
            ConnectionFailedError: The server can't be reached.
        """
        return await self.connections.open_pool(database_name)

    # --- reading ----------------------------------------------------------------------------------------

    @property
    def reader(self) -> PostgresReader:
        """Statements that only read, on a replica that is fresh enough, else on the primary.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        return PostgresReader(self._reads, address=self.pool.address)

    def get_org_reader(self, database_name: str) -> PostgresReader:
        """As `reader`, on another database of the same servers. Opens nothing yet.

        Args:
            database_name: The database, for example a tenant's.

        Raises:
            ValueError: The name is missing, or can't be one.
        """
        check_name(database_name)
        return PostgresReader(self._reads, address=self.pool.address, view=View(database=database_name))

    def primary(self) -> AbstractContextManager[None]:
        """Within the block, and in tasks that it starts, `reader` reads from the primary, and sees what was written."""
        return self._reads.pinned()

    async def position(self) -> str:
        """Where the primary's log is now: a replica that has got there has everything that is committed by then.

        Ask after a commit, and read with `reader.after(position)`, in whatever process.

        Raises:
            ConnectionFailedError: The primary can't be reached.
        """
        return await written_position(self.pool)

    @property
    def _reads(self) -> ReadRouter:
        if self._router is None:
            raise ServiceUnavailableError(self.name, "it isn't started; enter the host with `async with host:` first")
        return self._router

    # --- connections ------------------------------------------------------------------------------------

    async def open_connection(self, database: str | None = None) -> Connection:
        """A driver connection outside the pools, for LISTEN and the like; the caller closes it.

        What is left open is closed at the stop. Its calls keep `command_timeout` and raise the driver's own errors.

        Args:
            database: Another database on the same server; the configured one when not given.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer within `connect_timeout`.
        """
        return await self.connections.open_connection(database)

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

    @overload
    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str: ...
    @overload
    async def execute(self, pool: PostgresPool, query: str, /, *args: Any, timeout: float | None = None) -> str: ...
    @service_method
    async def execute(self, query: Any, *args: Any, timeout: float | None = None) -> str:
        """Run a statement for its effect; without arguments it may be several. Arguments as in `execute_query`.

        Returns:
            The server's word for it, such as `INSERT 0 1`.
        """
        if isinstance(query, str):
            return await self.pool.execute(query, *args, timeout=timeout)
        return await _pool(query).execute(*args, timeout=timeout)

    # --- transactions -----------------------------------------------------------------------------------

    def transaction(
        self,
        pool: PostgresPool | None = None,
        *,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a transaction for the length of an `async with` block.

        It is committed at the end, and rolled back if the block raises or is cancelled.

        Args:
            pool: The database, from `get_org_pool`; the configured one when not given.
            isolation: `read committed`, `repeatable read` or `serializable`; the server's default when not given.
            readonly: Refuse statements that change rows.
            deferrable: Wait for a moment without conflicts; for long serializable read-only transactions.

        Raises:
            DatabaseError: The commit failed, or a statement had failed and its error did not leave the block.
            TransactionOutcomeUnknownError: The answer to the commit never came.
        """
        return TransactionBlock(self._given(pool), TransactionOptions(isolation, readonly, deferrable))

    def settings(
        self,
        values: Mapping[str, object],
        *,
        pool: PostgresPool | None = None,
        isolation: Isolation | None = None,
        readonly: bool = False,
    ) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a transaction in which settings have other values; they end with it (`SET LOCAL`) and can't leak.

        Args:
            values: Names and values, for example `{"app.tenant": "acme"}` for row-level security; `role` is one too.
            pool: As in `transaction`.
            isolation: As in `transaction`.
            readonly: As in `transaction`.

        Raises:
            ValueError: A value is None, or that of a setting of the application's own is empty: a missing tenant
                never means a default one. Raised on entering the block.
        """
        return TransactionBlock(self._given(pool), TransactionOptions(isolation, readonly), settings=values)

    @service_method
    async def run_in_transaction(
        self,
        work: TransactionWork[T],
        *,
        pool: PostgresPool | None = None,
        isolation: Isolation | None = "serializable",
        readonly: bool = False,
        deferrable: bool = False,
        settings: Mapping[str, object] | None = None,
        attempts: int = 5,
    ) -> T:
        """Run `work` in a transaction, and all of it again when another transaction was in the way.

        Serialization failures and deadlocks are retried, with jitter, within the caller's deadline and the service's
        retry budget. `work` may run several times, so that it does nothing outside of the transaction.

        Args:
            work: Called with the transaction; awaited.
            pool: As in `transaction`.
            isolation: As in `transaction`.
            readonly: As in `transaction`.
            deferrable: As in `transaction`.
            settings: As in `settings`.
            attempts: At most so many, the first included.

        Returns:
            What `work` returned in the transaction that was committed.

        Raises:
            TransactionConflictError: It was in the way every time.
            TransactionOutcomeUnknownError: The answer to the commit never came; it isn't retried.
            Exception: What `work` raised; the transaction is rolled back.
        """
        options = TransactionOptions(isolation, readonly, deferrable)
        return await self._transactions.run(
            self._given(pool), work, options=options, attempts=attempts, settings=settings
        )

    def _given(self, pool: PostgresPool | None) -> PostgresPool:
        return self.pool if pool is None else _pool(pool)


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
