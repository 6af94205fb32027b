"""Limits that the server keeps itself, so that what it cuts off ends in a known state."""

from __future__ import annotations

import asyncpg

GRACE = 5.0
"""Seconds after which a server that didn't keep its own limit is given up."""

_MOST = 2_147_483.0  # seconds; the server counts milliseconds in 32 bits


async def set_limits(connection: asyncpg.Connection, *, lock_timeout: float, statement_timeout: float) -> None:
    """Limit what follows on this connection, until it is reset.

    Args:
        connection: Which.
        lock_timeout: Seconds a statement may wait for a lock.
        statement_timeout: Seconds a statement may take.
    """
    for name, seconds in (("lock_timeout", lock_timeout), ("statement_timeout", statement_timeout)):
        milliseconds = max(1, round(min(seconds, _MOST) * 1000))  # 0 would be no limit
        await connection.execute("SELECT set_config($1, $2, false)", name, f"{milliseconds}ms")
