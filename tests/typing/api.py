"""What type checkers must see of the public names. Never run: mypy and pyright read it, and every line must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, assert_type

from dependency_injector.containers import Container
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr

from svcframework import (
    INJECTED,
    AsyncService,
    BaseService,
    HealthResult,
    Lazy,
    Restart,
    Scope,
    ServiceConfig,
    ServiceContainer,
    ServiceHost,
    chunk_list,
    deadline,
    every,
    generate_unique_id,
    get_service,
    handle_errors,
    health_check_all_services,
    inject_service,
    providers,
    register_singleton,
    require_service,
    retry_on_failure,
    service_context,
    service_method,
    startup_all_services,
)
from svcframework.config import SecretUrl
from svcframework.deadlines import effective_timeout, has_deadline, remaining
from svcframework.integrations.fastapi import Injected, setup
from svcframework.retry import RetryBudget
from svcframework.testing import FaultConformance, FaultProxy, ServiceConformance, small_disk
from svcframework.ticks import Tick
from svcframework_embedded import EmbeddedPostgres
from svcframework_postgres import PostgresService


class CacheConfig(ServiceConfig):
    """Settings of its own."""

    url: str = "redis://localhost"


class Cache(BaseService[CacheConfig], restart=Restart.permanent(max_restarts=5, within=60.0)):
    """A service with typed settings."""

    @service_method
    async def get(self, key: str) -> bytes | None:
        """Keep its signature, bare."""
        return key.encode()

    @service_method(timeout=2.0)
    @retry_on_failure(max_retries=3, delay=0.1, exceptions=(ConnectionError,))
    async def fetch(self, key: str, *, fresh: bool = False) -> bytes:
        """Keep its signature, under two decorators with arguments."""
        return key.encode() if fresh else b""

    @handle_errors
    def size(self) -> int:
        """Keep its signature, sync."""
        return 0


class Clock(BaseService):
    """A service without settings of its own names no config type."""


assert_type(Clock().config, ServiceConfig)


class AppContainer(ServiceContainer):
    """A declaration."""

    cache = providers.Service(Cache)


class TourSettings(BaseModel):
    """Of the whole application."""

    name: str = "tour"


class Mailer:
    """A plain class."""


class SmtpMailer(Mailer):
    """One of several."""


class Users(BaseService):
    """Wired by type."""

    def __init__(self, cache: Cache, mailers: list[Mailer], other: Cache | None) -> None:
        """Take its collaborators."""
        self.cache, self.mailers, self.other = cache, mailers, other


class Session:
    """Opened for a scope."""


class Report:
    """Made for each who asks."""

    def __init__(self, session: Session, title: str) -> None:
        """Take its session."""
        self.session, self.title = session, title


async def open_session(cache: Cache, request: Mailer) -> AsyncIterator[Session]:
    """Open one, and close it."""
    yield Session()


class TourContainer(ServiceContainer):
    """Every word of a container."""

    config = providers.Configuration()
    settings = providers.Settings(TourSettings)
    cache = providers.Service(Cache, config=config.cache, groups=["storage"], optional=True)
    other = providers.Service(Cache, config={"url": "redis://there"}, dependencies="cache")
    third = providers.Service(Cache, config=CacheConfig(url="redis://third"), optional_dependencies=["other"])
    users = providers.Service(Users, cache=cache)
    mailers = providers.Group(SmtpMailer, providers.Service(Mailer))
    session = providers.Scoped(open_session, cache, scope="request")
    request = providers.ScopeValue(Mailer)
    report = providers.Transient(Report, title=settings.provided.name)
    single = providers.Singleton(Mailer)
    made = providers.Factory(Report, title="made")


def container() -> None:
    """An instance is dependency-injector's own, and each provider gives what it makes."""
    made: Container = TourContainer()
    cache: Cache = TourContainer.cache()
    report: Report = TourContainer.report()
    mailer: Mailer = TourContainer.single()
    settings: TourSettings = TourContainer.settings()
    host = ServiceHost(TourContainer, TourContainer())
    print(made, cache, report, mailer, settings, host)  # noqa: T201 - so that all are used


@inject_service
async def show(user_id: int, *, cache: Cache = INJECTED) -> bytes | None:
    """May be called with and without the service."""
    return await cache.get(str(user_id))


@inject_service("cache")
async def by_name(user_id: int, cache: Cache = INJECTED) -> bytes | None:
    """May be called with and without the service."""
    return await cache.get(str(user_id))


async def use(cache: Cache) -> None:
    """Methods, settings and health have precise types."""
    assert_type(cache.config, CacheConfig)
    assert_type(cache.config.url, str)
    assert_type(await cache.get("a"), bytes | None)
    assert_type(await cache.fetch("a", fresh=True), bytes)
    assert_type(cache.size(), int)
    assert_type(await cache.health_check(), HealthResult)


async def run() -> None:
    """A host gives each type as itself, and a name as a service."""
    host = ServiceHost(AppContainer)
    async with host:
        assert_type(host[Cache], Cache)
        assert_type(await show(1), bytes | None)
        assert_type(await show(1, cache=Cache()), bytes | None)
        assert_type(await by_name(1), bytes | None)


async def functions() -> None:
    """The functions of the default host."""
    register_singleton(Cache, name="cache", dependencies=["database_service"])
    await startup_all_services()
    assert_type(get_service(Cache), Cache)
    results = await health_check_all_services()
    assert_type(results["cache"], HealthResult)


# --- the sections of the tour ---------------------------------------------------------------------------


class GreetingConfig(ServiceConfig, prefix="greeting"):
    """1 and 12: settings with a section of their own."""

    path: str = "phrases.txt"
    key: SecretStr | None = None
    url: SecretUrl = SecretUrl("redis://localhost")
    timeout: float = 2.0


class GreetingService(BaseService[GreetingConfig]):
    """1: the hooks have these signatures."""

    async def on_startup(self) -> None:
        """Open what is needed."""
        assert_type(self.config.path, str)
        assert_type(self.config.url, SecretUrl)
        self.phrases = [self.config.path]

    async def on_shutdown(self) -> None:
        """Close it."""
        self.phrases.clear()

    async def _service_health_check(self) -> HealthResult:
        return HealthResult.healthy(f"{len(self.phrases)} phrases") if self.phrases else HealthResult.degraded("none")

    @service_method
    async def greet(self, name: str) -> str:
        """Keep its signature."""
        return f"{self.phrases[0]}, {name}"

    @service_method(name="shout", timeout=1.0)
    def shout(self, name: str) -> str:
        """Keep its signature, sync and with arguments."""
        return name.upper()

    @retry_on_failure(max_retries=3, delay=0.1, budget=RetryBudget(ratio=0.2))
    @inject_service("database_service")
    async def stored(self, user_id: int, database_service: PostgresService) -> str:
        """4: as the seeds write it; the caller leaves the service out."""
        return f"{await database_service.execute_one('SELECT $1', user_id)}"

    @require_service("database_service", healthy=True)
    async def guarded(self, user_id: int) -> int:
        """Keep its signature."""
        return user_id


class Plain:
    """1: nobody has to inherit in order to be injected."""

    def __init__(self, greeting: GreetingService, later: Lazy[Users]) -> None:
        """Take its collaborators."""
        self.greeting, self.later = greeting, later


class WholeContainer(ServiceContainer):
    """2: real servers, a plain class and a group."""

    postgres = providers.Service(EmbeddedPostgres)
    database_service = providers.Service(PostgresService, server=postgres)
    greeting_service = providers.Service(GreetingService)
    plain = providers.Service(Plain)
    mailers = providers.Group(SmtpMailer)


async def greeting(service: GreetingService) -> None:
    """1 and 7: what decorators return; what is not right is told."""
    assert_type(await service.greet("Ada"), str)
    assert_type(service.shout("Ada"), str)
    assert_type(await service.stored(1), str)
    assert_type(await service.guarded(1), int)
    await service.greet(1)  # type: ignore[arg-type]
    await service.greet("Ada", loud=True)  # type: ignore[call-arg]
    service.shout()  # type: ignore[call-arg]
    await service.guarded("1")  # type: ignore[arg-type]
    service.config.timeout = 1.0  # type: ignore[misc]


async def hosting() -> None:
    """3: what a host gives and tells."""
    host = ServiceHost(WholeContainer, plugins=["redis_service"], stop_timeout=10.0, drain_delay=1.0)
    async with host as entered:
        assert_type(entered, ServiceHost)
        assert_type(host[PostgresService], PostgresService)
        assert_type(host[Plain].later(), Users)
        assert_type(host.all(Mailer), list[Mailer])
        assert_type(host.factory(Report), Callable[[], Report])
        assert_type(host.create(Plain), Plain)
        assert_type(await host.check_health(), dict[str, HealthResult])
        assert_type(host.describe(), str)
    host[GreetingService].greeting  # type: ignore[attr-defined]  # noqa: B018 - the line is what is tested
    host[1]  # type: ignore[call-overload]
    host.run(health_port=8080)


@inject_service(db="database_service", mailers=list[Mailer])
def sync_job(day: date, db: PostgresService, mailers: list[Mailer]) -> int:
    """4: renamed, and a list."""
    return day.year + len(mailers) + db.config.pool_max_size


@inject_service
def lazily(day: date, *, users: Lazy[Users] = INJECTED, session: Session | None = INJECTED) -> Users | None:
    """4: by annotation, in every form."""
    return users() if session and day.year else None


async def injecting() -> None:
    """4: the caller's own arguments are still checked where the function says so itself."""
    assert_type(sync_job(date.today()), int)  # noqa: DTZ011 - any day will do
    assert_type(lazily(date.today()), Users | None)  # noqa: DTZ011 - any day will do
    await show("1")  # type: ignore[arg-type]
    await show()  # type: ignore[call-arg]
    await show(1, cache="none")  # type: ignore[arg-type]
    await show(1, cash=Cache())  # type: ignore[call-arg]


async def scoping(host: ServiceHost) -> None:
    """5: a scope gives each type as itself."""
    async with host.scope("request", request=Mailer()) as scope:
        assert_type(scope, Scope)
        assert_type(await scope.get(Session), Session)
        assert_type(scope[Report], Report)
        assert_type(await scope.get(Session, Report), tuple[Session, Report])
        assert_type(scope[Session, Report], tuple[Session, Report])
    async with host.private_scope() as scope:
        assert_type(scope, Scope)
    async with host.scope(values={Mailer: Mailer(), "tenant": "acme"}) as scope:
        assert_type(await scope.get(Session), Session)


class Services:
    """3: the services of a host by name."""

    users: Users


def naming(host: ServiceHost) -> None:
    """3: a class of services gives names their types."""
    assert_type(host.services_as(Services).users, Users)


class Jobs(AsyncService):
    """6: background work, with settings that need no name."""

    async def on_startup(self) -> None:
        """Start what runs beside."""
        self.every(60.0, self.work, name="work")
        self.spawn(self.work)

    async def work(self) -> None:
        """Nothing much."""


class Heartbeat(BaseService, restart=Restart.permanent(max_restarts=5, within=60.0)):
    """6: a loop."""

    async def on_run(self) -> None:
        """Beat."""
        async for tick in every(10.0):
            assert_type(tick, Tick)
            await self.beat()

    async def beat(self) -> None:
        """Nothing much."""


@service_context
async def in_context(user_id: str) -> None:
    """7: bare, it keeps the signature."""
    with service_context(user_id=user_id, deadline=1.5), deadline(1.0):
        await in_context("1")
    await in_context(1)  # type: ignore[arg-type]


async def overriding(host: ServiceHost) -> None:
    """10: by name and by type."""
    with host.override(mailer=Mailer()) as fakes:
        fakes.mailer.send("x")
    with host.override({Mailer: SmtpMailer()}):
        pass


app = FastAPI(lifespan=ServiceHost(WholeContainer).lifespan)
setup(app, ServiceHost(WholeContainer))


@app.get("/users/{user_id}")
async def read(user_id: int, users: Injected[Users], session: Injected[Session]) -> str:
    """11: an injected parameter has its own type."""
    assert_type(users, Users)
    assert_type(session, Session)
    return str(user_id)


class TestGreetingConformance(ServiceConformance):
    """12: a plugin's tests."""

    service = GreetingService
    server = "valkey_server"


class TestGreetingFaults(FaultConformance):
    """And what its service stands."""

    service = GreetingService
    server = "mortal_server"
    limits: ClassVar[Mapping[str, Any]] = {"timeout": 0.3}
    limit = 0.3
    not_applicable: ClassVar[Mapping[str, str]] = {"disk_full": "it has no disk"}

    async def call(self, service: GreetingService, key: str) -> str:
        return key

    @contextmanager
    def server_on(self, folder: Path) -> Generator[str]:
        with small_disk(megabytes=8) as disk:
            assert_type(disk, Path)
            yield "redis://localhost"


async def faults() -> None:
    """Faults on command."""
    async with FaultProxy("redis://localhost:6379") as proxy:
        assert_type(proxy.port, int)
        async with proxy.during(proxy.black_hole):
            await proxy.pass_on()
        await proxy.half_open()


def time_limits() -> None:
    """What limits a call is seconds, or None where nothing does."""
    with deadline(1.5) as limit:
        assert_type(limit, deadline)
        assert_type(remaining(), float | None)
        assert_type(remaining(1.0), float)
        assert_type(effective_timeout(1.0), float)
        assert_type(has_deadline(), bool)


def values(result: HealthResult) -> None:
    """Small things."""
    assert_type(bool(result), bool)
    assert_type(generate_unique_id("user"), str)
    chunks: list[list[int]] = list(chunk_list([1, 2, 3], 2))
    words: Any = result["status"]
    print(chunks, words)  # noqa: T201 - so that both are used
