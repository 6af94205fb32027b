"""LiveFeed: what happens in the catalogue, for people who watch. Knows nothing of browsers."""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
from pydantic import Field

from catalogue.events import INGESTS, PACKAGES, IngestEvent, PackageEvent
from svcframework import BaseService, HealthResult, ServiceConfig
from svcframework.events import Event, HealthChanged, ServiceCrashed, ServiceRestarting, ServiceStarted
from svcframework_pubsub import Message, PubSubService

Entry = dict[str, Any]
"""One thing that happened, as JSON: its number `n`, the second `at`, its `kind`, and what the kind has."""


class LiveConfig(ServiceConfig, prefix="live"):
    """Settings of `LiveFeed`."""

    history: int = Field(default=200, ge=1, description="Entries that somebody who joins is shown.")
    queue_size: int = Field(default=500, ge=1, description="Entries that wait for one viewer; then the oldest goes.")
    max_viewers: int = Field(default=200, ge=1, description="Viewers at a time.")


class Viewer:
    """One who watches; lives as long as the `async with feed.watch()` block. A slow one loses entries, nobody else."""

    def __init__(self, size: int) -> None:
        self._waiting: deque[Entry] = deque(maxlen=size)
        self._skipped = 0
        self._news = anyio.Event()
        self.is_closed = False

    def put(self, entry: Entry) -> None:
        """Let an entry wait; the oldest makes room."""
        self._skipped += len(self._waiting) == self._waiting.maxlen
        self._waiting.append(entry)
        self._news.set()

    def close(self) -> None:
        """No more will come."""
        self.is_closed = True
        self._news.set()

    async def take(self) -> list[Entry]:
        """All that has come since the last call; waits for it. Nothing when there is no more to come."""
        if not self._waiting and not self.is_closed:
            self._news = anyio.Event()
            await self._news.wait()
        entries, skipped = list(self._waiting), self._skipped
        self._waiting.clear()
        self._skipped = 0
        return [{"kind": "skipped", "count": skipped}, *entries] if skipped else entries


class LiveFeed(BaseService[LiveConfig]):
    """Collects the events of the catalogue and of its host, and hands them to viewers; lives as long as the host.

    Every entry has a number. Who was away says which one came last, and gets what is new.
    """

    def __init__(self, pubsub: PubSubService) -> None:
        super().__init__()
        self.pubsub = pubsub
        self.counts: Counter[str] = Counter()
        self.epoch = ""
        self._history: deque[Entry] = deque()
        self._last = 0
        self._progress: Entry | None = None
        self._down: set[str] = set()
        self._viewers: set[Viewer] = set()
        self._unsubscribe: Callable[[], None] | None = None

    # --- life -------------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Listen: to both channels, and to the host."""
        self.epoch = secrets.token_hex(8)  # numbers begin anew with every start
        self._history = deque(maxlen=self.config.history)
        if self.host is not None:
            self._unsubscribe = self.host.subscribe(self._tell_of_the_host)
        await self.pubsub.on(PACKAGES, self._tell_of_a_package, model=PackageEvent, on_gap=self._tell_of_a_gap)
        await self.pubsub.on(INGESTS, self._tell_of_an_ingest, model=IngestEvent)

    async def on_shutdown(self) -> None:
        """Let everybody go; the subscriptions end with the pub/sub service."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for viewer in self._viewers:
            viewer.close()

    async def _service_health_check(self) -> HealthResult:
        return HealthResult.healthy(f"{len(self._viewers)} viewers, {self._last} entries")

    # --- viewers ----------------------------------------------------------------------------------------

    @property
    def viewers(self) -> int:
        """How many watch."""
        return len(self._viewers)

    @asynccontextmanager
    async def watch(self, *, epoch: str = "", after: int = 0) -> AsyncIterator[Viewer]:
        """Join for the length of the block; the viewer's first entry says how things stand.

        Args:
            epoch: Of the feed that `after` is about.
            after: The last entry that is known already; 0 for none.
        """
        viewer = Viewer(self.config.queue_size)
        viewer.put(self._how_things_stand(epoch, after))
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    def _how_things_stand(self, epoch: str, after: int) -> Entry:
        is_known = epoch == self.epoch
        entries = [entry for entry in self._history if not is_known or entry["n"] > after]
        missed = self._last - after - len(entries) if is_known else 0
        return {
            "kind": "hello",
            "epoch": self.epoch,
            "resumed": is_known,
            "missed": max(0, missed),
            "counts": dict(self.counts),
            "progress": self._progress,
            "down": sorted(self._down),
            "entries": entries,
        }

    # --- what happens -----------------------------------------------------------------------------------

    def _tell_of_a_package(self, message: Message[PackageEvent]) -> None:
        event = message.payload
        self.counts[event.change] += 1
        self._add("package", took=max(0.0, time.time() - message.time), **asdict(event))

    def _tell_of_an_ingest(self, message: Message[IngestEvent]) -> None:
        # Only the last one counts, so it isn't kept with the others.
        self._progress = asdict(message.payload)
        for viewer in self._viewers:
            viewer.put({"kind": "ingest", **self._progress})

    def _tell_of_a_gap(self, seconds: float) -> None:
        self.counts["gaps"] += 1
        self._add("gap", seconds=seconds)

    def _tell_of_the_host(self, event: Event) -> None:
        if isinstance(event, ServiceCrashed):
            self._tell_of_a_service(event.service, "crashed", is_down=True)
        elif isinstance(event, ServiceRestarting):
            self._tell_of_a_service(event.service, f"starts again in {event.delay:.2f} s", is_down=True)
        elif isinstance(event, ServiceStarted):
            self._tell_of_a_service(event.service, f"runs, after {event.seconds:.2f} s", is_down=False)
        elif isinstance(event, HealthChanged):
            message = f": {event.new.message}" if event.new.message else ""
            self._tell_of_a_service(event.service, f"is {event.new.status.value}{message}", is_down=not event.new)

    def _tell_of_a_service(self, service: str, text: str, *, is_down: bool) -> None:
        (self._down.add if is_down else self._down.discard)(service)
        self._add("service", service=service, text=text, down=is_down)

    def _add(self, kind: str, **fields: Any) -> None:
        self._last += 1
        entry = {"n": self._last, "at": time.time(), "kind": kind, **fields}
        self._history.append(entry)
        for viewer in self._viewers:
            viewer.put(entry)
