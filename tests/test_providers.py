"""Our own words of a container: what they remember, and that dependency-injector can use them alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from dependency_injector import providers as stock

from svcframework import ServiceContainer, ServiceHost, providers
from svcframework._factories import Handles
from svcframework.config import ConfigManager
from svcframework.errors import ScopeError


class Database: ...


class Users:
    def __init__(self, database: Database | None = None) -> None:
        self.database = database


class AppSettings(pydantic.BaseModel):
    region: str = "nowhere"
    size: int = 1


def open_session(users: Users) -> Iterator[list[Users]]:
    yield [users]


def test_every_stock_provider_is_one_of_ours() -> None:
    """One import is enough."""
    names = [name for name, one in vars(stock).items() if isinstance(one, type) and issubclass(one, stock.Provider)]
    assert len(names) > 30
    assert [] == [name for name in names if getattr(providers, name, None) is not getattr(stock, name)]


@pytest.mark.parametrize(
    "declare",
    [
        lambda: providers.Service(Users),
        lambda: providers.Scoped(Users),
        lambda: providers.Transient(Users),
        lambda: providers.ScopeValue(Users),
        lambda: providers.Group(Users),
        lambda: providers.Settings(AppSettings),
    ],
)
def test_declaration_remembers_where_it_is_written(declare: Any) -> None:
    """Also in copies, which dependency-injector makes of every container."""
    provider = declare()
    at = provider.declaration.at
    assert (Path(__file__).name, declare.__code__.co_firstlineno) == (Path(at.file).name, at.line)
    assert provider.declaration is stock.deepcopy(provider).declaration


def test_declarations_of_two_providers_are_their_own() -> None:
    """Nothing is shared by accident."""
    first, second = providers.Service(Users, groups="a"), providers.Service(Users, optional=True)
    assert (("a",), False, (), True) == (
        first.declaration.groups, first.declaration.optional, second.declaration.groups, second.declaration.optional,
    )  # fmt: skip


def test_ours_work_with_dependency_injector_alone() -> None:
    """They are a thread-safe singleton, factories, a dependency and a list."""

    class App(ServiceContainer):
        database = providers.Service(Database)
        users = providers.Transient(Users, database=database)
        session = providers.Scoped(dict, users=users)
        tenant = providers.ScopeValue(str)
        several = providers.Group(database, Users)
        settings = providers.Settings(AppSettings, region="here")

    container = App(tenant=providers.Object("acme"))
    assert container.database() is container.users().database
    assert container.users() is not container.users()
    assert container.session()["users"].database is container.database()
    assert "acme" == container.tenant()
    assert [container.database(), Users] == [container.several()[0], type(container.several()[1])]
    assert "here" == container.settings().region


def test_settings_given_in_the_declaration_win() -> None:
    """Over every source; the rest is read."""

    class App(ServiceContainer):
        settings = providers.Settings(AppSettings, region="given")

    manager = ConfigManager(environ={"REGION": "environment", "SIZE": "7"})
    host = ServiceHost(App, config=manager, log_events=False)
    assert ("given", 7) == (host[AppSettings].region, host[AppSettings].size)


async def test_scope_level_is_the_declared_one() -> None:
    """A service of a level lives as long as a scope of it."""

    class App(ServiceContainer):
        users = providers.Scoped(Users, scope="tenant")
        session = providers.Scoped(open_session)

    async with ServiceHost(App, scopes=["tenant", "request"], log_events=False) as host, host.scope("tenant") as tenant:
        async with host.scope("request") as first:
            session = await first.get("session")
        async with host.scope("request") as second:
            assert session is not await second.get("session")
            assert session[0] is await second.get("users") is await tenant.get("users")


async def test_scope_value_must_be_passed() -> None:
    """The error says how."""

    class App(ServiceContainer):
        tenant = providers.ScopeValue(str)

    async with ServiceHost(App, log_events=False) as host:
        async with host.scope(tenant="acme") as scope:
            assert "acme" == await scope.get("tenant")
        with pytest.raises(ScopeError, match="tenant"):
            async with host.scope() as scope:
                await scope.get("tenant")


def test_aggregate_names_what_it_has() -> None:
    """When asked for something else."""
    handles = Handles("sms", str, "values", int)
    assert ("1", 0) == (handles("sms", 1), handles.values())
    with pytest.raises(AttributeError, match="there is no 'fax': sms, values"):
        handles.fax()
