"""Inbox: keeps what a callback gets, until there is enough."""

from __future__ import annotations

import asyncio
from typing import Any


class Inbox:
    """Keeps what a callback gets, until there is enough."""

    def __init__(self) -> None:
        self._got: list[Any] = []
        self._wanted = 0
        self._done: asyncio.Future[None] | None = None

    def put(self, message: Any) -> None:
        """One more."""
        got = self._got
        got.append(message)
        if len(got) == self._wanted and self._done is not None:
            self._done.set_result(None)

    async def take(self, count: int) -> list[Any]:
        """That many, when they are here; nothing else may come."""
        self._wanted = count
        self._done = asyncio.get_running_loop().create_future()
        if len(self._got) < count:
            await self._done
        got, self._got = self._got, []
        return got
