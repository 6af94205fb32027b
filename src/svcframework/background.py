"""One endless coroutine in a task of its own, ended from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from svcframework import _backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Background:
    """Runs `function` until `end`; lives as long as its owner says.

    Args:
        function: Endless; it must not raise.
        name: The task's name.
    """

    def __init__(self, function: Callable[[], Awaitable[None]], *, name: str) -> None:
        self._function = function
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()
        _backend.spawn(self._run, name=name)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._function()
        finally:
            self._done.set()

    @property
    def has_ended(self) -> bool:
        """It runs no longer: it was ended, or its event loop was."""
        return self._done.is_set()

    def cancel(self) -> None:
        """End it soon."""
        self._scope.cancel()

    async def end(self) -> None:
        """Cancel it and wait until it has ended."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()
