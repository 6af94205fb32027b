"""The limit: the Redis protocol by hand, on hiredis' parser. No reconnects, no deadlines, no errors."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import hiredis


class Resp(asyncio.Protocol):
    """One connection; answers come in the order of the commands."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._many: list[Any] = []
        self._left = 0
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.on_message: Callable[[bytes], None] | None = None

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Connect and log in."""
        parts = urlsplit(url)
        _, made = await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port)
        await made.call(b"AUTH", unquote(parts.password or "").encode())
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        answer = self._reader.gets()
        while answer is not False:
            if self.on_message is not None and type(answer) is list:
                if answer[0] == b"message":
                    self.on_message(answer[2])
                else:
                    self._waiting.popleft().set_result(answer)
            elif self._left:
                self._many.append(answer)
                self._left -= 1
                if not self._left:
                    self._waiting.popleft().set_result(self._many)
            else:
                self._waiting.popleft().set_result(answer)
            answer = self._reader.gets()

    def call(self, *words: bytes) -> asyncio.Future[Any]:
        """Send at once: the fastest for one task."""
        self._transport.write(pack(words))
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def call_together(self, *words: bytes) -> asyncio.Future[Any]:
        """Send with whatever else is sent in this turn of the loop: the fastest for many tasks."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(pack(words))
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def call_many(self, commands: list[tuple[bytes, ...]]) -> asyncio.Future[list[Any]]:
        """Send a batch; the answers come together."""
        self._transport.write(b"".join([pack(words) for words in commands]))
        self._left, self._many = len(commands), []
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


def pack(words: tuple[bytes, ...]) -> bytes:
    """A command as it is sent."""
    count = len(words)
    if count == 2:  # noqa: PLR2004 - GET key
        one, two = words
        return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(one), one, len(two), two)
    if count == 3:  # noqa: PLR2004 - PUBLISH channel message
        one, two, three = words
        return b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(one), one, len(two), two, len(three), three)
    return b"*%d\r\n" % count + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
