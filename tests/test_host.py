"""A host starts, watches and stops its services as one; on asyncio and on trio."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from svcframework import (
    BaseService,
    HealthResult,
    Restart,
    ServiceConfig,
    ServiceContainer,
    ServiceHost,
    ServiceState,
    WiringError,
    get_service,
    inject_service,
    providers,
    retry_on_failure,
)
from svcframework.discovery import PluginCatalogue
from svcframework.errors import (
    EventLoopError,
    ForkError,
    HostFailedError,
    HostNotRunningError,
    IllegalStateError,
    OverrideError,
    ServiceNotFoundError,
    ShutdownError,
    StartupCancelledError,
    StartupError,
)
from svcframework.events import Event, HostStarted, RetryScheduled, ServiceStarted, ServiceStopped
from svcframework.log import configure_logging


class Recorder(BaseService):
    """Notes what happens to it in the list of its class."""

    story: list[str]

    async def on_startup(self) -> None:
        self.story.append(f"+{self.name}")

    async def on_shutdown(self) -> None:
        self.story.append(f"-{self.name}")


@pytest.fixture
def story() -> Iterator[list[str]]:
    """What the recorders of a test have noted."""
    Recorder.story = []
    yield Recorder.story
    del Recorder.story


class Database(Recorder):
    pass


class Users(Recorder):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database


class Mail(Recorder):
    pass


class App(ServiceContainer):
    users = providers.Service(Users)
    database = providers.Service(Database)


def a_host(*services: type, **options: object) -> ServiceHost:
    """Return a silent host of services without a container."""
    host = ServiceHost(log_events=False, name="app", **options)  # type: ignore[arg-type]
    for service in services:
        host.register(service)
    return host


# --- a life ---------------------------------------------------------------------------------------------


async def test_block_starts_and_stops(story: list[str]) -> None:
    """`async with` starts dependencies first and stops dependents first."""
    host = ServiceHost(App, log_events=False)
    async with host as entered:
        assert entered is host
        assert host.is_running
        assert ["+database", "+users"] == story
        assert host[Users] is host["users"]
        assert host[Users].database is host["database"]
    assert ["+database", "+users", "-users", "-database"] == story
    assert ServiceState.STOPPED is host.state


async def test_start_after_stop(story: list[str]) -> None:
    """A host can live again; its services are the same instances."""
    host = ServiceHost(App, log_events=False)
    await host.start()
    before = host["users"]
    await host.stop()
    async with host:
        assert before is host["users"]
    assert ["+database", "+users", "-users", "-database"] * 2 == story


async def test_concurrent_starts_are_one(story: list[str]) -> None:
    """Ten tasks that start a host at once start it once; a further start and stop do nothing."""
    host = ServiceHost(App, log_events=False)
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(host.start)
    await host.start()
    assert ["+database", "+users"] == story
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(host.stop)
    await host.stop()
    assert ["+database", "+users", "-users", "-database"] == story


async def test_stop_of_a_new_host_does_nothing() -> None:
    """What never started needs no stop."""
    await a_host(Mail).stop()


async def test_restart_takes_dependents_along(story: list[str]) -> None:
    """A restarted service stops after those that need it and starts before them; others run on."""
    host = a_host(Users, Database, Mail)
    async with host:
        del story[:]
        await host.restart("database")
        assert ["-users", "-database", "+database", "+users"] == story
        assert host.states["mail"] is ServiceState.RUNNING


async def test_nested_entering_is_refused(story: list[str]) -> None:
    """A host is entered once at a time, and can be entered again afterwards."""
    host = a_host(Mail)
    async with host:
        with pytest.raises(IllegalStateError, match=r"Can't enter the host while it is entered already: use one"):
            async with host:
                pass
        assert host.is_running
    async with host:
        pass
    assert ["+mail", "-mail"] * 2 == story


async def test_entering_twice_at_once_is_refused(story: list[str]) -> None:
    """The second of two tasks that enter during the start gets the error, and the first is not disturbed."""
    host = a_host(Mail)
    outcomes: list[str] = []

    async def enter() -> None:
        try:
            async with host:
                await anyio.wait_all_tasks_blocked()
            outcomes.append("left")
        except IllegalStateError:
            outcomes.append("refused")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
    assert ["refused", "left"] == outcomes
    assert ["+mail", "-mail"] == story


async def test_error_of_the_block_wins_over_that_of_the_stop() -> None:
    """What went wrong first is raised; what the stop says is noted on it."""

    class Sticky(BaseService):
        async def on_shutdown(self) -> None:
            raise OSError("stuck")

    host = a_host(Sticky)
    with pytest.raises(ValueError, match="the block") as caught:
        async with host:
            raise ValueError("the block")
    assert "sticky: stuck" in caught.value.__notes__[0]
    with pytest.raises(ShutdownError, match="sticky: stuck"):
        async with host:
            pass


async def test_failed_start_is_told_and_undone(story: list[str]) -> None:
    """The error names the service, what it said and what was not tried."""

    class Broken(BaseService):
        def __init__(self, database: Database) -> None:
            super().__init__()

        async def on_startup(self) -> None:
            raise OSError("no answer")

    host = a_host(Database, Broken)
    with pytest.raises(StartupError, match=r"1 of 2 services failed to start; the 1 that had started") as caught:
        await host.start()
    assert ("broken",) == tuple(caught.value.errors)
    assert ["+database", "-database"] == story
    assert not host.is_running


async def test_error_of_a_constructor_says_whose_it_is() -> None:
    """The error is the constructor's own, with the service and its declaration noted on it."""

    class Broken(BaseService):
        def __init__(self) -> None:
            raise ValueError("bad size")

    host = a_host(Broken)
    with pytest.raises(ValueError, match="bad size") as caught:
        await host.start()
    descriptor = host.registry["broken"]
    assert [f"while {descriptor.label} was built, declared at {descriptor.at}"] == caught.value.__notes__
    assert ServiceState.REGISTERED is host.state


async def test_stop_calls_a_start_off(story: list[str]) -> None:
    """Who waits for the start is told; nothing runs afterwards."""

    class Slow(BaseService):
        async def on_startup(self) -> None:
            await anyio.sleep_forever()

    host = a_host(Mail, Slow)

    async def start() -> None:
        with pytest.raises(StartupCancelledError, match="requested"):
            await host.start()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        await anyio.wait_all_tasks_blocked()
        await host.stop()
    assert ["+mail", "-mail"] == story


async def test_lifespan(story: list[str]) -> None:
    """`lifespan(app)` is what ASGI frameworks call."""
    host = ServiceHost(App, log_events=False)
    async with host.lifespan(object()):
        assert host.is_running
    assert not host.is_running
    assert ["+database", "+users", "-users", "-database"] == story


async def test_register_while_running(story: list[str]) -> None:
    """A newcomer is never left unstarted silently: the next start says so."""
    host = a_host(Database)
    async with host:
        host.register(Mail)
        with pytest.raises(IllegalStateError, match=r"'mail', registered after the start"):
            await host.start()
    async with host:
        assert ["+database", "+mail"] == sorted(story[2:])


async def test_plain_classes_are_services_too() -> None:
    """Nobody is forced to inherit: start and stop of a plain class are nothing."""

    class Plain:
        def __init__(self, mail: Mail) -> None:
            self.mail = mail

    Recorder.story = []
    host = a_host(Plain, Mail)
    async with host:
        assert host[Plain].mail is host[Mail]
        assert host.states["plain"] is ServiceState.RUNNING


# --- groups ---------------------------------------------------------------------------------------------


async def test_group_starts_and_stops_as_a_whole(story: list[str]) -> None:
    """A group starts with what it needs, and stops with what needs it."""
    host = a_host(Database, Mail)
    host.register(Users, groups=["front"])
    await host.start(group="front")
    assert ["+database", "+users"] == story
    assert [host["users"]] == host.group("front")
    await host.start()
    assert ["+database", "+users", "+mail"] == story
    await host.stop(group="front")
    assert ["+database", "+users", "+mail", "-users"] == story
    await host.stop()
    assert ["-mail", "-database"] == sorted(story[4:], reverse=True)


async def test_unknown_group() -> None:
    """A group that nobody named is an error with the names there are."""
    host = a_host(Mail)
    host.register_group("front", ["mail"])
    with pytest.raises(ServiceNotFoundError, match="Did you mean 'front'"):
        await host.start(group="fronts")


# --- what can be opened ---------------------------------------------------------------------------------


async def test_generators_are_opened_by_the_start_and_closed_by_the_stop(story: list[str]) -> None:
    """A generator's code before `yield` is its start, the code after it its stop; each start opens anew."""
    opened: list[str] = []

    async def connection(database: Database) -> AsyncIterator[dict[str, int]]:
        opened.append("open connection")
        yield {"number": len(opened)}
        opened.append("close connection")

    def folder() -> Iterator[str]:
        opened.append("open folder")
        yield "folder"
        opened.append("close folder")

    class Reader(Recorder):
        def __init__(self, connection: dict[str, int], folder: str) -> None:
            super().__init__()
            self.connection, self.folder = connection, folder

    host = a_host(Database)
    host.register(connection)
    host.register(folder)
    host.register(Reader)
    async with host:
        first = host["connection"]
        assert (first, "folder") == (host[Reader].connection, host[Reader].folder)
        assert {"open connection", "open folder"} == set(opened)
    assert {"close connection", "close folder"} == set(opened[2:])
    assert ["+database", "+reader", "-reader", "-database"] == story
    async with host:
        assert host["connection"] is not first
        assert host[Reader].connection is host["connection"]
    assert 8 == len(opened)


async def test_what_is_opened_by_the_start_can_not_be_asked_for_before() -> None:
    """The error says that the start opens it."""

    async def connection() -> AsyncIterator[int]:
        yield 1

    host = a_host()
    host.register(connection)
    with pytest.raises(Exception, match="it is opened when the host starts"):
        host["connection"]
    async with host:
        assert 1 == host["connection"]


async def test_create_wires_a_class_that_is_not_registered(story: list[str]) -> None:
    """`create` gives a new instance each time; given arguments win, and what is missing is an error."""
    host = a_host(Database)

    class Report:
        def __init__(self, database: Database, title: str) -> None:
            self.database, self.title = database, title

    made = host.create(Report, title="May")
    assert (host[Database], "May") == (made.database, made.title)
    assert made is not host.create(Report, title="May")
    assert Report not in host
    with pytest.raises(WiringError, match="title"):
        host.create(Report)


async def test_initialize_builds_all_with_their_sections(story: list[str]) -> None:
    """Each service gets its section of the settings; the second call does nothing."""

    class Bucket(BaseService):
        pass

    class Settings:
        bucket = {"version": "7"}

    host = a_host(Bucket)
    host.initialize(Settings())
    assert "7" == host[Bucket].version
    before = host[Bucket]
    host.initialize(None)
    assert before is host[Bucket]


# --- failures -------------------------------------------------------------------------------------------


async def test_crash_for_good_ends_the_block(story: list[str]) -> None:
    """When a service is given up, everything stops, the block is cancelled, and the error names the service."""
    broken = anyio.Event()

    class Loop(BaseService, restart=Restart.temporary()):
        async def on_run(self) -> None:
            await broken.wait()
            raise OSError("disk full")

    host = a_host(Mail, Loop)
    reached_end = False
    with pytest.raises(HostFailedError, match=r"The host stopped because 'loop' failed: disk full") as caught:
        async with host:
            broken.set()
            await anyio.sleep_forever()
            reached_end = True
    assert not reached_end
    assert isinstance(caught.value.__cause__, OSError)
    assert ["+mail", "-mail"] == story
    assert ServiceState.FAILED is host.state
    assert not host.health.readiness()


async def test_crash_without_a_block(story: list[str]) -> None:
    """Who started with `start()` learns of it from `wait_failed()`; the host can be started again."""
    broken = anyio.Event()

    class Loop(BaseService, restart=Restart.temporary()):
        async def on_run(self) -> None:
            await broken.wait()
            raise OSError("disk full")

    host = a_host(Loop)
    await host.start()
    broken.set()
    with pytest.raises(HostFailedError):
        await host.wait_failed()
    broken = anyio.Event()
    await host.start()
    assert host.is_running
    await host.stop()


async def test_optional_service_may_fail(story: list[str]) -> None:
    """The host runs degraded without it, and is ready."""

    class Cache(BaseService):
        async def on_startup(self) -> None:
            raise ConnectionError("no cache")

    host = a_host(Mail)
    host.register(Cache, optional=True)
    async with host:
        assert ServiceState.DEGRADED is host.state
        assert host.is_running
        assert ["+mail"] == story


# --- several hosts, loops, processes ----------------------------------------------------------------------


async def test_two_hosts_at_once(story: list[str]) -> None:
    """Each context is injected from the host it has entered, and a service's own tasks from their own."""
    seen: dict[str, object] = {}

    @inject_service("mail")
    def injected(mail: Mail) -> Mail:
        return mail

    class Asker(BaseService):
        def __init__(self, key: str, mail: Mail) -> None:
            super().__init__()
            self.key = key

        async def on_startup(self) -> None:
            seen[self.key] = injected()

    one, two = a_host(Mail), a_host(Mail)
    one.register(Asker, arguments={"key": "one"})
    two.register(Asker, arguments={"key": "two"})
    async with one:
        assert injected() is one["mail"]
        async with two:
            assert injected() is two["mail"]
            assert get_service("mail") is two["mail"]
        assert injected() is one["mail"]
    assert {"one": one["mail"], "two": two["mail"]} == seen
    with pytest.raises(HostNotRunningError):
        injected()


def test_two_event_loops_give_one_clear_error(story: list[str]) -> None:
    """Start and stop from another loop are refused, and the host goes on unharmed."""
    host = a_host(Mail)

    async def elsewhere() -> None:
        with pytest.raises(EventLoopError, match="another event loop"):
            await host.start()
        with pytest.raises(EventLoopError, match="another event loop"):
            await host.stop()

    async def main() -> None:
        async with host:
            await anyio.to_thread.run_sync(anyio.run, elsewhere)
            assert host.health.readiness()
            assert host.is_running

    anyio.run(main)
    assert ["+mail", "-mail"] == story
    anyio.run(main)
    assert ["+mail", "-mail"] * 2 == story


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
async def test_use_after_fork_is_detected(story: list[str]) -> None:
    """A child that starts, stops or asks the host of its parent gets a clear error."""
    host = a_host(Mail)
    async with host:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            said = []
            for call in (host.start, host.stop):
                try:
                    call().send(None)
                except ForkError as error:
                    said.append(str(error))
                except BaseException as error:
                    said.append(repr(error))
            for ask in (lambda: host["mail"], lambda: host.get(Mail), lambda: host.services.mail):
                try:
                    said.append(repr(ask()))
                except ForkError as error:
                    said.append(str(error))
            os.write(writer, "|".join(said).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read().split("|")
        os.waitpid(child, 0)
        assert 5 == len(said)
        assert all("and this is its fork" in one for one in said), said
    assert ["+mail", "-mail"] == story


async def test_services_are_built_once_by_many_threads(story: list[str]) -> None:
    """The first question of twenty threads at once builds each service once."""
    built = []
    gate = threading.Barrier(20)

    class Slow(BaseService):
        def __init__(self) -> None:
            super().__init__()
            built.append(threading.get_ident())

    host = a_host(Slow)
    found: list[object] = []

    def ask() -> None:
        gate.wait()
        found.append(host[Slow])

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(built)
    assert 1 == len(set(map(id, found)))


# --- health ---------------------------------------------------------------------------------------------


async def test_readiness_follows_the_life() -> None:
    """Not ready before the start is complete, nor from before the first stop on; alive all the time."""
    seen: dict[str, tuple[bool, bool, bool]] = {}

    def note(moment: str) -> None:
        health = host.health
        seen[moment] = (bool(health.liveness()), bool(health.readiness()), bool(health.startup()))

    class Watched(BaseService):
        async def on_startup(self) -> None:
            note("starting")

        async def on_shutdown(self) -> None:
            note("stopping")

        async def _service_health_check(self) -> HealthResult:
            return HealthResult.healthy()

    host = a_host(Watched)
    note("before")
    async with host:
        await host.health.check_all()
        note("running")
    note("after")
    assert {
        "before": (True, False, False),
        "starting": (True, False, False),
        "running": (True, True, True),
        "stopping": (True, False, True),
        "after": (True, False, True),
    } == seen


async def test_readiness_is_off_before_a_failure_stops_all() -> None:
    """Whoever begins the stop, readiness goes first."""
    seen: list[bool] = []
    broken = anyio.Event()

    class Loop(BaseService, restart=Restart.temporary()):
        async def on_run(self) -> None:
            await broken.wait()
            raise OSError("disk full")

    class Watched(BaseService):
        async def on_shutdown(self) -> None:
            seen.append(bool(host.health.readiness()))

    host = a_host(Loop, Watched)
    with pytest.raises(HostFailedError):
        async with host:
            broken.set()
            await anyio.sleep_forever()
    assert [False] == seen


async def test_drain_delay_lies_between_readiness_and_the_first_stop(story: list[str]) -> None:
    """Load balancers get their time; a hurry ends it."""
    host = a_host(Mail, drain_delay=3600.0)
    await host.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.stop)
        await anyio.wait_all_tasks_blocked()
        assert not host.health.readiness()
        assert ["+mail"] == story
        host.hurry()
    assert ["+mail", "-mail"] == story


# --- showing --------------------------------------------------------------------------------------------


async def test_describe_draws_states_times_and_needs(story: list[str]) -> None:
    """Who is needed stands below who needs it."""
    host = ServiceHost(App, log_events=False)
    assert "· users (Users) registered\n└─ · database (Database) registered" == host.describe()
    async with host:
        lines = host.describe().splitlines()
    assert lines[0].startswith("● users (Users) running")
    assert lines[1].startswith("└─ ● database (Database) running")


def test_mermaid_draws_the_graph() -> None:
    """An arrow points from a service to what it needs."""
    drawn = ServiceHost(App, log_events=False).mermaid()
    assert drawn.startswith("flowchart TD\n")
    assert "  users --> database\n" in drawn


async def test_summary(story: list[str]) -> None:
    """Counts, states, start times and metrics of all services."""
    host = ServiceHost(App, log_events=False)
    async with host:
        summary = host.summary()
    assert (2, 2, 2) == tuple(summary[key] for key in ("total_services", "running_services", "healthy_services"))
    assert "running" == summary["state"]
    assert {"users": "running", "database": "running"} == summary["states"]
    assert {"users", "database"} == set(summary["metrics"]) == set(summary["start_times"])


async def test_membership_and_all(story: list[str]) -> None:
    """`in` takes names and types; `all` gives every service of a type."""
    host = a_host(Users, Database)
    assert "users" in host
    assert Users in host
    assert "mail" not in host
    assert 3 not in host
    assert [host["users"], host["database"]] == host.all(Recorder)


async def test_events_reach_subscribers(story: list[str]) -> None:
    """Every transition is told until the subscription ends."""
    host = a_host(Mail)
    seen: list[Event] = []
    forget = host.subscribe(seen.append)
    async with host:
        forget()
    kinds = [type(event) for event in seen]
    assert kinds.index(ServiceStarted) < kinds.index(HostStarted)
    assert ServiceStopped not in kinds


async def test_retries_are_events_of_the_host_they_happen_in(story: list[str]) -> None:
    """A retry is told on the bus of the current host while it runs, and of no other."""
    tries: list[int] = []

    @retry_on_failure(max_retries=1, delay=0.0)
    async def flaky() -> None:
        tries.append(1)
        if len(tries) % 2:
            raise ConnectionError("again")

    one, two = a_host(Mail), a_host(Mail)
    heard: dict[str, list[Event]] = {"one": [], "two": []}
    one.subscribe(heard["one"].append)
    two.subscribe(heard["two"].append)
    async with one, two:
        await flaky()
    await flaky()
    told = {name: [e.operation for e in events if isinstance(e, RetryScheduled)] for name, events in heard.items()}
    assert [] == told["one"]
    assert 1 == len(told["two"])
    assert told["two"][0].endswith("flaky")


async def test_events_are_logged(story: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A host whose application has configured logging tells its life in it, once."""
    import structlog

    configure_logging("info", json=False)
    try:
        host = ServiceHost(App, name="shop")
        async with host:
            pass
        async with host:
            pass
    finally:
        structlog.reset_defaults()
    logged = capsys.readouterr().err
    assert 2 == logged.count("host has started")
    assert 2 == logged.count("service has stopped  service=users")


async def test_unconfigured_logging_is_silent(story: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a configuration an ordinary life says nothing."""
    async with ServiceHost(App):
        pass
    captured = capsys.readouterr()
    assert ("", "") == (captured.out, captured.err)


# --- overrides ------------------------------------------------------------------------------------------


async def test_override_before_the_start_builds_everything_with_it(story: list[str]) -> None:
    """The real service is neither built nor started, and its holders hold the fake."""
    host = ServiceHost(App, log_events=False)
    fake = object()
    with host.override(database=fake) as fakes:
        assert fake is fakes.database
        async with host:
            assert fake is host["database"]
            assert fake is host[Users].database
    assert ["+users", "-users"] == story
    async with host:
        assert isinstance(host[Users].database, Database)


async def test_override_of_what_is_held_is_refused_on_a_running_host(story: list[str]) -> None:
    """The error names the holder and the ways out."""
    host = ServiceHost(App, log_events=False)
    async with host:
        with (
            pytest.raises(OverrideError, match=r"users holds it from the constructor"),
            host.override(database=object()),
        ):
            pass
        assert isinstance(host["database"], Database)


async def test_override_on_a_running_host_is_of_its_context(story: list[str]) -> None:
    """Only the context that overrides sees it, and only within the block."""
    host = a_host(Mail)

    @inject_service("mail")
    def injected(mail: Mail) -> object:
        return mail

    async with host:
        real, fake = host["mail"], object()
        elsewhere: list[object] = []
        overridden, looked = anyio.Event(), anyio.Event()

        async def other() -> None:
            await overridden.wait()
            elsewhere.extend([host["mail"], injected()])
            looked.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await anyio.wait_all_tasks_blocked()
            with host.override({Mail: fake}):
                assert (fake, fake) == (host["mail"], injected())
                overridden.set()
                await looked.wait()
        assert [real, real] == elsewhere
        assert (real, real) == (host["mail"], injected())


async def test_override_of_an_unknown_service() -> None:
    """It is an error with the nearest name."""
    with pytest.raises(ServiceNotFoundError, match="Did you mean 'mail'"), a_host(Mail).override(mial=1):
        pass


# --- plugins --------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginCatalogue]:
    """A catalogue with a good plugin and one that fails on import."""
    before = set(sys.modules)
    for name in ("good", "raising"):
        monkeypatch.syspath_prepend(str(Path(__file__).parent / "fixtures" / "plugins" / name))
    yield PluginCatalogue()
    for name in set(sys.modules) - before:
        if name.startswith("fixture_"):
            del sys.modules[name]


async def test_plugins_are_named(catalogue: PluginCatalogue) -> None:
    """A named plugin's service runs under its entry point's name."""
    host = ServiceHost(plugins=["good_service"], catalogue=catalogue, log_events=False)
    async with host:
        assert {"good_service": ServiceState.RUNNING} == host.states


async def test_failing_plugin_is_a_problem_of_the_report(catalogue: PluginCatalogue) -> None:
    """It stands in the report with all other problems, with what it raised."""
    host = ServiceHost(plugins=["raising_service", "nonexistent"], catalogue=catalogue, log_events=False)
    host.register(Users)
    with pytest.raises(WiringError) as caught:
        await host.start()
    assert ["plugin", "plugin", "missing"] == [problem.kind for problem in caught.value.problems]
    assert "plugin 'raising_service'" in str(caught.value)


# --- words ----------------------------------------------------------------------------------------------


async def test_wiring_problems_come_all_at_once() -> None:
    """Nothing is built or started; the report counts, draws and says what to do."""

    class Broken(BaseService):
        def __init__(self, users: Users) -> None:
            super().__init__()

    host = a_host(Broken, Users)
    with pytest.raises(WiringError) as caught:
        await host.start()
    text = str(caught.value)
    assert text.startswith("1 problem in app\n")
    assert "missing    Users(database: Database)" in text
    assert "users ──▶ database: Database ──▶ ?" in text
    assert ServiceState.REGISTERED is host.state


def test_messages_read_well() -> None:
    """Errors name what, who and the fix."""
    host = a_host(Mail)
    with pytest.raises(ServiceNotFoundError) as missing:
        host["mial"]
    with pytest.raises(IllegalStateError) as never_started:
        _ = host.lifecycle

    @inject_service("mail")
    def injected(mail: Mail) -> None: ...

    with pytest.raises(HostNotRunningError) as not_running:
        injected()
    assert "No service is named 'mial'. Did you mean 'mail'?" == str(missing.value)
    assert "Can't look at the lifecycle while registered: start the host first." == str(never_started.value)
    assert "async with host:" in str(not_running.value)
    assert "injected()" in str(not_running.value)


def test_repr() -> None:
    """It says which host it is and how far."""
    assert "<ServiceHost 'App' registered>" == repr(ServiceHost(App, log_events=False))


async def test_config_of_a_host_reaches_its_services() -> None:
    """Services without their own settings read those of their host's configuration."""
    from svcframework import ConfigManager

    class MailConfig(ServiceConfig, prefix="mail"):
        sender: str = "nobody"

    class ConfiguredMail(BaseService[MailConfig]):
        pass

    host = a_host(ConfiguredMail, config=ConfigManager({"mail": {"sender": "a@b.c"}}))
    async with host:
        assert "a@b.c" == host[ConfiguredMail].config.sender
