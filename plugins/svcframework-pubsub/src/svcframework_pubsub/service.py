"""PubsubService: how often did it happen lately? In memory, for one process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from svcframework import BaseService, HealthResult, service_method
from svcframework.errors import ServiceFrameworkError, ServiceUnavailableError
from svcframework.ticks import every
from svcframework_pubsub.config import PubsubConfig


class PubsubFullError(ServiceFrameworkError):
    """There are too many different keys; `max_keys` says how many fit."""

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        super().__init__(f"All {max_keys} keys are in use: raise `max_keys`, shorten `window`, or use fewer keys.")


class PubsubService(BaseService[PubsubConfig]):
    """Counts events by key, over a sliding window of seconds. Lives as long as the host.

    Args:
        config: The settings; read from the configuration's section `pubsub` when not given.
        clock: Seconds on a clock that never goes back; tests pass their own.
    """

    # EDIT: the constructor takes collaborators and does no I/O: no file, no socket, no process.
    def __init__(
        self, config: PubsubConfig | Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(config)
        self._clock = clock
        self._events: dict[str, deque[float]] | None = None

    # EDIT: connect here. Driver errors become ours: ConnectionFailedError, ServiceTimeoutError, … `from error`.
    async def on_startup(self) -> None:
        """Begin with no events."""
        self._events = {}

    # EDIT: leave it out when there is nothing to do in the background.
    async def on_run(self) -> None:
        """Forget what is too old, now and then."""
        async for _ in every(self.config.sweep_interval):
            self.sweep()

    # EDIT: undo on_startup, also a partial one or none at all.
    async def on_shutdown(self) -> None:
        """Forget all events."""
        self._events = None

    # EDIT: ask the other system, with a limit of time; tell an operator what is wrong.
    async def _service_health_check(self) -> HealthResult:
        if self._events is None:
            return HealthResult.unhealthy("not running")
        if len(self._events) >= self.config.max_keys:
            return HealthResult.degraded("full", keys=len(self._events))
        return HealthResult.healthy(f"{len(self._events)} keys")

    @service_method  # timed, counted, traced; errors are reported
    async def record(self, key: str) -> int:
        """Note one event.

        Returns:
            How many there were within the window, this one included.

        Raises:
            PubsubFullError: The key is new and there is no room for it.
        """
        events = self._running()
        if key not in events and len(events) >= self.config.max_keys:
            self.sweep()
            if len(events) >= self.config.max_keys:
                raise PubsubFullError(self.config.max_keys)
        events.setdefault(key, deque()).append(self._clock())
        return self.count(key)

    def count(self, key: str) -> int:
        """How many events of that key there were within the window."""
        times = self._running().get(key, deque())
        oldest = self._clock() - self.config.window
        while times and times[0] <= oldest:
            times.popleft()
        return len(times)

    def sweep(self) -> int:
        """Forget keys without an event within the window; how many they were."""
        events = self._running()
        idle = [key for key in events if not self.count(key)]
        for key in idle:
            del events[key]
        return len(idle)

    def _running(self) -> dict[str, deque[float]]:
        if self._events is None:
            raise ServiceUnavailableError(self.name, "it is not running")
        return self._events
