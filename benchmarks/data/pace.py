"""Loops that a library's user writes: start a subscriber again when it has died."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

AGAIN = 0.01  # seconds between two tries


@asynccontextmanager
async def keep_on(subscribe: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a subscriber, again and again, until the end of the block; entered once it has said that it is ready."""
    ready = asyncio.Event()

    async def run() -> None:
        while True:
            with contextlib.suppress(Exception):  # whatever it raises, a user would go on
                await subscribe(ready)
            await asyncio.sleep(AGAIN)

    task = asyncio.create_task(run())
    try:
        async with asyncio.timeout(5.0):
            await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
