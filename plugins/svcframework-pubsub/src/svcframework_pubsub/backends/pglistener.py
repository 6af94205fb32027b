"""PostgresListener: one connection that listens, and is replaced when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from svcframework.background import Background
from svcframework.errors import ConnectionFailedError, DatabaseError, ServiceFrameworkError, ServiceTimeoutError
from svcframework_postgres.errors import DRIVER_ERRORS, translate
from svcframework_pubsub.backends.notifying import ANY, PATTERNS_LOCK
from svcframework_pubsub.backends.pgpublisher import farewell_to

Heard = Callable[[Any, int, str, str], None]
"""What the driver calls: connection, process id, channel, text."""

_USAGE = "SELECT pg_notification_queue_usage()"


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient it is; all in seconds."""

    timeout: float
    heartbeat_interval: float
    heartbeat_timeout: float
    reconnect_delay: float


@dataclass(slots=True, eq=False)
class _Wish:
    """A channel that is to be listened to."""

    heard: Heard
    granted: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None


class PostgresListener:
    """Listens to channels on a connection of its own; lives as long as its backend.

    Only its own task uses the connection, so a cancelled caller leaves nothing half done. A connection that ends is
    noticed at once, one that falls silent by the heartbeat; then it connects again, listens to everything again, and
    tells `on_gap` for how many seconds it may have heard nothing.

    Args:
        open_connection: Opens one, within its own deadline.
        pace: How patient it is.
        on_gap: Called with seconds.
    """

    def __init__(
        self, open_connection: Callable[[], Awaitable[Any]], pace: Pace, on_gap: Callable[[float], None]
    ) -> None:
        self._open, self._pace, self._on_gap = open_connection, pace, on_gap
        self._wishes: dict[str, _Wish] = {}
        self._live: dict[str, Heard] = {}
        self._connection: Any = None
        self._wake = asyncio.Event()
        self._keeper: Background | None = None
        self._clock: Callable[[], float] = lambda: 0.0
        self._proved_at = 0.0
        self._was_lost = False
        self._gap_began = 0.0
        self._is_paused = False
        self.queue_usage = 0.0
        """The share of the server's notification queue that is in use, by the last heartbeat."""

    @property
    def is_connected(self) -> bool:
        """It hears, as far as it knows."""
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> None:
        """Connect.

        Raises:
            ServiceFrameworkError: As `open_connection`.
        """
        self._clock = asyncio.get_running_loop().time
        await self._connect()
        self._keeper = Background(self._keep, name="pubsub: listen on PostgreSQL")

    async def close(self) -> None:
        """Disconnect."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.end()
        for wish in self._wishes.values():
            wish.error = ConnectionFailedError("subscribe on PostgreSQL: the service was stopped")
            wish.granted.set()
        self._wishes.clear()
        await self._forget()

    async def listen(self, channel: str, heard: Heard) -> None:
        """Return when the server reports what is published on a channel.

        Args:
            channel: PostgreSQL's name for it.
            heard: Called with each notification; it must not wait.

        Raises:
            ServiceTimeoutError: Not within `timeout`.
            DatabaseError: The server refused.
        """
        wish = self._wishes.get(channel)
        if wish is None or wish.heard != heard:
            wish = self._wishes[channel] = _Wish(heard)
        if self._live.get(channel) == heard and self.is_connected:
            wish.granted.set()
        self._wake.set()
        limit = self._pace.timeout  # a caller's deadline cancels by itself
        try:
            async with asyncio.timeout(limit):
                await wish.granted.wait()
        except BaseException as error:
            if self._wishes.get(channel) is wish and not wish.granted.is_set():
                del self._wishes[channel]
            if isinstance(error, TimeoutError):
                raise ServiceTimeoutError("subscribe on PostgreSQL", limit, hint="the server is away") from None
            raise
        if wish.error is not None:
            raise wish.error

    def unlisten(self, channel: str) -> None:
        """Stop listening to a channel, soon."""
        if self._wishes.pop(channel, None) is not None:
            self._wake.set()

    def pause(self) -> None:
        """Read nothing from the server; it queues what it has to say. No heartbeat meanwhile."""
        self._is_paused = True
        self._set_reading(wanted=False)

    def resume(self) -> None:
        """Read on."""
        self._is_paused = False
        self._set_reading(wanted=True)
        self._wake.set()

    # --- the one task that uses the connection ----------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            try:
                if not self.is_connected:
                    await self._connect_again()
                await self._fulfil()
                self._close_gap()
                if not await self._is_woken():
                    await self._beat()
            except (ServiceFrameworkError, *DRIVER_ERRORS):
                await self._forget()
                await asyncio.sleep(self._pace.reconnect_delay)

    async def _connect(self) -> None:
        connection = await self._open()
        connection.add_termination_listener(self._ended)
        self._connection = connection
        self._proved_at = self._proved_at or self._clock()

    async def _connect_again(self) -> None:
        await self._forget()
        while True:
            try:
                await self._connect()
            except (ServiceFrameworkError, *DRIVER_ERRORS):
                await asyncio.sleep(self._pace.reconnect_delay)
            else:
                return

    async def _fulfil(self) -> None:
        """Bring what the server reports in line with what is wished for."""
        while not self._is_paused:
            missing = next((name for name in self._wishes if self._live.get(name) != self._wishes[name].heard), None)
            if missing is not None:
                await self._begin(missing, self._wishes[missing])
                continue
            surplus = next((name for name in self._live if name not in self._wishes), None)
            if surplus is None:
                return
            await self._end(surplus)

    async def _begin(self, name: str, wish: _Wish) -> None:
        old = self._live.pop(name, None)
        try:
            if old is not None:
                await self._within(self._connection.remove_listener(name, old))
            await self._within(self._connection.add_listener(name, wish.heard))
            if name == ANY:  # in this order: who publishes from now on sends to patterns too
                await self._within(self._connection.fetchval("SELECT pg_advisory_lock_shared($1)", PATTERNS_LOCK))
        except DRIVER_ERRORS as error:
            ours = translate(error, "LISTEN", self._pace.heartbeat_timeout)
            # One that was granted once stays: the server may be a standby after a failover, and another one come.
            if isinstance(ours, DatabaseError) and ours.sqlstate and not wish.granted.is_set():
                wish.error = ours
                del self._wishes[name]
                wish.granted.set()
                return
            raise
        self._live[name] = wish.heard
        wish.granted.set()

    async def _end(self, name: str) -> None:
        heard = self._live.pop(name)
        if name == ANY:
            await self._within(self._connection.fetchval("SELECT pg_advisory_unlock_shared($1)", PATTERNS_LOCK))
        await self._within(self._connection.remove_listener(name, heard))

    async def _beat(self) -> None:
        if not self._is_paused:
            self.queue_usage = float(await self._within(self._connection.fetchval(_USAGE)))

    async def _within(self, operation: Awaitable[Any]) -> Any:
        async with asyncio.timeout(self._pace.heartbeat_timeout):
            answer = await operation
        self._proved_at = self._clock()
        return answer

    async def _is_woken(self) -> bool:
        """Wait for something to do; False when it is time for a heartbeat."""
        try:
            async with asyncio.timeout(self._pace.heartbeat_interval):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _close_gap(self) -> None:
        if self._was_lost and not self._is_paused:  # paused, it is connected and doesn't listen yet
            self._was_lost = False
            deaf, self._proved_at = self._clock() - self._gap_began, self._clock()
            self._on_gap(deaf)

    async def _forget(self) -> None:
        connection, self._connection = self._connection, None
        self._live.clear()
        if connection is not None:
            if not self._was_lost:
                self._was_lost, self._gap_began = True, self._proved_at
            connection.remove_termination_listener(self._ended)
            await farewell_to(connection)

    def _ended(self, _connection: Any) -> None:
        self._wake.set()

    def _set_reading(self, *, wanted: bool) -> None:
        transport = getattr(self._connection, "_transport", None)  # the driver has no other way
        if transport is not None and not transport.is_closing():
            with contextlib.suppress(RuntimeError):  # it does so already
                transport.resume_reading() if wanted else transport.pause_reading()
