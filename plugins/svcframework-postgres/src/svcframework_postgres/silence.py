"""Long work on a server that may fall silent: no limit of seconds fits both, so the server is asked meanwhile.

An index may take an hour to build, and for all that time the connection that waits for it hears nothing. Whether the
server is still there is asked on another connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from svcframework.errors import ConnectionFailedError, ServiceTimeoutError
from svcframework_postgres.pool import PostgresPool

T = TypeVar("T")


async def unless_silent(pool: PostgresPool, work: Coroutine[Any, Any, T], *, operation: str, patience: float) -> T:
    """What `work` returns, unless the server stops answering meanwhile: then it is cancelled.

    Args:
        pool: Where the server is asked; while all its connections are in use nobody can ask, and nothing is concluded.
        work: What may take long.
        operation: What it is, for the error.
        patience: Seconds without an answer.

    Raises:
        ConnectionFailedError: The server has not answered for so long.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_silent(pool, patience / 3))
    for task in (working, watching):
        task.add_done_callback(_seen)
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        watching.result()  # an error of the watch itself is nobody's to hide
        raise ConnectionFailedError(f"{operation}: the server has not answered for {patience:g} s")
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait((working, watching))


def _seen(task: asyncio.Future[Any]) -> None:
    """An error that comes after a cancellation is told to nobody."""
    if not task.cancelled():
        task.exception()


async def _silent(pool: PostgresPool, pause: float) -> None:
    """Returns when the server has missed two questions in a row."""
    missed = 0
    while missed < 2:  # noqa: PLR2004 - one may be chance
        await asyncio.sleep(pause)
        missed = 0 if await _answers(pool, pause) else missed + 1


async def _answers(pool: PostgresPool, limit: float) -> bool:
    numbers = pool.statistics
    if numbers.in_use >= numbers.limit:
        return True  # a wait for a connection would say nothing about the server
    try:
        await pool.execute_one("SELECT 1", timeout=limit)
    except (ConnectionFailedError, ServiceTimeoutError):
        return False
    return True
