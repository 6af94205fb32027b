"""The catalogue example: its services on real servers, and the parts of the demo that decide its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from catalogue.container import PLUGINS, CatalogueContainer
from catalogue.demo.checks import Checks, alive, has_children, left_behind, out_of_order
from catalogue.demo.journal import Journal
from catalogue.ingest import IngestProgressed, IngestService
from catalogue.packages import Package, canonical_name, find_distributions, read_packages
from catalogue.reader import PackageReader
from catalogue.search import SearchService
from catalogue.store import PackageStore
from catalogue_licences import LicenceService
from svcframework import ServiceHost
from svcframework.events import Event, HostStopping, ServiceStarted


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The drivers are asyncio's."""
    return "asyncio"


# --- the application ------------------------------------------------------------------------------------


class Filled:
    """A running host after its first ingest, on a loop of its own, and the events until then."""

    def __init__(self, host: ServiceHost, events: list[Event], portal: BlockingPortal) -> None:
        self.host, self.events = host, events
        self.call = portal.call


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    """One host for the tests of this module: its servers take seconds to start."""
    events: list[Event] = []
    host = ServiceHost(CatalogueContainer, plugins=PLUGINS, log_events=False)
    host.subscribe(events.append)

    async def first_ingest() -> None:
        with anyio.fail_after(60):
            await host[IngestService].first_ingest.wait()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(host):
        portal.call(first_ingest)
        yield Filled(host, events, portal)


def test_ingest_stores_every_installed_package(filled: Filled) -> None:
    """The store has exactly the packages of this environment."""
    names = filled.call(filled.host[PackageStore].names)

    assert {canonical_name(found.metadata["Name"]) for found in find_distributions()} == names


def test_ingest_tells_how_far_it_is(filled: Filled) -> None:
    """Progress is an event of the host: it only grows, and ends with everything done."""
    progress = [event for event in filled.events if isinstance(event, IngestProgressed)]

    assert sorted(event.done for event in progress) == [event.done for event in progress]
    assert (True, [False]) == (progress[-1].is_complete, list({event.is_complete for event in progress[:-1]}))


def test_package_that_is_gone_is_forgotten(filled: Filled) -> None:
    """The next ingest leaves nothing behind that isn't installed any more."""
    store = filled.host[PackageStore]
    filled.call(store.save, [Package("long-gone", "1", "", "", "")])

    filled.call(filled.host[IngestService].ingest)

    assert None is filled.call(store.find, "long-gone")


def test_search_finds_the_best_first_and_keeps_it(filled: Filled) -> None:
    """A word in the name counts most; the second search doesn't reach the store."""
    store = filled.host[PackageStore].metrics.operation("search")
    search = filled.host[SearchService].search

    first = filled.call(search, "tenacity", 3)
    asked = store.count
    second = filled.call(search, "tenacity", 3)

    assert "tenacity" == first[0].name
    assert (first, asked) == (second, store.count)


def test_reader_takes_any_spelling(filled: Filled) -> None:
    """Names are compared as package indexes do."""
    read = filled.host[PackageReader].read

    found = filled.call(read, "Typing_Extensions")

    assert found is not None
    assert "typing-extensions" == found.name
    assert None is filled.call(read, "no-such-package")


def test_plugin_counts_licences(filled: Filled) -> None:
    """A service of another distribution works on the same database."""
    counts = filled.call(filled.host[LicenceService].most_used, 1000)

    assert len(find_distributions()) == sum(number for _, number in counts)


def test_command_searches_and_stops() -> None:
    """`python -m catalogue WORDS` prints hits and ends with 0."""
    command = [sys.executable, "-m", "catalogue", "asyncpg"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "asyncpg" in done.stdout.splitlines()[0]


# --- reading metadata -----------------------------------------------------------------------------------


def installed(folder: Path, *fields: str) -> Distribution:
    """A distribution with this metadata."""
    place = folder / "a-1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", "Name: A.b", "Version: 1", *fields]))
    return PathDistribution(place)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        (["License-Expression: MIT", "License: something else"], "MIT"),
        (["License: BSD"], "BSD"),
        ([f"License: {'the whole text ' * 10}", "Classifier: License :: OSI Approved :: MIT License"], "MIT"),
        ([], "not given"),
    ],
)
def test_licence_is_a_short_name(tmp_path: Path, fields: Iterable[str], licence: str) -> None:
    """The newest field wins; a licence's whole text is no name."""
    assert [licence] == [package.licence for package in read_packages([installed(tmp_path, *fields)])]


def test_description_is_text_that_postgres_takes(tmp_path: Path) -> None:
    """The body of the metadata is the description, and NUL is left out."""
    package = read_packages([installed(tmp_path, "Summary: short", "", "long\0er")])[0]

    assert ("a-b", "short", "longer") == (package.name, package.summary, package.description.strip())


# --- what decides the demo's exit code ------------------------------------------------------------------


def test_one_false_claim_is_enough() -> None:
    """No claims are no success, and neither is any false one; what was found is told."""
    checks = Checks()
    assert not checks.all_true

    checks.equal("one", 1, 1)
    assert checks.all_true

    checks.equal("two", 2, 3)
    assert not checks.all_true
    assert "expected 2, found 3" == checks.made[-1].found


def test_dependency_that_stopped_first_is_found() -> None:
    """A service may stop after those that need it only."""
    needs = {"api": ["store"], "store": ["database"], "database": []}

    assert [] == out_of_order(["api", "store", "database"], needs)
    assert ["api"] == out_of_order(["store", "api", "database"], needs)


def test_what_is_left_is_found(tmp_path: Path) -> None:
    """Processes, children of this one, and files."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert [process.pid] == alive([process.pid])
        assert has_children()
        process.communicate(b"\n")

    assert [] == alive([process.pid])
    assert [str(tmp_path)] == left_behind([tmp_path, tmp_path / "never"])
    assert [os.getpid()] == alive([os.getpid()])


async def test_journal_is_followed_by_several() -> None:
    """Each follower sees what was, and what comes, once and in order."""
    journal, seen = Journal(), []
    journal(HostStopping("old"))

    async def follow() -> None:
        event = await journal.wait_for(ServiceStarted, lambda event: event.service == "b")
        seen.append(event.service)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        journal(ServiceStarted("a", 0.1))
        await anyio.wait_all_tasks_blocked()
        assert [] == seen
        journal(ServiceStarted("b", 0.1))

    assert ["b", "b"] == seen
    assert ["a", "b"] == [event.service for event in journal.of(ServiceStarted)]
