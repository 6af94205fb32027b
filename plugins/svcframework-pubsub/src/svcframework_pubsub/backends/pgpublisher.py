"""PostgresPublisher: what is published in one turn of the event loop goes out in one statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from svcframework.background import Background
from svcframework.errors import ConnectionFailedError, ServiceFrameworkError, ServiceTimeoutError
from svcframework_postgres.errors import DRIVER_ERRORS, translate
from svcframework_pubsub.backends.notifying import PUBLISH, PUBLISH_ONE, PUBLISH_TO_ONE, PUBLISH_TO_PATTERNS

_MAX_BATCH = 5_000  # messages of one statement, about
_READ_ONLY = "25006"
_CLOSE_TIMEOUT = 0.1  # seconds for the farewell of a connection


class _Batch:
    """What goes out in one statement."""

    __slots__ = ("channels", "futures", "texts")

    def __init__(self) -> None:
        self.channels: list[str] = []
        self.texts: list[str] = []
        self.futures: list[asyncio.Future[None]] = []

    def succeed(self) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(None)

    def fail(self, error: Exception) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(error)


class PostgresPublisher:
    """One connection that publishes; lives as long as its backend. A lost one is replaced with the next publish.

    Messages go out in the order they came. While a statement is under way the next batch gathers, so the busier it
    gets the less a message costs.

    Args:
        open_connection: Opens one, within its own deadline.
        timeout: Seconds a publish may take.
    """

    def __init__(self, open_connection: Callable[[], Awaitable[Any]], *, timeout: float) -> None:
        self._open, self._limit = open_connection, timeout / 2  # one statement that is under way, and one's own
        self._connection: Any = None
        self._one: Any = None
        self._to_one: Any = None
        self._to_many: Any = None
        self._gathering = _Batch()
        self._full: deque[_Batch] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at: float | None = None
        self._is_late = False
        self._writer: Background | None = None
        self._farewells: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ServiceFrameworkError: As `open_connection`.
        """
        await self._connect()
        self._writer = Background(self._write, name="pubsub: publish on PostgreSQL")

    async def close(self) -> None:
        """Fail what wasn't sent, and disconnect."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.end()
        self._full.append(self._gathering)
        while self._full:
            self._full.popleft().fail(ConnectionFailedError("publish on PostgreSQL: the service was stopped"))
        self._gathering = _Batch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._discard()
        if self._farewells:
            await asyncio.wait(self._farewells, timeout=_CLOSE_TIMEOUT * 2)

    def submit(self, channel: str, text: str) -> asyncio.Future[None]:
        """Queue one notification; the future is done when the server has it. Cancelling it may come too late.

        Raises:
            ConnectionFailedError: It is closed.
        """
        batch, future = self._joined()
        batch.channels.append(channel)
        batch.texts.append(text)
        return future

    def submit_many(self, channels: Sequence[str], texts: Sequence[str]) -> asyncio.Future[None]:
        """Queue many notifications, which stay in their order. Otherwise as `submit`.

        None at all asks the server for an answer.
        """
        batch, future = self._joined()
        batch.channels.extend(channels)
        batch.texts.extend(texts)
        return future

    def _joined(self) -> tuple[_Batch, asyncio.Future[None]]:
        if self._writer is None:
            raise ConnectionFailedError("publish on PostgreSQL: the service doesn't run")
        if len(self._gathering.channels) >= _MAX_BATCH:
            self._full.append(self._gathering)
            self._gathering = _Batch()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathering.futures.append(future)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        return self._gathering, future

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._full or self._gathering.futures:
                await self._send(self._next())
            self._wake = loop.create_future()
            await self._wake

    def _next(self) -> _Batch:
        if self._full:
            return self._full.popleft()
        batch, self._gathering = self._gathering, _Batch()
        return batch

    async def _send(self, batch: _Batch) -> None:
        if all(future.done() for future in batch.futures):  # all were cancelled meanwhile
            return
        try:
            await self._run(batch.channels, batch.texts)
        except ServiceFrameworkError as error:
            batch.fail(error)
        except BaseException:
            batch.fail(ConnectionFailedError("publish on PostgreSQL: the service was stopped"))
            raise
        else:
            batch.succeed()

    async def _connect(self) -> None:
        async with asyncio.timeout(self._limit):
            self._connection = await self._open()
            self._one = await self._connection.prepare(PUBLISH_ONE)
            self._to_one = await self._connection.prepare(PUBLISH_TO_ONE)
            self._to_many = await self._connection.prepare(PUBLISH)

    async def _run(self, channels: list[str], texts: list[str]) -> None:
        try:
            if self._connection is None or self._connection.is_closed():
                self._discard()
                await self._connect()
            self._watch()
            try:
                if len(channels) == 1:
                    is_done = await self._one.fetchval(channels[0], texts[0])
                elif channels and channels.count(channels[0]) == len(channels):
                    is_done = await self._to_one.fetchval(channels[0], texts)
                else:
                    is_done = await self._to_many.fetchval(channels, texts)
                if not is_done and channels:
                    await self._connection.fetchval(PUBLISH_TO_PATTERNS, channels, texts)
            finally:
                self._sent_at = None
        except ServiceFrameworkError:
            raise
        except DRIVER_ERRORS as error:
            if self._is_late:
                self._discard()
                raise ServiceTimeoutError("publish on PostgreSQL", self._limit) from error
            ours = translate(error, "publish on PostgreSQL", self._limit)
            # A server that has answered is sound, unless it is a standby, which it was not when we connected.
            if getattr(ours, "sqlstate", None) in {None, _READ_ONLY}:
                self._discard()
            raise ours from error
        except BaseException:
            self._discard()
            raise

    # --- one timer for all statements, since one of its own would cost each of them dearly ------------------

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        self._sent_at, self._is_late = loop.time(), False
        if self._timer is None:
            self._timer = loop.call_later(self._limit, self._look)

    def _look(self) -> None:
        """End the connection if its statement takes too long; come again if it may do so later."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._sent_at is None:
            return
        left = self._sent_at + self._limit - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        elif self._connection is not None:
            self._is_late = True
            self._connection.terminate()

    def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            farewell = asyncio.ensure_future(farewell_to(connection))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)


async def farewell_to(connection: Any) -> None:
    """Close a connection of the driver's politely, and by force when that takes long. Never raises."""
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT):
            await connection.close(timeout=_CLOSE_TIMEOUT)
    except DRIVER_ERRORS:
        pass
    finally:
        connection.terminate()
