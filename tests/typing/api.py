"""What type checkers must see of the public names. Never run: mypy and pyright read it, and every line must hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from dependency_injector.containers import Container
from pydantic import BaseModel

from svcframework import (
    INJECTED,
    BaseService,
    HealthResult,
    Restart,
    ServiceConfig,
    ServiceContainer,
    ServiceHost,
    chunk_list,
    deadline,
    generate_unique_id,
    get_service,
    handle_errors,
    health_check_all_services,
    inject_service,
    providers,
    register_singleton,
    retry_on_failure,
    service_method,
    startup_all_services,
)
from svcframework.deadlines import effective_timeout, remaining


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


def time_limits() -> None:
    """What limits a call is seconds, or None where nothing does."""
    with deadline(1.5) as limit:
        assert_type(limit, deadline)
        assert_type(remaining(), float | None)
        assert_type(remaining(1.0), float)
        assert_type(effective_timeout(1.0), float)


def values(result: HealthResult) -> None:
    """Small things."""
    assert_type(bool(result), bool)
    assert_type(generate_unique_id("user"), str)
    chunks: list[list[int]] = list(chunk_list([1, 2, 3], 2))
    words: Any = result["status"]
    print(chunks, words)  # noqa: T201 - so that both are used
