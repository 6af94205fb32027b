"""RedisSubscriber: messages of channels and patterns, on a connection of its own that comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from svcframework.deadlines import effective_timeout
from svcframework.errors import IllegalStateError, ServiceFrameworkError, ServiceTimeoutError
from svcframework_redis.calls import Calls
from svcframework_redis.config import RedisConfig
from svcframework_redis.errors import LINK_ERRORS, refused
from svcframework_redis.link import Link, LinkLostError, Refusal, Value, pack_all

OnMessage = Callable[[bytes | None, bytes, bytes], None]
"""Takes the pattern that matched, if any, the channel and the message. It runs on the event loop: be quick."""


class RedisSubscriber:
    """Hears channels and patterns from `async with` on until the block ends; made by `RedisService.subscriber`.

    A lost connection is noticed at once, a silent one by a heartbeat. Then it connects again for as long as it takes,
    subscribes to the same as before, and tells `on_gap` for how long it was deaf: what was published in that time is
    lost to it.

    Args:
        calls: The service's.
        config: The service's.
        on_message: Called for each message, in order, as it arrives.
        on_gap: Called with the seconds that were missed, once messages come again.
        on_error: Called with what `on_message` or `on_gap` raised; the subscription goes on.
        on_change: Called with False when the connection is lost and True when it is back.
    """

    def __init__(
        self,
        calls: Calls,
        config: RedisConfig,
        on_message: OnMessage,
        *,
        on_gap: Callable[[float], None] | None,
        on_error: Callable[[Exception], None],
        on_change: Callable[[bool], None],
    ) -> None:
        self._calls, self._config = calls, config
        self._on_message, self._on_gap, self._on_error, self._on_change = on_message, on_gap, on_error, on_change
        self._channels: dict[bytes, None] = {}
        self._patterns: dict[bytes, None] = {}
        self._link: Link | None = None
        self._lost = asyncio.Event()
        self._deaf_since = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._questions = 0
        self._is_paused = False
        self.reconnects = 0
        """How often it has come back."""

    @property
    def is_connected(self) -> bool:
        """Whether messages arrive now, as far as is known."""
        return self._link is not None and self._link.is_open

    @property
    def channels(self) -> list[bytes]:
        """What it is subscribed to."""
        return list(self._channels)

    @property
    def patterns(self) -> list[bytes]:
        """The patterns it is subscribed to."""
        return list(self._patterns)

    # --- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ServiceFrameworkError: As `RedisService.execute`; only a connection that was there once comes back.
        """
        if self._keeper is not None:
            raise IllegalStateError("enter a RedisSubscriber", "running", fix="make another one")
        transport = self._calls.running()
        async with self._calls.limited(None, f"SUBSCRIBE on {transport.target}", transport):
            await self._connect()
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keeper, self._keeper = self._keeper, None
        link, self._link = self._link, None
        if link is not None:
            link.abort()
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(asyncio.gather(keeper, return_exceptions=True))

    # --- subscribing ------------------------------------------------------------------------------------

    async def subscribe(self, *channels: str | bytes) -> None:
        """Hear channels; returns when the server has confirmed. While the connection is away it will be done later.

        Raises:
            AuthenticationFailedError: The server forbids one of them; none is subscribed to.
            ServiceTimeoutError: No confirmation in time; the subscription stands.
        """
        await self._change("SUBSCRIBE", channels, self._channels, is_wanted=True)

    async def unsubscribe(self, *channels: str | bytes) -> None:
        """Hear channels no more. Errors as `subscribe`."""
        await self._change("UNSUBSCRIBE", channels, self._channels, is_wanted=False)

    async def psubscribe(self, *patterns: str | bytes) -> None:
        """Hear all channels that match patterns such as `orders.*`. Errors as `subscribe`."""
        await self._change("PSUBSCRIBE", patterns, self._patterns, is_wanted=True)

    async def punsubscribe(self, *patterns: str | bytes) -> None:
        """Hear patterns no more. Errors as `subscribe`."""
        await self._change("PUNSUBSCRIBE", patterns, self._patterns, is_wanted=False)

    # --- backpressure -----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read no more messages until `resume`; a few that were read already still come.

        The server keeps the others, up to its `client-output-buffer-limit` for pub/sub; then it hangs up, which is a
        gap like any other. There is no heartbeat meanwhile, and no subscribing.
        """
        self._is_paused = True
        if self._link is not None:
            self._link.set_reading(wanted=False)

    def resume(self) -> None:
        """Read on."""
        self._is_paused = False
        if self._link is not None:
            self._link.set_reading(wanted=True)

    async def _change(
        self, command: str, names: Sequence[str | bytes], wanted: dict[bytes, None], *, is_wanted: bool
    ) -> None:
        words = [name.encode() if isinstance(name, str) else name for name in names]
        for word in words:
            if is_wanted:
                wanted[word] = None
            else:
                wanted.pop(word, None)
        if not words or not self.is_connected:
            return
        limit = effective_timeout(self._config.timeout)
        what = f"{command} on {self._calls.running().target}"
        try:
            async with asyncio.timeout(limit), self._changing:
                if (link := self._link) is not None and link.is_open:  # it may be another one by now
                    await self._ask(link, [(command, *words)])
        except LinkLostError:  # done again as soon as there is a connection
            pass
        except TimeoutError:
            raise ServiceTimeoutError(what, limit) from None
        except Refusal as refusal:
            for word in words:
                wanted.pop(word, None)
            raise refused(refusal, what, (command, *words)) from None

    async def _ask(self, link: Link, commands: Sequence[Sequence[Value]]) -> None:
        """Send what has no reply of its own, and a question behind it, whose answer means that all is done.

        Raises:
            Refusal: One of the commands wasn't accepted.
        """
        self._questions += 1
        word = b"%d" % self._questions
        reply = await link.request_many(pack_all([*commands, ("PING", word)]), 1)
        while reply != [word]:  # that of an earlier question, whose asker had left
            if isinstance(reply[0], Refusal):
                raise reply[0]
            reply = await link.request_many(b"", 1)

    # --- messages (called by the link) ------------------------------------------------------------------

    def _receive(self, push: Sequence[Any]) -> None:
        kind = push[0]
        try:
            if kind == b"message":
                self._on_message(None, push[1], push[2])
            elif kind == b"pmessage":
                self._on_message(push[1], push[2], push[3])
        except Exception as error:  # noqa: BLE001 - a boundary: a caller's mistake must not end the subscription
            self._on_error(error)

    def _lose(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._deaf_since = asyncio.get_running_loop().time()
            self._lost.set()

    # --- keeping it up ----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Connect and subscribe to all that is wanted."""
        link = await self._calls.running().open(on_push=self._receive, on_lost=self._lose)
        try:
            async with asyncio.timeout(self._config.timeout), self._changing:
                wanted = (("SUBSCRIBE", self._channels), ("PSUBSCRIBE", self._patterns))
                self._link = link
                self._lost.clear()
                await self._ask(link, [(command, *names) for command, names in wanted if names])
                link.set_reading(wanted=not self._is_paused)
        except BaseException:
            self._link = None
            link.abort()
            raise

    async def _keep(self) -> None:
        """Ask for signs of life, and come back when there are none."""
        while True:
            try:
                async with asyncio.timeout(self._config.heartbeat_interval):
                    await self._lost.wait()
            except TimeoutError:
                await self._beat()
                continue
            self._tell(self._on_change, False)  # noqa: FBT003 - a callback's only argument
            await self._come_back()
            self.reconnects += 1
            seconds = asyncio.get_running_loop().time() - self._deaf_since
            self._tell(self._on_change, True)  # noqa: FBT003 - same
            if self._on_gap is not None:
                self._tell(self._on_gap, seconds)

    async def _beat(self) -> None:
        link = self._link
        if link is None or self._is_paused:
            return
        try:
            async with asyncio.timeout(self._config.timeout), self._changing:
                await self._ask(link, [])
        except (LinkLostError, Refusal, TimeoutError):
            link.abort()
            await link.wait_closed()

    async def _come_back(self) -> None:
        since = self._deaf_since
        while True:
            try:
                await self._connect()
            except (*LINK_ERRORS, ServiceFrameworkError):
                await asyncio.sleep(self._config.reconnect_delay)
            else:
                self._deaf_since = since  # what was lost while it subscribed belongs to the same gap
                return

    def _tell(self, callback: Callable[[Any], None], value: Any) -> None:
        try:
            callback(value)
        except Exception as error:  # noqa: BLE001 - a boundary, as above
            self._on_error(error)
