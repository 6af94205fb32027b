"""Outbox: messages that are sent when their transaction commits, on a backend that isn't PostgreSQL.

They lie in a table, written by the transaction itself. A relay takes them from there, oldest first, and publishes them;
one that dies in between publishes again, with the same ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio

from svcframework.background import Background
from svcframework.errors import ExternalServiceError, ServiceFrameworkError
from svcframework_pubsub.backends.notifying import OUTBOX
from svcframework_pubsub.backends.pglistener import Pace, PostgresListener
from svcframework_pubsub.sparse import Sparse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from svcframework_pubsub.collaborators import Postgres, Transaction

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('svcframework pubsub tables'))"
_CREATE = """
    CREATE TABLE IF NOT EXISTS svcframework_pubsub_outbox (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, channel text NOT NULL, data text NOT NULL,
        durable boolean NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
    )"""
_EXISTS = "SELECT to_regclass('svcframework_pubsub_outbox') IS NOT NULL"
_PUT = (
    "INSERT INTO svcframework_pubsub_outbox (channel, data, durable) SELECT $1, x, $3 FROM unnest($2::text[]) AS t(x)"
)
_RING = f"SELECT pg_notify('{OUTBOX}', '')"
_ALONE = "SELECT pg_try_advisory_xact_lock(hashtext('svcframework pubsub relay'))"
_TAKE = """
    DELETE FROM svcframework_pubsub_outbox WHERE position IN (
        SELECT position FROM svcframework_pubsub_outbox ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED
    ) RETURNING position, channel, data, durable"""
_COUNT = "SELECT count(*) FROM svcframework_pubsub_outbox"

Publish = "Callable[[str, Sequence[bytes], bool], Awaitable[None]]"


class Outbox:
    """The table and the relay; lives as long as the service runs. The relay begins when there is a table.

    Args:
        postgres: The running service.
        publish: Sends messages of one channel; the last argument says whether they are durable.
        pace: How patient its listener is.
        interval: Seconds between two looks when nothing rings.
        batch: Messages taken at a time.
        report: Logs now and then.
    """

    def __init__(
        self,
        postgres: Postgres,
        publish: Callable[[str, Sequence[bytes], bool], Awaitable[None]],
        pace: Pace,
        *,
        interval: float,
        batch: int,
        report: Sparse,
    ) -> None:
        self._postgres, self._publish, self._pace = postgres, publish, pace
        self._interval, self._batch, self._report = interval, batch, report
        self._bell = anyio.Event()
        self._listener: PostgresListener | None = None
        self._relay: Background | None = None
        self.relayed = 0
        """Messages that this service has sent from the table."""
        self.failing = ""
        """Why the relay can't send, while it can't."""

    async def open(self) -> None:
        """Begin to relay if there is a table already; never fails for a server's sake."""
        self._relay = Background(self._run, name="pubsub: relay the outbox")

    async def close(self) -> None:
        """Stop relaying; what is in the table stays there."""
        relay, self._relay = self._relay, None
        if relay is not None:
            await relay.end()
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.close()

    async def put(self, transaction: Transaction, channel: str, messages: Sequence[bytes], *, durable: bool) -> None:
        """Have messages sent if and when a transaction commits.

        Raises:
            DatabaseError: The table can't be made or written.
        """
        await self._ensure()
        await transaction.execute_query(_PUT, channel, [data.decode() for data in messages], durable)
        await transaction.execute_query(_RING)

    async def waiting(self) -> int:
        """How many messages lie in the table."""
        if not (await self._postgres.execute_query(_EXISTS))[0][0]:
            return 0
        return int((await self._postgres.execute_query(_COUNT))[0][0])

    # --- the relay --------------------------------------------------------------------------------------

    _is_made = False

    async def _ensure(self) -> None:
        if not self._is_made:
            async with self._postgres.transaction() as tx:
                await tx.execute_query(_LOCK)  # two at once would both find it missing
                await tx.execute_query(_CREATE)
            self._is_made = True
            self._bell.set()

    async def _run(self) -> None:
        """Send whatever lies in the table, whenever it rings, and now and then."""
        while True:
            try:
                if await self._is_ready():
                    while await self._send_some():
                        pass
                self.failing = ""
            except ServiceFrameworkError as error:
                self.failing = str(error)
                self._report("the outbox waits", error=str(error))
            with anyio.move_on_after(self._interval):
                await self._bell.wait()
            self._bell = anyio.Event()

    async def _is_ready(self) -> bool:
        if not self._is_made:
            self._is_made = bool((await self._postgres.execute_query(_EXISTS))[0][0])
        if self._is_made and self._listener is None:
            listener = PostgresListener(self._postgres.open_connection, self._pace, lambda _: self._bell.set())
            await listener.open()
            self._listener = listener
            await listener.listen(OUTBOX, self._ring)
        return self._is_made

    def _ring(self, *_: Any) -> None:
        self._bell.set()

    async def _send_some(self) -> bool:
        """Take a batch and send it: the rows are gone when it was sent, and only then."""
        async with self._postgres.transaction() as tx:
            if not (await tx.execute_query(_ALONE))[0][0]:  # another one is at it; two would mix up the order
                return False
            rows = sorted(await tx.execute_query(_TAKE, self._batch), key=lambda row: row["position"])
            for (channel, durable), group in itertools.groupby(rows, lambda row: (row["channel"], row["durable"])):
                try:
                    await self._publish(channel, [row["data"].encode() for row in group], durable)
                except ServiceFrameworkError:
                    raise
                except Exception as error:
                    raise ExternalServiceError(f"relay to {channel!r}: {type(error).__name__}: {error}") from error
        self.relayed += len(rows)
        return len(rows) == self._batch
