"""The catalogue's live page as its users have it: a real browser, real servers, and what goes wrong with both."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import Browser, Page, expect, sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from catalogue import web
from catalogue.events import PACKAGES, PackageEvent
from catalogue.live import LiveFeed
from catalogue.packages import find_distributions
from svcframework import ServiceContainer, ServiceHost, providers
from svcframework.errors import ConnectionFailedError
from svcframework_embedded import EmbeddedPostgres
from svcframework_postgres import PostgresService
from svcframework_pubsub import PubSubService

PATIENCE = 60.0  # seconds for a start on a busy machine
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The drivers are asyncio's."""
    return "asyncio"


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def get(url: str, *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), {}


# --- the application, in this process -------------------------------------------------------------------


class Application:
    """The application behind uvicorn, on a loop of its own."""

    def __init__(self, port: int, portal: BlockingPortal) -> None:
        self.address, self.call, self.portal = f"127.0.0.1:{port}", portal.call, portal
        self.url = f"http://{self.address}"

    def watch(self, **headers: str) -> contextlib.AbstractContextManager[ClientConnection]:
        """A WebSocket."""
        return connect(f"ws://{self.address}/live", additional_headers=headers, max_size=None, open_timeout=PATIENCE)

    def publish(self, *events: PackageEvent) -> None:
        """As another process would."""
        self.call(web.host[PubSubService].publish_many, PACKAGES, events)


@contextlib.contextmanager
def serving(portal: BlockingPortal, port: int, *, lifespan: Literal["on", "off"]) -> Iterator[None]:
    """The application on that port; without a lifespan the host is somebody else's."""
    config = uvicorn.Config(web.app, port=port, log_level="critical", timeout_graceful_shutdown=3, lifespan=lifespan)
    server = uvicorn.Server(config)

    async def ready() -> None:
        with anyio.fail_after(PATIENCE):
            while not server.started:
                await anyio.sleep(0.02)

    served = portal.start_task_soon(server.serve)
    portal.call(ready)
    try:
        yield
    finally:
        server.should_exit = True
        served.result(PATIENCE)


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    """One for all tests; it has read all packages."""
    port = free_port()

    async def first_ingest() -> None:
        with anyio.fail_after(PATIENCE):
            await web.host[web.IngestService].first_ingest.wait()

    with start_blocking_portal() as portal, serving(portal, port, lifespan="on"):
        portal.call(first_ingest)
        yield Application(port, portal)


def take_until(socket_: ClientConnection, found: Any) -> list[dict[str, Any]]:
    """Entries, until one is what is looked for."""
    entries: list[dict[str, Any]] = []
    deadline = time.monotonic() + PATIENCE
    while not any(found(entry) for entry in entries):
        assert time.monotonic() < deadline, "only beats have come"
        entries += json.loads(socket_.recv(timeout=PATIENCE))
    return entries


def named(name: str) -> Any:
    """An entry about that package."""
    return lambda entry: entry.get("name") == name


def test_page_asks_for_nothing_and_allows_nothing(application: Application) -> None:
    """One file; no address of another host; only its own script and style may run, by their hashes."""
    status, page, headers = get(application.url)

    policy = headers["content-security-policy"]
    assert 200 == status
    assert ["http://www.w3.org/2000/svg"] == re.findall(r"https?://[^'\"\s>]+", page)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert 2 == len(re.findall(r"'sha256-[^']{44}'", policy))
    assert [] == re.findall(r"\son\w+=|\sstyle=|<script .*src|<link .*stylesheet", page)


def test_every_package_is_one_event(application: Application) -> None:
    """An ingest is heard in full, numbered without holes, and the counts agree."""
    with application.watch() as watcher:
        hello = json.loads(watcher.recv(timeout=PATIENCE))[0]
        status, body, _ = get(f"{application.url}/ingest", method="POST")
        application.publish(PackageEvent("the-last-one", "1", "", "gone"))
        entries = take_until(watcher, named("the-last-one"))

    installed = len(find_distributions())
    packages = [entry for entry in entries if entry["kind"] == "package"]
    numbers = [entry["n"] for entry in entries if "n" in entry]
    assert (200, {"packages": installed}) == (status, json.loads(body))
    assert installed + 1 == len(packages) == len({entry["name"] for entry in packages})
    assert {"same", "gone"} == {entry["change"] for entry in packages}
    assert list(range(numbers[0], numbers[0] + len(numbers))) == numbers
    assert hello["counts"]["new"] >= installed


def test_who_was_away_gets_what_is_new(application: Application) -> None:
    """With the last number it knows; without one it gets the last entries, and what it missed is counted."""
    with application.watch() as watcher:
        hello = json.loads(watcher.recv(timeout=PATIENCE))[0]
    last, epoch = hello["entries"][-1]["n"], hello["epoch"]
    application.publish(PackageEvent("while-away", "1", "", "new"))
    with application.watch() as watcher:
        take_until(watcher, lambda entry: any(map(named("while-away"), entry.get("entries", [entry]))))

    def come_back(after: int) -> dict[str, Any]:
        address = f"ws://{application.address}/live?epoch={epoch}&after={after}"
        with connect(address, max_size=None, open_timeout=PATIENCE) as again:
            return dict(json.loads(again.recv(timeout=PATIENCE))[0])

    back, late = come_back(last), come_back(0)
    assert (True, 0, ["while-away"]) == (back["resumed"], back["missed"], [entry["name"] for entry in back["entries"]])
    assert late["missed"] == late["entries"][0]["n"] - 1 > 0


def test_other_sites_are_refused(application: Application) -> None:
    """A page of another site can neither watch nor start an ingest, also by a name that leads here."""
    evil = "https://evil.example"

    with pytest.raises(InvalidStatus) as refused, application.watch(Origin=evil):
        pass

    assert 403 == refused.value.response.status_code
    assert 403 == get(f"{application.url}/ingest", method="POST", Origin=evil)[0]
    assert 400 == get(application.url, Host="evil.example")[0]
    assert 200 == get(f"{application.url}/ingest", method="POST", Origin=application.url)[0]


def test_no_more_viewers_than_allowed(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused before its connection is accepted."""
    monkeypatch.setattr(LiveFeed, "viewers", property(lambda feed: feed.config.max_viewers))

    with pytest.raises(InvalidStatus), application.watch():
        pass


def test_junk_on_the_channel_harms_nobody(application: Application) -> None:
    """What doesn't fit the event is left out, and the next event arrives."""
    notify = "SELECT pg_notify($1, $2)"
    with application.watch() as watcher:
        watcher.recv(timeout=PATIENCE)
        for junk in ("junk", '{"name": 1}', "{}", ""):
            application.call(web.host[PostgresService].execute_query, notify, PACKAGES, junk)
        application.publish(PackageEvent("after-the-junk", "1", "", "new"))
        entries = take_until(watcher, named("after-the-junk"))

    assert ["after-the-junk"] == [entry["name"] for entry in entries if entry["kind"] == "package"]


def test_ingest_without_database_is_no_crash(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page gets a sentence that it can show, and nothing about hosts or users."""

    async def fail(_: object) -> int:
        raise ConnectionFailedError("PostgreSQL", "secret-host:5432 refused")

    monkeypatch.setattr(web.IngestService, "ingest", fail)

    status, body, _ = get(f"{application.url}/ingest", method="POST")

    assert (503, {"error": "the database is away"}) == (status, json.loads(body))


def test_browser_that_never_reads_harms_nobody(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get every event, the server keeps little for it, and in the end hangs up."""
    monkeypatch.setattr(web, "PATIENCE", 2.0)
    wait_until_nobody_watches()
    with lazy_browser(application) as lazy, application.watch() as watcher:
        take_until(watcher, lambda entry: entry.get("viewers") == 2)
        for batch in range(5):  # 7 MB: more than the system buffers for a connection
            long = [PackageEvent(f"long-{batch}-{number}", "1", "x" * 7_000, "new") for number in range(200)]
            application.publish(*long)
            take_until(watcher, named(f"long-{batch}-199"))
        waiting = max(len(viewer._waiting) for viewer in web.host[LiveFeed]._viewers)
        gone = take_until(watcher, lambda entry: entry.get("viewers") == 1)

        assert [] == [entry for entry in gone if entry["kind"] == "skipped"]
        assert waiting <= web.host[LiveFeed].config.queue_size
        assert lazy.fileno() > 0


def wait_until_nobody_watches() -> None:
    """Those of the tests before have closed their connections, which the application may not have seen yet."""
    deadline = time.monotonic() + PATIENCE
    while web.host[LiveFeed].viewers:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def lazy_browser(application: Application) -> Iterator[socket.socket]:
    """A WebSocket that is opened, and then never read from."""
    host, _, port = application.address.partition(":")
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect((host, int(port)))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /live HTTP/1.1",
            f"Host: {application.address}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        lazy.sendall("\r\n".join([*lines, "", ""]).encode())
        yield lazy


async def test_slow_viewer_loses_the_oldest_and_is_told_how_many() -> None:
    """Its queue is bounded; a viewer beside it loses nothing."""

    class Container(ServiceContainer):
        pubsub_service = providers.Service(PubSubService, config={"backend": "memory"})
        live_feed = providers.Service(LiveFeed, config={"queue_size": 10})

    async with ServiceHost(Container) as host:
        feed, pubsub = host[LiveFeed], host[PubSubService]
        async with feed.watch() as slow, feed.watch() as quick:
            await quick.take()
            seen: list[dict[str, Any]] = []
            for number in range(50):
                await pubsub.publish(PACKAGES, PackageEvent(f"p{number}", "1", "", "new"))
                while len(seen) <= number:
                    seen += await quick.take()
            found = await slow.take()

    assert [f"p{number}" for number in range(50)] == [entry["name"] for entry in seen]
    assert {"kind": "skipped", "count": 41} == found[0]  # 50 events and the greeting, of which 10 stay
    assert [f"p{number}" for number in range(40, 50)] == [entry["name"] for entry in found[1:]]


# --- in a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The Chromium that is installed; none is downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no Chromium; .ci/run installs it")
        pytest.skip("there is no Chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=options, timeout=PATIENCE * 1000)
        yield launched
        launched.close()


class Visit:
    """A page in a browser, and what it complained of or asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self.complaints.append(line.text) if "Security Policy" in line.text else None)
        page.on("request", lambda request: self.requests.append(request.url))

    def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until it does."""
        expect(self.page.locator(selector).first).to_contain_text(text, timeout=PATIENCE * 1000)

    def number(self, selector: str) -> int:
        """A count."""
        return int(self.page.locator(selector).inner_text().replace(",", ""))


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A new window."""
    context = browser.new_context(locale="en-GB")
    yield Visit(context.new_page())
    context.close()


def test_browser_shows_events_as_they_arrive(application: Application, visit: Visit) -> None:
    """Counts, rows and progress follow; text stays text; nothing is asked of anybody else."""
    visit.page.goto(application.url)
    visit.shows("#state", "Connected")
    before = visit.number("#same")

    visit.page.click("#read")

    expect(visit.page.locator("#same")).to_have_text(f"{before + len(find_distributions()):,}", timeout=PATIENCE * 1000)
    visit.shows("#read-so-far", f"all {len(find_distributions())} packages read")
    application.publish(PackageEvent("sneaky", "2", "<img src=x onerror=alert(1)>", "updated", before="1"))
    visit.shows("#list li", "sneaky 1 → 2")
    visit.shows("#list li .text", "<img src=x onerror=alert(1)>")
    assert 0 == visit.page.locator("#list img").count()
    assert [f"{application.url}/", f"{application.url}/ingest"] == visit.requests
    assert [] == visit.complaints


def test_browser_is_told_of_a_server_that_was_away(application: Application, visit: Visit) -> None:
    """PostgreSQL is killed and comes back: the page says so, says that there is a gap, and goes on."""
    visit.page.goto(application.url)
    visit.shows("#state", "Connected")
    gaps, events = visit.number("#gaps"), visit.number("#events")

    application.call(web.host[EmbeddedPostgres].kill)

    expect(visit.page.locator("#gaps")).to_have_text(str(gaps + 1), timeout=PATIENCE * 1000)
    visit.shows("li.note .text", "could not hear its server")
    visit.shows("li.service:has-text('postgres')", "postgres")
    visit.shows("#state", re.compile("^Connected$"))
    application.publish(PackageEvent("after-the-gap", "1", "", "new"))
    visit.shows("#list", "after-the-gap")
    assert visit.number("#events") == events + 1
    assert [] == visit.complaints


def test_browser_catches_up_after_a_lost_connection(application: Application, visit: Visit) -> None:
    """The page connects again by itself, gets what it has missed, once, and says so."""
    visit.page.goto(application.url)
    visit.shows("#state", "Connected")
    feed = web.host[LiveFeed]

    def hang_up() -> None:
        for viewer in feed._viewers:
            viewer.close()

    application.call(hang_up)
    application.publish(PackageEvent("meanwhile", "1", "", "new"))

    visit.shows("#list li", re.compile("No connection for .* Nothing was missed"))
    expect(visit.page.locator("#list li:has-text('meanwhile')")).to_have_count(1)
    assert [] == visit.complaints


def test_pause_holds_events_back(application: Application, visit: Visit) -> None:
    """They are counted meanwhile, and shown later."""
    visit.page.goto(application.url)
    visit.shows("#state", "Connected")
    events = visit.number("#events")

    visit.page.click("#pause")
    application.publish(PackageEvent("patience", "1", "", "new"))
    expect(visit.page.locator("#events")).to_have_text(f"{events + 1:,}", timeout=PATIENCE * 1000)

    assert 0 == visit.page.locator("#list li:has-text('patience')").count()
    visit.page.click("#pause")
    visit.shows("#list li", "patience")


# --- the application, in a process of its own -----------------------------------------------------------


@contextlib.contextmanager
def started(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m catalogue.web`, answering."""
    command = [sys.executable, "-m", "catalogue.web", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    get(f"http://127.0.0.1:{port}")
                    break
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def test_browser_survives_a_restart_of_the_application(application: Application, visit: Visit, tmp_path: Path) -> None:
    """With open WebSockets it stops by itself and in time; the page says so, and then what it can't know."""
    port = free_port()
    with started(port, tmp_path) as process:
        visit.page.goto(f"http://127.0.0.1:{port}")
        visit.shows("#state", "Connected")
        with connect(f"ws://127.0.0.1:{port}/live", max_size=None) as watcher:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    watcher.recv(timeout=PATIENCE)
    visit.shows("#state", re.compile("Disconnected|Reconnecting"))
    expect(visit.page.locator("#read")).to_be_disabled()

    with serving(application.portal, port, lifespan="off"):  # another instance, on the same port
        visit.shows("#state", "Connected")
        visit.shows("#list li", re.compile(r"No connection for .* The application was restarted"))
        visit.page.goto("about:blank")

    assert (-signal.SIGTERM, 1012) == (code, closed.value.rcvd and closed.value.rcvd.code)
    assert [] == visit.complaints
