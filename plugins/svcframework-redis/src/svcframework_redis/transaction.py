"""RedisTransaction: reads what it watches, then changes all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from svcframework.errors import IllegalStateError
from svcframework_redis.calls import Calls, ask, checked, unpacked
from svcframework_redis.commands import Nature, name_of, nature_of
from svcframework_redis.errors import TransactionConflictError, refused
from svcframework_redis.link import Link, Refusal, Value, pack_all
from svcframework_redis.transport import Command, Transport


class RedisTransaction:
    """The commands of one `async with` block; made by `RedisService.transaction`.

    Keys are watched from the start of the block. `execute` reads at once; `queue` notes what the end of the block
    sends as MULTI … EXEC in one write. If anybody has changed a watched key by then, nothing is done. A block that
    raises sends nothing.

    Args:
        calls: The service's.
        keys: What to watch.
        timeout: Seconds for each of its exchanges with the server, not for the block.
    """

    def __init__(self, calls: Calls, keys: Sequence[Value], timeout: float | None) -> None:
        self._calls, self._keys, self._timeout = calls, keys, timeout
        self._queued: list[Command] = []
        self._exits = AsyncExitStack()
        self._transport: Transport | None = None
        self._link: Link | None = None
        self.results: list[Any] = []
        """The answers to what was queued, once the block has ended."""

    async def __aenter__(self) -> Self:
        """Take a connection and watch the keys.

        Raises:
            ServiceFrameworkError: As `RedisService.execute`.
        """
        if self._transport is not None:
            raise IllegalStateError("enter a transaction", "used already", fix="make another one for each block")
        self._transport = self._calls.running()
        watch = ("WATCH", *self._keys)
        async with self._within("WATCH"):
            link = await self._exits.enter_async_context(self._transport.lease(watch))
            try:
                reply = await ask(link, watch)
            except BaseException:
                await self._drop(link)
                raise
            if isinstance(reply, Refusal):
                self._transport.is_misplaced(link, reply)  # then the next attempt finds the right server
                await self._drop(link)
                raise refused(reply, f"WATCH on {self._transport.target}", watch)
        self._link = link
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do what was queued, all of it, or nothing.

        Raises:
            TransactionConflictError: Somebody has changed a watched key.
            ServiceFrameworkError: As `RedisService.execute_many`.
        """
        link, self._link = self._link, None
        if link is None or self._transport is None:
            return
        if error is not None:
            await self._drop(link)  # it watches, and is of no use to others
            return
        sent: list[Command] = [("MULTI",), *self._queued, ("EXEC",)] if self._queued else [("UNWATCH",)]
        try:
            async with self._within("EXEC"):
                replies = await link.request_many(pack_all(sent), len(sent))
        except BaseException:
            await self._drop(link)
            raise
        await self._exits.aclose()
        if not self._queued:
            checked(replies, sent, self._transport)
        elif replies[-1] is None:
            raise TransactionConflictError(f"EXEC on {self._transport.target}: somebody has changed what was watched")
        else:
            self.results = unpacked(replies, self._queued, self._transport)

    async def execute(self, *args: Value) -> Any:
        """Read what the changes depend on, at once. Errors as `RedisService.execute`."""
        link, transport = self._entered()
        if nature_of(args) in {Nature.BLOCKING, Nature.BOUND}:
            raise ValueError(f"{name_of(args)} can't be part of a transaction")
        async with self._within(name_of(args)):
            reply = await ask(link, args)
        if isinstance(reply, Refusal):
            raise refused(reply, f"{name_of(args)} on {transport.target}", args)
        return reply

    def queue(self, *args: Value) -> None:
        """Do this at the end of the block.

        Raises:
            ValueError: The command can't be part of a transaction.
        """
        self._entered()
        if nature_of(args) in {Nature.BLOCKING, Nature.BOUND}:
            raise ValueError(f"{name_of(args)} can't be part of a transaction")
        pack_all((args,))  # wrong arguments are wrong here, not at the end of the block
        self._queued.append(args)

    def _entered(self) -> tuple[Link, Transport]:
        if self._link is None or self._transport is None:
            raise IllegalStateError("use a transaction", "not entered", fix="use it within its `async with` block")
        return self._link, self._transport

    def _within(self, name: str) -> Any:
        transport = self._calls.running() if self._transport is None else self._transport
        return self._calls.limited(self._timeout, f"{name} on {transport.target}", transport)

    async def _drop(self, link: Link) -> None:
        link.abort()
        await self._exits.aclose()
