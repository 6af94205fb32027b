"""TransactionRunner: runs a transaction again when another one was in its way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from svcframework.retry import RetryBudget, retry_on_failure
from svcframework_postgres.errors import TransactionConflictError
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.transaction import PostgresTransaction, TransactionBlock, TransactionOptions

T = TypeVar("T")
TransactionWork = Callable[[PostgresTransaction], Awaitable[T]]
"""What is to happen in one transaction; called anew for each attempt."""

_DELAY, _LONGEST_DELAY = 0.02, 1.0  # seconds; a transaction that is in the way takes milliseconds


class TransactionRunner:
    """Runs transactions until they get through; lives as long as its service.

    Serialization failures (40001) and deadlocks (40P01) are retried, and nothing else: no cancellation, no commit
    whose outcome isn't known. All calls share one budget, so that an overloaded database isn't asked for more.
    """

    def __init__(self) -> None:
        self.budget = RetryBudget()
        self._by_attempts: dict[int, Callable[..., Awaitable[Any]]] = {}

    async def run(
        self,
        pool: PostgresPool,
        work: TransactionWork[T],
        *,
        options: TransactionOptions,
        attempts: int,
        settings: Mapping[str, object] | None = None,
    ) -> T:
        """Run `work` in a transaction, at most `attempts` times.

        Raises:
            ValueError: Fewer than one attempt.
            TransactionConflictError: The last attempt failed as the others had.
        """
        retrying = self._by_attempts.get(attempts)
        if retrying is None:
            if attempts < 1:
                raise ValueError(f"attempts={attempts}: the first attempt is always made; give 1 or more")
            decorate = retry_on_failure(
                attempts - 1,
                delay=_DELAY,
                max_delay=_LONGEST_DELAY,
                exceptions=(TransactionConflictError,),
                budget=self.budget,
            )
            retrying = self._by_attempts[attempts] = decorate(run_in_transaction)
        result: T = await retrying(pool, work, options, settings)
        return result


async def run_in_transaction(
    pool: PostgresPool,
    work: TransactionWork[T],
    options: TransactionOptions,
    settings: Mapping[str, object] | None,
) -> T:
    """One attempt."""
    async with TransactionBlock(pool, options, settings=settings) as tx:
        return await work(tx)
