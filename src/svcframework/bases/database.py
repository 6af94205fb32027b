"""DatabaseService: what services may expect of a database, whichever one it is. No driver here."""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, overload

from svcframework.service import BaseService, ConfigT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager


class Record(Protocol):
    """One row: values by column name, in the order of the columns. A driver's own row type, or a `dict`."""

    def __getitem__(self, key: str, /) -> Any:
        """The value of a column.

        Raises:
            KeyError: There is no such column.
        """

    def __len__(self) -> int:
        """How many columns there are."""

    @overload
    def get(self, key: str, /) -> Any: ...
    @overload
    def get(self, key: str, default: Any, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """The columns' names."""

    def values(self) -> Iterable[Any]:
        """The values."""

    def items(self) -> Iterable[tuple[str, Any]]:
        """Pairs of name and value."""


class Statements(Protocol):
    """What runs statements: a database, or a transaction in it.

    Arguments are bound by the server (`$1`, `$2`, …) and never put into the text. `timeout` is in seconds; None
    means the service's own limit; the caller's deadline holds in either case.
    """

    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> Sequence[Record]:
        """Every row."""

    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        """The first row, None if there is none."""

    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> Record:
        """The one row that a changing statement returns (`INSERT … RETURNING`).

        Raises:
            DatabaseError: The statement returned no row.
        """

    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run the statement once for each of `rows`, all or none."""


class Transaction(Statements, Protocol):
    """An open transaction: committed at the end of its block, rolled back if the block raises."""


class DatabaseService(BaseService[ConfigT], ABC):
    """The contract of every database service; lives as long as its host.

    Domain services depend on this class and not on a driver. Arguments are bound by the server (`$1`, `$2`, …).
    Every call ends in time: after `timeout` seconds, the service's own limit, or the caller's deadline, whichever
    is first. Driver errors arrive as `DatabaseError` or another `ExternalServiceError`.
    """

    @abstractmethod
    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        """Run a statement and return every row.

        Args:
            query: The statement, with `$1`, `$2`, … for the arguments.
            args: The arguments.
            timeout: Seconds for this statement; None for the service's own limit.

        Raises:
            DatabaseError: The statement failed.
            ServiceTimeoutError: It took too long.
            ConnectionFailedError: The server can't be reached.
        """

    @abstractmethod
    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        """Run a statement and return its first row, None if there is none. Arguments as in `execute_query`."""

    @abstractmethod
    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> Record:
        """Run a changing statement that returns one row (`INSERT … RETURNING`). Arguments as in `execute_query`.

        Raises:
            DatabaseError: The statement failed or returned no row.
        """

    @abstractmethod
    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run a statement once for each of `rows`, all or none.

        Args:
            query: The statement.
            rows: The arguments of each run.
            timeout: Seconds for all of it; None for the service's own limit.
        """

    @abstractmethod
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction for the length of an `async with` block.

        It is committed at the end, and rolled back if the block raises or is cancelled. Statements that belong
        to it are run on what the block receives, not on the service.
        """
