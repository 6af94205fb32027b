"""PostgresBackend: NOTIFY and LISTEN, with messages of any length, patterns, and publishing inside a transaction."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import anyio

from svcframework.background import Background
from svcframework.errors import ExternalServiceError, ServiceFrameworkError, ServiceTimeoutError
from svcframework_pubsub.backends.backend import Condition
from svcframework_pubsub.backends.notifying import (
    ANY,
    PUBLISH_IN_TRANSACTION,
    REFERENCE_SIZE,
    SAFE_SIZE,
    fits,
    notification,
    pg_channel,
    reference,
    split,
    stored_id,
)
from svcframework_pubsub.backends.pglistener import Pace, PostgresListener
from svcframework_pubsub.backends.pgpayloads import Database, PayloadTable, Statements
from svcframework_pubsub.backends.pgpublisher import PostgresPublisher
from svcframework_pubsub.channels import Topic
from svcframework_pubsub.errors import MessageLostError
from svcframework_pubsub.router import Router
from svcframework_pubsub.sparse import Sparse

_CLEAN_INTERVAL = 60.0  # seconds between two looks for payloads that are too old
_STRAINED = 0.5  # share of the notification queue in use from which an operator should look
_FETCH_ATTEMPTS = 3


class Postgres(Database, Protocol):
    """What is needed of a `PostgresService`."""

    async def open_connection(self) -> Any:
        """A connection of the driver's, outside the pool; the caller closes it."""
        ...


class PostgresBackend:
    """Messages by PostgreSQL; lives as long as the service runs.

    It has two connections of its own, one that publishes and one that listens; long messages go through the pool.

    Args:
        postgres: The running service.
        router: Who subscribes to what.
        pace: How patient it is.
        retention: Seconds that a message too long for NOTIFY is kept.
        report: Logs now and then.
    """

    name: ClassVar[str] = "postgres"

    def __init__(self, postgres: Postgres, router: Router, pace: Pace, *, retention: float, report: Sparse) -> None:
        self._router, self._pace, self._report = router, pace, report
        self._publisher = PostgresPublisher(postgres.open_connection, timeout=pace.timeout)
        self._listener = PostgresListener(postgres.open_connection, pace, router.deaf)
        self._payloads = PayloadTable(postgres, retention=retention)
        self._behind: deque[tuple[str, str, bool]] = deque()  # in order behind a message that is being fetched
        self._more = anyio.Event()
        self._tasks: list[Background] = []

    async def open(self) -> None:
        """Connect both sides.

        Raises:
            ServiceFrameworkError: The server can't be reached, or refuses.
        """
        await self._publisher.open()
        await self._listener.open()
        self._more = anyio.Event()
        self._tasks = [
            Background(self._catch_up, name="pubsub: fetch long messages"),
            Background(self._clean, name="pubsub: remove old long messages"),
        ]

    async def close(self) -> None:
        """Disconnect both sides."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await task.end()
        self._behind.clear()
        async with anyio.create_task_group() as both:
            both.start_soon(self._listener.close)
            both.start_soon(self._publisher.close)

    # --- publishing -------------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes) -> None:
        """Return when the server has taken the message."""
        if not fits(channel, data):
            data = await self._kept(data)
        await self._publisher.submit(*notification(channel, data))

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when the server has taken all messages."""
        channels, texts = await self._prepared(channel, messages)
        await self._publisher.submit_many(channels, texts)

    async def publish_in(self, transaction: Statements, channel: str, messages: Sequence[bytes]) -> None:
        """Publish if and when a transaction commits.

        Args:
            transaction: An open one, of the same server and database.
            channel: Where to.
            messages: In their envelopes.
        """
        channels, texts = await self._prepared(channel, messages, transaction)
        await transaction.execute_query(PUBLISH_IN_TRANSACTION, channels, texts)

    async def _prepared(
        self, channel: str, messages: Sequence[bytes], transaction: Statements | None = None
    ) -> tuple[list[str], list[str]]:
        """Channels and texts; long messages are put into their table and referred to."""
        is_short = max(map(len, messages), default=0) <= SAFE_SIZE
        long = set() if is_short else {data for data in messages if not fits(channel, data)}
        if long:
            await self._payloads.store(list(long), transaction)
            messages = [reference(data) if data in long else data for data in messages]
        name = pg_channel(channel)
        if name == channel:
            return [name] * len(messages), b"\n".join(messages).decode().split("\n")
        return [name] * len(messages), [f"{channel}\n{data.decode()}" for data in messages]

    async def _kept(self, data: bytes) -> bytes:
        await self._payloads.store([data])
        return reference(data)

    # --- listening --------------------------------------------------------------------------------------

    async def subscribe(self, topic: Topic) -> None:
        """Return when the server reports what is published on a topic."""
        if topic.is_pattern:
            await self._listener.listen(ANY, self._heard_any)
            return
        channel = pg_channel(topic.name)
        await self._listener.listen(channel, self._heard if channel == topic.name else self._heard_long)

    async def unsubscribe(self, topic: Topic) -> None:
        """Stop, soon."""
        if not topic.is_pattern:
            self._listener.unlisten(pg_channel(topic.name))
        elif not any(route.sinks for route in self._router.patterns.values()):
            self._listener.unlisten(ANY)

    def pause(self) -> None:
        """Read no more; the server keeps what comes in its queue of 8 GB."""
        self._listener.pause()

    def resume(self) -> None:
        """Read on."""
        self._listener.resume()

    def _heard(self, _connection: Any, _pid: int, channel: str, text: str) -> None:
        if self._behind or len(text) == REFERENCE_SIZE:
            self._take(channel, text, is_any=False)
        else:
            self._router.deliver(channel, text)

    def _heard_long(self, _connection: Any, _pid: int, _channel: str, text: str) -> None:
        self._take(*split(text), is_any=False)

    def _heard_any(self, _connection: Any, _pid: int, _channel: str, text: str) -> None:
        self._take(*split(text), is_any=True)

    def _take(self, channel: str, text: str, *, is_any: bool) -> None:
        """Deliver, unless the message, or one before it, has to be fetched first."""
        if self._behind or stored_id(text) is not None:
            self._behind.append((channel, text, is_any))
            self._more.set()
        else:
            self._deliver(channel, text, is_any=is_any)

    def _deliver(self, channel: str, text: str, *, is_any: bool) -> None:
        (self._router.deliver_to_patterns if is_any else self._router.deliver)(channel, text)

    async def _catch_up(self) -> None:
        """Fetch long messages, and deliver in order what came behind them."""
        while True:
            while self._behind:
                channel, text, is_any = self._behind[0]
                name = stored_id(text)
                found = text if name is None else await self._fetched(channel, name)
                if self._behind:
                    self._behind.popleft()
                if found is not None:
                    self._deliver(channel, found, is_any=is_any)
            self._more = anyio.Event()
            await self._more.wait()

    async def _fetched(self, channel: str, name: str) -> str | None:
        reason = "it is not in its table; it came later than `payload_retention`, or was removed"
        for attempt in range(_FETCH_ATTEMPTS):
            try:
                found = await self._payloads.fetch(name)
            except (ExternalServiceError, ServiceTimeoutError) as error:
                reason = str(error)
                await anyio.sleep(self._pace.reconnect_delay * (attempt + 1))
            else:
                if found is not None:
                    return found
                break
        self._router.lost(channel, MessageLostError(channel, reason))
        self._report("message lost", channel=channel, error=reason)
        return None

    async def _clean(self) -> None:
        while True:
            await self._payloads.clean()
            await anyio.sleep(_CLEAN_INTERVAL)

    # --- health -----------------------------------------------------------------------------------------

    async def check(self, timeout: float) -> Condition:  # noqa: ARG002, ASYNC109 - the caller keeps it
        """Ask on the connection that publishes; the heartbeat asks on the one that listens."""
        usage = self._listener.queue_usage
        details = {"notification_queue": round(usage, 4)}
        listens = self._listener.is_connected
        try:
            await self._publisher.submit_many((), ())
        except ServiceFrameworkError as error:
            return Condition(publishes=False, listens=listens, message=str(error), details=details)
        if usage >= _STRAINED:
            message = f"the notification queue is {usage:.0%} full: a listener is idle in a transaction"
            return Condition(publishes=True, listens=listens, message=message, details=details, is_strained=True)
        return Condition(publishes=True, listens=listens, message="PostgreSQL answers", details=details)
