"""Running one file of statements: whole as it is, in a transaction with its row in the table, or without one.

The server splits the file into statements; nothing here reads SQL.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from svcframework_postgres.errors import DRIVER_ERRORS
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.migrations.config import MigrationConfig
from svcframework_postgres.migrations.errors import MigrationFailedError
from svcframework_postgres.migrations.files import MigrationFile, is_transactional
from svcframework_postgres.serverlimits import GRACE, set_limits

_FIXES = {
    "25001": "such a file says `-- svcframework: no transaction`, and has this one statement",  # active transaction
    "55P03": "somebody else holds the table: try again, or raise lock_timeout",  # lock not available
    "57014": "raise file_timeout if it needs longer",  # query cancelled
}
_ENDS_ITSELF = "it ends its own transaction"
_ENDS_ITSELF_FIX = "take COMMIT and ROLLBACK out; what it did before them is done, so look at the database"


async def run_file(
    connection: asyncpg.Connection, file: MigrationFile, table: Identifier, config: MigrationConfig
) -> dict[str, Any]:
    """Run a migration and note it.

    Args:
        connection: What holds the lock.
        file: The migration.
        table: The table of applied migrations.
        config: The limits.

    Returns:
        Its row.

    Raises:
        MigrationFailedError: Its statements failed, or end their own transaction.
    """
    started = time.perf_counter()
    await _fresh(connection, config)
    if file.in_transaction:
        async with _transaction(connection, file, config):
            await _run(connection, file.file, file.sql, config)
            await _check_still_in_it(connection, file)
            return await _noted(connection, file, table, started)
    await _drop_left_overs(connection, file, config)
    try:
        await _run(connection, file.file, file.sql, config)
    except MigrationFailedError:
        with contextlib.suppress(*DRIVER_ERRORS):
            await _drop_left_overs(connection, file, config)
        raise
    return await _noted(connection, file, table, started)


async def run_undo(
    connection: asyncpg.Connection, file: MigrationFile, table: Identifier, config: MigrationConfig
) -> None:
    """Run what undoes a migration, and forget that it was applied. Arguments and errors as `run_file`."""
    down, undo = file.file.removesuffix(".sql") + ".down.sql", file.undo or ""
    forgetting = f"DELETE FROM {table} WHERE version = $1"  # noqa: S608 - an Identifier
    await _fresh(connection, config)
    if is_transactional(undo):
        async with _transaction(connection, file, config):
            await _run(connection, down, undo, config)
            await _check_still_in_it(connection, file)
            await connection.execute(forgetting, file.version)
    else:
        await _run(connection, down, undo, config)
        await connection.execute(forgetting, file.version)


@asynccontextmanager
async def _transaction(
    connection: asyncpg.Connection, file: MigrationFile, config: MigrationConfig
) -> AsyncIterator[None]:
    # Not the driver's own: a file that ends the transaction would confuse its count.
    await connection.execute("BEGIN")
    try:
        await connection.execute("SELECT set_config('svcframework.migration', pg_current_xact_id()::text, true)")
        yield
    except (MigrationFailedError, asyncpg.PostgresError):
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")
        raise
    try:
        await connection.execute("COMMIT", timeout=config.file_timeout + GRACE)
    except asyncpg.PostgresError as error:  # a constraint that is checked at the end
        raise _failed(file.file, file.sql, error) from error


async def _check_still_in_it(connection: asyncpg.Connection, file: MigrationFile) -> None:
    is_same = connection.is_in_transaction() and await connection.fetchval(
        "SELECT current_setting('svcframework.migration', true) = pg_current_xact_id()::text"
    )
    if not is_same:
        raise MigrationFailedError(file.file, _ENDS_ITSELF, fix=_ENDS_ITSELF_FIX)


async def _run(connection: asyncpg.Connection, name: str, sql: str, config: MigrationConfig) -> None:
    try:
        await connection.execute(sql, timeout=config.file_timeout + GRACE)
    except asyncpg.PostgresError as error:
        raise _failed(name, sql, error) from error


def _failed(name: str, sql: str, error: asyncpg.PostgresError) -> MigrationFailedError:
    position = getattr(error, "position", None)  # in characters, from 1
    line = sql.count("\n", 0, int(position) - 1) + 1 if position else None
    fix = _FIXES.get(error.sqlstate or "", "")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return MigrationFailedError(name, reason, line=line, sqlstate=error.sqlstate, fix=fix)


async def _noted(
    connection: asyncpg.Connection, file: MigrationFile, table: Identifier, started: float
) -> dict[str, Any]:
    await connection.execute("RESET ROLE")  # a file may have become somebody who can't write here
    [row] = await connection.fetch(
        f"INSERT INTO {table} (version, name, checksum, seconds) VALUES ($1, $2, $3, $4)"  # noqa: S608 - an Identifier
        " RETURNING version, name, checksum, applied_at, seconds",
        file.version,
        file.name,
        file.checksum,
        time.perf_counter() - started,
    )
    return dict(row)


async def _fresh(connection: asyncpg.Connection, config: MigrationConfig) -> None:
    """A session as at the start, whatever the file before has set; the lock is kept."""
    await connection.execute("SET SESSION AUTHORIZATION DEFAULT; RESET ALL")
    await set_limits(connection, lock_timeout=config.lock_timeout, statement_timeout=config.file_timeout)


async def _drop_left_overs(connection: asyncpg.Connection, file: MigrationFile, config: MigrationConfig) -> None:
    """Drop the invalid indexes that an attempt of this file has left; `IF NOT EXISTS` would take them for done."""
    rows = await connection.fetch(
        "SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE NOT i.indisvalid AND c.relkind = 'i' AND NOT EXISTS"
        " (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)"
    )
    for row in rows:
        if re.search(rf"(?<![\w$]){re.escape(row['name'])}(?![\w$])", file.sql):
            index = Identifier(row["schema"], row["name"])
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}", timeout=config.file_timeout + GRACE)
