"""The demo's steps, one method each; what they claim is checked, and decides the exit code."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console, OverflowMethod, RenderableType
from rich.padding import Padding

from catalogue.container import PLUGINS, CatalogueContainer
from catalogue.demo import screens
from catalogue.demo.checks import Checks, alive, has_children, left_behind, out_of_order
from catalogue.demo.journal import Journal
from catalogue.events import PACKAGES, PackageEvent
from catalogue.ingest import IngestProgressed, IngestService
from catalogue.packages import Hit, canonical_name
from catalogue.reader import PackageReader
from catalogue.search import SearchService
from catalogue.store import PackageStore
from catalogue_licences import LicenceService
from svcframework import ConfigManager, HealthStatus, Restart, ServiceHost, ServiceState, configure_logging, every
from svcframework.errors import ServiceFrameworkError
from svcframework.events import HealthChanged, HostStopping, RetryScheduled, ServiceStarted, ServiceStopped
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey
from svcframework_pubsub import PubSubService

QUERIES = ("http client", "type checking", "postgresql driver", "redis", "test fixtures")
READERS = 4
PATIENCE = 30.0  # seconds that any single step may wait for something to happen

# A crash of the embedded server is repaired in a tenth of a second. Here it takes longer and is looked at more often,
# so that one can see it.
SETTINGS: dict[str, Any] = {
    "embedded_postgres": {"restart": Restart.permanent(delay=2.0, jitter=0.0), "health_check_interval": 0.4},
    "database": {"health_check_interval": 0.4},
}


def settings() -> ConfigManager:
    """The demo's own settings and no others: it kills its database, so nothing around it may lead it to yours."""
    cache = "EMBEDDED_POSTGRES__CACHE_DIR"
    surroundings = {cache: os.environ[cache]} if cache in os.environ else {}
    return ConfigManager(SETTINGS, environ=surroundings, root=Path(__file__).parent)


class Demo:
    """One performance, from start to stop.

    Args:
        console: Where it is shown.
        graph: The file that the Mermaid graph is written to.
    """

    def __init__(self, console: Console, graph: Path) -> None:
        self.console, self.graph = console, graph
        self.host = ServiceHost(CatalogueContainer, plugins=PLUGINS, config=settings())
        self.journal, self.checks = Journal(), Checks()
        self.installed = installed_names()
        self.pids: set[int] = set()
        self.folders: set[Path] = set()
        self.reads = self.failed_reads = 0

    def run(self) -> int:
        """Perform, stop everything and check what is left; the exit code."""
        self.title("Start", "servers, clients and services, each as soon as what it needs is there")
        self.host.subscribe(self.journal)
        try:
            self.host.run(self.perform)
        except SystemExit as ended:  # it owns the process, and so would end it
            if ended.code:
                return int(ended.code)
        self.show_stop()
        self.title("Verified", "what this demo claims")
        self.show(screens.verdict(self.checks.made))
        return 0 if self.checks.all_true else 1

    async def perform(self) -> None:
        """All that happens while the host runs."""
        for step in (
            self.show_start,
            self.watch_ingest,
            self.search,
            self.hear_events,
            self.survive_a_crash,
            self.show_health,
            self.show_metrics,
            self.show_graph,
        ):
            with anyio.fail_after(PATIENCE):
                await step()
        self.title("Stop", "dependents first; the servers last")

    # --- the steps --------------------------------------------------------------------------------------

    async def show_start(self) -> None:
        """When each service began, how long it took, and which ones the others waited for."""
        lifecycle = self.host.lifecycle
        self.show(screens.timeline(lifecycle.timeline(), lifecycle.critical_path))
        self.show(f"critical path: [bold yellow]{' → '.join(lifecycle.critical_path)}[/]")
        states = self.host.states
        running = [name for name, state in states.items() if state is ServiceState.RUNNING]
        self.checks.equal("services that run", len(states), len(running))
        self.note_what_must_be_gone_later()

    async def watch_ingest(self) -> None:
        """A progress bar, fed by the events of the ingest."""
        self.title("Ingest", "the metadata of every distribution in this Python, in the background")
        with screens.progress(self.console) as bar:
            task = bar.add_task("", total=len(self.installed))
            async for entry in self.journal.follow():
                if isinstance(entry.event, IngestProgressed):
                    bar.update(task, completed=entry.event.done, total=entry.event.total)
                    if entry.event.is_complete:
                        break
        names = await self.host[PackageStore].names()
        self.show(screens.licences(await self.host[LicenceService].most_used()))
        self.checks.equal("packages in the database, as many as are installed", len(self.installed), len(names))
        self.checks.equal("packages missing or too many", set(), names ^ self.installed)

    async def search(self) -> None:
        """Each query twice: first from the database, then from the cache."""
        self.title("Search", "PostgreSQL full text; the second time from Valkey")
        store = self.host[PackageStore].metrics.operation("search")
        rows, same = [], True
        before = store.count
        for query in QUERIES:
            hits, cold = await self.timed_search(query)
            again, cached = await self.timed_search(query)
            rows.append((query, hits, cold, cached))
            same = same and hits == again
        self.show(screens.searches(rows))
        found = [len(hits) for _, hits, _, _ in rows]
        self.checks.true("every query has hits", all(found), found)
        self.checks.true("cached answers are the same", same, f"{len(rows)} of {len(rows)}" if same else "they differ")
        self.checks.equal("the database was asked once per query", len(QUERIES), store.count - before)

    async def hear_events(self) -> None:
        """Read all packages again, and hear of each; hear nothing of what is taken back."""
        self.title("Events", "published in the transaction that they are about; heard if it commits, and only then")
        async with self.host[PubSubService].subscribe(PACKAGES, model=PackageEvent) as messages:
            await self.publish_and_take_back("never-was")
            count = await self.host[IngestService].ingest()
            heard = [await anext(messages) for _ in range(count)]
        names = [message.payload.name for message in heard]
        self.show(f"{len(heard)} events; the last one: {heard[-1].payload.name}, {heard[-1].payload.change}")
        self.checks.true("events heard, one for each package", sorted(names) == sorted(self.installed), len(heard))
        self.checks.true("events of a transaction that was rolled back", "never-was" not in names, "none")

    async def survive_a_crash(self) -> None:
        """Kill PostgreSQL while it is read from, and wait until all is well again."""
        self.title("Crash", f"PostgreSQL is killed with SIGKILL while {READERS} readers read without a pause")
        postgres, began = self.host[EmbeddedPostgres], self.journal.now
        killed, gaps = postgres.pid, list[float]()
        async with (
            self.host[PubSubService].subscribe(PACKAGES, on_gap=gaps.append),
            anyio.create_task_group() as tasks,
        ):
            for number in range(READERS):
                tasks.start_soon(self.read_on, sorted(self.installed)[number::READERS])
            tasks.start_soon(self.tell_of_the_outage, began)
            await self.until_reads(100)
            self.show(f"[dim]{self.since(began)}[/]  [bold red]kill -9 {killed}[/] (PostgreSQL)")
            os.kill(killed, signal.SIGKILL)
            for service in ("postgres", "database_service"):
                await self.journal.wait_for(
                    HealthChanged, partial(_turned, service, HealthStatus.UNHEALTHY), since=began
                )
            _, seconds = await self.timed_search(QUERIES[0])
            self.show(
                f"[dim]{self.since(began)}[/]  a cached search answers in {seconds * 1000:.1f} ms, without the database"
            )
            self.checks.true(
                "a cached search works without the database", not postgres.is_alive, f"{seconds * 1000:.1f} ms"
            )
            red = self.journal.now
            for service in ("postgres", "database_service"):
                await self.journal.wait_for(HealthChanged, partial(_turned, service, HealthStatus.HEALTHY), since=red)
            await self.until_reads(self.reads + 100)
            await until(lambda: bool(gaps))
            tasks.cancel_scope.cancel()
        self.sum_up_the_outage(began, killed, postgres.pid)
        self.checks.true("a subscriber was told that it may have missed events", bool(gaps), f"{sum(gaps):.1f} s")
        names = await self.host[PackageStore].names()
        self.checks.true("no package was lost", names == self.installed, len(names))
        self.note_what_must_be_gone_later()

    async def show_health(self) -> None:
        """How each service is now."""
        self.title("Health", "every service, checked now")
        results = await self.host.health.check_all(fresh=True)
        self.show(screens.health(results, self.host.states))
        self.checks.equal("healthy services at the end", len(self.host.states), sum(map(_is_healthy, results.values())))

    async def show_metrics(self) -> None:
        """What was counted, against what was done."""
        self.title("Metrics", "what @service_method has counted")
        metrics = self.host.summary()["metrics"]
        self.show(screens.metrics(metrics))
        counted = metrics["package_reader"]["operations"]["read"]["success"]
        self.checks.equal("reads that were counted, and that succeeded", self.reads, counted)

    async def show_graph(self) -> None:
        """The services as a tree, and as Mermaid in a file."""
        self.title("Graph", "who needs whom")
        self.console.print(Padding(self.host.describe(), (0, 2), expand=False), markup=False, highlight=False)
        path = anyio.Path(self.graph)
        await path.parent.mkdir(parents=True, exist_ok=True)
        await path.write_text(self.host.mermaid(), encoding="utf-8")
        self.show(f"as Mermaid: [cyan]{self.graph}[/]")
        drawn = await path.read_text(encoding="utf-8")
        self.checks.true("the graph names every service", all(name in drawn for name in self.host.states), self.graph)

    def show_stop(self) -> None:
        """In which order everything stopped, and that nothing is left."""
        stopping = next(entry.at for entry in self.journal.entries if isinstance(entry.event, HostStopping))
        stops = self.journal.of(ServiceStopped, since=stopping)
        needs = self.host.graph.edges()
        self.show(screens.stops(stops, needs))
        stopped = [event.service for event in stops]
        started = {event.service for event in self.journal.of(ServiceStarted)}
        self.checks.true("what was started has been stopped, once", sorted(started) == sorted(stopped), len(stopped))
        self.checks.equal("services that stopped after one they need", [], out_of_order(stopped, needs))
        self.checks.equal("errors while stopping", [], [event.error for event in stops if event.error])
        self.checks.equal("processes left", [], alive(self.pids))
        self.checks.true("… and child processes of this one", not (some := has_children()), "some" if some else "none")
        self.checks.equal("directories left", [], left_behind(self.folders))

    # --- their parts ------------------------------------------------------------------------------------

    async def timed_search(self, query: str) -> tuple[list[Hit], float]:
        """The hits, and the seconds it took to get them."""
        began = time.perf_counter()
        hits = await self.host[SearchService].search(query)
        return hits, time.perf_counter() - began

    async def read_on(self, names: Sequence[str]) -> None:
        """Read one package after the other, until cancelled."""
        reader = self.host[PackageReader]
        for name in itertools.cycle(names):
            try:
                found = await reader.read(name)
            except ServiceFrameworkError:
                self.failed_reads += 1
            else:
                self.reads += 1
                self.failed_reads += found is None or found.name != name
            await anyio.sleep(0.002)

    async def publish_and_take_back(self, name: str) -> None:
        """Publish an event in a transaction that doesn't commit."""
        event = PackageEvent(name, "1.0", "", "new")
        with contextlib.suppress(_TakenBackError):
            async with self.host[PackageStore].transaction() as transaction:
                await self.host[PubSubService].publish(PACKAGES, event, transaction=transaction)
                raise _TakenBackError

    async def until_reads(self, count: int) -> None:
        """Wait until so many reads have succeeded."""
        await until(lambda: self.reads >= count)

    async def tell_of_the_outage(self, began: float) -> None:
        """Print what happens, as it happens; of all the retries only the first."""
        told: set[type] = set()
        async for entry in self.journal.follow(began):
            line = screens.outage_line(entry.event)
            if line is not None and not (RetryScheduled in told and isinstance(entry.event, RetryScheduled)):
                told.add(type(entry.event))
                self.show(f"[dim]{entry.at - began:5.2f} s[/]  {line}")

    def sum_up_the_outage(self, began: float, killed: int, running: int) -> None:
        """What the outage did to readers and to health."""
        retries = self.journal.of(RetryScheduled, since=began)
        turns = {
            name: [
                event.new.status.value for event in self.journal.of(HealthChanged, since=began) if event.service == name
            ]
            for name in ("postgres", "database_service")
        }
        self.show(f"{self.reads} reads, {len(retries)} retries, [bold]{self.failed_reads} failed[/]")
        self.checks.true("PostgreSQL runs again, as another process", killed != running, f"{killed} → {running}")
        self.checks.true("reads during the outage were retried", bool(retries), f"{len(retries)} retries")
        self.checks.equal("reads that failed or found the wrong package", 0, self.failed_reads)
        for name, found in turns.items():
            self.checks.equal(f"health of {name} went red, then green", "unhealthy → healthy", " → ".join(found))

    def note_what_must_be_gone_later(self) -> None:
        """The servers that run now, and where their data is."""
        for server in (self.host[EmbeddedPostgres], self.host[EmbeddedValkey]):
            self.pids.add(server.pid)
            self.folders.add(server.data_dir.parent)

    # --- showing ----------------------------------------------------------------------------------------

    def title(self, name: str, subtitle: str) -> None:
        """The heading of a step."""
        self.console.print(f"\n[bold cyan]{name}[/]  [dim]{subtitle}[/]\n", highlight=False)

    def show(self, content: RenderableType) -> None:
        """Print something below the heading; text stays on its line."""
        is_line = isinstance(content, str)
        overflow: OverflowMethod = "ellipsis" if is_line else "fold"
        self.console.print(Padding(content, (0, 2), expand=False), highlight=False, no_wrap=is_line, overflow=overflow)

    def since(self, began: float) -> str:
        """The seconds since then."""
        return f"{self.journal.now - began:5.2f} s"


class _TakenBackError(Exception):
    """Rolls a transaction back."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async for _ in every(0.01):
        if condition():
            return


def installed_names() -> set[str]:
    """The names of all installed distributions, found without the catalogue's help."""
    return {canonical_name(each.metadata["Name"]) for each in metadata.distributions() if "Name" in each.metadata}


def _turned(service: str, status: HealthStatus, event: HealthChanged) -> bool:
    return event.service == service and event.new.status is status


def _is_healthy(result: object) -> bool:
    return getattr(result, "status", None) is HealthStatus.HEALTHY


def main() -> int:
    """Parse the command line, perform, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m catalogue.demo", description=__doc__)
    parser.add_argument("--graph", type=Path, default=Path(".cache/catalogue.mmd"), help="where the graph is written")
    arguments = parser.parse_args()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ shows ?
    configure_logging("critical")  # the demo shows by itself what the log would say
    console = Console()
    if not console.is_terminal:
        console = Console(width=110)
    return Demo(console, arguments.graph).run()
