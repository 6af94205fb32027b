"""IngestService: reads what is installed, at the start and then every hour, and puts it into the store."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import Distribution

import anyio
from pydantic import Field

from catalogue.events import INGESTS, IngestEvent
from catalogue.packages import find_distributions, read_packages
from catalogue.store import PackageStore
from svcframework import (
    AsyncOperationMixin,
    BaseService,
    HealthResult,
    ServiceConfig,
    chunk_list,
    every,
    service_method,
)
from svcframework.events import ServiceEvent
from svcframework_pubsub import PubSubService


class IngestConfig(ServiceConfig, prefix="ingest"):
    """Settings of `IngestService`: `INGEST__INTERVAL=60` in the environment, `[ingest]` in `settings.toml`."""

    interval: float = Field(default=3600.0, gt=0, description="Seconds between two looks at what is installed.")
    batch_size: int = Field(default=8, ge=1, description="Packages read and written at a time.")


@dataclass(frozen=True, slots=True)
class IngestProgressed(ServiceEvent):
    """`done` of `total` packages are in the store. Whoever subscribed to the host sees it, as its own events."""

    done: int
    total: int

    @property
    def is_complete(self) -> bool:
        """Nothing is left to be read."""
        return self.done == self.total


class IngestService(AsyncOperationMixin, BaseService[IngestConfig]):
    """Fills the store in the background; lives as long as the host.

    When `on_run` raises, the host restarts the service: a database that is away for a moment ends nothing.
    """

    def __init__(self, store: PackageStore, pubsub: PubSubService) -> None:
        super().__init__()
        self.store, self.pubsub = store, pubsub
        self.first_ingest = anyio.Event()
        """Set once the store is filled."""
        self._ingested = 0
        self._one_at_a_time = anyio.Lock()

    async def on_run(self) -> None:
        """Ingest at once and then at each interval; a stop lets the batch that is under way end."""
        async for _ in every(self.config.interval):
            await self.ingest()

    async def _service_health_check(self) -> HealthResult:
        if not self._ingested:
            return HealthResult.degraded("the first ingest is under way")
        return HealthResult.healthy(f"read {self._ingested} packages")

    @service_method
    async def ingest(self) -> int:
        """Read every installed package into the store, after an ingest that is under way.

        Returns:
            How many there are.
        """
        async with self._one_at_a_time:
            return await self._ingest()

    async def _ingest(self) -> int:
        found = await self.run_in_thread(find_distributions)
        names: set[str] = set()
        for batch in chunk_list(found, self.config.batch_size):
            names |= await self._ingest_batch(batch)
            await self._tell(len(names), len(found))
        await self.store.keep_only(names)
        self._ingested = len(names)
        self.first_ingest.set()
        return self._ingested

    async def _tell(self, done: int, total: int) -> None:
        """How far it is: to this process by an event of the host, to every other by a message."""
        if self.host is not None:
            self.host.emit(IngestProgressed(self.name, done, total))
        await self.pubsub.publish(INGESTS, IngestEvent(done, total))

    async def _ingest_batch(self, batch: list[Distribution]) -> set[str]:
        packages = await self.run_in_thread(read_packages, batch)
        await self.store.save(packages)
        return {package.name for package in packages}
