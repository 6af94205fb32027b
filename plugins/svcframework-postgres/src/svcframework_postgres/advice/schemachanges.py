"""Doing what a proposal says, while its table stays in use: locks and time bounded, failed builds cleared away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from svcframework.deadlines import effective_timeout
from svcframework.errors import DatabaseError
from svcframework_postgres.advice.catalogue import CREATED
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.proposals import CreateIndex, DropIndex, Proposal, RebuildIndex
from svcframework_postgres.advisorylock import LockBusyError, advisory_lock
from svcframework_postgres.errors import DRIVER_ERRORS, translated
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.serverlimits import GRACE, set_limits
from svcframework_postgres.silence import unless_silent

_LOCK = "schema change"
_BUSY = "55P03"  # lock not available: retryable
_NAME_TAKEN = "42P07"

_FIND = """
SELECT x.indisvalid AND x.indisready AND x.indislive AS is_valid, n.nspname = $3 AND t.relname = $4 AS is_of_table,
    x.indpred IS NULL AND m.amname = 'btree' AND ARRAY(
        SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
            LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number AND k.number <> 0
        ORDER BY k.place) = $5::text[] AS is_same
FROM pg_class i JOIN pg_namespace o ON o.oid = i.relnamespace JOIN pg_index x ON x.indexrelid = i.oid
    JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_am m ON m.oid = i.relam
WHERE o.nspname = $1 AND i.relname = $2
"""

_LEFT_BY_REBUILD = r"""
SELECT i.relname::text AS name FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_namespace n ON n.oid = i.relnamespace
WHERE NOT x.indisvalid AND n.nspname = $1 AND starts_with(i.relname::text, $2)
    AND substr(i.relname, length($2) + 1) ~ '^_cc(new|old)\d*$'
"""


@dataclass(frozen=True, slots=True)
class AppliedChange:
    """What became of a proposal.

    Args:
        proposal: The change.
        statements: What was run, or would be.
        is_done: Whether it was; False in a dry run, after an error, and where nothing was left to do.
        seconds: What it took.
        error: What stopped it.
    """

    proposal: Proposal
    statements: tuple[str, ...]
    is_done: bool = False
    seconds: float = 0.0
    error: Exception | None = None


async def apply_proposal(
    pool: PostgresPool,
    proposal: Proposal,
    config: OptimizationConfig,
    *,
    timeout: float,  # noqa: ASYNC109 - kept by the server
) -> AppliedChange:
    """Do what a proposal says; nothing if it has been done.

    A failed build's invalid index is dropped again. One of an earlier build that was cut off hard is dropped first.

    Args:
        pool: The database.
        proposal: The change.
        config: How long to wait for a lock, for another change to end, and for a server that is silent.
        timeout: Seconds for all of it; the caller's deadline holds as well.

    Raises:
        DatabaseError: It failed; retryable if a lock was not to be had, or another change is under way.
        ServiceTimeoutError: It took too long.
        ConnectionFailedError: The server can't be reached, or has fallen silent.
    """
    clock = asyncio.get_running_loop().time
    limit, started = effective_timeout(timeout), clock()
    operation = f"{proposal.key} on {pool.address}"

    async def change() -> tuple[str, ...]:
        with translated(operation, limit):
            async with pool.acquire() as connection, _session(connection, operation, config.lock_timeout, limit):
                return await _Change(connection, proposal, limit).run()

    statements = await unless_silent(pool, change(), operation=operation, patience=config.silence_timeout)
    return AppliedChange(proposal, statements, is_done=bool(statements), seconds=clock() - started)


@asynccontextmanager
async def _session(
    connection: asyncpg.Connection, operation: str, lock_timeout: float, limit: float
) -> AsyncIterator[None]:
    """Limits in the server, and the right to change a schema, which one has at a time."""
    await set_limits(connection, lock_timeout=lock_timeout, statement_timeout=limit)
    await connection.execute("SELECT set_config('search_path', 'pg_catalog', false)")  # every name is written in full
    try:
        async with advisory_lock(connection, _LOCK, wait=min(lock_timeout, limit)):
            yield
    except LockBusyError as error:
        busy = DatabaseError(f"{operation}: another change is under way in {error.holder}", sqlstate=_BUSY)
        busy.retryable = True
        raise busy from error


class _Change:
    """One change on one connection.

    Args:
        connection: With its limits set.
        proposal: The change.
        limit: Seconds for one statement; the server keeps it, so that it ends in a known state.
    """

    def __init__(self, connection: asyncpg.Connection, proposal: Proposal, limit: float) -> None:
        self._connection, self._proposal, self._limit = connection, proposal, limit
        self._run_so_far: list[str] = []

    async def run(self) -> tuple[str, ...]:
        """The statements that were run."""
        if isinstance(self._proposal, CreateIndex):
            await self._create(self._proposal)
        elif isinstance(self._proposal, RebuildIndex):
            await self._rebuild(self._proposal)
        elif isinstance(self._proposal, DropIndex):
            if await self._find(self._proposal.schema, self._proposal.name) is not None:
                await self._all()
        else:
            await self._all()
        return tuple(self._run_so_far)

    async def _create(self, proposal: CreateIndex) -> None:
        found = await self._find(proposal.schema, proposal.name, proposal.columns)
        if found is not None and not found["is_of_table"]:
            raise self._name_taken("an index of another table")
        if found is not None and found["is_valid"]:
            if found["is_same"]:
                return
            raise self._name_taken("an index on other columns")
        if found is not None:
            await self._drop(proposal.index)  # an earlier build was cut off
        try:
            await self._all()
        except DRIVER_ERRORS:
            await self._clear_away(proposal.schema, [proposal.name])
            raise
        moment = await self._connection.fetchval("SELECT now()")
        with contextlib.suppress(asyncpg.PostgresError):  # it is there; only its age stays unknown
            told = f"{CREATED}{moment.isoformat(timespec='seconds')}"
            await self._connection.execute(f"COMMENT ON INDEX {proposal.index} IS '{told}'")

    async def _rebuild(self, proposal: RebuildIndex) -> None:
        for name in await self._left_by_rebuild(proposal):
            await self._drop(Identifier(proposal.schema, name))
        try:
            await self._all()
        except DRIVER_ERRORS:
            if not self._connection.is_closed():
                await self._clear_away(proposal.schema, await self._left_by_rebuild(proposal))
            raise

    async def _all(self) -> None:
        for statement in self._proposal.statements:
            await self._execute(statement)

    async def _drop(self, index: Identifier) -> None:
        await self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")

    async def _execute(self, statement: str) -> None:
        await self._connection.execute(statement, timeout=self._limit + GRACE)
        self._run_so_far.append(statement)

    async def _clear_away(self, schema: str, names: list[str]) -> None:
        """Drop what a failed build has left. If that fails, too, it shows as a finding, and the next build does it."""
        with contextlib.suppress(*DRIVER_ERRORS):
            for name in names:
                found = await self._find(schema, name)
                if found is not None and not found["is_valid"]:
                    await self._drop(Identifier(schema, name))

    async def _left_by_rebuild(self, proposal: RebuildIndex) -> list[str]:
        return [row["name"] for row in await self._connection.fetch(_LEFT_BY_REBUILD, proposal.schema, proposal.name)]

    async def _find(self, schema: str, name: str, columns: tuple[str, ...] = ()) -> Any:
        proposal = self._proposal
        return await self._connection.fetchrow(_FIND, schema, name, proposal.schema, proposal.table, list(columns))

    def _name_taken(self, what: str) -> DatabaseError:
        return DatabaseError(f"{self._proposal.key}: {what} has that name", sqlstate=_NAME_TAKEN)
