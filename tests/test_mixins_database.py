"""DatabaseOperationMixin over a small real database: sqlite behind the contract."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from svcframework.bases import DatabaseService, Record
from svcframework.config import ServiceConfig
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    ServiceNotFoundError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.mixins import DatabaseOperationMixin
from svcframework.service import BaseService


def _named(query: str, args: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    """PostgreSQL's numbered places as SQLite's named ones."""
    return re.sub(r"\$(\d+)", r":p\1", query), {f"p{number}": value for number, value in enumerate(args, 1)}


class Sqlite(DatabaseService[ServiceConfig]):
    """The contract on sqlite; `fails` is raised by the next statement, as a driver would."""

    fails: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.link = sqlite3.connect(":memory:", isolation_level=None)
        self.link.row_factory = sqlite3.Row
        self.link.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        self.link.executemany("INSERT INTO users VALUES (?, ?)", [(n, f"user{n}") for n in range(1, 8)])

    async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        if self.fails is not None:
            raise self.fails
        rows = self.link.execute(*_named(query, args)).fetchall()
        return [dict(row) for row in rows]

    async def execute_one(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        return next(iter(await self.execute_query(query, *args)), None)

    async def execute_returning(self, query: str, *args: Any, timeout: float | None = None) -> Record:
        row = await self.execute_one(query, *args)
        assert row is not None
        return row

    async def execute_many(self, query: str, rows: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        for row in rows:
            await self.execute_query(query, *row)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self.link.execute("BEGIN")
        try:
            yield self
        except BaseException:
            self.link.execute("ROLLBACK")
            raise
        self.link.execute("COMMIT")


class Users(BaseService, DatabaseOperationMixin):  # type: ignore[type-arg]
    def __init__(self, database_service: Sqlite) -> None:
        self.database_service = database_service


class DriverError(Exception):
    sqlstate = "23505"


@pytest.fixture
def users() -> Any:
    users = Users(Sqlite())
    yield users
    users.database_service.link.close()


async def test_rows_and_scalars(users: Users) -> None:
    """One, all, a scalar, its default, whether there is any, and how many; comments and semicolons don't matter."""
    row = await users.query_one("SELECT * FROM users WHERE id = $1", 2)
    assert row is not None
    assert "user2" == row["name"]
    assert await users.query_one("SELECT * FROM users WHERE id = $1", 99) is None
    assert 7 == len(await users.query_all("SELECT * FROM users"))
    assert "user3" == await users.query_scalar("SELECT name FROM users WHERE id = $1", 3)
    assert "none" == await users.query_scalar("SELECT name FROM users WHERE id = $1", 99, default="none")
    assert await users.query_exists("SELECT 1 FROM users WHERE id = $1;", 3)
    assert not await users.query_exists("SELECT 1 FROM users WHERE id = $1 -- comment", 99)
    assert 4 == await users.query_count("SELECT * FROM users WHERE id > $1; ", 3)
    assert {"id": 8} == await users.query_returning("INSERT INTO users (name) VALUES ($1) RETURNING id", "new")


async def test_pages(users: Users) -> None:
    """Pages follow one another, the last one says so, and the total is counted only when asked for."""
    query = "SELECT id FROM users WHERE id > $1 ORDER BY id -- by age"
    first = await users.query_page(query, 1, size=4)
    assert ([2, 3, 4, 5], True, None) == ([row["id"] for row in first.items], first.has_next, first.total)
    last = await users.query_page(query, 1, page=2, size=4, with_total=True)
    assert ([6, 7], False, 6) == ([row["id"] for row in last.items], last.has_next, last.total)
    with pytest.raises(ValueError, match="page=0"):
        await users.query_page(query, 1, page=0)


async def test_transaction(users: Users) -> None:
    """A block that ends is kept; one that raises is undone, and its own error arrives untouched."""
    async with users.transaction() as open_transaction:
        await open_transaction.execute_query("DELETE FROM users WHERE id = $1", 1)
    with pytest.raises(OSError, match="mine"):
        async with users.transaction() as open_transaction:
            await open_transaction.execute_query("DELETE FROM users")
            raise OSError("mine")
    assert 6 == await users.query_count("SELECT * FROM users")


async def test_transaction_translates_statement_errors(users: Users) -> None:
    """An error with an SQLSTATE becomes ours inside a transaction, too."""
    with pytest.raises(DatabaseError) as raised:
        async with users.transaction():
            raise DriverError("duplicate key")
    assert "23505" == raised.value.sqlstate


async def test_driver_errors_become_ours(users: Users) -> None:
    """By kind, with the driver's as the cause; only the first line is kept, since details quote rows."""
    for raised_by_driver, expected, timeout in [
        (DriverError("duplicate key\nDETAIL: (secret) exists"), DatabaseError, None),
        (TimeoutError(), ServiceTimeoutError, 2.0),
        (ConnectionResetError("reset"), ConnectionFailedError, None),
        (DatabaseError("ours already"), DatabaseError, None),
        (TypeError("a bug"), TypeError, None),
    ]:
        users.database_service.fails = raised_by_driver
        with pytest.raises(expected) as raised:
            await users.query_one("SELECT 1", timeout=timeout)
        assert "secret" not in str(raised.value)
        assert raised_by_driver in (raised.value, raised.value.__cause__)


async def test_database_is_found() -> None:
    """In `database_service`, else in `database`, else at the host; else the error says what to do."""
    database = Sqlite()

    class Plain(DatabaseOperationMixin, BaseService):  # type: ignore[type-arg]
        pass

    plain: Any = Plain()
    with pytest.raises(ServiceUnavailableError, match="constructor"):
        await plain.query_scalar("SELECT 1")
    plain.host = {"database_service": database}
    assert 1 == await plain.query_scalar("SELECT 1")
    plain.host, plain.database = None, database
    assert 1 == await plain.query_scalar("SELECT 1")
    database.link.close()


async def test_host_without_a_database_is_named() -> None:
    """The error says who asked and what there is."""

    class Host(SimpleNamespace):
        def __getitem__(self, name: str) -> Any:
            raise ServiceNotFoundError(name, known=["database_servize"])

    class Plain(DatabaseOperationMixin, BaseService):  # type: ignore[type-arg]
        pass

    plain: Any = Plain()
    plain.host = Host()
    with pytest.raises(ServiceNotFoundError, match=r"needed by plain.*Did you mean 'database_servize'"):
        await plain.query_scalar("SELECT 1")
