"""BulkMethods: what PostgresService has for many rows at once, COPY and streams."""

# ruff: noqa: A002, ASYNC109 - COPY's own word; a statement's own limit is part of the contract
from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Unpack, overload

import asyncpg

from svcframework.methods import service_method
from svcframework_postgres.bulk.copyin import Data, Records, copy_data, copy_records
from svcframework_postgres.bulk.copying import CopyFormat, CopyOptions
from svcframework_postgres.bulk.copyout import Sink, copy_bytes, copy_chunks, copy_to
from svcframework_postgres.bulk.streaming import PostgresStream, rows_of, rows_of_pool
from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.transaction import PostgresTransaction

Where = PostgresPool | PostgresTransaction | None


class BulkMethods:
    """COPY and streams of a `PostgresService`.

    Each runs on the configured database, on another one (`on=` a pool from `get_org_pool`), or in a transaction (`on=`
    the transaction). `timeout` is the seconds without progress, None for `command_timeout`: nobody can say how long
    a whole one takes. The caller's deadline holds for all of it.
    """

    @property
    def pool(self) -> PostgresPool:
        """The pool of the configured database."""
        raise NotImplementedError

    @overload
    async def copy_in(
        self,
        table: Identifier | str,
        source: Records,
        *,
        columns: Sequence[str] | None = None,
        on: Where = None,
        timeout: float | None = None,
    ) -> int: ...
    @overload
    async def copy_in(
        self,
        table: Identifier | str,
        source: Data,
        *,
        format: CopyFormat,
        columns: Sequence[str] | None = None,
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> int: ...
    @service_method
    async def copy_in(
        self,
        table: Identifier | str,
        source: Any,
        *,
        format: CopyFormat | None = None,
        columns: Sequence[str] | None = None,
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> int:
        """COPY many rows into a table, all or none.

        Args:
            table: The table; `Identifier("schema", "table")` for one of a schema.
            source: Tuples, from an iterable or an asynchronous one. With a `format`: bytes, a path, an object with
                `read()`, or an iterable of bytes, which hold COPY's own format.
            format: `csv`, `text` or `binary`.
            columns: The columns, in the order of the source; all of the table's when not given.
            on: A pool or a transaction.
            timeout: Seconds without progress.
            options: Of the formats csv and text: `header`, `delimiter`, `null`, `quote`, `escape`, `encoding`,
                `force_null`, `force_not_null`.

        Returns:
            How many rows were copied.

        Raises:
            DatabaseError: The server refused a row; `sqlstate` says why.
            ServiceTimeoutError: Nothing moved for `timeout` seconds.
            Exception: What the source raised.
        """
        target = self._target(on)
        if format is None:
            return await copy_records(target, table, source, columns=columns, timeout=timeout)
        return await copy_data(target, table, source, columns=columns, format=format, timeout=timeout, **options)

    @overload
    async def copy_out(
        self,
        source: Identifier | str,
        *args: Any,
        to: None = None,
        format: CopyFormat = "csv",
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> bytes: ...
    @overload
    async def copy_out(
        self,
        source: Identifier | str,
        *args: Any,
        to: str | os.PathLike[str] | Sink | Any,
        format: CopyFormat = "csv",
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> int: ...
    @service_method
    async def copy_out(
        self,
        source: Identifier | str,
        *args: Any,
        to: Any = None,
        format: CopyFormat = "csv",
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> bytes | int:
        """COPY a table, or the rows of a query, out.

        Args:
            source: `Identifier("table")` for a table, or a query.
            args: The query's arguments.
            to: A path, an object with `write()`, or a function that is awaited with each chunk. A file at a path is
                there when all of it is, or not at all.
            format: `csv`, `text` or `binary`.
            on: A pool or a transaction.
            timeout: Seconds without progress.
            options: As in `copy_in`, and `force_quote`.

        Returns:
            The bytes; how many rows were copied if `to` is given.

        Raises:
            DatabaseError: The query failed.
            ServiceTimeoutError: Nothing moved for `timeout` seconds.
            Exception: What writing raised.
        """
        target = self._target(on)
        if to is None:
            return await copy_bytes(target, source, args, format=format, timeout=timeout, **options)
        return await copy_to(target, source, args, to, format=format, timeout=timeout, **options)

    def copy_chunks(
        self,
        source: Identifier | str,
        *args: Any,
        format: CopyFormat = "csv",
        on: Where = None,
        timeout: float | None = None,
        **options: Unpack[CopyOptions],
    ) -> PostgresStream[bytes]:
        """COPY a table, or the rows of a query, as chunks of bytes that come while they are used.

        Arguments as in `copy_out`; how long the caller takes for a chunk isn't limited.
        """
        chunks = copy_chunks(self._target(on), source, args, format=format, timeout=timeout, **options)
        return PostgresStream(chunks)

    def stream(
        self, query: str, *args: Any, batch: int = 500, on: Where = None, timeout: float | None = None
    ) -> PostgresStream[asyncpg.Record]:
        """The rows of a statement while they are used, through a cursor on the server.

        `async for row in database.stream(query):` holds a connection, in a transaction, from the first row to the last.
        A loop that may be left early stands in `async with database.stream(query) as rows:`.

        Args:
            query: The statement.
            args: Its arguments.
            batch: How many rows are asked for at once, and held in memory.
            on: A pool or a transaction.
            timeout: Seconds for one batch; how long the caller takes for a row isn't limited.

        Raises:
            DatabaseError: The statement failed.
            ServiceTimeoutError: A batch took too long, or no connection was free.
        """
        target = self._target(on)
        if isinstance(target, PostgresTransaction):
            return PostgresStream(rows_of(target, query, args, batch=batch, timeout=timeout))
        return PostgresStream(rows_of_pool(target, query, args, batch=batch, timeout=timeout))

    def _target(self, on: Where) -> PostgresPool | PostgresTransaction:
        if on is None:
            return self.pool
        if not isinstance(on, (PostgresPool, PostgresTransaction)):
            raise TypeError(f"on= takes a pool from get_org_pool() or an open transaction, not {type(on).__name__}")
        return on
