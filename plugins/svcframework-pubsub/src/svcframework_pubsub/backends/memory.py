"""MemoryBackend: messages within one service, for tests and for programs of one process. Runs on trio too."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import anyio

from svcframework.errors import ServiceTimeoutError
from svcframework_pubsub.backends.backend import Condition
from svcframework_pubsub.channels import Topic
from svcframework_pubsub.router import Router


class MemoryBackend:
    """Hands each message to the subscribers of the same service, before `publish` returns.

    A publisher waits while a subscriber that blocks is full.

    Args:
        router: Who subscribes to what.
        timeout: Seconds a publish may take.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, router: Router, *, timeout: float) -> None:
        self._router, self._timeout = router, timeout
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._is_delivering = False

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Drop what was not delivered."""
        self._waiting.clear()

    async def publish(self, channel: str, data: bytes) -> None:
        """Deliver.

        Raises:
            ServiceTimeoutError: A subscriber that blocks was full all the time.
        """
        if self._router.is_blocked:
            await self._until_there_is_room()
        self._waiting.append((channel, data))
        self._deliver()

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Deliver one after another."""
        for data in messages:
            await self.publish(channel, data)

    async def subscribe(self, topic: Topic) -> None:
        """The router knows it already."""

    async def unsubscribe(self, topic: Topic) -> None:
        """The router has forgotten it already."""

    def pause(self) -> None:
        """Publishers ask the router."""

    def resume(self) -> None:
        """Publishers ask the router."""

    async def check(self, timeout: float) -> Condition:  # noqa: ARG002, ASYNC109 - the caller keeps it
        """Always well."""
        return Condition(publishes=True, listens=True, message="in memory")

    def _deliver(self) -> None:
        """In order, also when a callback publishes in its turn."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while self._waiting:
                self._router.deliver_to_all(*self._waiting.popleft())
        finally:
            self._is_delivering = False

    async def _until_there_is_room(self) -> None:
        with anyio.move_on_after(self._timeout):
            await self._router.flowing()
            return
        raise ServiceTimeoutError("publish in memory", self._timeout, hint="a subscriber with overflow='block' is full")
