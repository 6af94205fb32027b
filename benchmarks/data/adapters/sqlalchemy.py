"""SQLAlchemy's core, asynchronous, on asyncpg."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.data.contract import CONNECTIONS, ITEMS, SELECT, Adapter, Bench, Operation

STATEMENT = text(SELECT.replace("$1", ":id"))


@asynccontextmanager
async def one(bench: Bench) -> AsyncIterator[Operation]:
    """Without a transaction."""
    async with fetching(bench, isolation_level="AUTOCOMMIT") as operation:
        yield operation


@asynccontextmanager
async def fetching(bench: Bench, **options: Any) -> AsyncIterator[Operation]:
    """A connection of the pool for each row; SQLAlchemy begins a transaction by itself."""
    url = bench.postgres.dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, pool_size=CONNECTIONS, max_overflow=0, **options)

    async def fetch(index: int) -> Any:
        async with engine.begin() as connection:
            return (await connection.execute(STATEMENT, {"id": index})).mappings().one()

    yield Operation(f"await fetch(i % {ITEMS})", {"fetch": fetch})
    await engine.dispose()


ADAPTERS = [
    Adapter(
        "SQLAlchemy",
        ("sqlalchemy",),
        rows={"pg-one": one, "pg-one-50": one, "pg-transaction": fetching, "pg-transaction-50": fetching},
    )
]
