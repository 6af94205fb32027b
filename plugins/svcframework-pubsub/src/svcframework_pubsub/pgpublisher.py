"""PostgresPublisher: what is published in one turn of the event loop goes out in one statement."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from svcframework.background import Background
from svcframework.errors import ConnectionFailedError, ServiceFrameworkError
from svcframework_postgres.errors import DRIVER_ERRORS, translate
from svcframework_pubsub.notifying import PUBLISH

_MAX_BATCH = 5_000  # messages of one statement, about
_CLOSE_TIMEOUT = 0.3  # seconds for the farewell of a connection


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
        self._gathering = _Batch()
        self._full: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._writer: Background | None = None
        self._farewells: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ServiceFrameworkError: As `open_connection`.
        """
        self._connection = await self._open()
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
        """Queue many notifications, which stay in their order. Otherwise as `submit`; none at all asks for an answer."""
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
        self._wake.set()
        return self._gathering, future

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._full or self._gathering.futures:
                await self._send(self._next())

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

    async def _run(self, channels: list[str], texts: list[str]) -> None:
        try:
            async with asyncio.timeout(self._limit):
                if self._connection is None or self._connection.is_closed():
                    self._discard()
                    self._connection = await self._open()
                await self._connection.fetch(PUBLISH, channels, texts)
        except ServiceFrameworkError:
            raise
        except DRIVER_ERRORS as error:
            ours = translate(error, "publish on PostgreSQL", self._limit)
            if not getattr(ours, "sqlstate", None):  # the server has answered with an error: the connection is sound
                self._discard()
            raise ours from error
        except BaseException:
            self._discard()
            raise

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
