"""ClusterTransport: each command to the node that has its key, over one shared connection per node."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, replace
from typing import Any, cast

from svcframework_redis.address import Target
from svcframework_redis.caching.keys import KeyTable, slot_of, split
from svcframework_redis.config import RedisConfig
from svcframework_redis.link import Link, LinkLostError, Refusal, Value
from svcframework_redis.transport import Command, ConnectTimeoutError, NoRoomError, RedisStatistics, Transport

Place = tuple[str, int]

_REDIRECTS = 5  # at most, for one command


class ClusterTransport(Transport):
    """As `Transport`, for a cluster: it learns which node has which slots, and follows when they move.

    DEL, EXISTS, MGET, TOUCH and UNLINK are split when their keys are on several nodes; the other commands on many
    keys, transactions and scripts need keys of one slot, as `{user1}.name` and `{user1}.mail` are. Commands without
    a key go to any one node.
    """

    def __init__(self, config: RedisConfig, target: Target) -> None:
        super().__init__(config, target)
        self._nodes: dict[Place, Transport] = {}
        self._slots: dict[int, Place] = {}
        self._keys: KeyTable | None = None
        self._learning: asyncio.Task[None] | None = None

    # --- commands ---------------------------------------------------------------------------------------

    async def send(
        self, commands: Sequence[Command], *, is_read: bool, is_atomic: bool = False, is_last: bool = False
    ) -> list[Any]:
        """As `Transport.send`; to several nodes at the same time, unless `is_atomic`."""
        await self._learned()
        if is_atomic:
            return await self._send_together(commands)
        if len(commands) == 1 and (parts := split(commands[0])) is not None:
            found = await self.send(parts[0], is_read=is_read, is_last=is_last)
            refused = next((reply for reply in found if isinstance(reply, Refusal)), None)
            return [refused if refused is not None else parts[1](found)]
        groups: dict[Place | None, list[int]] = {}
        for number, command in enumerate(commands):
            groups.setdefault(await self._place_of(command), []).append(number)
        replies: list[Any] = [None] * len(commands)
        sent = [self._send_group(place, commands, numbers, replies, is_read) for place, numbers in groups.items()]
        for error in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error
        for number, reply in enumerate(replies):
            if _is_redirect(reply):
                replies[number] = await self._follow(commands[number], reply)
        return replies

    async def _send_group(
        self,
        place: Place | None,
        commands: Sequence[Command],
        numbers: Sequence[int],
        replies: list[Any],
        is_read: bool,
    ) -> None:
        """Send the commands with these numbers to one node, once more to its successor if that does no harm."""
        wanted = [commands[number] for number in numbers]
        try:
            found = await self._node(place).send(wanted, is_read=is_read)
        except (LinkLostError, ConnectTimeoutError, OSError) as error:
            was_sent = isinstance(error, LinkLostError) and error.sent_at is not None
            await self._learn_again()
            successor = await self._place_of(wanted[0])
            if (was_sent and not is_read) or successor == place:
                raise
            found = await self._node(successor).send(wanted, is_read=is_read)
        for number, reply in zip(numbers, found, strict=True):
            replies[number] = reply

    async def _send_together(self, commands: Sequence[Command]) -> list[Any]:
        """Send a transaction to one node; it has done nothing if a key of it is elsewhere."""
        keys = [await self._key_of(command) for command in commands]
        slots = {slot_of(key) for key in keys if key is not None}
        if len(slots) > 1:
            raise ValueError("the keys of a transaction belong to several slots; give them one part in braces: {user1}")
        for _ in range(_REDIRECTS):
            place = self._slots.get(next(iter(slots))) if slots else None
            replies = await self._node(place).send(commands, is_read=False)
            if not any(_is_redirect(reply) and reply.code == "MOVED" for reply in replies):
                break
            await self._learn_again()
        return replies

    async def _follow(self, command: Command, refusal: Refusal) -> Any:
        """Send a command to where its key has moved, or is moving."""
        reply: Any = refusal
        for _ in range(_REDIRECTS):
            if not _is_redirect(reply):
                break
            place = self._place_named(reply)
            if reply.code == "ASK":
                _, reply = await self._node(place).send([("ASKING",), command], is_read=False)
            else:
                self._slots[int(str(reply).split()[1])] = place
                self._forget_map_soon()
                (reply,) = await self._node(place).send([command], is_read=False)
        return reply

    def is_misplaced(self, link: Link, reply: Any) -> bool:
        """Whether the node refused because it hasn't the key; the one that has it is known now."""
        del link
        if not _is_redirect(reply):
            return False
        if reply.code == "MOVED":
            self._slots[int(str(reply).split()[1])] = self._place_named(reply)
        return True

    def route(self, command: Command) -> Link | None:
        """The shared connection to the node that has a command's key, if that is plain and the connection there."""
        if self._keys is None or split(command) is not None:
            return None
        try:
            key = self._keys.first_key(command)
        except LookupError:
            return None
        place = None if key is None else self._slots.get(slot_of(key))
        node = None if place is None else self._nodes.get(place)
        return None if node is None else node.link

    @asynccontextmanager
    async def lease(self, command: Command = ()) -> AsyncIterator[Link]:
        """As `Transport.lease`, at the node that has the command's key."""
        await self._learned()
        async with self._node(await self._place_of(command) if command else None).lease(command) as link:
            yield link

    async def open(self, *, on_push: Callable[[Sequence[Any]], None], on_lost: Callable[[Link], None]) -> Link:
        """As `Transport.open`, at the first node that can be reached: messages are passed on between nodes."""
        await self._learned()
        reason: Exception = LinkLostError("the cluster has no nodes")
        for place in self._known_places():
            try:
                return await self._node(place).open(on_push=on_push, on_lost=on_lost)
            except (LinkLostError, ConnectTimeoutError, OSError) as error:
                reason = error
        raise reason

    # --- who has what -----------------------------------------------------------------------------------

    async def _place_of(self, command: Command) -> Place | None:
        """The node that has a command's key; None when any will do."""
        key = await self._key_of(command)
        return None if key is None else self._slots.get(slot_of(key))

    async def _key_of(self, command: Command) -> Value | None:
        """The key that decides where a command goes, if it has one."""
        try:
            return None if self._keys is None else self._keys.first_key(command)
        except LookupError:
            (found,) = await self._node(None).send([("COMMAND", "GETKEYS", *command)], is_read=True)
            return None if isinstance(found, Refusal) or not found else cast("bytes", found[0])

    def _place_named(self, refusal: Refusal) -> Place:
        host, _, port = str(refusal).split()[2].rpartition(":")
        return host or self.target.address.host, int(port)

    def _node(self, place: Place | None) -> Transport:
        """The connections to a node; to any of them if None."""
        self._check_open()
        if place is None:
            connected = [node for node in self._nodes.values() if node.link is not None]
            place = next(iter(self._known_places()))
            if connected:
                return connected[0]
        node = self._nodes.get(place)
        if node is None:
            address = self.target.address.at(*place)
            node = Transport(self._config, replace(self.target, kind="server", places=(place,), address=address))
            self._nodes[place] = node
        return node

    def _known_places(self) -> list[Place]:
        """All nodes that have slots, then those that were configured."""
        return list(dict.fromkeys([*self._slots.values(), *self.target.places]))

    async def _learned(self) -> None:
        """Know who has what, by asking if need be; all who wait ask once."""
        self._check_open()
        if self._slots and self._keys is not None and self._learning is None:
            return
        await self._learn_again()

    async def _learn_again(self) -> None:
        if self._learning is None:
            self._check_open()
            self._learning = asyncio.create_task(self._learn(), context=contextvars.Context())
            self._learning.add_done_callback(self._learn_ended)
        learning = self._learning
        try:
            await asyncio.shield(learning)
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if learning.cancelled() and me is not None and not me.cancelling():
                self._check_open()
            raise

    def _forget_map_soon(self) -> None:
        """One slot has moved, and others probably as well: ask, but let nobody wait for it."""
        if self._learning is None and not self.is_closed:
            self._learning = asyncio.create_task(self._learn(), context=contextvars.Context())
            self._learning.add_done_callback(self._learn_ended)

    def _learn_ended(self, task: asyncio.Task[None]) -> None:
        self._learning = None
        if not task.cancelled():
            task.exception()  # seen, also when every caller has gone

    async def _learn(self) -> None:
        """Ask one node after the other for the map of slots."""
        reason: Exception = LinkLostError("no node of the cluster answers")
        for place in self._known_places():
            questions: list[Command] = [("CLUSTER", "SLOTS")]
            if self._keys is None:
                questions.append(("COMMAND",))
            try:
                async with asyncio.timeout(self._config.connect_timeout):
                    slots, *described = await self._node(place).send(questions, is_read=True)
            except (LinkLostError, ConnectTimeoutError, NoRoomError, OSError) as error:
                reason = error
                continue
            if isinstance(slots, Refusal):
                raise slots
            if described and not isinstance(described[0], Refusal):
                self._keys = KeyTable(described[0])
            known = {
                slot: (node[0].decode() if node[0] else place[0], node[1])
                for first, last, node, *_ in slots
                for slot in range(first, last + 1)
            }
            if known:
                self._slots = known
                return
            reason = LinkLostError("the cluster has no slots assigned")
        raise reason

    # --- the end ----------------------------------------------------------------------------------------

    async def aclose(self, seconds: float) -> None:
        """As `Transport.aclose`, at all nodes."""
        self.is_closed = True
        if self._learning is not None:
            self._learning.cancel()
        await asyncio.gather(*(node.aclose(seconds) for node in self._nodes.values()))

    @property
    def statistics(self) -> RedisStatistics:
        """The numbers of all nodes together."""
        each = [astuple(node.statistics) for node in self._nodes.values()]
        return RedisStatistics(*map(sum, zip(*each, strict=True))) if each else super().statistics


def _is_redirect(reply: Any) -> bool:
    return isinstance(reply, Refusal) and reply.code in {"ASK", "MOVED"}
