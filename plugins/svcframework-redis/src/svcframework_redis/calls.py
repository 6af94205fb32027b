"""Calls: commands with a limit each, retried where that does no harm, and errors of ours. Knows no keys or values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from svcframework.deadlines import effective_timeout, has_deadline
from svcframework.errors import (
    ConnectionFailedError,
    DeadlineExceededError,
    ServiceFrameworkError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework_redis.commands import Nature, find_unshared, name_of, nature_of, waiting_time
from svcframework_redis.errors import LINK_ERRORS, refused, translate
from svcframework_redis.link import Link, LinkError, LinkLostError, Refusal, Value, pack_all, pack_command
from svcframework_redis.publishing import Messages
from svcframework_redis.transport import Command, Transport


class Calls:
    """What `RedisService` calls through; lives as long as it, over many starts.

    Args:
        service: Its name, for errors.
    """

    def __init__(self, service: str) -> None:
        self.transport: Transport | None = None
        """The connections; None unless the service runs."""
        self.timeout = 0.0
        """Seconds that a call may take when it doesn't say."""
        self._service = service

    def running(self) -> Transport:
        """The connections.

        Raises:
            ServiceUnavailableError: The service doesn't run.
        """
        if self.transport is None:
            raise ServiceUnavailableError(
                self._service, "it isn't started; enter the host with `async with host:` first"
            )
        return self.transport

    # --- one command ------------------------------------------------------------------------------------

    async def call(self, command: tuple[Value, ...], *, is_read: bool = False) -> Any:
        """Send one command within the usual limit: the hot path, on which nothing costs that isn't needed.

        A caller's cancel scope ends the call by itself, so only a deadline without one is asked for.
        """
        transport = self.transport
        link = None if transport is None else transport.link or transport.route(command)
        if transport is None or link is None or not link.has_room or has_deadline():
            return await self.call_within(None, command, is_read=is_read)
        try:
            reply = await link.request(pack_command(command))
        except LinkError as error:
            return await self._again(error, command, transport, is_read=is_read)
        if reply.__class__ is Refusal:
            if transport.is_misplaced(link, reply):
                return await self.call_within(None, command, is_last=True)
            raise refused(reply, self._what(command, transport), command)
        return reply

    async def _again(self, error: LinkError, command: Command, transport: Transport, *, is_read: bool) -> Any:
        may_repeat = isinstance(error, LinkLostError) and (error.sent_at is None or is_read)
        if transport.is_closed or not may_repeat:
            raise self._error(error, self._what(command, transport), self.timeout, transport) from error
        sent_at = getattr(error, "sent_at", None)
        spent = 0.0 if sent_at is None else asyncio.get_running_loop().time() - sent_at
        return await self.call_within(max(0.0, self.timeout - spent), command, is_read=is_read, is_last=True)

    async def call_within(
        self,
        timeout: float | None,  # noqa: ASYNC109 - the call's own limit
        command: Command,
        *,
        is_read: bool = False,
        is_last: bool = False,
    ) -> Any:
        """Send one command within a limit of its own.

        Args:
            timeout: Seconds; None for the usual.
            command: What to send.
            is_read: Whether it may be sent again when its connection was lost.
            is_last: Whether that has been done already.
        """
        transport = self.running()
        what = self._what(command, transport)
        async with self.limited(timeout, what, transport):
            (reply,) = await transport.send((command,), is_read=is_read, is_last=is_last)
        if reply.__class__ is Refusal:
            raise refused(reply, what, command)
        return reply

    async def execute(self, command: tuple[Value, ...], timeout: float | None) -> Any:  # noqa: ASYNC109 - same
        """Send any command, on the connection that its nature asks for.

        Raises:
            ValueError: It would change the connection that others share.
        """
        nature = nature_of(command)
        if nature is Nature.BLOCKING:
            return await self._block(command, timeout)
        if nature is Nature.BOUND:
            raise ValueError(_bound(command))
        if timeout is None:
            return await self.call(command, is_read=nature is Nature.READ)
        return await self.call_within(timeout, command, is_read=nature is Nature.READ)

    async def _block(self, command: tuple[Value, ...], timeout: float | None) -> Any:  # noqa: ASYNC109 - same
        transport = self.running()
        what = self._what(command, transport)
        own = (waiting_time(command) or 0.0) + self.timeout if timeout is None else timeout
        async with self.limited(own, what, transport):
            for _ in range(3):  # a server that isn't the one to ask any more names another
                async with transport.lease(command) as link:
                    reply = await ask(link, command)
                if not transport.is_misplaced(link, reply):
                    break
        if isinstance(reply, Refusal):
            raise refused(reply, what, command)
        return reply

    # --- many commands ----------------------------------------------------------------------------------

    async def call_many(
        self,
        commands: Sequence[Command],
        timeout: float | None,  # noqa: ASYNC109 - the call's own limit
        *,
        is_atomic: bool,
    ) -> list[Any]:
        """Send commands in one write; raises the first error reply when all replies are there.

        Raises:
            ValueError: One of them blocks, or would change the connection that others share.
        """
        if not commands:
            return []
        transport = self.running()
        if not isinstance(commands, Messages):
            commands = tuple(commands)  # replies are counted by it, and the caller's may change meanwhile
            if (unshared := find_unshared(commands)) is not None:
                raise ValueError(_unshared(unshared))
        what = f"{len(commands)} commands on {transport.target}"
        sent = [("MULTI",), *commands, ("EXEC",)] if is_atomic else commands
        async with self.limited(timeout, what, transport):
            replies = await transport.send(sent, is_read=False, is_atomic=is_atomic)
        return unpacked(replies, commands, transport) if is_atomic else checked(replies, commands, transport)

    # --- limits and errors ------------------------------------------------------------------------------

    @asynccontextmanager
    async def limited(
        self,
        timeout: float | None,  # noqa: ASYNC109 - the block's limit
        what: str,
        transport: Transport,
    ) -> AsyncIterator[None]:
        """A block that ends in time, and whose errors are ours.

        Args:
            timeout: Seconds; None for the usual. The caller's deadline counts as well.
            what: For messages.
            transport: What is used in the block.
        """
        own = self.timeout if timeout is None else timeout
        limit = effective_timeout(own)
        try:
            async with asyncio.timeout(limit):
                yield
        except LINK_ERRORS as error:
            if isinstance(error, ServiceFrameworkError):
                raise
            ours = self._error(error, what, limit, transport)
            if isinstance(ours, ServiceTimeoutError) and limit < own:
                ours = DeadlineExceededError(ours.operation, limit, hint="the caller's deadline was shorter")
            raise ours from error

    def _error(self, error: BaseException, what: str, limit: float, transport: Transport) -> ServiceFrameworkError:
        if transport.is_closed:
            return ConnectionFailedError(f"{what}: the service was stopped")
        return translate(error, what, limit)

    def _what(self, command: Command, transport: Transport) -> str:
        return f"{name_of(command)} on {transport.target}"


async def ask(link: Link, command: Command) -> Any:
    """One command on a connection of one's own; the reply may be a `Refusal`."""
    (reply,) = await link.request_many(pack_all((command,)), 1)
    return reply


def checked(replies: list[Any], commands: Sequence[Command], transport: Transport) -> list[Any]:
    """The replies, if none is an error.

    Raises:
        ServiceFrameworkError: The first error among them.
    """
    if Refusal in set(map(type, replies)):
        place = next(place for place, reply in enumerate(replies) if isinstance(reply, Refusal))
        command = commands[place]
        what = f"{name_of(command)} ({place + 1} of {len(commands)} commands) on {transport.target}"
        raise refused(replies[place], what, command)
    return replies


def unpacked(replies: list[Any], commands: Sequence[Command], transport: Transport) -> list[Any]:
    """What the EXEC of a transaction has answered; an empty list when a watched key was changed.

    Raises:
        ServiceFrameworkError: The first error among the answers, or what kept a command from being queued.
    """
    checked(replies[1:-1], commands, transport)
    executed = replies[-1]
    if isinstance(executed, Refusal):
        raise refused(executed, f"EXEC on {transport.target}")
    return [] if executed is None else checked(executed, commands, transport)


def _unshared(command: Command) -> str:
    if nature_of(command) is Nature.BLOCKING:
        return f"{name_of(command)} may block all the others of a batch; send it alone, with execute()"
    return _bound(command)


def _bound(command: Command) -> str:
    name = name_of(command)
    instead = {
        "SELECT": "set `db` in the configuration",
        "AUTH": "set `password` in the configuration",
        "MONITOR": "use a client of its own",
        **dict.fromkeys(("MULTI", "EXEC", "DISCARD"), "use execute_many(…, atomic=True)"),
        **dict.fromkeys(("WATCH", "UNWATCH"), "use transaction(key)"),
        **dict.fromkeys(("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"), "use subscriber()"),
    }.get(name, "use `client`, redis-py's own")
    return f"{name} would change the connection that all callers share; {instead}"
