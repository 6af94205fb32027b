"""NatsBackend: NATS for what is said, JetStream for what is to be kept. The only module that imports nats-py."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
from nats import errors as driver
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import APIError, NotFoundError

from svcframework.background import Background
from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DatabaseError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)
from svcframework_pubsub.backends.backend import Condition, GroupSource
from svcframework_pubsub.channels import Topic
from svcframework_pubsub.groups import Delivery, GroupTerms
from svcframework_pubsub.message import id_of
from svcframework_pubsub.router import Router
from svcframework_pubsub.sparse import Sparse

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from svcframework_pubsub.config import PubSubConfig

_LIVE = "svc.live."
_KEPT = "svc.kept."
_STREAM = "SVC_PUBSUB"
_PULL = 1.0  # seconds that a read waits on the server
_DEFAULT_URL = "nats://localhost:4222"
_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")

DRIVER_ERRORS = (driver.Error, APIError, OSError, EOFError)


def token(name: str) -> str:
    """A name as one token of a subject, whatever characters it has; no two names are one token.

    >>> token("runs"), token("runs.1"), token("ü")
    ('runs', 'runs=2E', '=C3=BC')
    """
    return _UNSAFE.sub(lambda found: b"=%02X" % found.group()[0], name.encode()).decode()


def name_in(subject: str) -> str:
    """The name that a subject was made of."""
    word = subject.rpartition(".")[2].encode()
    return re.sub(rb"=([0-9A-F]{2})", lambda found: bytes([int(found.group(1), 16)]), word).decode(errors="replace")


class NatsBackend:
    """Messages by NATS; lives as long as the service runs. The client reconnects and subscribes again by itself.

    Args:
        config: The settings.
        router: Who subscribes to what.
        report: Logs now and then.
    """

    name: ClassVar[str] = "nats"

    def __init__(self, config: PubSubConfig, router: Router, *, report: Sparse) -> None:
        self._config, self._router, self._report = config, router, report
        self._client = Client()
        self._subscriptions: dict[Topic, Any] = {}
        self._lost_at: float | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._asking = anyio.CancelScope()
        self._flusher: Background | None = None
        self._has_stream = False

    async def open(self) -> None:
        """Connect.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer in time.
        """
        config = self._config
        url = _DEFAULT_URL if config.url is None else config.url.get_secret_value()
        limit = config.connect_timeout
        last: list[Exception] = []

        async def on_error(error: Exception) -> None:
            last.append(error)

        with translated("connect to NATS", limit):
            try:
                async with asyncio.timeout(limit):
                    await self._client.connect(
                        url,
                        error_cb=on_error,
                        disconnected_cb=self._disconnected,
                        reconnected_cb=self._reconnected,
                        connect_timeout=limit,  # type: ignore[arg-type]  # whole seconds aren't needed
                        reconnect_time_wait=config.reconnect_delay,  # type: ignore[arg-type]  # same
                        ping_interval=config.heartbeat_interval,  # type: ignore[arg-type]  # same
                        max_outstanding_pings=1,
                        allow_reconnect=False,  # at the start a failure is told and not tried again for ever
                        max_reconnect_attempts=1,
                        pending_size=-1,  # never kept while away: publishers are told
                    )
            except TimeoutError:
                raise (last[-1] if last else TimeoutError()) from None
        self._client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
        self._flusher = Background(self._flush, name="pubsub: flush to NATS")

    async def close(self) -> None:
        """Disconnect."""
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            await flusher.end()
        self._fail(ConnectionFailedError("publish on NATS: the service was stopped"))
        self._subscriptions.clear()
        with suppress(*DRIVER_ERRORS, TimeoutError):
            async with asyncio.timeout(self._config.connect_timeout):
                await self._client.close()

    # --- publishing -------------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes) -> None:
        """Return when the server has answered behind the message."""
        await self.publish_many(channel, [data])

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when the server has answered behind the last message."""
        with translated("publish on NATS", self._config.timeout):
            self._require_connection("publish")
            subject = _LIVE + token(channel)
            for data in messages:
                await self._client.publish(subject, data)
            await self._flushed()

    async def publish_durable(self, channel: str, messages: Sequence[bytes]) -> None:
        """The same, and each message is kept for groups; one that is sent twice is kept once."""
        await self.need_stream()
        with translated("publish on JetStream", self._config.timeout):
            stream = self._client.jetstream(timeout=self._config.timeout)
            for data in messages:
                found = id_of(data)
                headers = {"Nats-Msg-Id": found.decode()} if isinstance(found, bytes) else None
                await stream.publish(_KEPT + token(channel), data, headers=headers)
        await self.publish_many(channel, messages)

    def group(self, channel: str, terms: GroupTerms) -> GroupSource:
        """What a group has yet to handle of a durable channel."""
        return _JetStreamSource(self, self._client, channel, terms, timeout=self._config.timeout)

    async def need_stream(self) -> None:
        """Make the stream unless it is there."""
        if self._has_stream:
            return
        with translated("make the stream on JetStream", self._config.timeout):
            self._require_connection("make the stream")
            manager = self._client.jetstream(timeout=self._config.timeout)
            settings = api.StreamConfig(
                name=_STREAM, subjects=[f"{_KEPT}*"], max_msgs_per_subject=self._config.stream_max_length
            )
            try:
                await manager.stream_info(_STREAM)
            except NotFoundError:
                await manager.add_stream(settings)
        self._has_stream = True

    async def _flushed(self) -> None:
        """Return when the server has answered; all who wait in one turn of the loop share the question."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wake.set()
        await future

    async def _flush(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            try:
                with translated("publish on NATS", self._config.timeout / 2), anyio.CancelScope() as self._asking:
                    await self._client.flush(self._config.timeout / 2)  # type: ignore[arg-type]  # a float does
                if self._asking.cancelled_caught:
                    raise ConnectionFailedError("publish on NATS: the connection was lost")  # noqa: TRY301 - as its own
            except ServiceFrameworkError as error:
                self._fail(error, waiting)
            except BaseException:
                self._fail(ConnectionFailedError("publish on NATS: the service was stopped"), waiting)
                raise
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def _fail(self, error: Exception, waiting: list[asyncio.Future[None]] | None = None) -> None:
        for future in self._waiting if waiting is None else waiting:
            if not future.done():
                future.set_exception(error)

    def _require_connection(self, what: str) -> None:
        if not self._client.is_connected:
            raise ConnectionFailedError(f"{what} on NATS: it is away")

    # --- listening --------------------------------------------------------------------------------------

    async def subscribe(self, topic: Topic) -> None:
        """Return when the server reports what is published on a topic."""
        with translated("subscribe on NATS", self._config.timeout):
            self._require_connection("subscribe")
            if topic.is_pattern:
                handler, subject = self._heard_by_pattern(topic.name), f"{_LIVE}*"
            else:
                handler, subject = self._heard_by(topic.name), _LIVE + token(topic.name)
            self._subscriptions[topic] = await self._client.subscribe(subject, cb=handler)
            await self._flushed()

    async def unsubscribe(self, topic: Topic) -> None:
        """Stop, soon."""
        subscription = self._subscriptions.pop(topic, None)
        if subscription is not None:
            with translated("unsubscribe on NATS", self._config.timeout):
                await subscription.unsubscribe()

    def pause(self) -> None:
        """Handlers wait until `resume`; up to 512 K messages wait in this process, then the client drops more."""

    def resume(self) -> None:
        """Handlers look for themselves."""

    def _heard_by(self, name: str) -> Any:
        async def heard(message: Msg) -> None:
            if self._router.is_blocked:
                await self._router.flowing()
            self._router.deliver(name, message.data)

        return heard

    def _heard_by_pattern(self, name: str) -> Any:
        async def heard(message: Msg) -> None:
            if self._router.is_blocked:
                await self._router.flowing()
            self._router.deliver_to_patterns(name_in(message.subject), message.data, (name,))

        return heard

    async def _disconnected(self) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()
        self._asking.cancel()  # the client would wait for an answer that can't come

    async def _reconnected(self) -> None:
        if self._lost_at is not None:
            seconds, self._lost_at = asyncio.get_running_loop().time() - self._lost_at, None
            self._router.deaf(seconds)

    # --- health -----------------------------------------------------------------------------------------

    async def check(self, timeout: float) -> Condition:  # noqa: ARG002, ASYNC109 - the caller keeps it
        """A question on the one connection, which both publishes and listens."""
        try:
            with translated("check NATS", self._config.timeout):
                self._require_connection("check")
                await self._flushed()
        except ServiceFrameworkError as error:
            return Condition(publishes=False, listens=False, message=str(error))
        return Condition(publishes=True, listens=True, message="NATS answers")


class _JetStreamSource:
    """Reads for one consumer of a group; lives as long as its subscription."""

    def __init__(
        self, backend: NatsBackend, client: Client, channel: str, terms: GroupTerms, *, timeout: float
    ) -> None:
        self._backend, self._client, self._channel, self._terms = backend, client, channel, terms
        self._timeout = timeout
        self._subscription: Any = None

    async def open(self) -> None:
        """Make the group, which begins with the next message, unless it is there."""
        await self._backend.need_stream()
        name = f"{token(self._terms.group)}=={token(self._channel)}"
        settings = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.NEW,
            ack_wait=self._terms.claim_after,
            max_deliver=-1,  # we count, so that what is dead is moved and not just forgotten
        )
        with translated("join a group on JetStream", self._timeout):
            stream = self._client.jetstream(timeout=self._timeout)
            self._subscription = await stream.pull_subscribe(
                _KEPT + token(self._channel), durable=name, stream=_STREAM, config=settings
            )

    async def read(self, count: int) -> list[Delivery]:
        """Up to `count` messages; none if none come for a while."""
        with translated("read on JetStream", self._timeout):
            try:
                messages = await self._subscription.fetch(count, timeout=_PULL)
            except driver.TimeoutError:
                return []
        alive: list[Delivery] = []
        for message in messages:
            delivery = Delivery(self._channel, message.data, message, message.metadata.num_delivered)
            if delivery.number > self._terms.max_deliveries:
                await self.bury(delivery, "")
                self._terms.on_dead(delivery)
            else:
                alive.append(delivery)
        return alive

    async def ack(self, delivery: Delivery) -> None:
        """It is done, for good."""
        with translated("ack on JetStream", self._timeout):
            await delivery.token.ack_sync(timeout=self._timeout)

    async def release(self, delivery: Delivery) -> None:
        """Let another consumer have it, at once."""
        with translated("release on JetStream", self._timeout):
            await delivery.token.nak()

    async def bury(self, delivery: Delivery, reason: str) -> None:  # noqa: ARG002 - JetStream has no place for it
        """Move it to the channel of the dead; twice if we die in between."""
        with translated("bury on JetStream", self._timeout):
            stream = self._client.jetstream(timeout=self._timeout)
            await stream.publish(_KEPT + token(self._terms.dead_letter), delivery.data)
            await delivery.token.term()

    async def close(self) -> None:
        """Leave; the group stays."""
        if self._subscription is not None:
            with translated("leave a group on JetStream", self._timeout):
                await self._subscription.unsubscribe()


@contextmanager
def translated(operation: str, seconds: float) -> Iterator[None]:
    """Raise ours in place of the driver's errors, whose texts name no secret but the last of them."""
    try:
        yield
    except ServiceFrameworkError:
        raise
    except (driver.TimeoutError, TimeoutError) as error:
        raise ServiceTimeoutError(operation, seconds) from error
    except APIError as error:
        raise DatabaseError(f"{operation}: {error.description or type(error).__name__}") from error
    except DRIVER_ERRORS as error:
        if "authorization" in str(error).lower() or isinstance(error, driver.AuthorizationError):
            raise AuthenticationFailedError(f"{operation}: the server refused the credentials") from None
        raise ConnectionFailedError(f"{operation}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the server running?"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
