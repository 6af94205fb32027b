"""PubSubService: publish here, subscribe there, over whatever carries it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import anyio

from svcframework import BaseService, HealthResult
from svcframework.errors import ServiceUnavailableError
from svcframework.methods import service_method
from svcframework.utils import generate_unique_id
from svcframework_pubsub.backends.backend import Backend, Condition, Durable, Transactional
from svcframework_pubsub.backends.choosing import Assembly
from svcframework_pubsub.channels import Topic, checked, matcher
from svcframework_pubsub.collaborators import Postgres, Redis, Transaction
from svcframework_pubsub.config import Overflow, PubSubConfig
from svcframework_pubsub.errors import UnsupportedError
from svcframework_pubsub.groups import GroupSubscription, GroupTerms, GroupWorker
from svcframework_pubsub.message import Message
from svcframework_pubsub.packing import Packer
from svcframework_pubsub.router import Router
from svcframework_pubsub.sparse import Sparse
from svcframework_pubsub.subscription import (
    Callback,
    CallbackSubscription,
    Inbox,
    OnError,
    OnGap,
    Subscription,
    Terms,
    is_async,
)
from svcframework_pubsub.typed import Channel

if TYPE_CHECKING:
    from svcframework_pubsub.backends.outbox import Outbox
    from svcframework_pubsub.groups import Delivery

T = TypeVar("T")

_DRAIN_SHARE = 0.3  # of the time that a stop may take


class PubSubService(BaseService[PubSubConfig]):
    """Messages by channel, between processes or within one; lives as long as its host.

    A message reaches every subscriber that listens when it is published; nobody listening is no error. Each call ends
    within `timeout` or the caller's deadline. A lost server is reconnected to and subscribed to again; messages of
    the time between are lost, which `on_gap` tells.

    Args:
        config: Settings; from the section `pubsub` when not given.
        postgres: A `PostgresService`, for the backend `postgres`, the fallback and the outbox; made when not given.
        redis: A `RedisService`, for the backend `redis`; made when not given.
    """

    def __init__(
        self,
        config: PubSubConfig | Mapping[str, Any] | None = None,
        *,
        postgres: Postgres | None = None,
        redis: Redis | None = None,
    ) -> None:
        super().__init__(config)
        self._postgres, self._redis = postgres, redis
        self._router = Router(self.service_name)
        self._backend: Backend | None = None
        self._assembly: Assembly | None = None
        self._report = Sparse(self._warn)
        self._callbacks: set[CallbackSubscription[Any]] = set()
        self._subscriptions: weakref.WeakSet[Subscription[Any]] = weakref.WeakSet()
        self._groups: set[GroupSubscription[Any] | GroupWorker] = set()
        self._outbox: Outbox | None = None
        self._durable: tuple[re.Pattern[str], ...] = ()
        self._packer = Packer(0)
        self._published = 0

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Connect both sides.

        Raises:
            ConnectionFailedError: The server can't be reached.
            AuthenticationFailedError: It refused the credentials.
            ServiceTimeoutError: It did not answer in time.
            PluginError: The plugin that the backend stands on isn't installed.
        """
        config = self.config
        self._durable = tuple(map(matcher, config.durable_channels))
        self._packer = Packer(config.max_message_bytes)
        self._router = Router(self.name, dedup=self._dedup_window())
        self._assembly = Assembly(
            config, self._router, self._report, postgres=self._postgres, redis=self._redis, name=self.name
        )
        backend: Backend | None = None
        try:
            backend = await self._assembly.backend()
            await backend.open()
        except BaseException:
            with anyio.CancelScope(shield=True):
                if backend is not None:
                    await backend.close()
                await self._assembly.stop()
            raise
        self._router.open(backend)
        self._backend = backend
        if not isinstance(backend, Transactional) or isinstance(backend, Durable):
            self._outbox = await self._assembly.outbox(self._relay)
            if self._outbox is not None:
                await self._outbox.open()

    async def on_shutdown(self) -> None:
        """Let callbacks catch up for `drain_timeout`, end every subscription, and disconnect."""
        with anyio.move_on_after(min(self.config.drain_timeout, self.config.stop_timeout * _DRAIN_SHARE)):
            async with anyio.create_task_group() as tasks:
                for worker in [*self._callbacks, *self._groups]:
                    tasks.start_soon(worker.drain if not isinstance(worker, GroupSubscription) else worker.close)
        for subscription in [*self._callbacks, *self._subscriptions, *self._groups]:
            await subscription.close()
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            await outbox.close()
        backend, self._backend = self._backend, None
        await self._router.close()
        if backend is not None:
            await backend.close()
        if self._assembly is not None:
            await self._assembly.stop()

    async def _service_health_check(self) -> HealthResult:
        """Both sides, by asking the server; the numbers of this service are the details."""
        if self._backend is None:
            return HealthResult.unhealthy("not started")
        found = Condition(publishes=False, listens=False, message="timeout")
        with anyio.move_on_after(self.config.health_check_timeout * 0.9):
            found = await self._backend.check(self.config.health_check_timeout * 0.8)
        details = {
            "backend": self._backend.name,
            "topics": len(self._router.topics()),
            "published": self._published,
            "received": self._router.received,
            "gaps": self._router.gaps,
            **found.details,
        }
        if self._outbox is not None:
            details["relayed"] = self._outbox.relayed
        if not found.publishes:
            return HealthResult.unhealthy(f"can't publish: {found.message}", **details)
        if not found.listens:
            return HealthResult.unhealthy("connecting again; messages may be missed", **details)
        if self._outbox is not None and self._outbox.failing:
            return HealthResult.degraded(f"the outbox waits: {self._outbox.failing}", **details)
        result = HealthResult.degraded if found.is_strained else HealthResult.healthy
        return result(found.message, **details)

    # --- publishing -------------------------------------------------------------------------------------

    @service_method
    async def publish(
        self,
        channel: str,
        message: Any,
        *,
        transaction: Transaction | None = None,
        durable: bool | None = None,
        schema_version: int = 1,
    ) -> bool:
        """Send a message to whoever listens to a channel now.

        Args:
            channel: Any text of 1 to 255 bytes without control characters.
            message: What can be written as JSON: plain values, dataclasses, msgspec and pydantic models.
            transaction: A transaction of the `PostgresService`: sent if and when it commits.
            durable: Whether it is kept for groups too; by `durable_channels` when not given.
            schema_version: What `Message.schema_version` shall say.

        Returns:
            True: the server has taken it (with a transaction: will take it at the commit). Whatever prevents that
            is raised.

        Raises:
            ConnectionFailedError: The server can't be reached; nobody knows whether it has taken the message.
            ServiceTimeoutError: It did not answer in time.
            MessageEncodingError: The message has no form in JSON.
            MessageTooLargeError: It is longer than `max_message_bytes`.
            ChannelNameError: The channel's name can't be used.
        """
        backend = self._running()
        data = self._packer.one(checked(channel), message, version=schema_version)
        if self._durable and durable is None:
            durable = self._is_durable(channel)
        if transaction is None and not durable:
            await backend.publish(channel, data)
        else:
            await self._publish_otherwise(channel, [data], transaction, durable=bool(durable))
        self._published += 1
        return True

    @service_method
    async def publish_many(
        self,
        channel: str,
        messages: Iterable[Any],
        *,
        transaction: Transaction | None = None,
        durable: bool | None = None,
        schema_version: int = 1,
    ) -> int:
        """Send many messages at once, in this order. Arguments and errors as `publish`.

        Returns:
            How many they were.
        """
        backend = self._running()
        packed = self._packer.many(checked(channel), messages, version=schema_version)
        if durable is None:
            durable = self._is_durable(channel)
        if packed and (transaction is not None or durable):
            await self._publish_otherwise(channel, packed, transaction, durable=durable)
        elif packed:
            await backend.publish_many(channel, packed)
        self._published += len(packed)
        return len(packed)

    async def _publish_otherwise(
        self, channel: str, messages: Sequence[bytes], transaction: Transaction | None, *, durable: bool
    ) -> None:
        """Durably, inside a transaction, or both."""
        backend = self._running()
        if durable and not isinstance(backend, Durable):
            raise UnsupportedError(backend.name, "keeping messages for groups", "use the backend redis or nats")
        if transaction is None:
            await cast("Durable", backend).publish_durable(channel, messages)
        elif isinstance(backend, Transactional) and not durable:
            await backend.publish_in(transaction, channel, messages)
        elif self._outbox is not None:
            await self._outbox.put(transaction, channel, messages, durable=durable)
        else:
            fix = "give the service a PostgresService: PubSubService(config, postgres=…)"
            raise UnsupportedError(backend.name, "publish(transaction=)", fix)

    async def _relay(self, channel: str, messages: Sequence[bytes], durable: bool) -> None:
        if durable:
            await self._publish_otherwise(channel, messages, None, durable=True)
        else:
            await self._running().publish_many(channel, messages)

    def _is_durable(self, channel: str) -> bool:
        return any(pattern.fullmatch(channel) for pattern in self._durable)

    # --- subscribing ------------------------------------------------------------------------------------

    @overload
    def subscribe(
        self,
        *channels: str,
        model: type[T],
        pattern: str | Iterable[str] = (),
        queue_size: int | None = None,
        overflow: Overflow | None = None,
        on_gap: OnGap | None = None,
        on_error: OnError | None = None,
    ) -> Subscription[T]: ...
    @overload
    def subscribe(
        self,
        *channels: str,
        pattern: str | Iterable[str] = (),
        queue_size: int | None = None,
        overflow: Overflow | None = None,
        on_gap: OnGap | None = None,
        on_error: OnError | None = None,
    ) -> Subscription[Any]: ...
    def subscribe(
        self,
        *channels: str,
        model: Any = None,
        pattern: str | Iterable[str] = (),
        queue_size: int | None = None,
        overflow: Overflow | None = None,
        on_gap: OnGap | None = None,
        on_error: OnError | None = None,
    ) -> Subscription[Any]:
        """Messages to iterate over: `async with pubsub.subscribe("runs") as messages:`, or a plain `async for`.

        Args:
            channels: Names.
            model: What each payload is read as; a message that doesn't fit goes to `on_error`.
            pattern: One pattern of names or several: `*`, `?`, `[abc]`, a backslash before what is meant literally.
            queue_size: Messages that may wait; the config's when not given.
            overflow: What happens to one more; the config's when not given.
            on_gap: Called with seconds after messages may have been missed.
            on_error: Called with an error, and its message if there is one.

        Raises:
            ChannelNameError: A name can't be used, or there is none.
        """
        topics = _topics(channels, pattern)
        inbox = self._inbox(topics, Terms(*self._room(queue_size, overflow), on_gap, on_error, model))
        subscription: Subscription[Any] = Subscription(topics, inbox, self._forget)
        self._subscriptions.add(subscription)
        return subscription

    async def on(
        self,
        channel: str | Iterable[str],
        callback: Callback[Any],
        *,
        model: Any = None,
        pattern: str | Iterable[str] = (),
        queue_size: int | None = None,
        overflow: Overflow | None = None,
        on_gap: OnGap | None = None,
        on_error: OnError | None = None,
    ) -> CallbackSubscription[Any]:
        """Call a function with each message, until the subscription is closed or the service stops.

        A plain function is called as the message arrives and must not wait. A coroutine function is awaited for one
        message after another; at a stop it has `drain_timeout` seconds to catch up. What it raises is counted and told
        to `on_error`. Arguments and errors as `subscribe`.

        Returns:
            The subscription, which listens already.
        """
        self._running()
        topics = _topics((channel,) if isinstance(channel, str) and channel else tuple(channel), pattern)
        terms = Terms(*self._room(queue_size, overflow), on_gap, on_error, model)
        inbox = self._inbox(topics, terms, None if is_async(callback) else callback)
        subscription: CallbackSubscription[Any] = CallbackSubscription(topics, inbox, self._forget, callback)
        self._callbacks.add(subscription)
        try:
            await subscription.open()
        except BaseException:
            self._callbacks.discard(subscription)
            raise
        return subscription

    def group(
        self,
        channel: str,
        group: str,
        *,
        model: type[T] | None = None,
        consumer: str | None = None,
        on_error: OnError | None = None,
    ) -> GroupSubscription[T]:
        """Messages of a durable channel, each for one consumer of a group: at least once, also after a crash.

        A message has to be acknowledged: `await message.ack()`. One that isn't goes to another consumer after
        `claim_after`, and after `max_deliveries` to the channel `<channel>.dead`. The group is made with its first
        consumer, and gets what is published durably from then on, also while none of its consumers runs.

        Args:
            channel: The durable channel.
            group: The group's name.
            model: What each payload is read as; a message that doesn't fit is dead at once.
            consumer: The consumer's name; a new one when not given.
            on_error: Called with an error, and its message if there is one.

        Raises:
            UnsupportedError: The backend keeps no messages.
        """
        backend = self._running()
        if not isinstance(backend, Durable):
            raise UnsupportedError(backend.name, "group()", "use the backend redis or nats")

        def on_dead(delivery: Delivery) -> None:
            self._report("message is dead", channel=channel, group=group, deliveries=delivery.number - 1)

        terms = GroupTerms(
            group=checked(group),
            consumer=checked(consumer or f"{self.name}-{generate_unique_id()}"),
            claim_after=self.config.claim_after,
            max_deliveries=self.config.max_deliveries,
            dead_letter=f"{checked(channel)}.dead",
            on_dead=on_dead,
        )
        subscription: GroupSubscription[T] = GroupSubscription(
            backend.group(channel, terms), model=model, on_error=on_error, report=self._report,
            on_close=self._groups.discard,
        )  # fmt: skip
        self._groups.add(subscription)
        return subscription

    async def on_group(
        self,
        channel: str,
        group: str,
        callback: Callback[Any],
        *,
        model: Any = None,
        consumer: str | None = None,
        on_error: OnError | None = None,
    ) -> GroupWorker:
        """Call a function with each message of a group; it is acknowledged when the function returns.

        One that raises leaves its message unacknowledged. Arguments and errors as `group`.

        Returns:
            The worker, which has begun.
        """
        subscription = self.group(channel, group, model=model, consumer=consumer, on_error=on_error)
        worker = GroupWorker(subscription, callback, self._groups.discard)
        self._groups.discard(subscription)
        await worker.open()
        self._groups.add(worker)
        return worker

    def channel(self, name: str, model: type[T], *, schema_version: int = 1) -> Channel[T]:
        """A channel whose messages are all of one type: `runs = pubsub.channel("runs", RunEvent)`.

        Args:
            name: The channel's.
            model: A dataclass, msgspec Struct, pydantic model, or any type that msgspec can read.
            schema_version: Sent along, for readers that know several.
        """
        return Channel(self, checked(name), model, schema_version=schema_version)

    # --- helpers ----------------------------------------------------------------------------------------

    def _running(self) -> Backend:
        if self._backend is None:
            raise ServiceUnavailableError(self.name, "it isn't started; enter the host with `async with host:` first")
        return self._backend

    def _dedup_window(self) -> int:
        """A message comes twice where two servers carry it, and where a relay died half way."""
        config = self.config
        if config.dedup_window is not None:
            return config.dedup_window
        may_repeat = config.fallback != "none" or (config.backend != "postgres" and self._postgres is not None)
        return 4096 if may_repeat else 0

    def _inbox(
        self, topics: list[Topic], terms: Terms, callback: Callable[[Message[Any]], object] | None = None
    ) -> Inbox:
        return Inbox(", ".join(map(str, topics)), self._router, terms, self._report, callback)

    def _room(self, queue_size: int | None, overflow: Overflow | None) -> tuple[int, Overflow]:
        if queue_size is not None and queue_size < 1:
            raise ValueError(f"queue_size={queue_size}: at least one message has to find room")
        return queue_size or self.config.queue_size, overflow or self.config.overflow

    def _forget(self, subscription: Subscription[Any]) -> None:
        self._subscriptions.discard(subscription)
        if isinstance(subscription, CallbackSubscription):
            self._callbacks.discard(subscription)

    def _warn(self, event: str, **fields: Any) -> None:
        self.logger.warning(event, **fields)


def _topics(channels: Iterable[str], pattern: str | Iterable[str]) -> list[Topic]:
    patterns = [pattern] if isinstance(pattern, str) and pattern else list(pattern)
    for one in patterns:
        matcher(one)
    names = dict.fromkeys(channels)
    topics = [*(Topic(checked(name)) for name in names), *(Topic(one, is_pattern=True) for one in patterns)]
    if not topics:
        checked("")
    return topics
