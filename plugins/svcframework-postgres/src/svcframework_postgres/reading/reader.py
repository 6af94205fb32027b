"""PostgresReader: statements that only read, on a replica that is fresh enough, else on the primary."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from svcframework.errors import DatabaseError
from svcframework_postgres.failover import READ_ONLY
from svcframework_postgres.reading.replicas import ReplicaStatus
from svcframework_postgres.reading.routing import ReadRouter, SnapshotIsolation, View
from svcframework_postgres.reading.wal import parsed_position
from svcframework_postgres.statements import PostgresStatements, T, Work
from svcframework_postgres.transaction import PostgresTransaction

_EVERYTHING = View()


class PostgresReader(PostgresStatements):
    """Reads where there is room for them; lives as long as its service, whose `reader` it is.

    A statement goes to a replica that is at most `max_replica_lag` behind; without one it goes to the primary. What a
    replica fails is asked of another server within the same time, so a replica's troubles fail no read while the
    primary works. While there is no primary, replicas up to `max_replica_lag_in_failover` behind are read from.

    A statement that writes is refused wherever it lands, on the primary too.

    Args:
        router: Decides which server is asked.
        address: The primary's, for messages.
        view: What it must be able to see.
    """

    def __init__(self, router: ReadRouter, *, address: str, view: View = _EVERYTHING) -> None:
        self.address = address
        self._router, self._view = router, view

    def after(self, position: str) -> PostgresReader:
        """A reader that sees everything written up to a position: your own writes, for example.

        Args:
            position: From `PostgresService.position()`, asked after the commit. It may come from another process.

        Raises:
            ValueError: It is none.
        """
        view = replace(self._view, position=parsed_position(position))
        return PostgresReader(self._router, address=self.address, view=view)

    @property
    def replicas(self) -> tuple[ReplicaStatus, ...]:
        """What is known now of each replica, in the order of the settings."""
        return self._router.status()

    async def run(self, operation: str, query: str, work: Work[T], args: Any, timeout: float | None) -> T:
        """Do `work` on the server that the router chooses, and on others where it fails."""
        if operation == "execute_many":
            args = list(args)  # it may be asked for twice
        try:
            return await self._router.route(
                lambda pool, limit: pool.run(operation, query, work, args, limit), timeout, self._view
            )
        except DatabaseError as error:
            if error.sqlstate != READ_ONLY:
                raise
            raise DatabaseError(
                f"{operation}: a reader only reads, wherever it lands; write with the service itself",
                sqlstate=READ_ONLY,
            ) from error

    def transaction(
        self, *, isolation: SnapshotIsolation | None = None
    ) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a read-only transaction for the length of an `async with` block, all of it on one server.

        A server that fails before the block begins is replaced; what fails later is raised.

        Args:
            isolation: `read committed` or `repeatable read`, which is one snapshot; a replica knows no other.

        Raises:
            ConnectionFailedError: The server went away within the block; run it again.
        """
        return self._router.transaction(isolation, self._view)
