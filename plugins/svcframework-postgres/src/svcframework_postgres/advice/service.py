"""OptimizationService: one report about a database, and the way to apply what one chooses of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from svcframework.errors import ServiceFrameworkError
from svcframework.methods import service_method
from svcframework.service import BaseService
from svcframework_postgres.advice.catalogue import read_moment
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, without_overlap, worst_first
from svcframework_postgres.advice.indexing import IndexingStrategy
from svcframework_postgres.advice.optimizer import QueryOptimizer
from svcframework_postgres.advice.report import Choice, OptimizationReport
from svcframework_postgres.advice.schemachanges import AppliedChange
from svcframework_postgres.advice.statementstatistics import (
    StatementStatistics,
    StatementStatisticsError,
    without_statistics,
)
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.service import PostgresService


class OptimizationService(BaseService[OptimizationConfig]):
    """A database's report, and what follows from it; lives as long as its host, and does nothing unless asked.

    A report only reads. `apply` changes the schema, and even that only with `dry_run=False`.

    Args:
        config: Settings; from the section `optimization` when not given.
        database_service: The database.
    """

    def __init__(
        self, config: OptimizationConfig | Mapping[str, Any] | None = None, *, database_service: PostgresService
    ) -> None:
        super().__init__(config)
        self._database = database_service

    def optimizer(self, pool: PostgresPool | None = None) -> QueryOptimizer:
        """Advice about statements, with this service's limits."""
        return QueryOptimizer(self._database, self.config, pool=pool)

    def indexing(self, pool: PostgresPool | None = None) -> IndexingStrategy:
        """Advice about indexes, with this service's limits."""
        return IndexingStrategy(self._database, self.config, pool=pool)

    @service_method
    async def report(self, pool: PostgresPool | None = None) -> OptimizationReport:
        """Everything that is wrong with the indexes and the costliest statements.

        A server without statement statistics gives a report with a finding that says what to do about that.

        Args:
            pool: Another database, from `get_org_pool`; the configured one when not given.

        Raises:
            DatabaseError: The catalogues can't be read.
            ServiceTimeoutError: A look took longer than `query_timeout`.
            ConnectionFailedError: The server can't be reached.
        """
        started = time.perf_counter()
        chosen = self._database.pool if pool is None else pool
        now, since = await read_moment(partial(self._database.execute_query, chosen))
        found: list[Finding] = [*await self.indexing(pool).findings()]
        statements: list[StatementStatistics] = []
        try:
            statements = await self.optimizer(pool).top_statements()
            found += await self.optimizer(pool).findings()
        except StatementStatisticsError as error:
            found.append(without_statistics(error))
        seconds = time.perf_counter() - started
        findings = without_overlap(worst_first(found))
        return OptimizationReport(chosen.address, now, since, findings, tuple(statements), seconds)

    @service_method
    async def apply(
        self,
        choices: Iterable[Choice],
        *,
        dry_run: bool = True,
        report: OptimizationReport | None = None,
        pool: PostgresPool | None = None,
    ) -> tuple[AppliedChange, ...]:
        """Do what is chosen of a report, one after the other; nothing unless `dry_run` is False.

        One that fails doesn't keep the others back: its error is in its result.

        Args:
            choices: Keys of proposals, proposals, or findings.
            dry_run: Only say what would be run.
            report: The report to choose from; a new one is made when not given, so that what is done still applies.
            pool: Another database, from `get_org_pool`; the configured one when not given.

        Returns:
            What was done, or would be, in the order of the choices.

        Raises:
            UnknownProposalError: The report proposes no such thing; nothing was done.
        """
        chosen = (report or await self.report(pool)).choose(choices)
        if dry_run:
            return tuple(AppliedChange(proposal, proposal.statements) for proposal in chosen)
        strategy, results = self.indexing(pool), []
        for proposal in chosen:
            try:
                results.append(await strategy.apply(proposal))
            except ServiceFrameworkError as error:
                self.logger.warning("optimization_failed", proposal=proposal.key, error=str(error))
                results.append(AppliedChange(proposal, proposal.statements, error=error))
            else:
                self.logger.info("optimization_applied", proposal=proposal.key, seconds=results[-1].seconds)
        return tuple(results)
