"""PubSubClient: the service for threads. Blocking, safe to share, on an event loop in a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from svcframework.errors import (
    ExternalServiceError,
    ServiceFrameworkError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_pubsub.config import PubSubConfig
from svcframework_pubsub.service import PubSubService

if TYPE_CHECKING:
    from svcframework_pubsub.message import Message

T = TypeVar("T")

_TROUBLE = (ExternalServiceError, ServiceTimeoutError, ServiceUnavailableError)
_STOP_INTERVAL = 0.05  # seconds between two looks at a stop flag
_RETRY_DELAY = 0.2  # seconds before listening is tried again
_START_TIMEOUT = 30.0  # seconds for a thread to begin; a limit for what can't happen


class StopFlag(Protocol):
    """Says when to stop, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


class _Loop:
    """An event loop in a daemon thread, with the service on it; lives until `stop`, at most as long as the process."""

    def __init__(self, service: PubSubService) -> None:
        self.pid = os.getpid()
        self._service = service
        self._begun = threading.Event()
        self._portal: BlockingPortal | None = None
        self._is_started = False
        self._starting: anyio.Lock | None = None
        self._thread = threading.Thread(target=self._run, name="svcframework-pubsub", daemon=True)
        self._thread.start()
        if not self._begun.wait(_START_TIMEOUT):
            raise ServiceUnavailableError(service.name, "its thread did not begin")

    def call(self, function: Callable[[PubSubService], Awaitable[T]]) -> T:
        """Run a coroutine function on the loop, with the service, which is started if need be."""
        portal = self._portal
        if portal is None:
            raise ServiceUnavailableError(self._service.name, "the client is closed")
        return portal.call(self._with_service, function)

    def stop(self) -> None:
        """Stop the service and end the thread."""
        portal, self._portal = self._portal, None
        if portal is not None and self.pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the thread has ended already
                portal.call(portal.stop, True)
            self._thread.join(self._service.config.stop_timeout)

    def _run(self) -> None:
        anyio.run(self._serve, backend="asyncio")

    async def _serve(self) -> None:
        self._starting = anyio.Lock()
        try:
            async with BlockingPortal() as portal:
                self._portal = portal
                self._begun.set()
                await portal.sleep_until_stopped()
        finally:
            with anyio.CancelScope(shield=True):
                await self._service.on_shutdown()

    async def _with_service(self, function: Callable[[PubSubService], Awaitable[T]]) -> T:
        if not self._is_started and self._starting is not None:
            async with self._starting:
                if not self._is_started:
                    await self._service.on_startup()
                    self._is_started = True
        return await function(self._service)


class PubSubClient:
    """Publishes and listens from threads; lives until it is closed. Connects with its first use.

    Its calls may come from any thread. It survives a fork: the child connects anew.

    Args:
        config: The settings; from the section `pubsub` when not given.
    """

    def __init__(self, config: PubSubConfig | None = None) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._is_closed = False

    def publish(self, channel: str, message: Any) -> bool:
        """Send a message to whoever listens to a channel now.

        Args:
            channel: Its name.
            message: What can be written as JSON.

        Returns:
            Whether the server has taken it. Trouble with the server is logged and not raised.

        Raises:
            PubSubError: The channel's name or the message can't be used.
            ConfigurationError: A setting is missing or malformed.
        """
        try:
            return self._call(lambda service: service.publish(channel, message))
        except _TROUBLE as error:
            self._warn("publish failed", channel, error)
            return False

    def listen(
        self,
        channel: str,
        callback: Callable[[Any], object],
        stop_flag: StopFlag | None = None,
        *,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        """Call a function with each message's payload, in this thread, until it is told to stop.

        It waits for a server that is away, now and later. What the function raises is logged, and listening goes on.

        Args:
            channel: Its name.
            callback: Takes a payload.
            stop_flag: Ends it within 0.1 s once it is set; so does `close`.
            on_ready: Called when nothing that is published from now on will be missed.

        Raises:
            PubSubError: The channel's name can't be used.
            ConfigurationError: A setting is missing or malformed.
        """
        inbox: _ThreadInbox = _ThreadInbox()
        subscription: Any = None
        try:
            while not self._is_closed and (stop_flag is None or not stop_flag.is_set()):
                if subscription is None:
                    subscription = self._listening(channel, inbox)
                    if subscription is not None and on_ready is not None:
                        on_ready()
                elif (message := inbox.get()) is not None:
                    self._hand(channel, callback, message)
        finally:
            if subscription is not None:
                with contextlib.suppress(*_TROUBLE, RuntimeError):  # closed meanwhile
                    self._call(lambda _: subscription.close())

    def close(self) -> None:
        """Disconnect; every `listen` returns. Closing twice is as good as once, and no call works afterwards."""
        self._is_closed = True
        with self._lock:
            self._loop = None
            if self._finalizer is not None:
                self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    # --- helpers ----------------------------------------------------------------------------------------

    def _call(self, function: Callable[[PubSubService], Awaitable[T]]) -> T:
        with self._lock:
            if self._is_closed:
                raise ServiceUnavailableError("pubsub client", "it is closed; create another one")
            if self._loop is None or self._loop.pid != os.getpid():  # a fork leaves the thread behind
                self._loop = _Loop(PubSubService(self._config))
                self._finalizer = weakref.finalize(self, self._loop.stop)
            loop = self._loop
        return loop.call(function)

    def _listening(self, channel: str, inbox: _ThreadInbox) -> Any:
        try:
            return self._call(lambda service: service.on(channel, inbox.put))
        except _TROUBLE as error:
            if not self._is_closed:
                self._warn("listen failed; trying again", channel, error)
                threading.Event().wait(_RETRY_DELAY)
            return None

    def _hand(self, channel: str, callback: Callable[[Any], object], message: Message[Any]) -> None:
        try:
            callback(message.payload)
        except Exception as error:  # noqa: BLE001 - a boundary: the next message is handled nevertheless
            self._warn("callback failed", channel, error)

    def _warn(self, event: str, channel: str, error: Exception) -> None:
        from svcframework.log import ServiceLogger  # noqa: PLC0415 - structlog loads with the first trouble

        text = str(error) if isinstance(error, ServiceFrameworkError) else f"{type(error).__name__}: {error}"
        ServiceLogger("pubsub_client").warning(event, channel=channel, error=text)


class _ThreadInbox:
    """Carries messages from the loop to a thread; bounded, the oldest go first."""

    def __init__(self, limit: int = 10_000) -> None:
        self._queue: SimpleQueue[Message[Any]] = SimpleQueue()
        self._limit = limit

    def put(self, message: Message[Any]) -> None:
        """Take a message, on the loop."""
        if self._queue.qsize() >= self._limit:
            with contextlib.suppress(Empty):
                self._queue.get_nowait()
        self._queue.put(message)

    def get(self) -> Message[Any] | None:
        """The oldest message; None when there is none for a moment."""
        try:
            return self._queue.get(timeout=_STOP_INTERVAL)
        except Empty:
            return None
