"""QueryOptimizer: which statements cost the most, how the server runs them, and what is wrong with that."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from svcframework.errors import DatabaseError
from svcframework_postgres.advice.catalogue import Catalogue, read_catalogue
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, worst_first
from svcframework_postgres.advice.planadvice import advise
from svcframework_postgres.advice.plans import PlanNode, PlanTree, read_plan
from svcframework_postgres.advice.recording import Recording
from svcframework_postgres.advice.statementstatistics import (
    Order,
    StatementStatistics,
    count_reading_calls,
    hidden_statements,
    judge_statement,
    read_statements,
    without_statistics,
)
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.noting import noted_by
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.service import PostgresService
from svcframework_postgres.transaction import PostgresTransaction

_READ_ONLY = "25006"


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """How the server runs a statement, and what is wrong with that.

    Args:
        statement: The statement.
        root: The last step of the plan, with the others below it.
        findings: What is wrong, worst first.
        execution_seconds: What the run took; None unless the statement was run.
        document: What `EXPLAIN (FORMAT JSON)` returned, for other tools.
    """

    statement: str
    root: PlanNode
    findings: tuple[Finding, ...]
    execution_seconds: float | None = None
    document: Any = field(default=None, repr=False, hash=False, compare=False)

    @property
    def steps(self) -> tuple[str, ...]:
        """What each step does, top down, such as `Seq Scan` and `Index Scan`."""
        return tuple(node.kind for node in self.root.walk())


class QueryOptimizer:
    """Advice about statements; holds no connection and lives as long as you like.

    Args:
        database: The database's service.
        config: The limits; their defaults when not given.
        pool: Another database, from `get_org_pool`.
    """

    def __init__(
        self,
        database: PostgresService,
        config: OptimizationConfig | None = None,
        *,
        pool: PostgresPool | None = None,
    ) -> None:
        self.config = config or OptimizationConfig()
        self._database, self._pool = database, pool

    # --- statements -------------------------------------------------------------------------------------

    async def top_statements(
        self, limit: int | None = None, *, order: Order = "total_seconds"
    ) -> list[StatementStatistics]:
        """The statements that lead by what they cost, whoever runs them.

        Args:
            limit: How many; `statements` of the config when not given.
            order: By what: `total_seconds`, `mean_seconds`, `calls`, `temp_blocks`.

        Raises:
            StatementStatisticsError: The server keeps no statistics; says what to do.
        """
        return await read_statements(self._ask, limit=limit or self.config.statements, order=order)

    async def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the statements that cost the most: their numbers and their plans.

        No statement is run for it. A statement whose plan the server can't tell is judged by its numbers only.

        Raises:
            StatementStatisticsError: The server keeps no statistics; says what to do.
        """
        hidden = await hidden_statements(self._ask)
        found: list[Finding] = [] if hidden is None else [without_statistics(hidden)]
        statements = {one.query_id: one for one in await self.top_statements()}
        statements |= {one.query_id: one for one in await self.top_statements(order="calls")}
        calls, catalogue = await count_reading_calls(self._ask), await read_catalogue(self._ask)
        for one in statements.values():
            found += judge_statement(one, calls, self.config)
            try:
                plan, _ = await self._plan(one.query, (), analyze=False, timeout=None)
            except DatabaseError:
                continue  # its table is gone, or its text was cut, or it is of a kind that can't be prepared
            found += advise(plan, catalogue.tables, self.config, one.query)
        return worst_first(found)

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """Note the statements that a block runs through the service; its `findings` are the N+1 suspicions.

        What the block's own tasks run is noted, too; what other tasks run is not.
        """
        recording = Recording(self.config)
        with noted_by(recording):
            yield recording

    # --- plans ------------------------------------------------------------------------------------------

    async def explain(self, query: str, *args: Any, analyze: bool = False, timeout: float | None = None) -> QueryPlan:
        """How the server would run a statement, and what is wrong with that.

        Args:
            query: One statement, with `$1`, `$2`, … for the arguments.
            args: The arguments. Without them a statement with parameters gets the plan that fits any.
            analyze: Run it, in a read-only transaction that is rolled back: only that shows wrong estimates, spills
                and rows read in vain.
            timeout: Seconds; `query_timeout` of the config when not given.

        Raises:
            DatabaseError: The statement is wrong, or it would change rows and was to be run.
            ServiceTimeoutError: It took too long.
        """
        plan, document = await self._plan(query, args, analyze=analyze, timeout=timeout)
        catalogue: Catalogue = await read_catalogue(self._ask)
        findings = advise(plan, catalogue.tables, self.config, query)
        return QueryPlan(query, plan.root, findings, plan.execution_seconds, document)

    async def _plan(
        self, query: str, args: Sequence[Any], *, analyze: bool, timeout: float | None
    ) -> tuple[PlanTree, Any]:
        limit = self.config.query_timeout if timeout is None else timeout
        options = "FORMAT JSON, VERBOSE, ANALYZE, BUFFERS" if analyze else "FORMAT JSON, VERBOSE"
        document: Any = None
        try:
            async with self._database.transaction(self._pool, readonly=True) as transaction:
                document = await _explained(transaction, options, query, args, limit)
                raise _Undone  # noqa: TRY301 - the way to roll back
        except _Undone:
            pass
        except DatabaseError as error:
            if error.sqlstate == _READ_ONLY:
                message = f"explain: {error}. A statement that changes rows is planned and not run: analyze=False"
                raise DatabaseError(message, sqlstate=_READ_ONLY) from error
            raise
        if isinstance(document, str):
            document = msgspec.json.decode(document)
        return read_plan(document), document

    async def _ask(self, query: str, *args: Any) -> Sequence[Any]:
        pool = self._database.pool if self._pool is None else self._pool
        return await self._database.execute_query(pool, query, *args, timeout=self.config.query_timeout)


class _Undone(Exception):  # noqa: N818 - not an error: the way out of a transaction that leaves nothing behind
    pass


async def _explained(
    transaction: PostgresTransaction, options: str, query: str, args: Sequence[Any], limit: float
) -> Any:
    """The plan's document. The statement goes over the wire as one: a second one after a `;` is refused."""
    if args:
        return (await transaction.execute_returning(f"EXPLAIN ({options}) {query}", *args, timeout=limit))[0]
    name = Identifier(f"svcframework_{uuid.uuid4().hex}")
    await transaction.execute_query(f"PREPARE {name} AS {query}", timeout=limit)
    try:
        count = await transaction.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1", name.parts[0]
        )
        # With NULL for each parameter the planner would see that nothing equals NULL; so it may not look at them.
        await transaction.execute_query("SET LOCAL plan_cache_mode = force_generic_plan")
        values = f" ({', '.join(['NULL'] * count)})" if count else ""
        async with transaction.transaction():  # a failure leaves the outer one usable, for what is below
            explaining = f"EXPLAIN ({options}) EXECUTE {name}{values}"
            return (await transaction.execute_returning(explaining, timeout=limit))[0]
    finally:
        if transaction.is_usable:
            await transaction.execute_query(f"DEALLOCATE {name}")
