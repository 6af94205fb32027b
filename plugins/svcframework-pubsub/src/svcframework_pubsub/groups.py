"""GroupSubscription: each message of a durable channel is handled by one consumer of a group, at least once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self

import anyio

from svcframework.background import Background
from svcframework.context import service_context
from svcframework.errors import ServiceFrameworkError
from svcframework_pubsub.errors import MalformedMessageError
from svcframework_pubsub.message import Message, PayloadT, decoder_of, typed
from svcframework_pubsub.subscription import Callback, OnError, Report, name_of

if TYPE_CHECKING:
    from svcframework_pubsub.backends.backend import GroupSource

_RETRY_DELAY = 0.05  # seconds before a read that failed is tried again
_FAREWELL = 0.5  # seconds for leaving the group
PREFETCH = 16
"""Messages that one consumer holds at most; the others of the group get theirs meanwhile."""


@dataclass(frozen=True, slots=True)
class GroupTerms:
    """What a consumer of a group has asked for."""

    group: str
    consumer: str
    claim_after: float
    max_deliveries: int
    dead_letter: str
    on_dead: Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as its server gives it to a consumer."""

    channel: str
    data: bytes
    token: Any
    number: int
    """How often it was given to a consumer, this time included."""


class GroupMessage(Message[PayloadT], eq=False):
    """A message that has to be acknowledged; otherwise it comes again, to this consumer or another."""

    _delivery: Any = None
    _source: Any = None

    @property
    def deliveries(self) -> int:
        """How often it was given to a consumer, this time included."""
        return int(self._delivery.number)

    async def ack(self) -> None:
        """It is done, and comes no more.

        Raises:
            ConnectionFailedError: The server can't be reached; it may come again.
        """
        await self._source.ack(self._delivery)

    async def release(self) -> None:
        """It can't be done here: it comes again, soon."""
        await self._source.release(self._delivery)


class GroupSubscription(Generic[PayloadT]):
    """The messages of a durable channel, shared among the consumers of a group; lives until it is closed.

    It reads when it is asked for the next message, so nothing is dropped: what isn't read waits on the server, also
    while nobody is connected. While the server is away it waits.

    Args:
        source: Where messages come from.
        model: What payloads are read as; None for plain values.
        on_error: Called with what went wrong, and its message if there is one.
        report: Logs now and then.
        on_close: Called once.
    """

    def __init__(
        self,
        source: GroupSource,
        *,
        model: Any,
        on_error: OnError | None,
        report: Report,
        on_close: Callable[[GroupSubscription[Any]], None],
    ) -> None:
        self._source, self._model, self._on_error = source, model, on_error
        self._report, self._on_close = report, on_close
        self._decode = None if model is None else decoder_of(model)
        self._waiting: deque[Delivery] = deque()
        self._is_open = self._is_closed = False
        self._scopes: set[anyio.CancelScope] = set()

    async def open(self) -> Self:
        """Join the group, which is made if need be and begins with the next message.

        Raises:
            ServiceFrameworkError: The server is in the way.
        """
        if not self._is_open:
            await self._source.open()
            self._is_open = True
        return self

    async def close(self) -> None:
        """Leave the group; what was read and not acknowledged goes to another consumer."""
        if self._is_closed:
            return
        self._is_closed = True
        self.interrupt()
        self._on_close(self)
        if self._is_open:
            with anyio.move_on_after(_FAREWELL, shield=True):
                try:
                    for delivery in self._waiting:
                        await self._source.release(delivery)
                    await self._source.close()
                except ServiceFrameworkError as error:
                    self._report("could not leave the group", error=str(error))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *details: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GroupMessage[PayloadT]:
        await self.open()
        while True:
            if not self._waiting:
                with anyio.CancelScope() as scope:
                    self._scopes.add(scope)
                    try:
                        await self._fill()
                    finally:
                        self._scopes.discard(scope)
            if self._is_closed or not self._waiting:  # closed, or a worker is to stop
                raise StopAsyncIteration
            message = await self._read(self._waiting.popleft())
            if message is not None:
                return message

    def interrupt(self) -> None:
        """End a wait for messages; who waits sees the end."""
        for scope in tuple(self._scopes):
            scope.cancel()

    async def _fill(self) -> None:
        while not self._waiting and not self._is_closed:
            try:
                self._waiting.extend(await self._source.read(PREFETCH))
            except ServiceFrameworkError as error:
                self._report("reading for a group failed; trying again", error=str(error))
                await anyio.sleep(_RETRY_DELAY)

    async def _read(self, delivery: Delivery) -> GroupMessage[PayloadT] | None:
        message: GroupMessage[Any] = GroupMessage(
            delivery.channel, delivery.data, _delivery=delivery, _source=self._source
        )
        if self._decode is not None:
            try:
                message._payload = typed(message, self._decode, name_of(self._model)).payload  # noqa: SLF001 - a subclass of its own
            except MalformedMessageError as error:
                self.failed(error, message)
                await self._buried(delivery, str(error))
                return None
        return message

    async def _buried(self, delivery: Delivery, reason: str) -> None:
        try:
            await self._source.bury(delivery, reason)
        except ServiceFrameworkError as error:  # then it comes again, and this is tried again
            self._report("dead letter failed", error=str(error))

    def failed(self, error: Exception, message: Message[Any] | None) -> None:
        """Log an error now and then, and tell `on_error`."""
        self._report("message for a group failed", error=f"{type(error).__name__}: {error}")
        if self._on_error is not None:
            try:
                self._on_error(error, message)
            except Exception as second:  # noqa: BLE001 - a boundary: the author's hook must not end the reading
                self._report("on_error failed", error=f"{type(second).__name__}: {second}")


class GroupWorker:
    """Hands the messages of a group to a callback, and acknowledges each that it is through with.

    A callback that raises leaves its message unacknowledged: it comes again after `claim_after`.

    Args:
        subscription: Not opened.
        callback: A plain or a coroutine function.
        on_close: Called once.
    """

    def __init__(
        self,
        subscription: GroupSubscription[Any],
        callback: Callback[Any],
        on_close: Callable[[GroupWorker], None],
    ) -> None:
        self._subscription, self._callback, self._on_close = subscription, callback, on_close
        self._worker: Background | None = None
        self._stopping = False
        self._idle = anyio.Event()

    async def open(self) -> Self:
        """Join the group and begin."""
        await self._subscription.open()
        self._worker = Background(self._work, name="pubsub: callback of a group")
        return self

    async def drain(self) -> None:
        """Let the callback finish the message it is at, then leave the group."""
        self._stopping = True
        self._subscription.interrupt()
        await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Leave the group now."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            self._on_close(self)
        await self._subscription.close()

    async def _work(self) -> None:
        try:
            while not self._stopping:
                try:
                    message = await anext(self._subscription)
                except StopAsyncIteration:
                    return
                await self._handle(message)
        finally:
            self._idle.set()

    async def _handle(self, message: GroupMessage[Any]) -> None:
        try:
            with service_context(correlation_id=message.trace_id):
                result = self._callback(message)
                if isinstance(result, Awaitable):
                    await result
                await message.ack()
        except Exception as error:  # noqa: BLE001 - a boundary: the next message is handled nevertheless
            self._subscription.failed(error, message)
