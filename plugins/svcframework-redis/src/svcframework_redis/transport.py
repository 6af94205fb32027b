"""Transport: the connections to one server, or to the master that sentinels name. It knows no command's meaning."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from svcframework_redis.address import Address, Target
from svcframework_redis.config import RedisConfig
from svcframework_redis.connecting import open_link
from svcframework_redis.link import Link, LinkError, LinkLostError, Refusal, Value, pack_all
from svcframework_redis.publishing import Messages

Command = Sequence[Value]


class NoRoomError(LinkError):
    """The call waited in line for too long."""


class ConnectTimeoutError(LinkError):
    """Connecting took too long."""


@dataclass(frozen=True, slots=True)
class RedisStatistics:
    """What the connections of a service do, now and since its start."""

    in_flight: int
    """Calls without a reply on the shared connection; a batch is one."""
    waiting: int
    """Calls that wait for room on it."""
    answered: int
    """Calls that were answered on it."""
    writes: int
    """How often it sent something: one write for all commands of a turn of the loop."""
    connects: int
    """Connections made, all kinds."""
    lost: int
    """Connections that the network or the server has ended."""
    retired: int
    """Connections that were given up because a reply was late, and still wait for others."""
    leased: int
    """Connections that one call has for itself: blocking commands and watched transactions."""


class Transport:
    """Commands to one server; lives as long as its service.

    Ordinary commands share one connection. Whoever blocks the server's answer gets one for himself. A connection is
    made by the first command that needs it, once for all who wait; one whose reply is late isn't used any more, but
    those who wait on it may still get their replies.

    Args:
        config: Limits.
        target: Where the server is.
    """

    def __init__(self, config: RedisConfig, target: Target) -> None:
        self.target = target
        self.link: Link | None = None
        """The shared connection, while there is one."""
        self.is_closed = False
        self._config = config
        self._connecting: asyncio.Task[Link] | None = None
        self._links: dict[Link, None] = {}  # all that are open, in order of their making
        self._spare: list[Link] = []
        self._leased: set[Link] = set()
        self._listening: set[Link] = set()
        self._places = asyncio.Semaphore(config.max_connections)
        self._connects = self._lost = self._answered = self._writes = 0

    # --- commands ---------------------------------------------------------------------------------------

    async def send(
        self, commands: Sequence[Command], *, is_read: bool, is_atomic: bool = False, is_last: bool = False
    ) -> list[Any]:
        """Send commands one right after the other, on the shared connection.

        Args:
            commands: At least one.
            is_read: Whether they may be sent again when the connection was lost under them.
            is_atomic: Whether they belong together on one server, which a single one fulfils anyway.
            is_last: Whether they have been sent before, and won't be again.

        Returns:
            The replies, `Refusal`s among them.

        Raises:
            LinkError: There is no connection, or it was lost.
            TimeoutError: Connecting took too long.
            OSError: Nobody is there.
            Refusal: The server didn't welcome us.
        """
        del is_atomic
        packed = commands.pack() if isinstance(commands, Messages) else pack_all(commands)
        while True:
            link = await self.ready()
            try:
                replies = await link.request_many(packed, len(commands))
            except LinkLostError as lost:
                if is_last or self.is_closed or (lost.sent_at is not None and not is_read):
                    raise
            else:
                if not all(self.is_misplaced(link, reply) for reply in replies) or is_last:
                    return replies
            is_last = True

    async def ready(self) -> Link:
        """The shared connection, with room for a command.

        Raises:
            NoRoomError: There was none within `acquire_timeout`.
        """
        for _ in range(3):
            link = self.link
            if link is None or not link.is_open:  # the server has hung up, and the loop will say so in a moment
                link = await self._connected()
            if link.has_room:
                return link
            try:
                async with asyncio.timeout(self._config.acquire_timeout):
                    await link.wait_for_room()
            except TimeoutError:
                raise NoRoomError("too many commands are under way") from None
            if link.is_open and not link.is_retired:
                return link
        raise LinkLostError("connections are lost as soon as they are made")

    def is_misplaced(self, link: Link, reply: Any) -> bool:
        """Whether the server refused because it isn't the one to ask any more; another connection may lead further."""
        if not isinstance(reply, Refusal) or reply.code not in {"READONLY", "MASTERDOWN"}:
            return False
        self._give_up(link)
        return self.target.kind == "sentinel"

    def route(self, command: Command) -> Link | None:
        """A shared connection that is good for this command, if there is one; `link` is, for any."""
        del command
        return self.link

    @asynccontextmanager
    async def lease(self, command: Command = ()) -> AsyncIterator[Link]:
        """A connection for one call alone; it is closed if the block raises.

        Args:
            command: What it is for; all servers but those of a cluster are good for any.

        Raises:
            NoRoomError: None became free within `acquire_timeout`.
        """
        del command
        try:
            async with asyncio.timeout(self._config.acquire_timeout):
                await self._places.acquire()
        except TimeoutError:
            raise NoRoomError("every connection is in use") from None
        link: Link | None = None
        try:
            link = self._take_spare() or await self._open()
            self._leased.add(link)
            yield link
            if link.is_open and not self.is_closed:
                self._spare.append(link)
            else:
                link.abort()
        except BaseException:
            if link is not None:
                link.abort()
            raise
        finally:
            if link is not None:
                self._leased.discard(link)
            self._places.release()

    async def open(self, *, on_push: Callable[[Sequence[Any]], None], on_lost: Callable[[Link], None]) -> Link:
        """A connection for someone who listens; he aborts it himself."""
        link = await self._open(on_push=on_push, on_lost=on_lost)
        self._listening.add(link)
        return link

    def _take_spare(self) -> Link | None:
        while self._spare:
            link = self._spare.pop()
            if link.is_open:
                return link
        return None

    # --- connecting -------------------------------------------------------------------------------------

    async def _connected(self) -> Link:
        if self._connecting is None:
            self._check_open()
            # In a context of its own: nothing of the first caller's, such as his deadline, concerns the others.
            self._connecting = asyncio.create_task(self._connect(), context=contextvars.Context())
            self._connecting.add_done_callback(self._connect_ended)
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if connecting.cancelled() and me is not None and not me.cancelling():
                self._check_open()  # it was the stop that cancelled, and not our caller
            raise

    async def _connect(self) -> Link:
        self.link = await self._open(on_late=self._give_up)
        return self.link

    def _connect_ended(self, task: asyncio.Task[Link]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    async def _open(
        self,
        *,
        on_push: Callable[[Sequence[Any]], None] | None = None,
        on_lost: Callable[[Link], None] | None = None,
        on_late: Callable[[Link], None] = lambda _: None,
    ) -> Link:
        self._check_open()

        def make_link() -> Link:
            return Link(
                timeout=self._config.timeout,
                max_in_flight=self._config.max_in_flight,
                on_lost=lose,
                on_late=on_late,
                on_push=on_push,
            )

        def lose(link: Link) -> None:
            self._forget(link)
            if on_lost is not None:
                on_lost(link)

        try:
            link = await self._welcomed(make_link)
        except TimeoutError:
            raise ConnectTimeoutError("connecting took too long") from None
        if self.is_closed:
            link.abort()
            self._check_open()
        self._links[link] = None
        self._connects += 1
        return link

    async def _welcomed(self, make_link: Callable[[], Link]) -> Link:
        """A connection to whoever is the right server now."""
        return await self._greeted(self.target.address, make_link, self._config.connect_timeout)

    async def _greeted(self, address: Address, make_link: Callable[[], Link], timeout: float) -> Link:  # noqa: ASYNC109
        return await open_link(address, make_link, name=self._config.client_name, timeout=timeout)

    def _check_open(self) -> None:
        if self.is_closed:
            raise LinkLostError("the service was stopped")

    # --- losing connections -----------------------------------------------------------------------------

    def _give_up(self, link: Link) -> None:
        """Send nothing on a connection any more; the next command makes a new one."""
        if link is self.link:
            self.link = None
        retired = [other for other in self._links if other.is_retired]
        if len(retired) >= self._config.max_connections:
            retired[0].abort()
        link.retire()

    def _forget(self, link: Link) -> None:
        if link is self.link:
            self.link = None
        if link not in self._links:  # it was never welcomed
            return
        del self._links[link]
        self._answered += link.answered
        self._writes += link.writes
        self._listening.discard(link)
        if link in self._spare:
            self._spare.remove(link)
        if not link.was_aborted:
            self._lost += 1

    async def aclose(self, seconds: float) -> None:
        """Connect no more, give running calls `seconds` to end, close every connection."""
        self.is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self.link is not None:
            self._give_up(self.link)
        for link in (*self._spare, *self._listening):
            link.abort()
        try:
            async with asyncio.timeout(seconds):
                while self._links:
                    await next(iter(self._links)).wait_closed()
        except TimeoutError:
            for link in tuple(self._links):
                link.abort()
            while self._links:
                await next(iter(self._links)).wait_closed()

    @property
    def statistics(self) -> RedisStatistics:
        """Numbers of now."""
        shared = self.link
        return RedisStatistics(
            in_flight=shared.in_flight if shared is not None else 0,
            waiting=shared.waiting if shared is not None else 0,
            answered=self._answered + sum(link.answered for link in self._links),
            writes=self._writes + sum(link.writes for link in self._links),
            connects=self._connects,
            lost=self._lost,
            retired=sum(link.is_retired for link in self._links),
            leased=len(self._leased),
        )
