"""A lock by name for the whole database, held by one connection: for work that only one process may do at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

_POLL = 0.05  # seconds between two looks; grows to _LONGEST_POLL
_LONGEST_POLL = 0.5


class LockBusyError(Exception):
    """Somebody else holds the lock.

    Args:
        name: The lock's name.
        holder: The holder's process number on the server and its application's name, as far as one may see them.
    """

    def __init__(self, name: str, holder: str) -> None:
        self.name, self.holder = name, holder
        super().__init__(f"{name!r} is held by {holder}")


@asynccontextmanager
async def advisory_lock(connection: asyncpg.Connection, name: str, *, wait: float) -> AsyncIterator[None]:
    """Hold the lock for a block; it is gone with the connection, whatever happens to its process.

    It is asked for again and again, never waited for in the server: a session that waits inside a statement counts
    as one that is at work, and `CREATE INDEX CONCURRENTLY` of the holder would wait for it, and so for ever.

    Args:
        connection: What holds it; it is reset or closed when the block raises.
        name: Which.
        wait: Seconds to try; 0 for once.

    Raises:
        LockBusyError: Somebody else held it all the time.
    """
    key = lock_key(name)
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + wait, _POLL
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
        if loop.time() >= until:
            raise LockBusyError(name, await _holder(connection, key))
        await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
        pause = min(_LONGEST_POLL, pause * 1.5)
    yield  # after an error the connection is reset or closed, and the lock is gone with that
    await connection.execute("SELECT pg_advisory_unlock($1)", key)


def lock_key(name: str) -> int:
    """The number that the server knows the lock by."""
    return int.from_bytes(hashlib.sha256(f"svcframework {name}".encode()).digest()[:8], "big", signed=True)


async def _holder(connection: asyncpg.Connection, key: int) -> str:
    row = await connection.fetchrow(
        "SELECT l.pid, a.application_name AS name FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND ((l.classid::bigint << 32) | l.objid::bigint) = $1",
        key,
    )
    return "another session" if row is None else f"process {row['pid']} of {row['name'] or 'another application'}"
