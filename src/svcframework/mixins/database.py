"""DatabaseOperationMixin: the usual ways to ask the injected database; it knows the contract and no driver."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    ServiceFrameworkError,
    ServiceNotFoundError,
    ServiceTimeoutError,
    ServiceUnavailableError,
    describe,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from svcframework.bases import DatabaseService, Record, Transaction
    from svcframework.service import BaseService

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract

T = TypeVar("T")

NAME = "database_service"
"""The service that is asked where the instance holds no database."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a longer result.

    Args:
        items: The rows of this page.
        number: 1 for the first page.
        size: Rows per page.
        has_next: There is a page after it.
        total: Rows of all pages together; None when it was not asked for.
    """

    items: list[T]
    number: int
    size: int
    has_next: bool
    total: int | None = None


class DatabaseOperationMixin:
    """Adds query helpers to a service; mixed into a `BaseService`, in either order.

    The database is the instance's own `database_service` or `database`, as its constructor set it, or else the
    host's `database_service`. Arguments are bound by the server (`$1`, `$2`, …); a statement is text that a
    developer wrote and never holds input. Errors of a driver arrive as ours.
    """

    async def query_one(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        """The first row, None if there is none; `timeout` in seconds.

        Raises:
            DatabaseError: The statement failed.
            ServiceTimeoutError: It took too long.
            ConnectionFailedError: The server can't be reached.
        """
        with _translated(timeout):
            return await self._find_database().execute_one(query, *args, timeout=timeout)

    async def query_all(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        """Every row. Errors as in `query_one`."""
        with _translated(timeout):
            return await self._find_database().execute_query(query, *args, timeout=timeout)

    async def query_scalar(self, query: str, *args: Any, default: Any = None, timeout: float | None = None) -> Any:
        """The first column of the first row, `default` if there is no row. Errors as in `query_one`."""
        row = await self.query_one(query, *args, timeout=timeout)
        return default if row is None else next(iter(row.values()))

    async def query_exists(self, query: str, *args: Any, timeout: float | None = None) -> bool:
        """Whether the statement has a row. Errors as in `query_one`."""
        return bool(await self.query_scalar(f"SELECT EXISTS ({_inner(query)})", *args, timeout=timeout))

    async def query_count(self, query: str, *args: Any, timeout: float | None = None) -> int:
        """How many rows the statement has, counted by the server. Errors as in `query_one`."""
        counting = f"SELECT count(*) FROM ({_inner(query)}) AS counted"  # noqa: S608 - a developer's own statement
        return int(await self.query_scalar(counting, *args, timeout=timeout))

    async def query_page(
        self,
        query: str,
        *args: Any,
        page: int = 1,
        size: int = 50,
        with_total: bool = False,
        timeout: float | None = None,
    ) -> Page[Record]:
        """One page of the rows. The statement needs an `ORDER BY` that leaves no ties, or pages overlap.

        Args:
            query: The statement, without `LIMIT`.
            args: Its arguments.
            page: 1 for the first.
            size: Rows per page.
            with_total: Count all rows, too, which costs a second statement.
            timeout: Seconds for each statement.

        Raises:
            ValueError: `page` or `size` is below 1.
            DatabaseError: As in `query_one`.
        """
        if page < 1 or size < 1:
            raise ValueError(f"page={page}, size={size}: pages are numbered from 1 and have at least one row")
        place = len(args) + 1
        paged = f"{_inner(query)}LIMIT ${place} OFFSET ${place + 1}"
        rows = await self.query_all(paged, *args, size + 1, (page - 1) * size, timeout=timeout)
        total = await self.query_count(query, *args, timeout=timeout) if with_total else None
        return Page(rows[:size], page, size, has_next=len(rows) > size, total=total)

    async def query_returning(self, query: str, *args: Any, timeout: float | None = None) -> Record:
        """The one row that a changing statement returns. Errors as in `query_one`."""
        with _translated(timeout):
            return await self._find_database().execute_returning(query, *args, timeout=timeout)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction for the length of an `async with` block; what the block receives runs the statements.

        It is committed at the end, and rolled back if the block raises or is cancelled. An error of the block
        itself is raised as it is.
        """
        # Only errors that bear an SQLSTATE are the database's: an OSError may be the block's own.
        with _translated(only_sql=True):
            async with self._find_database().transaction() as open_transaction:
                yield open_transaction

    def _find_database(self) -> DatabaseService[Any]:
        for attribute in (NAME, "database"):
            held = getattr(self, attribute, None)
            if held is not None:
                return cast("DatabaseService[Any]", held)
        service = cast("BaseService[Any]", self)
        if service.host is None:
            reason = f"the instance has no {NAME} and is in no host: give it one in its constructor"
            raise ServiceUnavailableError(NAME, reason, needed_by=service.name)
        try:
            return cast("DatabaseService[Any]", service.host[NAME])
        except ServiceNotFoundError as error:
            raise ServiceNotFoundError(NAME, known=error.known, needed_by=service.name) from None


def _inner(query: str) -> str:
    """A statement to be put into another one; the line break ends a trailing comment."""
    return query.rstrip().removesuffix(";") + "\n"


@contextmanager
def _translated(timeout: float | None = None, *, only_sql: bool = False) -> Iterator[None]:
    """Errors of a driver as ours. Their first line only: the further ones quote rows."""
    try:
        yield
    except ServiceFrameworkError:
        raise
    except Exception as error:
        translated = _translation_of(error, timeout, only_sql=only_sql)
        if translated is None:
            raise
        raise translated from error


def _translation_of(error: Exception, timeout: float | None, *, only_sql: bool) -> Exception | None:
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        return DatabaseError(describe(error), sqlstate=sqlstate)
    if only_sql:
        return None
    if isinstance(error, TimeoutError) and timeout is not None:
        return ServiceTimeoutError("the statement", timeout)
    if isinstance(error, OSError):
        return ConnectionFailedError(f"the database: {describe(error)}")
    return None
