"""Link: one connection that many calls share. It knows bytes, replies and their order; no commands and no addresses."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, cast

import hiredis

Value = str | bytes | int | float
"""What a command is made of; text is sent as UTF-8."""

pack_command = cast("Callable[[tuple[Value, ...]], bytes]", hiredis.pack_command)
"""One command as it is sent. The cast is for the stub, which allows one argument.

Raises:
    TypeError: An argument is neither text, bytes nor a number.
"""

_NOTHING: Any = object()  # the reader has no whole reply; False and None are replies
_FLUSH_AT = 65_536  # bytes that wait for the end of the loop's turn at most


class LinkError(Exception):
    """Why a call on a link has no reply."""


class LinkLostError(LinkError):
    """The connection is gone.

    Args:
        reason: What the network said.
        sent_at: When the command was sent, on the loop's clock; None if the server can't have seen it.
    """

    def __init__(self, reason: str, *, sent_at: float | None = None) -> None:
        self.sent_at = sent_at
        super().__init__(reason)


class LateReplyError(LinkError):
    """No reply within the link's limit."""


class Refusal(Exception):  # noqa: N818 - a reply of the server; it's an error only for whoever asked
    """The server's error reply. Its text may quote arguments, so it reaches messages only through `errors`."""

    @property
    def code(self) -> str:
        """The first word, such as `WRONGTYPE`."""
        return str(self).partition(" ")[0]


class Batch:
    """Commands whose replies come together; lives until the last one is there.

    Args:
        size: How many there will be, at least 1.
        future: Where the list of replies goes.
    """

    __slots__ = ("future", "replies", "size")

    def __init__(self, size: int, future: asyncio.Future[list[Any]]) -> None:
        self.size, self.future = size, future
        self.replies: list[Any] = []

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()

    def set_exception(self, error: Exception) -> None:
        """Tell the one who waits why there will be no replies."""
        self.future.set_exception(error)


def pack_all(commands: Iterable[Sequence[Value]]) -> bytes:
    """Commands as they are sent. Errors as `pack_command`."""
    return b"".join(map(pack_command, map(tuple, commands)))


class Link(asyncio.Protocol):
    """One connection; lives from its first byte to `on_lost`, and is never opened again.

    What is sent in one turn of the event loop leaves in one write. Replies come in the order of the commands, so
    whoever gave up is no danger: the reply is taken and dropped. Costs per call: a future, an append and a pop; the
    limit is kept by one timer for all of them.

    Args:
        timeout: Seconds a single command may wait for its reply; a batch has no limit here.
        max_in_flight: Commands without a reply, beyond which `has_room` is False.
        on_lost: Called once, when the connection is gone.
        on_late: Called when a command has waited for the whole `timeout`; the link may be slow, or dead.
        on_push: Called with what the server says unasked; without it, that is dropped.
    """

    def __init__(
        self,
        *,
        timeout: float,
        max_in_flight: int,
        on_lost: Callable[[Link], None],
        on_late: Callable[[Link], None],
        on_push: Callable[[Sequence[Any]], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._new_future = self._loop.create_future
        self._timeout, self._max_in_flight = timeout, max_in_flight
        self._on_lost, self._on_late, self._on_push = on_lost, on_late, on_push
        reader: Any = hiredis.Reader(replyError=Refusal, notEnoughData=_NOTHING)
        self._feed, self._gets = reader.feed, reader.gets
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._out_size = 0
        self._in_flight: deque[Any] = deque()  # futures and batches, in the order of their commands
        self._marks: deque[tuple[int, float]] = deque()  # how many had been sent by when
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._room: deque[asyncio.Future[None]] = deque()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.has_room = True
        """Whether another command may be sent at once."""
        self.is_open = False
        """Whether commands can be sent: not before the connection is made, nor once the server has hung up."""
        self.is_retired = False
        """Whether it only waits for what is under way."""
        self.was_aborted = False
        """Whether it was closed from this side."""
        self.answered = 0
        """Calls that are over; a batch is one."""
        self.writes = 0
        """How often something was sent."""

    # --- sending ----------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls without a reply, those that were given up among them."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Callers that wait for room."""
        return len(self._room)

    def request(self, packed: bytes) -> asyncio.Future[Any]:
        """Send one command; the reply, or a `Refusal`, is the future's result. Ask `has_room` before.

        Raises:
            LinkError: In the future: the connection is gone, or no reply came in time.
        """
        reply: asyncio.Future[Any] = self._new_future()
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(packed)
        self._in_flight.append(reply)
        self._out_size += len(packed)
        if self._out_size > _FLUSH_AT:
            self._flush()
        return reply

    def request_many(self, packed: bytes, size: int) -> asyncio.Future[list[Any]]:
        """Send commands one right after the other; their replies are the future's result. The caller keeps the time.

        Args:
            packed: All of them.
            size: How many they are, at least 1.

        Raises:
            LinkLostError: In the future.
        """
        future: asyncio.Future[list[Any]] = self._new_future()
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._in_flight.append(Batch(size, future))
        self._out_size += len(packed)
        if self._out_size > _FLUSH_AT:
            self._flush()
        return future

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_size = 0
        marks, answered, now = self._marks, self.answered, self._loop.time()
        while marks and marks[0][0] <= answered:
            marks.popleft()
        marks.append((answered + len(self._in_flight), now))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout, self._look_for_late)
        if len(self._in_flight) >= self._max_in_flight:
            self.has_room = False
        self.writes += 1
        self._transport.write(data)

    # --- receiving (called by the event loop) -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Hand each reply to whoever waits for it."""
        gets, in_flight = self._gets, self._in_flight
        try:
            self._feed(data)
            while (reply := gets()) is not _NOTHING:
                if reply.__class__ is hiredis.PushNotification:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                if not in_flight and self._on_push is not None:
                    continue  # the answer to a question whose asker was told something else
                waiter = in_flight[0]
                if waiter.__class__ is Batch and not self._fill(waiter, reply):
                    break
                in_flight.popleft()
                self.answered += 1
                if waiter.__class__ is not Batch and not waiter.done():
                    waiter.set_result(reply)
        except (hiredis.ProtocolError, IndexError):  # bytes that are no reply, or a reply nobody has asked for
            self.abort()
            return
        if self.is_retired:
            self._close_if_idle()
        elif not self.has_room:
            self._make_room()

    def _fill(self, batch: Batch, reply: Any) -> bool:
        """Take what there is for a batch; True when it is complete."""
        replies, size = batch.replies, batch.size
        is_wanted = not batch.future.done()  # what nobody waits for is counted, not kept
        replies.append(reply if is_wanted else None)
        there_are = iter(self._gets, _NOTHING)
        while (missing := size - len(replies)) > 0:
            found = list(islice(there_are, missing))
            if not found:
                return False
            if hiredis.PushNotification in set(map(type, found)):
                found = self._without_pushes(found)
            replies += found if is_wanted else [None] * len(found)
        if is_wanted:
            batch.future.set_result(replies)
        return True

    def _without_pushes(self, found: list[Any]) -> list[Any]:
        """The replies among what came; what was said unasked goes where it belongs."""
        replies = []
        for one in found:
            if one.__class__ is not hiredis.PushNotification:
                replies.append(one)
            elif self._on_push is not None:
                self._on_push(one)
        return replies

    def eof_received(self) -> bool:
        """The server has hung up: no command is sent here any more."""
        self.is_open = self.has_room = False
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self.is_open = self.has_room = False
        reason = (str(exc) or type(exc).__name__) if exc is not None else "the server closed the connection"
        marks = self._marks
        for place, waiter in enumerate(self._in_flight, start=self.answered + 1):
            while marks and marks[0][0] < place:
                marks.popleft()
            if not waiter.done():
                waiter.set_exception(LinkLostError(reason, sent_at=marks[0][1] if marks else None))
        self.answered += len(self._in_flight)
        self._in_flight.clear()
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._make_room()
        if not self._gone.done():
            self._gone.set_result(None)
        self._on_lost(self)

    # --- back-pressure ----------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The network takes no more for now."""
        self._paused = True
        self.has_room = False

    def resume_writing(self) -> None:
        """The network takes bytes again."""
        self._paused = False
        self._make_room()

    async def wait_for_room(self) -> None:
        """Wait in line until a command may be sent, or the connection is gone."""
        if self.has_room or not self.is_open:
            return
        place = self._loop.create_future()
        self._room.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._make_room()  # the next in line takes the place that was given to us
            raise
        finally:
            if place in self._room:
                self._room.remove(place)

    def _make_room(self) -> None:
        """Let in as many as there is room for; while somebody waits, newcomers have to line up."""
        if (self._paused and self.is_open) or self.is_retired:
            return
        free = self._max_in_flight - len(self._in_flight) if self.is_open else len(self._room)
        while self._room and free > 0:
            place = self._room.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1
        self.has_room = self.is_open and not self._room and free > 0

    # --- limits and the end -----------------------------------------------------------------------------

    def _look_for_late(self) -> None:
        """Fail the commands that have waited for the whole limit; come again when the next ones will have."""
        self._timer = None
        now, marks, last = self._loop.time(), self._marks, 0
        while marks and marks[0][1] + self._timeout <= now:
            last = marks.popleft()[0]
        late = last - self.answered
        for waiter in islice(self._in_flight, max(0, late)):
            if waiter.__class__ is not Batch and not waiter.done():
                waiter.set_exception(LateReplyError("no reply"))
        if self.is_retired:
            self._close_if_idle()
        elif late > 0:
            self._on_late(self)
        if self._in_flight and self.is_open:
            # What is left has been sent later, or takes as long as it takes.
            at = marks[0][1] + self._timeout if marks else now + self._timeout
            self._timer = self._loop.call_at(at, self._look_for_late)

    def set_reading(self, *, wanted: bool) -> None:
        """Read from the server, or leave what it says in the network's buffers and then in its own."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and transport.is_reading() is not wanted:
            transport.resume_reading() if wanted else transport.pause_reading()

    def retire(self) -> None:
        """Send nothing more; close when nobody waits for a reply."""
        self.is_retired = True
        self.has_room = False
        self._flush()
        while self._room:  # whoever waits in line goes elsewhere
            place = self._room.popleft()
            if not place.done():
                place.set_result(None)
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if all(waiter.done() for waiter in self._in_flight):
            self.abort()

    def abort(self) -> None:
        """Close now; what is under way fails."""
        self.is_open = self.has_room = False
        self.was_aborted = True
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._gone)
