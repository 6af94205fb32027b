"""ReadRouter: which server a read goes to, and where it goes next when that one fails."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from svcframework.deadlines import effective_timeout, has_deadline
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    ServiceFrameworkError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.metrics import ServiceMetrics
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.reading.replicas import ReplicaSet, ReplicaStatus
from svcframework_postgres.reading.servers import Read, ReadServer, T
from svcframework_postgres.transaction import PostgresTransaction, TransactionBlock, TransactionOptions

SnapshotIsolation = Literal["read committed", "repeatable read"]
"""What a replica knows."""

# 40 a replica had to choose between the statement and what it replays; the others: what is missing there may only not
# have arrived yet, and the primary knows better.
_ASK_ELSEWHERE = ("40", "42P01", "42703", "42704", "42883", "3D000", "3F000")
_SHORTEST = 0.001  # seconds; the driver takes 0 for an error of its own

# Routers whose reads go to the primary in this context; one variable for all, because such variables are never freed.
_pinned: ContextVar[frozenset[ReadRouter]] = ContextVar("svcframework_postgres_pinned", default=frozenset())


@dataclass(frozen=True, slots=True)
class View:
    """What a reader must be able to see.

    Args:
        position: What a replica must have replayed.
        database: The database; None for the configured one.
    """

    position: int = 0
    database: str | None = None


class ReadRouter:
    """Chooses a server for each read; lives as long as its service runs.

    Args:
        servers: The replicas and their primary.
        metrics: Counts reads as `read.replica`, `read.primary` and `read.failover`.
        command_timeout: Seconds of one read, whatever it is tried on.
    """

    def __init__(self, servers: ReplicaSet, *, metrics: ServiceMetrics, command_timeout: float) -> None:
        self._servers = servers
        self._metrics, self._command_timeout = metrics, command_timeout

    async def route(self, read: Read[T], timeout: float | None, view: View) -> T:
        """Read from the best server, and from the next ones where that fails, all in one limit.

        Args:
            read: What is done with the server's pool.
            timeout: Seconds; None for `command_timeout`.
            view: What it must be able to see.
        """
        clock = asyncio.get_running_loop().time
        own = self._command_timeout if timeout is None else timeout
        until = clock() + (effective_timeout(own) if has_deadline() else own)
        primary, found = self._servers.primary, None
        for operation, server in self._stops(view.position):
            left = until - clock()
            if found is not None and left <= 0:
                break
            try:
                with self._metrics.timer(operation):
                    return await server.attempt(read, max(_SHORTEST, left), view.database)
            except ServiceFrameworkError as error:
                if not _may_succeed_elsewhere(error, on_replica=server is not primary):
                    raise
                if found is None or server is primary:  # the primary's error tells most
                    found = error
        if found is None:  # can't be: the primary is always asked
            raise ServiceUnavailableError(primary.address, "no server was asked")
        raise found

    def _stops(self, position: int) -> Iterator[tuple[str, ReadServer]]:
        """Servers to ask, one after another; each is chosen when the one before has failed."""
        servers = self._servers
        if self in _pinned.get():
            yield "read.primary", servers.primary
            return
        tried: set[ReadServer] = set()
        for replica in servers.candidates(position):
            tried.add(replica)
            yield "read.replica", replica
        if not servers.has_primary:  # it may be silent, and silence costs time
            for replica in servers.last_resort(position):
                if replica not in tried:
                    tried.add(replica)
                    yield "read.failover", replica
        given_up = servers.primary.given_up
        yield "read.primary", servers.primary
        for replica in servers.last_resort(position):
            if replica not in tried:
                yield "read.failover", replica
        if given_up != servers.primary.given_up:  # it was another server by then
            yield "read.primary", servers.primary

    @asynccontextmanager
    async def transaction(self, isolation: SnapshotIsolation | None, view: View) -> AsyncIterator[PostgresTransaction]:
        """A read-only transaction on the best server that lets one begin."""
        if isolation not in {None, "read committed", "repeatable read"}:
            raise ValueError(f"isolation={isolation!r}: replicas know 'read committed' and 'repeatable read' only")
        options = TransactionOptions(isolation=isolation, readonly=True)
        async with AsyncExitStack() as stack:

            async def begin(pool: PostgresPool, _seconds: float) -> PostgresTransaction:
                return await stack.enter_async_context(TransactionBlock(pool, options))

            yield await self.route(begin, None, view)

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Within the block, and in tasks that it starts, reads go to the primary."""
        token = _pinned.set(_pinned.get() | {self})
        try:
            yield
        finally:
            _pinned.reset(token)

    # --- what is known ----------------------------------------------------------------------------------

    @property
    def has_replicas(self) -> bool:
        """Whether there is anything to measure."""
        return bool(self._servers.replicas)

    def status(self) -> tuple[ReplicaStatus, ...]:
        """What is known of each replica."""
        return self._servers.status()

    def health(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """The replicas for a health check: what is known of each by its address, and why some aren't in use."""
        found = self.status()
        details = {each.address: {"in_use": each.in_use, "lag": each.lag, "reads": each.reads} for each in found}
        out = [each for each in found if not (each.in_use or each.is_primary)]
        return details, [f"replica {each.address}: {each.problem}" for each in out]

    # --- life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Measure the replicas until cancelled."""
        await self._servers.run()

    async def close(self, *, timeout: float) -> None:
        """Close every connection.

        Args:
            timeout: Seconds that running reads have to end.
        """
        servers = [self._servers.primary, *self._servers.replicas]
        await asyncio.gather(*(server.close(timeout=timeout) for server in servers))


def _may_succeed_elsewhere(error: ServiceFrameworkError, *, on_replica: bool) -> bool:
    if isinstance(error, (ConnectionFailedError, ServiceTimeoutError)):
        return True
    if isinstance(error, DatabaseError):
        return on_replica and (error.sqlstate or "").startswith(_ASK_ELSEWHERE)
    return on_replica  # it refuses our credentials, or is misconfigured
