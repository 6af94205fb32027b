"""The statements that a pool and a transaction have in common; each says how it gets and keeps a connection."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

import asyncpg

from svcframework.errors import DatabaseError
from svcframework_postgres import driver
from svcframework_postgres.connections import Connection
from svcframework_postgres.noting import noted

T = TypeVar("T")
Work = Callable[[Connection, str, Any, float], Coroutine[Any, Any, T]]
"""What is done with a connection, a statement, its arguments and the seconds it may take."""


class PostgresStatements(ABC):
    """Statements on one database; every one ends in time.

    `timeout` is in seconds; None means `command_timeout`. The caller's deadline holds in either case.
    """

    address: str
    """Where the connections lead, as `host:port/database`."""

    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[asyncpg.Record]:
        """Run a statement and return every row. Arguments and errors as `PostgresService.execute_query`."""
        return await self.run("execute_query", query, noted(driver.fetch), args, timeout)

    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record | None:
        """Run a statement and return its first row, None if there is none."""
        return await self.run("execute_one", query, noted(driver.fetch_one), args, timeout)

    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> asyncpg.Record:
        """Run a changing statement that returns one row.

        Raises:
            DatabaseError: It failed or returned no row.
        """
        record = await self.run("execute_returning", query, noted(driver.fetch_one), args, timeout)
        if record is None:
            raise DatabaseError(
                f"execute_returning on {self.address}: the statement returned no row; "
                "is RETURNING missing, or did WHERE or ON CONFLICT leave nothing?",
                sqlstate="02000",
            )
        return record

    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run a statement once for each of `rows`, all or none."""
        await self.run("execute_many", query, noted(driver.execute_many), rows, timeout)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement for its effect; without arguments it may be several.

        Returns:
            The server's word for it, such as `INSERT 0 1`.
        """
        return await self.run("execute", query, noted(driver.execute), args, timeout)

    @abstractmethod
    async def run(self, operation: str, query: str, work: Work[T], args: Any, timeout: float | None) -> T:
        """Do `work` with a connection in time, and leave the connection in a known state or not at all."""
