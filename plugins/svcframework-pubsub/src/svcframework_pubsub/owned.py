"""Owned: a service of another plugin that this one makes for itself, because nobody gave it one."""

from __future__ import annotations

from typing import Any

import anyio

from svcframework import BaseService, ServiceState
from svcframework.background import Background


class Owned:
    """Starts, runs and stops one service as a host would; lives as long as its owner runs.

    Args:
        service: Not started.
    """

    def __init__(self, service: BaseService[Any]) -> None:
        self.service = service
        self._run: Background | None = None
        self._is_started = False

    @property
    def is_started(self) -> bool:
        """It can be used."""
        return self._is_started

    async def start(self) -> None:
        """Start it; what it had begun is undone when it can't.

        Raises:
            ServiceFrameworkError: As its `on_startup`.
        """
        self.service.state = ServiceState.STARTING
        try:
            await self.service.on_startup()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.service.on_shutdown()
            self.service.state = ServiceState.FAILED
            raise
        self.service.state = ServiceState.RUNNING
        self._is_started = True
        if type(self.service).on_run is not BaseService.on_run:
            self._run = Background(self._keep_running, name=f"pubsub: run {self.service.name}")

    async def stop(self) -> None:
        """Stop it. Stopping twice is as good as once."""
        run, self._run = self._run, None
        if run is not None:
            await run.end()
        if self._is_started:
            self._is_started = False
            self.service.state = ServiceState.STOPPING
            await self.service.on_shutdown()
            self.service.state = ServiceState.STOPPED

    async def _keep_running(self) -> None:
        while True:
            try:
                await self.service.on_run()
                return
            except Exception as error:  # noqa: BLE001 - a boundary: its background work is begun again
                self.service.logger.error("on_run failed", error=f"{type(error).__name__}: {error}")
                await anyio.sleep(1.0)
