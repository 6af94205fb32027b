"""IndexingStrategy: which indexes are missing, needless, swollen or broken; and changing that, when told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svcframework_postgres.advice import indexadvice
from svcframework_postgres.advice.bloat import read_bloat
from svcframework_postgres.advice.catalogue import Catalogue, Index, read_catalogue, read_indexes
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, worst_first
from svcframework_postgres.advice.proposals import Proposal
from svcframework_postgres.advice.schemachanges import AppliedChange, apply_proposal
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.service import PostgresService


class IndexingStrategy:
    """Advice about indexes, and the way to follow it; holds no connection and lives as long as you like.

    Looking never changes anything. Each finding has a proposal, which is data until it is given to `apply`.

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
        self._database, self._chosen = database, pool

    async def indexes(self) -> tuple[Index, ...]:
        """Every index of the database, the oldest first, without the server's own."""
        return await read_indexes(self._ask)

    async def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong with the indexes, worst first.

        Raises:
            DatabaseError: The catalogues can't be read.
            ServiceTimeoutError: It took longer than `query_timeout`.
            ConnectionFailedError: The server can't be reached.
        """
        found = await self._look()
        sizes = await read_bloat(self._ask, at_least=self.config.bloat_bytes)
        return worst_first(
            [
                *indexadvice.invalid(found),
                *indexadvice.missing_for_foreign_keys(found, self.config),
                *indexadvice.duplicates(found),
                *indexadvice.unused(found, self.config),
                *indexadvice.bloated(found, sizes, self.config),
            ]
        )

    async def missing(self) -> tuple[Finding, ...]:
        """Foreign keys of big tables without an index."""
        return worst_first(indexadvice.missing_for_foreign_keys(await self._look(), self.config))

    async def unused(self) -> tuple[Finding, ...]:
        """Indexes that nothing has used since statistics began; those are young after a reset, which each one says."""
        return worst_first(indexadvice.unused(await self._look(), self.config))

    async def duplicates(self) -> tuple[Finding, ...]:
        """Indexes that another one makes needless."""
        return worst_first(indexadvice.duplicates(await self._look()))

    async def bloated(self) -> tuple[Finding, ...]:
        """Indexes much bigger than what is in them; measured where pgstattuple is installed, otherwise estimated."""
        sizes = await read_bloat(self._ask, at_least=self.config.bloat_bytes)
        return worst_first(indexadvice.bloated(await self._look(), sizes, self.config))

    async def invalid(self) -> tuple[Finding, ...]:
        """Indexes that a failed build has left behind."""
        return worst_first(indexadvice.invalid(await self._look()))

    async def apply(self, proposal: Proposal, *, timeout: float | None = None) -> AppliedChange:  # noqa: ASYNC109
        """Do what a proposal says, while its table stays in use. Done already, it does nothing.

        A build that fails leaves nothing behind. One that was cut off (a crash, a cancellation) leaves an invalid
        index, which the next attempt drops before it builds.

        Args:
            proposal: From a finding, or your own `CreateIndex(…)`.
            timeout: Seconds; `build_timeout` of the config when not given. Waiting for a lock has `lock_timeout`.

        Raises:
            DatabaseError: It failed; retryable if a lock was not to be had or another change is under way.
            ServiceTimeoutError: It took too long.
            ConnectionFailedError: The server can't be reached.
        """
        limit = self.config.build_timeout if timeout is None else timeout
        return await apply_proposal(self._pool, proposal, self.config, timeout=limit)

    @property
    def _pool(self) -> PostgresPool:
        return self._database.pool if self._chosen is None else self._chosen

    async def _look(self) -> Catalogue:
        return await read_catalogue(self._ask)

    async def _ask(self, query: str, *args: Any) -> Sequence[Any]:
        return await self._database.execute_query(self._pool, query, *args, timeout=self.config.query_timeout)
