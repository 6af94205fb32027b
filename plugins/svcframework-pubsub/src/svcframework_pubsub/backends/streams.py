"""StreamSource: a group's view of a durable channel on Redis Streams: read, acknowledge, claim, give up."""

from __future__ import annotations

import time
from typing import Any

from svcframework.errors import DatabaseError
from svcframework_pubsub.collaborators import Redis
from svcframework_pubsub.groups import Delivery, GroupTerms

_BLOCK = 1.0  # seconds that a read waits on the server
_CLAIM_BATCH = 32


def stream_key(channel: str) -> str:
    """Where the messages of a durable channel are kept."""
    return f"svcframework:pubsub:stream:{channel}"


def kept(channel: str, data: bytes, length: int, **fields: str) -> tuple[Any, ...]:
    """The command that keeps a message."""
    more = [part for pair in fields.items() for part in pair]
    return ("XADD", stream_key(channel), "MAXLEN", "~", length, "*", "data", data, *more)


class StreamSource:
    """Reads for one consumer of a group; lives as long as its subscription.

    Args:
        redis: The running service.
        channel: The durable channel.
        terms: Group, consumer, and when a message is taken for lost or dead.
        length: Messages kept per channel, about.
    """

    def __init__(self, redis: Redis, channel: str, terms: GroupTerms, *, length: int) -> None:
        self._redis, self._channel, self._terms, self._length = redis, channel, terms, length
        self._key = stream_key(channel)
        self._claim_at = 0.0
        self._claim_from = "0-0"

    async def open(self) -> None:
        """Make the group, which begins with the next message, unless it is there."""
        try:
            await self._redis.execute("XGROUP", "CREATE", self._key, self._terms.group, "$", "MKSTREAM")
        except DatabaseError as error:
            if "BUSYGROUP" not in f"{error} {error.__cause__}":
                raise

    async def read(self, count: int) -> list[Delivery]:
        """Up to `count` messages: those that another consumer has left, else new ones; none if none come for a while.

        Raises:
            ServiceFrameworkError: The server is in the way; nothing is lost by that.
        """
        if time.monotonic() >= self._claim_at:
            claimed = await self._claimed(count)
            if claimed:
                return claimed
        found = await self._redis.execute(
            "XREADGROUP", "GROUP", self._terms.group, self._terms.consumer, "COUNT", count, "BLOCK",
            int(min(_BLOCK, self._terms.claim_after) * 1000), "STREAMS", self._key, ">",
        )  # fmt: skip
        if not found:
            return []
        entries = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
        return [self._delivery(entry, 1) for entry in _flat(entries)]

    async def ack(self, delivery: Delivery) -> None:
        """It is done, for good."""
        await self._redis.execute("XACK", self._key, self._terms.group, delivery.token)

    async def release(self, delivery: Delivery) -> None:
        """Let another consumer have it, at once."""
        idle = int(self._terms.claim_after * 1000) + 1
        await self._redis.execute(
            "XCLAIM", self._key, self._terms.group, self._terms.consumer, 0, delivery.token,
            "IDLE", idle, "RETRYCOUNT", delivery.number, "JUSTID",
        )  # fmt: skip
        self._claim_at = 0.0

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Move it to the channel of the dead; twice if we die in between."""
        dead = kept(
            self._terms.dead_letter, delivery.data, self._length, group=self._terms.group, reason=reason[:500],
            deliveries=str(delivery.number),
        )  # fmt: skip
        await self._redis.execute_many([dead, ("XACK", self._key, self._terms.group, delivery.token)])

    async def close(self) -> None:
        """Forget the consumer, unless something is pending, which another one is to claim."""
        pending = await self._redis.execute("XPENDING", self._key, self._terms.group, "-", "+", 1, self._terms.consumer)
        if not pending:
            await self._redis.execute("XGROUP", "DELCONSUMER", self._key, self._terms.group, self._terms.consumer)

    async def _claimed(self, count: int) -> list[Delivery]:
        """What other consumers have held for too long; what was tried too often is buried on the way."""
        idle = int(self._terms.claim_after * 1000)
        cursor, entries, *_ = await self._redis.execute(
            "XAUTOCLAIM", self._key, self._terms.group, self._terms.consumer, idle, self._claim_from,
            "COUNT", min(count, _CLAIM_BATCH),
        )  # fmt: skip
        self._claim_from = _text(cursor)
        if self._claim_from == "0-0":  # once around
            self._claim_at = time.monotonic() + self._terms.claim_after / 2
        entries = _flat(entries)
        if not entries:
            return []
        numbers = await self._redis.execute_many(
            [("XPENDING", self._key, self._terms.group, token, token, 1) for token, _ in entries]
        )
        alive: list[Delivery] = []
        for entry, found in zip(entries, numbers, strict=True):
            delivery = self._delivery(entry, int(found[0][3]) if found else 1)
            if delivery.number > self._terms.max_deliveries:
                await self.bury(delivery, f"not acknowledged after {delivery.number - 1} deliveries")
                self._terms.on_dead(delivery)
            else:
                alive.append(delivery)
        return alive

    def _delivery(self, entry: tuple[Any, Any], number: int) -> Delivery:
        token, fields = entry
        pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=False))
        return Delivery(self._channel, pairs.get(b"data", b""), _text(token), number)


def _flat(entries: Any) -> list[tuple[Any, Any]]:
    """Entries as pairs, whatever the protocol's version; without those that were deleted."""
    return [(entry[0], entry[1]) for entry in entries if entry and entry[1] is not None]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
