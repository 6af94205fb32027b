"""Backend: what carries messages, in one small protocol. A module for each of its implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from svcframework_pubsub.channels import Topic

if TYPE_CHECKING:
    from svcframework_pubsub.collaborators import Transaction
    from svcframework_pubsub.groups import Delivery, GroupTerms


@dataclass(frozen=True, slots=True)
class Condition:
    """How a backend is: both of its sides, and numbers."""

    publishes: bool
    listens: bool
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    is_strained: bool = False
    """It works, but an operator should look."""


class Backend(Protocol):
    """Carries messages between processes, or within one. It tells its `Router` what it hears.

    Every method ends in time, and raises an error of the framework's when the server is in the way.
    """

    name: ClassVar[str]

    async def open(self) -> None:
        """Connect. Undone by `close`, also when it fails half way."""
        ...

    async def close(self) -> None:
        """Disconnect, in little time whatever the server does."""
        ...

    async def publish(self, channel: str, data: bytes) -> None:
        """Return when the server has taken the message."""
        ...

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when the server has taken all messages, which go out in this order."""
        ...

    async def subscribe(self, topic: Topic) -> None:
        """Return when nothing that is published from now on will be missed."""
        ...

    async def unsubscribe(self, topic: Topic) -> None:
        """Stop hearing a topic; what still comes is ignored."""
        ...

    def pause(self) -> None:
        """Read no more from the server until `resume`."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    async def check(self, timeout: float) -> Condition:  # noqa: ASYNC109 - part of the protocol
        """How it is, by asking the server.

        Args:
            timeout: Seconds after which the caller cancels, and takes it for ill in all parts.
        """
        ...


@runtime_checkable
class Transactional(Protocol):
    """A backend that publishes inside a transaction by itself."""

    async def publish_in(self, transaction: Transaction, channel: str, messages: Sequence[bytes]) -> None:
        """Publish if and when the transaction commits."""
        ...


@runtime_checkable
class Durable(Protocol):
    """A backend that keeps messages for groups."""

    async def publish_durable(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when the server has kept all messages, and sent them to whoever listens."""
        ...

    def group(self, channel: str, terms: GroupTerms) -> GroupSource:
        """What a group has yet to handle."""
        ...


class GroupSource(Protocol):
    """Where the messages of a group come from, for one of its consumers."""

    async def open(self) -> None:
        """Join the group; it is made if need be."""
        ...

    async def read(self, count: int) -> list[Delivery]:
        """Up to `count` messages; none if none come for a while."""
        ...

    async def ack(self, delivery: Delivery) -> None:
        """It is done."""
        ...

    async def release(self, delivery: Delivery) -> None:
        """Give it to whoever reads next."""
        ...

    async def bury(self, delivery: Delivery, reason: str) -> None:
        """Move it to the channel of the dead."""
        ...

    async def close(self) -> None:
        """Leave the group."""
        ...
