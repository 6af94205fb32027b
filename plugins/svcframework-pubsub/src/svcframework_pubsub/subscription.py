"""Subscription: the messages of one subscriber, to iterate over or handed to a callback."""

from __future__ import annotations

import inspect
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, cast

import anyio

from svcframework.background import Background
from svcframework.context import service_context
from svcframework_pubsub.channels import Topic
from svcframework_pubsub.config import Overflow
from svcframework_pubsub.errors import MalformedMessageError, SubscriptionOverflowError
from svcframework_pubsub.message import Message, PayloadT, decoder_of, typed
from svcframework_pubsub.router import Router

Callback = Callable[[Message[PayloadT]], Awaitable[object] | object]
OnGap = Callable[[float], object]
OnError = Callable[[Exception, Message[Any] | None], object]
Report = Callable[..., None]


@dataclass(slots=True)
class SubscriptionStatistics:
    """Numbers of one subscription, since it was opened."""

    received: int = 0
    dropped: int = 0
    """Messages that went to make room."""
    malformed: int = 0
    """Messages that did not fit the model."""
    failed: int = 0
    """Callbacks that raised."""
    gaps: int = 0
    """How often messages may have been missed."""
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a subscriber has asked for."""

    size: int
    overflow: Overflow
    on_gap: OnGap | None = None
    on_error: OnError | None = None
    model: Any = None


class Inbox:
    """Where the messages of one subscriber arrive. It outlives its `Subscription` only until that is collected.

    Args:
        name: What errors and logs call it.
        router: Whom to ask for a pause.
        terms: What was asked for.
        report: Takes an event and its fields; rate-limited.
        callback: Called with each message in place of the queue; it must not be a coroutine function.
    """

    def __init__(
        self,
        name: str,
        router: Router,
        terms: Terms,
        report: Report,
        callback: Callable[[Message[Any]], object] | None = None,
    ) -> None:
        self.name, self.router, self.terms, self._report = name, router, terms, report
        self.queue: deque[Message[Any]] = deque()
        self.statistics = SubscriptionStatistics()
        self.error: Exception | None = None
        self.is_closed = False
        self._waiter: anyio.Event | None = None
        self._callback = callback
        self._decode = None if terms.model is None else decoder_of(terms.model)
        # A callback without a model is called directly: nothing stands between it and the router.
        self.receive: Callable[[Message[Any]], object] = self._take
        if callback is not None and self._decode is None:
            self.receive = callback

    def failed(self, error: Exception, message: Message[Any] | None) -> None:
        """A callback raised, or a message could not be read: counted, logged now and then, told to `on_error`."""
        if isinstance(error, MalformedMessageError):
            self.statistics.malformed += 1
            self._report("malformed message", subscription=self.name, error=str(error))
        else:
            self.statistics.failed += 1
            self._report("callback failed", subscription=self.name, error=f"{type(error).__name__}: {error}")
        if self.terms.on_error is not None:
            try:
                self.terms.on_error(error, message)
            except Exception as second:  # noqa: BLE001 - a boundary: the author's hook must not end the reading
                self._report("on_error failed", subscription=self.name, error=f"{type(second).__name__}: {second}")

    def deaf(self, seconds: float) -> None:
        """Messages may have been missed."""
        self.statistics.gaps += 1
        if self.terms.on_gap is not None:
            self.terms.on_gap(seconds)

    def close(self, error: Exception | None = None) -> None:
        """Take no more; who iterates sees the end, or the error, after what has arrived."""
        self.is_closed = True
        self.error = self.error or error
        self._notify()

    async def get(self) -> Message[Any]:
        """The oldest message, when there is one.

        Raises:
            StopAsyncIteration: The subscription was closed.
            SubscriptionOverflowError: The subscriber was too slow.
        """
        while not self.queue:
            if self.error is not None:
                raise self.error
            if self.is_closed:
                raise StopAsyncIteration
            if self._waiter is None:
                self._waiter = anyio.Event()
            await self._waiter.wait()
        message = self.queue.popleft()
        if len(self.queue) <= self.terms.size // 2 and self.router.is_blocked:
            self.router.unblock(self)
        return message

    def _take(self, message: Message[Any]) -> None:
        if self._decode is not None:
            message = typed(message, self._decode, _name_of(self.terms.model))
        if self._callback is not None:
            self._callback(message)
            return
        self.statistics.received += 1
        if len(self.queue) >= self.terms.size and not self._made_room():
            return
        self.queue.append(message)
        self._notify()

    def _made_room(self) -> bool:
        if self.is_closed:
            return False
        if self.terms.overflow == "block":
            # What the reader has in its hands still arrives, then nothing more.
            self.router.block(self)
        elif self.terms.overflow == "drop_oldest":
            self.queue.popleft()
            self.statistics.dropped += 1
            self._report("messages dropped", subscription=self.name, dropped=self.statistics.dropped)
        else:
            self.close(SubscriptionOverflowError(self.name, self.terms.size))
            return False
        return True

    def _notify(self) -> None:
        if self._waiter is not None:
            self._waiter.set()
            self._waiter = None


class Subscription(Generic[PayloadT]):
    """Messages of one or more topics; lives as long as its `async with` block, or until it is closed or dropped.

    `async with pubsub.subscribe("runs") as messages:` listens from the beginning of the block to its end.
    `async for message in pubsub.subscribe("runs"):` listens from the first step; leaving the loop ends it.
    """

    def __init__(self, topics: Sequence[Topic], inbox: Inbox, on_close: Callable[[Subscription[Any]], None]) -> None:
        self._topics, self._inbox = tuple(topics), inbox
        self._on_close = on_close
        self._is_open = False
        self._finalizer: weakref.finalize[Any, Any] | None = None

    @property
    def statistics(self) -> SubscriptionStatistics:
        """Counts since it was opened."""
        numbers = self._inbox.statistics
        numbers.waiting = len(self._inbox.queue)
        return numbers

    @property
    def is_open(self) -> bool:
        """It listens."""
        return self._is_open and not self._inbox.is_closed

    async def open(self) -> Self:
        """Return when nothing that is published from now on will be missed. Opening twice is as good as once.

        Raises:
            ConnectionFailedError: The server can't be reached.
            ServiceTimeoutError: It did not answer in time.
        """
        if self._is_open:
            return self
        self._is_open = True
        done: list[Topic] = []
        try:
            for topic in self._topics:
                await self._inbox.router.attach(topic, self._inbox)
                done.append(topic)
        except BaseException:
            _release(self._inbox, done)
            raise
        self._finalizer = weakref.finalize(self, _release, self._inbox, self._topics)
        self._finalizer.atexit = False
        return self

    async def close(self) -> None:
        """Stop listening; messages that haven't been read are dropped. Never waits for a server."""
        self._inbox.queue.clear()
        if self._finalizer is not None:
            self._finalizer()
        self._inbox.close()
        self._on_close(self)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *details: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[PayloadT]:
        if not self._is_open:
            await self.open()
        return await self._inbox.get()

    def __repr__(self) -> str:
        return f"<Subscription to {self._inbox.name} {'open' if self.is_open else 'closed'}>"


class CallbackSubscription(Subscription[PayloadT]):
    """A subscription whose messages go to a callback; lives until it is closed, at the latest with its service.

    A plain function is called as the message arrives, on the event loop. A coroutine function is awaited for one
    message after another, in the order they came, in the publisher's correlation id.
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        inbox: Inbox,
        on_close: Callable[[Subscription[Any]], None],
        callback: Callback[PayloadT],
    ) -> None:
        super().__init__(topics, inbox, on_close)
        self._awaited = callback if is_async(callback) else None
        self._worker: Background | None = None
        self._is_busy = False

    async def open(self) -> Self:
        """Return when the callback will be told of all that is published from now on."""
        if self._awaited is not None and self._worker is None:
            self._worker = Background(self._work, name=f"pubsub: callback of {self._inbox.name}")
        try:
            return await super().open()
        except BaseException:
            await self._end_worker()
            raise

    async def close(self) -> None:
        """Stop listening, and drop what waits."""
        await super().close()
        await self._end_worker()

    async def drain(self) -> None:
        """Stop listening, and return when the callback is through with what has arrived."""
        if self._finalizer is not None:
            self._finalizer()
        while self._worker is not None and (self._inbox.queue or self._is_busy):
            await anyio.sleep(0.005)
        await self.close()

    async def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()  # not waited for: the callback itself may be what closes us

    async def _work(self) -> None:
        callback = cast("Callable[[Message[Any]], Awaitable[object]]", self._awaited)
        while True:
            try:
                message = await self._inbox.get()
            except (StopAsyncIteration, SubscriptionOverflowError) as end:
                if isinstance(end, SubscriptionOverflowError):
                    self._inbox.failed(end, None)
                return
            self._is_busy = True
            try:
                with service_context(correlation_id=message.trace_id):
                    await callback(message)
            except Exception as error:  # noqa: BLE001 - a boundary: the next message is handled nevertheless
                self._inbox.failed(error, message)
            finally:
                self._is_busy = False


def is_async(callback: object) -> bool:
    """Whether a callback has to be awaited."""
    while hasattr(callback, "func"):  # functools.partial
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004 - not asked whether, but what it is


def _release(inbox: Inbox, topics: Sequence[Topic]) -> None:
    """Synchronous, so that it works from a finalizer too."""
    for topic in topics:
        inbox.router.drop(topic, inbox)
    inbox.close()


def _name_of(model: Any) -> str:
    return getattr(model, "__name__", None) or str(model)
