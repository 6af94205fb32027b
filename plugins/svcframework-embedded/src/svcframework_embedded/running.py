"""A server without a host, for tests and scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from svcframework import Restart, ServiceState
from svcframework_embedded.errors import ServerCrashedError
from svcframework_embedded.server import EmbeddedServer

ServerT = TypeVar("ServerT", bound=EmbeddedServer)  # type: ignore[type-arg]  # of any config


@asynccontextmanager
async def running(server: ServerT, *, restart: bool = True) -> AsyncIterator[ServerT]:
    """Run one server for the length of the block, and bring it back when it crashes.

    Args:
        server: Not started yet.
        restart: Start it again after a crash or `kill()`; otherwise it stays dead until `relaunch()`.

    Raises:
        ServerStartError: It does not start.
        ServiceTimeoutError: It does not start in time.

    Example:
        >>> import anyio
        >>> from svcframework_embedded import EmbeddedValkey, running
        >>> async def main():
        ...     async with running(EmbeddedValkey()) as server:
        ...         return server.url.startswith("redis://")
        >>> anyio.run(main)
        True
    """
    failure: Exception | None = None
    try:
        await server.on_startup()
        server.state = ServiceState.RUNNING
        async with anyio.create_task_group() as background:
            if restart:
                background.start_soon(_keep_running, server)
            try:
                yield server
            except Exception as error:  # noqa: BLE001 - raised below, bare and not in the group's wrapping
                failure = error
            background.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        server.state = ServiceState.STOPPING
        server.forget_crash()
        with anyio.CancelScope(shield=True):
            await server.on_shutdown()
        server.state = ServiceState.STOPPED


async def _keep_running(server: EmbeddedServer) -> None:  # type: ignore[type-arg]  # of any config
    policy = server.config.restart or server.restart or Restart.permanent()
    while True:
        try:
            await server.on_run()
        except ServerCrashedError:
            server.state = ServiceState.DEGRADED
        await anyio.sleep(policy.delay)
        await server.on_shutdown()
        await server.on_startup()
        server.state = ServiceState.RUNNING
