"""ConnectionLender: a bounded set of connections to one database, lent one caller at a time. No statement of a user's.

A connection comes back in a known state or not at all: one whose call was cut off is closed, one whose session may have
changed is reset first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from svcframework.deadlines import effective_timeout, has_deadline
from svcframework.errors import (
    DeadlineExceededError,
    ServiceFrameworkError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.metrics import OperationMetrics
from svcframework_postgres.connections import Connection
from svcframework_postgres.errors import DRIVER_ERRORS, translate
from svcframework_postgres.poolstatistics import PoolStatistics

_RESET_TIMEOUT = 1.0  # seconds; a server that answers at all resets in one round trip
_DISCARD_TIMEOUT = 1.0  # seconds to tell the server that a statement was given up
_PROBE_TIMEOUT = 1.0  # seconds; asked of connections that were idle while another one timed out


class ConnectionLender:
    """Connections to one database, opened as needed; lives as long as its service.

    Args:
        opener: Opens a connection; raises our errors.
        address: Where the connections lead, for messages.
        max_size: Connections at most.
        min_size: Idle ones that are kept whatever their age.
        idle_lifetime: Seconds after which an idle one is closed.
        acquire_timeout: Seconds to wait for a free one.
        always_reset: Reset after every use, whatever the statement was.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Connection]],
        *,
        address: str,
        max_size: int,
        min_size: int,
        idle_lifetime: float,
        acquire_timeout: float,
        always_reset: bool,
    ) -> None:
        self.address = address
        self._opener = opener
        self._max_size, self._min_size, self._idle_lifetime = max_size, min_size, idle_lifetime
        self._acquire_timeout, self._always_reset = acquire_timeout, always_reset
        self._idle: deque[Connection] = deque()  # the last one used is the first one taken
        self._held: set[Connection] = set()
        self._outdated: set[Connection] = set()  # of those held: closed when they come back
        self._size = 0
        # While anybody waits nothing is idle: what comes back is handed over; None is leave to open one. Each with the
        # loop time until which it waits. One alarm serves all of them, since nearly none is ever needed.
        self._waiters: deque[tuple[float, asyncio.Future[Connection | None]]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._suspect_before = 0.0  # a connection last used before this loop time is probed first
        self._answered_at = 0.0  # loop time
        self._closing = self._is_retired = False
        self._background: set[asyncio.Future[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_back = asyncio.Event()
        self._all_back.set()
        self._opened = self._closed = self._discarded = self._timeouts = 0
        self._waits = OperationMetrics()

    @property
    def statistics(self) -> PoolStatistics:
        """The numbers of this moment."""
        waits = self._waits
        return PoolStatistics(
            size=self._size,
            idle=len(self._idle),
            in_use=len(self._held),
            waiting=len(self._waiters),
            limit=self._max_size,
            opened=self._opened,
            closed=self._closed,
            discarded=self._discarded,
            waited=waits.finished,
            timeouts=self._timeouts,
            wait_seconds=waits.total,
            wait_p95=waits.p95,
            wait_max=waits.max,
        )

    @property
    def is_suspect(self) -> bool:
        """Whether the last call that ended got no answer."""
        return self._suspect_before > self._answered_at

    # --- taking -----------------------------------------------------------------------------------------

    async def take_now(self, own: float) -> Connection:
        """A connection within `own` seconds or the caller's deadline; `give_back` or `discard` it."""
        limit = effective_timeout(own) if has_deadline() else own
        return self._take_idle() or await self.take(limit, cut=limit < own)

    def _take_idle(self) -> Connection | None:
        """An idle connection that is fit for use at once, None if that needs waiting."""
        if self._closing or not self._idle:
            return None
        connection = self._idle[-1]
        if connection.is_closed() or connection.used_at <= self._suspect_before:
            return None
        self._idle.pop()
        return self._hold(connection)

    def _hold(self, connection: Connection) -> Connection:
        self._held.add(connection)
        self._all_back.clear()
        return connection

    async def take(self, limit: float, *, cut: bool = False) -> Connection:
        """Wait for a connection; `give_back` or `discard` it.

        Args:
            limit: Seconds left of the call.
            cut: The caller's deadline made it so short.

        Raises:
            ServiceTimeoutError: None was free, or could be opened, in time.
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
        """
        if self._closing:
            raise ServiceUnavailableError(self.address, "the pool is closed")
        seconds, clock = min(limit, self._acquire_timeout), asyncio.get_running_loop().time
        begun = clock()
        self._waits.started += 1
        try:
            return await self._obtain(begun + seconds)
        except TimeoutError as error:
            self._timeouts += 1
            if isinstance(error, ServiceTimeoutError):
                raise
            kind = DeadlineExceededError if cut and limit <= self._acquire_timeout else ServiceTimeoutError
            raise kind(f"acquire a connection to {self.address}", seconds, hint=self._why_waiting()) from error
        finally:
            self._waits.finish(int((clock() - begun) * 1e9))

    def _why_waiting(self) -> str:
        if len(self._held) >= self._max_size:
            return f"all {self._max_size} are in use; raise pool_max_size or hold them shorter"
        return "none could be opened or closed in time"

    async def _obtain(self, until: float) -> Connection:
        """A connection by the loop time `until`."""
        if not self._idle and self._size >= self._max_size:
            handed = await self._wait_turn(until)
            if handed is not None:
                return self._hold(handed)
        else:
            async with asyncio.timeout_at(until):
                while self._idle:
                    connection = self._idle.pop()
                    if await self._is_usable(connection):
                        return self._hold(connection)
            if self._size >= self._max_size:  # those that weren't usable are still being closed
                return await self._obtain(until)
            self._size += 1
        async with asyncio.timeout_at(until):
            return self._hold(await self._open())

    async def _is_usable(self, connection: Connection) -> bool:
        """Whether an idle connection still works; one that doesn't is closed."""
        if not connection.is_closed() and connection.used_at > self._suspect_before:
            return True
        self._hold(connection)
        try:
            if not connection.is_closed():
                await connection.execute("SELECT 1", timeout=_PROBE_TIMEOUT)
                return True
        except DRIVER_ERRORS:
            self._close_idle(keep=0)  # they were idle as long as this one, or longer
        except BaseException:
            self.discard(connection)
            raise
        self.discard(connection)
        return False

    async def _wait_turn(self, until: float) -> Connection | None:
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiters.append((until, waiter))
        if self._alarm is None or self._alarm.when() > until:
            self._set_alarm(until)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                handed = waiter.result()  # it came while we were being cancelled
                if handed is None:
                    self._free_slot()
                else:
                    self._put_idle(handed)
            elif (until, waiter) in self._waiters:
                self._waiters.remove((until, waiter))
            raise

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_at(at, self._give_up)

    def _give_up(self) -> None:
        """End the waits that are over, and see when the next one is."""
        self._alarm = None
        now = asyncio.get_running_loop().time()
        for until, waiter in self._waiters:
            if until <= now and not waiter.done():
                waiter.set_exception(TimeoutError())
        self._waiters = deque(waiting for waiting in self._waiters if not waiting[1].done())
        if self._waiters:
            self._set_alarm(min(until for until, _ in self._waiters))

    async def _open(self) -> Connection:
        """Open a connection in the slot that is counted already.

        A caller that gives up doesn't stop it: the driver can't be cut off cleanly while it connects, and the next
        caller will want the connection.
        """
        opening = asyncio.ensure_future(self._opener())
        self._keep(opening)
        try:
            connection = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._adopt)
            raise
        except BaseException:
            self._free_slot()
            raise
        self._opened += 1
        return connection

    def _adopt(self, opening: asyncio.Future[Connection]) -> None:
        """Take in a connection whose caller has gone."""
        if opening.cancelled() or opening.exception() is not None:
            self._free_slot()
        else:
            self._opened += 1
            self._put_idle(self._hold(opening.result()))

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- giving back ------------------------------------------------------------------------------------

    async def give_back(self, connection: Connection, *, reusable: bool = True) -> None:
        """Return a connection, reset if its session may have changed. Never raises, but for cancellation."""
        if not reusable:
            self.discard(connection)
            return
        if connection.is_changed or self._always_reset:
            try:
                await connection.reset(timeout=_RESET_TIMEOUT)
            except DRIVER_ERRORS:
                self.discard(connection)
                return
            except BaseException:
                self.discard(connection)
                raise
            connection.is_changed = False
        self._put_idle(connection)

    def _put_idle(self, connection: Connection) -> None:
        if self._closing or connection.is_closed() or (self._outdated and connection in self._outdated):
            self.discard(connection)
            return
        connection.used_at = self._answered_at = asyncio.get_running_loop().time()
        while self._waiters:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)  # and it stays held
                return
        self._held.discard(connection)
        self._idle.append(connection)
        if not self._held:
            self._all_back.set()
        if self._sweeper is None:
            self._plan_sweep()

    def suspect_others(self) -> None:
        """Something went wrong with a connection: those that are idle are probed before they are used."""
        self._suspect_before = asyncio.get_running_loop().time()

    def discard(self, connection: Connection) -> None:
        """Close a connection for good, in the background; the server is told to stop what it runs for it."""
        self._discarded += 1
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._held.discard(connection)
        self._outdated.discard(connection)
        if not self._held:
            self._all_back.set()
        if connection.is_closed():
            connection.terminate()  # completes the driver's own clean-up
            self._closed += 1
            self._free_slot()
            return
        self._keep(asyncio.ensure_future(self._close(connection)))

    async def _close(self, connection: Connection) -> None:
        try:
            await connection.close(timeout=_DISCARD_TIMEOUT)  # waits for the cancellation, aborts when late
        except DRIVER_ERRORS:
            pass
        finally:
            connection.terminate()
            self._closed += 1
            self._free_slot()

    def _free_slot(self) -> None:
        """One connection fewer: leave to open another goes to whoever has waited longest."""
        while self._waiters and not self._closing:
            _, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._size -= 1

    # --- life -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open `min_size` connections, at least one, so that wrong settings show now.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
        """
        opened: list[Connection] = []
        try:
            while len(opened) < max(1, self._min_size):
                opened.append(await self.take(self._acquire_timeout))
            await opened[0].execute("SELECT 1")
        except ServiceFrameworkError:
            raise
        except DRIVER_ERRORS as error:
            raise translate(error, f"open the pool of {self.address}", self._acquire_timeout) from error
        finally:
            for connection in opened:
                self._put_idle(connection)

    def retire(self, *, retired: bool = True) -> None:
        """Keep no idle connection from now on, or keep them again. The pool stays usable."""
        self._is_retired = retired
        self._cancel_sweep()
        if retired:
            self._close_idle(keep=0)

    def renew(self) -> None:
        """Close what is idle now, and what is in use when it comes back: the server isn't the right one any more."""
        self._outdated |= self._held
        self._close_idle(keep=0)

    def shrink(self) -> None:
        """Close what is idle. The pool stays usable."""
        self._close_idle(keep=0)

    def _close_idle(self, *, keep: int) -> None:
        while len(self._idle) > keep:
            self._end(self._idle.popleft())

    @property
    def _spare(self) -> int:
        """How many of the idle connections needn't be kept."""
        kept = 0 if self._is_retired else self._min_size
        return min(len(self._idle), len(self._idle) + len(self._held) - kept)

    def _plan_sweep(self) -> None:
        """Look again when the connection that is idle longest is too old; while none is, nothing is planned."""
        if self._spare > 0:
            at = self._idle[0].used_at + (0.0 if self._is_retired else self._idle_lifetime)
            self._sweeper = asyncio.get_running_loop().call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        too_old = asyncio.get_running_loop().time() - (0.0 if self._is_retired else self._idle_lifetime)
        while self._spare > 0 and self._idle[0].used_at <= too_old:
            self._end(self._idle.popleft())
        self._plan_sweep()

    def _cancel_sweep(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def close(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - how long running calls have
        """Refuse new calls, wait for running ones, and close everything.

        Args:
            timeout: Seconds to wait; what is still held then is cut off.
        """
        self._closing = True
        self._cancel_sweep()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(ServiceUnavailableError(self.address, "the pool is closing"))
        self._waiters.clear()
        self._close_idle(keep=0)
        try:
            async with asyncio.timeout(timeout):
                await self._all_back.wait()
                await self._settle()
        except TimeoutError:
            pass
        finally:
            for connection in [*self._held, *self._idle]:
                connection.terminate()
            self._held.clear()
            self._idle.clear()
            self._outdated.clear()
            self._all_back.set()
            for task in self._background:
                task.cancel()
        await self._settle()

    async def _settle(self) -> None:
        while self._background:
            await asyncio.wait(tuple(self._background))
