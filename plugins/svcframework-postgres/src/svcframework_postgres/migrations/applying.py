"""Migrations: plain SQL files, applied once and in order, whoever and however many start at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from svcframework_postgres.advisorylock import LockBusyError, advisory_lock
from svcframework_postgres.errors import translated
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.migrations.config import MigrationConfig
from svcframework_postgres.migrations.errors import (
    HistoryProblem,
    IrreversibleMigrationError,
    MigrationHistoryError,
    MigrationLockedError,
)
from svcframework_postgres.migrations.files import MigrationFile, read_migrations
from svcframework_postgres.migrations.runs import run_file, run_undo
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.service import PostgresService
from svcframework_postgres.silence import unless_silent

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A row of the table of applied migrations.

    Args:
        version: The migration's number.
        name: Its name when it was applied.
        checksum: Its checksum then.
        applied_at: When.
        seconds: What it took.
    """

    version: int
    name: str
    checksum: str
    applied_at: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """What has been applied to a database, and what has not; each in order."""

    applied: tuple[AppliedMigration, ...]
    pending: tuple[MigrationFile, ...]


Told = Callable[[AppliedMigration], None]
"""Called for each migration as soon as it is applied."""


class Migrations:
    """A folder of numbered SQL files and the databases they are applied to; holds no connection.

    `0001_create_users.sql` and so on, without a gap. Each is run once, in a transaction of its own together with its
    row in the table. Only one process applies at a time; the others wait, and then find nothing to do.

    Args:
        folder: Where the files are; read at each use.
        config: Table and limits; their defaults when not given.
    """

    def __init__(self, folder: Path | str, config: MigrationConfig | None = None) -> None:
        self.folder, self.config = Path(folder), config or MigrationConfig()
        self._table = Identifier(self.config.schema_name, self.config.table)

    async def status(self, database: PostgresService, pool: PostgresPool | None = None) -> MigrationStatus:
        """What has been applied and what is pending. Changes nothing.

        Args:
            database: The database's service.
            pool: Another database, from `get_org_pool`.

        Raises:
            MigrationFilesError: The folder can't be used.
            MigrationHistoryError: What was applied isn't what the files say.
        """
        files = await self._files()
        chosen = database.pool if pool is None else pool
        with translated(f"read the migrations of {chosen.address}", self.config.lock_timeout):
            async with chosen.acquire() as connection:
                return self._compared(files, await self._applied(connection), chosen.address)

    async def apply(
        self,
        database: PostgresService,
        pool: PostgresPool | None = None,
        *,
        to: int | None = None,
        told: Told | None = None,
    ) -> tuple[AppliedMigration, ...]:
        """Apply what is pending; those that were applied before one that fails stay applied.

        Args:
            database: The database's service.
            pool: Another database, from `get_org_pool`.
            to: The last version to apply; all when not given.
            told: Called for each as soon as it is applied.

        Returns:
            What was applied now, in order.

        Raises:
            MigrationFilesError: The folder can't be used; nothing was done.
            MigrationHistoryError: What was applied isn't what the files say; nothing was done.
            MigrationFailedError: A file's statements failed; says which, and where.
            MigrationLockedError: Another process was at it for longer than `lock_wait`.
            ConnectionFailedError: The server can't be reached, or has fallen silent.
        """
        status = await self.status(database, pool)
        if not _up_to(status.pending, to):
            return ()  # the usual start of a host takes no lock
        chosen = database.pool if pool is None else pool
        return await self._unless_silent(chosen, self._apply(chosen, to, told))

    async def _apply(self, pool: PostgresPool, to: int | None, told: Told | None) -> tuple[AppliedMigration, ...]:
        files = await self._files()
        done: list[AppliedMigration] = []
        async with self._locked(pool) as connection:
            await self._make_table(connection)
            status = self._compared(files, await self._applied(connection), pool.address)
            for file in _up_to(status.pending, to):
                row = await run_file(connection, file, self._table, self.config)
                done.append(AppliedMigration(**row))
                if told is not None:
                    told(done[-1])
        return tuple(done)

    async def revert(
        self, database: PostgresService, pool: PostgresPool | None = None, *, to: int
    ) -> tuple[AppliedMigration, ...]:
        """Undo the newest migrations by their `.down.sql` files, each in a transaction.

        Args:
            database: The database's service.
            pool: Another database, from `get_org_pool`.
            to: The version that stays the last one; 0 undoes all.

        Returns:
            What was undone, the newest first.

        Raises:
            IrreversibleMigrationError: One of them has no such file; nothing was done.
            MigrationError: As `apply`.
        """
        chosen = database.pool if pool is None else pool
        return await self._unless_silent(chosen, self._revert(chosen, to))

    async def _revert(self, pool: PostgresPool, to: int) -> tuple[AppliedMigration, ...]:
        files = {file.version: file for file in await self._files()}
        async with self._locked(pool) as connection:
            status = self._compared(tuple(files.values()), await self._applied(connection), pool.address)
            chosen = [one for one in reversed(status.applied) if one.version > to]
            for one in chosen:
                if files[one.version].undo is None:
                    raise IrreversibleMigrationError(files[one.version].file)
            for one in chosen:
                await run_undo(connection, files[one.version], self._table, self.config)
        return tuple(chosen)

    # --- parts ------------------------------------------------------------------------------------------

    async def _files(self) -> tuple[MigrationFile, ...]:
        return await asyncio.to_thread(read_migrations, self.folder)

    async def _unless_silent(self, pool: PostgresPool, work: Coroutine[Any, Any, T]) -> T:
        operation = f"apply migrations to {pool.address}"
        return await unless_silent(pool, work, operation=operation, patience=self.config.silence_timeout)

    @asynccontextmanager
    async def _locked(self, pool: PostgresPool) -> AsyncIterator[asyncpg.Connection]:
        wait = self.config.lock_wait
        with translated(f"apply migrations to {pool.address}", self.config.file_timeout):
            async with pool.acquire() as connection:
                try:
                    async with advisory_lock(connection, f"migrations {self._table}", wait=wait):
                        yield connection
                except LockBusyError as error:
                    raise MigrationLockedError(error.holder, wait) from error

    async def _make_table(self, connection: asyncpg.Connection) -> None:
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (version bigint PRIMARY KEY, name text NOT NULL,"
            " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), seconds double precision NOT NULL)"
        )

    async def _applied(self, connection: asyncpg.Connection) -> list[AppliedMigration]:
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", str(self._table)):
            return []
        rows: list[Any] = await connection.fetch(
            f"SELECT version, name, checksum, applied_at, seconds FROM {self._table} ORDER BY version"  # noqa: S608
        )
        return [AppliedMigration(**row) for row in rows]

    def _compared(
        self, files: tuple[MigrationFile, ...], applied: list[AppliedMigration], address: str
    ) -> MigrationStatus:
        problems = [*_differences({file.version: file for file in files}, applied)]
        last = max((one.version for one in applied), default=0)
        known = {one.version for one in applied}
        pending = tuple(file for file in files if file.version not in known)
        for file in pending:
            if file.version < last:
                message = (
                    f"{file.file}: comes before {last:04}, which was applied already; give it the next free number"
                )
                problems.append(HistoryProblem("late", file.version, message))
        if problems:
            raise MigrationHistoryError(address, sorted(problems, key=lambda one: one.version))
        return MigrationStatus(tuple(applied), pending)


def _differences(files: dict[int, MigrationFile], applied: list[AppliedMigration]) -> list[HistoryProblem]:
    problems = []
    for one in applied:
        file = files.get(one.version)
        told = f"{one.version:04}_{one.name}.sql was applied on {one.applied_at:%Y-%m-%d %H:%M} UTC"
        if file is None:
            message = f"{told}, and its file is gone; bring it back"
            problems.append(HistoryProblem("missing", one.version, message))
        elif file.name != one.name:
            problems.append(
                HistoryProblem("renamed", one.version, f"{told}, and is {file.file} now; name it as before")
            )
        elif file.checksum != one.checksum:
            message = f"{told}, and was changed since; undo the change and write another migration"
            problems.append(HistoryProblem("changed", one.version, message))
    return problems


def _up_to(pending: tuple[MigrationFile, ...], to: int | None) -> tuple[MigrationFile, ...]:
    return pending if to is None else tuple(file for file in pending if file.version <= to)
