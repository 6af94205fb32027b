"""PayloadTable: messages too long for NOTIFY. The table is made when it is needed, and cleaned by age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from svcframework.errors import DatabaseError, ExternalServiceError, ServiceTimeoutError
from svcframework_pubsub.message import id_of

_MISSING_TABLE = "42P01"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('svcframework pubsub tables'))"
_CREATE = """
    CREATE UNLOGGED TABLE IF NOT EXISTS svcframework_pubsub_payload (
        id text PRIMARY KEY, data text NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
    )"""
_INDEX = "CREATE INDEX IF NOT EXISTS svcframework_pubsub_payload_age ON svcframework_pubsub_payload (created_at)"
_STORE = """
    INSERT INTO svcframework_pubsub_payload (id, data) SELECT * FROM unnest($1::text[], $2::text[])
    ON CONFLICT (id) DO NOTHING"""
_FETCH = "SELECT data FROM svcframework_pubsub_payload WHERE id = $1"
_EXISTS = "SELECT to_regclass('svcframework_pubsub_payload') IS NOT NULL"
_CLEAN = "DELETE FROM svcframework_pubsub_payload WHERE created_at < now() - make_interval(secs => $1)"


class Statements(Protocol):
    """What runs statements: the service, or a transaction of it."""

    async def execute_query(self, query: Any, *args: Any) -> Any:
        """Run one and return its rows."""
        ...


class Database(Statements, Protocol):
    """What runs statements, and several of them together."""

    def transaction(self) -> Any:
        """An async context manager that yields `Statements`."""
        ...


class PayloadTable:
    """Where long messages lie until everybody has had time to read them; lives as long as its backend.

    Args:
        database: Runs the statements.
        retention: Seconds that a message is kept.
    """

    def __init__(self, database: Database, *, retention: float) -> None:
        self._database, self._retention = database, retention
        self._exists = False

    async def store(self, messages: Sequence[bytes], transaction: Statements | None = None) -> None:
        """Keep messages, by their ids.

        Args:
            messages: In their envelopes.
            transaction: Keep them if this commits; else at once.

        Raises:
            DatabaseError: The table can't be made or written.
        """
        await self._ensure()
        found = [id_of(data) for data in messages]
        ids = [name.decode() for name in found if isinstance(name, bytes)]
        texts = [data.decode() for data in messages]
        try:
            await (transaction or self._database).execute_query(_STORE, ids, texts)
        except DatabaseError as error:
            if error.sqlstate == _MISSING_TABLE:  # dropped under us: the next one makes it again
                self._exists = False
            raise

    async def fetch(self, name: str) -> str | None:
        """A message by its id, None if it isn't there any more."""
        rows = await self._database.execute_query(_FETCH, name)
        return None if not rows else str(rows[0][0])

    async def clean(self) -> None:
        """Remove what is older than its time; never raises for a server's sake."""
        try:
            if (await self._database.execute_query(_EXISTS))[0][0]:
                await self._database.execute_query(_CLEAN, self._retention)
        except (ExternalServiceError, ServiceTimeoutError):
            return

    async def _ensure(self) -> None:
        if not self._exists:
            async with self._database.transaction() as tx:
                await tx.execute_query(_LOCK)  # two at once would both find it missing
                await tx.execute_query(_CREATE)
                await tx.execute_query(_INDEX)
            self._exists = True
