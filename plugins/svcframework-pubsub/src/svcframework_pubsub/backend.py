"""Backend: what carries messages, in one small protocol. A module for each of its implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from svcframework_pubsub.channels import Topic


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

    async def check(self) -> Condition:
        """How it is, by asking the server."""
        ...
