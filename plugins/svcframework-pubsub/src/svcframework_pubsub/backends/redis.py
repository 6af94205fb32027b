"""RedisBackend: PUBLISH and SUBSCRIBE on Redis or Valkey, and streams for what is to be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from svcframework.background import Background
from svcframework.errors import ConnectionFailedError, ServiceFrameworkError
from svcframework_pubsub.backends.backend import Condition, GroupSource
from svcframework_pubsub.backends.streams import StreamSource, kept
from svcframework_pubsub.channels import Topic, superset
from svcframework_pubsub.collaborators import Redis
from svcframework_pubsub.groups import GroupTerms
from svcframework_pubsub.router import Router


class RedisBackend:
    """Messages by Redis; lives as long as the service runs.

    It publishes on the connection that all calls share, and listens on one of its own.

    Args:
        redis: The running service.
        router: Who subscribes to what.
        stream_length: Messages kept per durable channel, about.
    """

    name: ClassVar[str] = "redis"

    def __init__(self, redis: Redis, router: Router, *, stream_length: int) -> None:
        self._redis, self._router, self._stream_length = redis, router, stream_length
        self._subscriber: Any = None
        self._exits = AsyncExitStack()
        self._names: dict[bytes, str] = {}
        self._patterns: dict[bytes, dict[str, None]] = {}  # what the server matches -> our patterns behind it

    async def open(self) -> None:
        """Connect the side that listens.

        Raises:
            ServiceFrameworkError: The server can't be reached.
        """
        self._subscriber = await self._exits.enter_async_context(
            self._redis.subscriber(self._heard, on_gap=self._router.deaf)
        )

    async def close(self) -> None:
        """Disconnect the side that listens."""
        self._subscriber = None
        await self._exits.aclose()

    # --- publishing -------------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes) -> None:
        """Return when the server has taken the message."""
        await self._redis.publish(channel, data)

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when the server has taken all messages."""
        await self._redis.publish_many(channel, messages)

    async def publish_durable(self, channel: str, messages: Sequence[bytes]) -> None:
        """The same, and each message is kept for groups."""
        commands: list[tuple[Any, ...]] = []
        for data in messages:
            commands += [kept(channel, data, self._stream_length), ("PUBLISH", channel, data)]
        await self._redis.execute_many(commands)

    def group(self, channel: str, terms: GroupTerms) -> GroupSource:
        """What a group has yet to handle of a durable channel."""
        return StreamSource(self._redis, channel, terms, length=self._stream_length)

    # --- listening --------------------------------------------------------------------------------------

    async def subscribe(self, topic: Topic) -> None:
        """Return when the server reports what is published on a topic."""
        if self._subscriber is None:
            raise ConnectionFailedError("subscribe on Redis: the service was stopped")
        if not topic.is_pattern:
            word = topic.name.encode()
            self._names[word] = topic.name
            await self._undone_unless(self._subscriber.subscribe, self._subscriber.unsubscribe, word)
            return
        word = superset(topic.name).encode()
        known = self._patterns.setdefault(word, {})
        known[topic.name] = None
        if len(known) == 1:
            await self._undone_unless(self._subscriber.psubscribe, self._subscriber.punsubscribe, word)

    async def unsubscribe(self, topic: Topic) -> None:
        """Stop, soon."""
        if self._subscriber is None:
            return
        if not topic.is_pattern:
            self._names.pop(topic.name.encode(), None)
            await self._subscriber.unsubscribe(topic.name.encode())
            return
        word = superset(topic.name).encode()
        known = self._patterns.get(word, {})
        known.pop(topic.name, None)
        if not known and self._patterns.pop(word, None) is not None:
            await self._subscriber.punsubscribe(word)

    def pause(self) -> None:
        """Read no more. The server keeps what comes up to `client-output-buffer-limit pubsub`, then hangs up."""
        if self._subscriber is not None:
            self._subscriber.pause()

    def resume(self) -> None:
        """Read on."""
        if self._subscriber is not None:
            self._subscriber.resume()

    async def _undone_unless(self, subscribe: Any, unsubscribe: Any, word: bytes) -> None:
        """Subscribe, or leave nothing behind."""
        try:
            await subscribe(word)
        except BaseException:
            self._names.pop(word, None)
            self._patterns.pop(word, None)

            async def forget() -> None:
                with contextlib.suppress(ServiceFrameworkError):
                    await unsubscribe(word)

            Background(forget, name="pubsub: forget a subscription")  # which may take as long as this has taken
            raise

    def _heard(self, pattern: bytes | None, channel: bytes, data: bytes) -> None:
        if pattern is None:
            name = self._names.get(channel)
            if name is not None:
                self._router.deliver(name, data)
        elif (patterns := self._patterns.get(pattern)) is not None:
            self._router.deliver_to_patterns(channel.decode(errors="replace"), data, patterns)

    # --- health -----------------------------------------------------------------------------------------

    async def check(self, timeout: float) -> Condition:  # noqa: ARG002, ASYNC109 - the caller keeps it
        """`PING` on the connection that publishes; the heartbeat asks on the one that listens."""
        listens = self._subscriber is not None and bool(self._subscriber.is_connected)
        try:
            await self._redis.execute("PING")
        except ServiceFrameworkError as error:
            return Condition(publishes=False, listens=listens, message=str(error))
        return Condition(publishes=True, listens=listens, message="Redis answers")
