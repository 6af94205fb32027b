"""Router: who subscribes to what. Hands each message to its subscribers, synchronously; knows no server."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import anyio

from svcframework.background import Background
from svcframework.errors import ServiceFrameworkError, ServiceUnavailableError
from svcframework_pubsub.channels import Topic, matcher
from svcframework_pubsub.message import Message, id_of

if TYPE_CHECKING:
    from svcframework_pubsub.backends.backend import Backend


class Sink(Protocol):
    """What takes the messages of one subscriber. None of its methods may wait."""

    receive: Callable[[Message], object]

    def failed(self, error: Exception, message: Message | None) -> None:
        """`receive` raised, or a message could not be read."""
        ...

    def deaf(self, seconds: float) -> None:
        """Messages of the last `seconds` may have been missed."""
        ...


class Route:
    """One topic with its subscribers; lives as long as it has any."""

    __slots__ = ("_earlier", "_limit", "_seen", "fits", "is_live", "lock", "sinks")

    def __init__(self, topic: Topic, dedup: int) -> None:
        self.sinks: tuple[Sink, ...] = ()
        self.is_live = False
        """The backend listens for it."""
        self.lock = anyio.Lock()
        self.fits: Callable[[str], re.Match[str] | None] | None = (
            matcher(topic.name).fullmatch if topic.is_pattern else None
        )
        self._limit = dedup
        self._seen: set[bytes | str] = set()
        self._earlier: set[bytes | str] = set()

    def deliver(self, channel: str, data: bytes | str) -> None:
        """Hand a message to every subscriber, once."""
        if self._limit and self._is_repeated(data):
            return
        message: Message = Message(channel, data)
        for sink in self.sinks:
            try:
                sink.receive(message)
            except Exception as error:  # noqa: BLE001 - a boundary: one subscriber must not silence the others
                sink.failed(error, message)

    def _is_repeated(self, data: bytes | str) -> bool:
        found = id_of(data)
        if found is None:
            return False
        if isinstance(found, bytes):  # the same message may come as text from one server, as bytes from another
            found = found.decode("latin-1")
        if found in self._seen or found in self._earlier:
            return True
        self._seen.add(found)
        if len(self._seen) >= self._limit:
            self._earlier, self._seen = self._seen, set()
        return False


class Router:
    """The subscribers of one service, by topic; lives as long as the service runs.

    Args:
        service: Whose they are, for errors.
        dedup: Ids remembered per topic; 0 where the backend brings each message once.
    """

    def __init__(self, service: str, *, dedup: int = 0) -> None:
        self._service = service
        self.channels: dict[str, Route] = {}
        self.patterns: dict[str, Route] = {}
        self.received = 0
        """Messages that the backend has brought."""
        self.gaps = 0
        """How often it was deaf."""
        self._dedup = dedup
        self._backend: Backend | None = None
        self._idle: set[Topic] = set()
        self._wake = anyio.Event()
        self._sweeper: Background | None = None
        self._thread = 0
        self._blocked: set[object] = set()
        self._flowing = anyio.Event()

    # --- life -------------------------------------------------------------------------------------------

    def open(self, backend: Backend) -> None:
        """Begin, on a backend that is open."""
        self._backend = backend
        self._thread = threading.get_ident()
        self._sweeper = Background(self._sweep, name="pubsub: unsubscribe")

    async def close(self) -> None:
        """Forget every subscriber."""
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            await sweeper.end()
        self._backend = None
        self.channels.clear()
        self.patterns.clear()
        self._blocked.clear()
        self._flowing.set()

    # --- subscribers ------------------------------------------------------------------------------------

    async def attach(self, topic: Topic, sink: Sink) -> None:
        """Return when nothing that is published on the topic from now on will be missed.

        Raises:
            ServiceUnavailableError: The service doesn't run.
            ServiceFrameworkError: The backend can't listen for it.
        """
        backend = self._backend
        if backend is None:
            raise ServiceUnavailableError(
                self._service, "it isn't started; enter the host with `async with host:` first"
            )
        table = self._table(topic)
        route = table.get(topic.name)
        if route is None:
            route = table[topic.name] = Route(topic, self._dedup)
        route.sinks += (sink,)
        try:
            async with route.lock:
                if not route.is_live:
                    await backend.subscribe(topic)
                    route.is_live = True
        except BaseException:
            self.drop(topic, sink)
            raise

    def drop(self, topic: Topic, sink: Sink) -> None:
        """Forget a subscriber at once; the backend stops listening for its topic soon."""
        route = self._table(topic).get(topic.name)
        if route is None:
            return
        route.sinks = tuple(other for other in route.sinks if other is not sink)
        self.unblock(sink)
        if not route.sinks:
            self._idle.add(topic)
            if threading.get_ident() == self._thread:  # a garbage collector may run anywhere; then the next one wakes
                self._wake.set()

    def topics(self) -> list[Topic]:
        """What is subscribed to now."""
        return [*(Topic(name) for name in self.channels), *(Topic(name, is_pattern=True) for name in self.patterns)]

    def _table(self, topic: Topic) -> dict[str, Route]:
        return self.patterns if topic.is_pattern else self.channels

    async def _sweep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            while self._idle:
                topic = self._idle.pop()
                with contextlib.suppress(ServiceFrameworkError):
                    await self._retire(topic)

    async def _retire(self, topic: Topic) -> None:
        table = self._table(topic)
        route = table.get(topic.name)
        if route is None:
            return
        async with route.lock:
            if not route.sinks and route.is_live and self._backend is not None:
                route.is_live = False
                await self._backend.unsubscribe(topic)
        if not route.sinks and table.get(topic.name) is route:
            del table[topic.name]

    # --- messages ---------------------------------------------------------------------------------------

    def deliver(self, channel: str, data: bytes | str) -> None:
        """A message came on a channel that is subscribed to by name."""
        self.received += 1
        route = self.channels.get(channel)
        if route is not None:
            route.deliver(channel, data)

    def deliver_to_patterns(self, channel: str, data: bytes | str, names: Iterable[str] | None = None) -> None:
        """A message came that patterns may fit.

        Args:
            channel: Where it was published.
            data: The message.
            names: The patterns it may be for; all when not given.
        """
        self.received += 1
        for name in tuple(self.patterns) if names is None else tuple(names):
            route = self.patterns.get(name)
            if route is not None and route.fits is not None and route.fits(channel):
                route.deliver(channel, data)

    def deliver_to_all(self, channel: str, data: bytes | str) -> None:
        """A message came once, for subscribers of either kind."""
        self.deliver(channel, data)
        if self.patterns:
            self.received -= 1
            self.deliver_to_patterns(channel, data)

    def lost(self, channel: str, error: Exception) -> None:
        """A message on a channel was announced and can't be had."""
        fitting = [route for route in self.patterns.values() if route.fits is not None and route.fits(channel)]
        for route in [*([self.channels[channel]] if channel in self.channels else []), *fitting]:
            for sink in route.sinks:
                sink.failed(error, None)

    def deaf(self, seconds: float, topic: Topic | None = None) -> None:
        """The backend heard nothing for `seconds`, or nothing of one topic; its subscribers are told."""
        self.gaps += 1
        routes = [*self.channels.values(), *self.patterns.values()]
        if topic is not None:
            routes = [route for name, route in self._table(topic).items() if name == topic.name]
        for route in routes:
            for sink in route.sinks:
                try:
                    sink.deaf(seconds)
                except Exception as error:  # noqa: BLE001 - same boundary as for messages
                    sink.failed(error, None)

    # --- backpressure -----------------------------------------------------------------------------------

    @property
    def is_blocked(self) -> bool:
        """A subscriber that blocks is full, so the backend reads nothing."""
        return bool(self._blocked)

    def block(self, sink: object) -> None:
        """Read no more until `unblock`."""
        if not self._blocked:
            self._flowing = anyio.Event()
            if self._backend is not None:
                self._backend.pause()
        self._blocked.add(sink)

    def unblock(self, sink: object) -> None:
        """This subscriber has room again, or is gone."""
        if sink in self._blocked:
            self._blocked.discard(sink)
            if not self._blocked:
                self._flowing.set()
                if self._backend is not None:
                    self._backend.resume()

    async def flowing(self) -> None:
        """Return when no subscriber blocks."""
        while self._blocked:
            await self._flowing.wait()
