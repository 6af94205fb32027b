"""Opening connections: codecs, the mark of a changed session, and the errors of connecting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from svcframework_postgres import upgrade
from svcframework_postgres.codecs import Codec, set_codecs
from svcframework_postgres.errors import translated
from svcframework_postgres.failover import open_primary
from svcframework_postgres.sessions import RESET

upgrade.install()


class Connection(asyncpg.Connection):
    """A driver connection that knows when it was last given back and whether its session may have changed."""

    __slots__ = ("is_changed", "used_at")

    is_changed: bool
    used_at: float

    def get_reset_query(self) -> str:
        """What `reset()` sends; more than the driver's own, which leaves role, temporary tables and others behind."""
        return RESET


async def connect(arguments: dict[str, Any], *, address: str, codecs: Sequence[Codec] = ()) -> Connection:
    """Open a connection with its codecs set.

    Args:
        arguments: From `PostgresConfig.connect_arguments`.
        address: Where that is, for messages.
        codecs: The user's own.

    Raises:
        ConnectionFailedError: The server can't be reached, or it is starting or stopping.
        AuthenticationFailedError: It refused the credentials.
        ServiceTimeoutError: It did not answer within `connect_timeout`.
        ConfigurationError: The settings make no sense to the driver, or a codec's type isn't in the database.
    """
    with translated(f"connect to {address}", arguments["timeout"], connecting=True):
        connection = await open_primary(Connection, arguments)
    connection.is_changed, connection.used_at = False, 0.0
    try:
        with translated(f"set the codecs on {address}", arguments["timeout"]):
            await set_codecs(connection, codecs, address=address)
    except BaseException:
        connection.terminate()
        raise
    return connection
