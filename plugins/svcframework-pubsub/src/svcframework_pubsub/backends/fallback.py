"""FallbackBackend: Redis carries the messages, and PostgreSQL while Redis is away. Subscribers listen on both.

Who publishes decides by itself, message by message, and need not agree with anybody: whichever way a message goes,
every subscriber hears it. One that went both ways (Redis took it, and its answer was lost) has the same id on both, and
is delivered once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import anyio

from svcframework.background import Background
from svcframework.errors import (
    ConnectionFailedError,
    ExternalServiceError,
    ServiceFrameworkError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_pubsub.backends.backend import Backend, Condition, Durable, GroupSource, Transactional
from svcframework_pubsub.channels import Topic
from svcframework_pubsub.errors import UnsupportedError
from svcframework_pubsub.sparse import Sparse

if TYPE_CHECKING:
    from svcframework_pubsub.collaborators import Transaction
    from svcframework_pubsub.groups import GroupTerms
    from svcframework_pubsub.router import Router

TROUBLE = (ExternalServiceError, ServiceTimeoutError, ServiceUnavailableError)
"""Errors after which another way is worth a try."""

_PROBE = 0.1  # seconds between two looks whether a lost server is back
_SHARE = 0.4  # of the time a publish may take, for the first way

Make = Callable[[], Awaitable[Backend]]


class FallbackBackend:
    """Two backends as one; lives as long as the service runs. It needs one of them to start.

    Args:
        primary: Makes the first choice, not opened; called again until it works.
        secondary: Makes the other one.
        router: Who subscribes to what.
        timeout: Seconds a publish may take.
        report: Logs now and then.
    """

    name: ClassVar[str] = "redis, else postgres"

    def __init__(
        self,
        primary: Make,
        secondary: Make,
        router: Router,
        *,
        timeout: float,
        report: Sparse,
    ) -> None:
        self._primary = _Side("redis", primary, router, report, limit=timeout * _SHARE)
        self._secondary = _Side("postgres", secondary, router, report, limit=timeout * (1 - _SHARE))
        self._timeout, self._report = timeout, report
        self.diverted = 0
        """Messages that went the second way."""

    async def open(self) -> None:
        """Connect to both, or to one, and keep trying the other.

        Raises:
            ServiceFrameworkError: Neither can be reached; the first one's error, with the other's attached.
        """
        errors: list[ServiceFrameworkError] = []
        for side in (self._primary, self._secondary):
            try:
                await side.open()
            except TROUBLE as error:
                errors.append(error)
                self._report(f"{side.name} can't be reached at the start; trying again", error=str(error))
        if len(errors) > 1:
            errors[0].add_note(f"The fallback failed too: {errors[1]}")
            raise errors[0]
        for side in (self._primary, self._secondary):
            side.keep()

    async def close(self) -> None:
        """Disconnect from both."""
        async with anyio.create_task_group() as both:
            both.start_soon(self._primary.close)
            both.start_soon(self._secondary.close)

    # --- publishing -------------------------------------------------------------------------------------

    async def publish(self, channel: str, data: bytes) -> None:
        """Return when one of the servers has taken the message."""
        await self._either(lambda backend: backend.publish(channel, data), 1)

    async def publish_many(self, channel: str, messages: Sequence[bytes]) -> None:
        """Return when one of the servers has taken all messages."""
        await self._either(lambda backend: backend.publish_many(channel, messages), len(messages))

    async def publish_in(self, transaction: Transaction, channel: str, messages: Sequence[bytes]) -> None:
        """Publish if and when a transaction commits: PostgreSQL does it, and everybody listens there too."""
        backend: object = self._secondary.backend
        if not isinstance(backend, Transactional):
            raise ConnectionFailedError("publish in a transaction: PostgreSQL is away")
        await backend.publish_in(transaction, channel, messages)

    async def publish_durable(self, channel: str, messages: Sequence[bytes]) -> None:
        """Only Redis keeps messages for groups, so there is no second way."""
        await self._durable().publish_durable(channel, messages)

    def group(self, channel: str, terms: GroupTerms) -> GroupSource:
        """What a group has yet to handle, on Redis."""
        return self._durable().group(channel, terms)

    def _durable(self) -> Durable:
        backend: object = self._primary.backend
        if backend is None:
            raise ConnectionFailedError("durable messages: Redis is away, and nothing else keeps them")
        if not isinstance(backend, Durable):
            raise UnsupportedError(self._primary.name, "keeping messages", "use Redis or NATS")
        return backend

    async def _either(self, send: Callable[[Backend], Awaitable[None]], count: int) -> None:
        first: Exception | None = None
        if self._primary.is_up:
            try:
                await self._sent(self._primary, send, self._timeout * _SHARE)
            except TROUBLE as error:
                first = error
                self._primary.fail(error)
            else:
                return
        try:
            await self._sent(self._secondary, send, self._timeout * (1 - _SHARE))
        except TROUBLE as error:
            if first is None and self._primary.backend is not None:  # it may be back, unnoticed so far
                await self._sent(self._primary, send, self._timeout * _SHARE)
                return
            raise error from first
        self.diverted += count

    async def _sent(self, side: _Side, send: Callable[[Backend], Awaitable[None]], limit: float) -> None:
        if side.backend is None:
            raise ConnectionFailedError(f"publish on {side.name}: it is away")
        with anyio.move_on_after(limit):
            await send(side.backend)
            return
        raise ServiceTimeoutError(f"publish on {side.name}", limit)

    # --- listening --------------------------------------------------------------------------------------

    async def subscribe(self, topic: Topic) -> None:
        """Listen on both; on one of them at least, and on the other as soon as it can be reached.

        Raises:
            ServiceFrameworkError: Neither can be listened on.
        """
        errors: dict[_Side, Exception] = {}

        async def listen(side: _Side) -> None:
            if (error := await side.subscribe(topic)) is not None:
                errors[side] = error

        async with anyio.create_task_group() as both:
            both.start_soon(listen, self._primary)
            both.start_soon(listen, self._secondary)
        if len(errors) > 1:
            for side in (self._primary, self._secondary):
                side.forget(topic)
            raise errors[self._secondary] from errors[self._primary]

    async def unsubscribe(self, topic: Topic) -> None:
        """Stop on both."""
        for side in (self._primary, self._secondary):
            with contextlib.suppress(*TROUBLE):
                await side.unsubscribe(topic)

    def pause(self) -> None:
        """Read from neither."""
        for side in (self._primary, self._secondary):
            if side.backend is not None:
                side.backend.pause()

    def resume(self) -> None:
        """Read from both."""
        for side in (self._primary, self._secondary):
            if side.backend is not None:
                side.backend.resume()

    # --- health -----------------------------------------------------------------------------------------

    async def check(self, timeout: float) -> Condition:  # noqa: ASYNC109 - as the protocol has it
        """Well with both; strained with one."""
        found: dict[str, Condition] = {}

        async def ask(side: _Side) -> None:
            found[side.name] = await side.check(timeout)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, self._primary)
            tasks.start_soon(ask, self._secondary)
        first, second = found[self._primary.name], found[self._secondary.name]
        details: dict[str, Any] = {
            **first.details, **second.details, "carries": "redis" if self._primary.is_up else "postgres",
            "diverted": self.diverted,
        }  # fmt: skip
        both = [first, second]
        strained = [f"{name}: {condition.message}" for name, condition in found.items() if not _is_well(condition)]
        return Condition(
            publishes=any(condition.publishes for condition in both),
            listens=any(condition.listens for condition in both),
            message="; ".join(strained) or "Redis and PostgreSQL answer",
            details=details,
            is_strained=bool(strained),
        )


def _is_well(condition: Condition) -> bool:
    return condition.publishes and condition.listens and not condition.is_strained


class _Side:
    """One of the two: opened again and again until it works, and caught up with what it missed."""

    def __init__(self, name: str, make: Make, router: Router, report: Sparse, *, limit: float) -> None:
        self.name = name
        self.backend: Backend | None = None
        self.is_up = False
        """The last publish, or the last look since one failed, went well."""
        self._make, self._router, self._report, self._limit = make, router, report, limit
        self._live: set[Topic] = set()
        self._late: dict[Topic, float] = {}  # since when it is wanted in vain
        self._keeper: Background | None = None
        self._wake = anyio.Event()
        self._changing = anyio.Lock()

    async def open(self) -> None:
        await self._connect()
        self.is_up = True

    async def _connect(self) -> None:
        backend: Backend | None = None
        try:
            backend = await self._make()
            await backend.open()
        except BaseException:
            if backend is not None:
                with anyio.CancelScope(shield=True):
                    await backend.close()
            raise
        self.backend = backend

    def keep(self) -> None:
        self._keeper = Background(self._keep, name=f"pubsub: keep {self.name}")

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.end()
        backend, self.backend, self.is_up = self.backend, None, False
        if backend is not None:
            await backend.close()

    def fail(self, error: Exception) -> None:
        if self.is_up:
            self._report(f"{self.name} is away; messages go the other way", error=str(error))
        self.is_up = False
        self._wake.set()

    async def subscribe(self, topic: Topic) -> Exception | None:
        """The error that was in the way, if one was; then it is tried again, and its subscribers told of the gap."""
        error: Exception = ConnectionFailedError(f"subscribe on {self.name}: it is away")
        if self.is_up:  # else there is no use in waiting for it
            try:
                with anyio.move_on_after(self._limit):
                    await self._listen(topic)
                    return None
                error = ServiceTimeoutError(f"subscribe on {self.name}", self._limit)
            except TROUBLE as trouble:
                error = trouble
        self._late.setdefault(topic, anyio.current_time())
        self._wake.set()
        return error

    async def _listen(self, topic: Topic) -> None:
        async with self._changing:
            if topic not in self._live and self.backend is not None:
                await self.backend.subscribe(topic)
                self._live.add(topic)

    def forget(self, topic: Topic) -> None:
        self._live.discard(topic)
        self._late.pop(topic, None)

    async def unsubscribe(self, topic: Topic) -> None:
        self._late.pop(topic, None)
        if topic not in self._live:
            return
        self._live.discard(topic)
        async with self._changing:
            if self.backend is not None and topic not in self._live:
                await self.backend.unsubscribe(topic)

    async def check(self, limit: float) -> Condition:
        if self.backend is None:
            return Condition(publishes=False, listens=False, message="away since the start")
        with anyio.move_on_after(limit):
            return await self.backend.check(limit)
        return Condition(publishes=False, listens=False, message=f"no answer within {limit:.3g} s")

    async def _keep(self) -> None:
        while True:
            try:
                await self._look_after()
            except TROUBLE:
                await anyio.sleep(_PROBE)
                continue
            with anyio.move_on_after(1.0):
                await self._wake.wait()
            self._wake = anyio.Event()

    async def _look_after(self) -> None:
        if self.backend is None:
            await self._connect()
            self._report(f"{self.name} is there now")
        if not self.is_up:
            condition = await self.check(self._limit)
            if not (condition.publishes and condition.listens):  # heard by others, but not by this process
                raise ConnectionFailedError(condition.message)
        while missing := set(self._router.topics()) - self._live:  # some may have come meanwhile
            await self._catch_up(missing.pop())
        if not self.is_up:
            self.is_up = True
            self._report(f"{self.name} is back")

    async def _catch_up(self, topic: Topic) -> None:
        """Listen to a topic here too; whoever has listened to it for longer may have missed something."""
        with anyio.move_on_after(self._limit) as limit:
            await self._listen(topic)
        if limit.cancelled_caught:
            raise ServiceTimeoutError(f"subscribe on {self.name}", self._limit)
        since = self._late.pop(topic, None)
        if since is not None:
            self._router.deaf(anyio.current_time() - since, topic)
