"""What a library's adapter provides for a row, and what the rows give it. Knows no library."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey

ITEMS = 1_000  # rows in the table, keys in the cache, and messages of a batch
TASKS = 50
CONNECTIONS = 10  # of every pool, whoever's
SELECT = "SELECT id, name, data, now() = statement_timestamp() AS alone FROM item WHERE id = $1"
"""One row by its key; `alone` is false inside a transaction: its clock stands still."""


def key_of(index: int) -> str:
    """The key of an item in Redis."""
    return f"bench:item:{index % ITEMS}"


def text_of(index: int) -> str:
    """An item: 100 bytes of JSON, as an event would be. No two of a batch are equal."""
    head = f'{{"id": {index % ITEMS:4d}, "event": "package.ingested", "text": "'
    return head + "x" * (98 - len(head)) + '"}'


KEYS = [key_of(index) for index in range(ITEMS)]
TEXTS = [text_of(index) for index in range(ITEMS)]
BYTES = [text.encode() for text in TEXTS]


def enveloped() -> list[bytes]:
    """All texts, each with an id that has the time in it: the same bytes that svcframework's messages need."""
    first = secrets.randbits(100)
    return [b'{"svc":1,"id":"%036x","data":%b}' % (first + number, text) for number, text in enumerate(BYTES)]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is timed, as source text, so that no call of ours is timed with it.

    Args:
        code: An expression that awaits; `i` is the operation's number.
        names: What the code refers to.
        channel: What a publisher's messages are published on, as the server knows it.
    """

    code: str
    names: Mapping[str, Any]
    channel: str = ""


@dataclass(frozen=True, slots=True)
class Receiver:
    """A subscriber that is there already.

    Args:
        receive: Takes that many messages, and returns them in order.
        channel: Where it listens, as the server knows it.
        payloads: What the server is sent: messages as the library itself writes them.
    """

    receive: Callable[[int], Awaitable[list[Any]]]
    channel: str
    payloads: list[bytes] = field(default_factory=lambda: BYTES)


@dataclass(frozen=True, slots=True)
class Trip:
    """A publisher, and a subscriber that tells `bench.ear` of each message.

    Args:
        publish: Sends the message of that number.
    """

    publish: Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A call that fails while its server is away.

    Args:
        call: One call with an answer.
    """

    call: Callable[[], Awaitable[Any]]


class Ear:
    """Hears one message at a time, and remembers when."""

    def __init__(self) -> None:
        self.at = 0.0
        self.data: Any = None
        self._heard: asyncio.Future[None] | None = None

    def hear(self, data: Any) -> None:
        """A message is here; subscribers' callbacks call this first thing."""
        self.at = time.perf_counter()
        self.data = data
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    def expect(self) -> asyncio.Future[None]:
        """Done with the next message."""
        self._heard = asyncio.get_running_loop().create_future()
        return self._heard


@dataclass(slots=True)
class Bench:
    """The servers; those named mortal are killed by the rows that are about it."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    mortal_postgres: EmbeddedPostgres
    mortal_valkey: EmbeddedValkey
    ear: Ear = field(default_factory=Ear)
    channels: int = 0

    def channel(self) -> str:
        """A channel that nobody else uses."""
        self.channels += 1
        return f"bench_{self.channels}"


Prepare = Callable[[Bench], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One library's way to do the rows it supports.

    Args:
        name: As shown.
        distributions: Whose versions are shown.
        rows: Row key to an async context manager that yields what the row's kind asks for.
        notes: Row key to what a reader should know.
    """

    name: str
    distributions: tuple[str, ...] = ()
    rows: Mapping[str, Prepare] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
