"""Every provider of dependency-injector's on a running host, and containers as a drop-in for its own."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers as stock_containers
from dependency_injector import errors as stock_errors
from dependency_injector import resources

from svcframework import BaseService, ServiceConfig, ServiceContainer, ServiceHost, providers
from svcframework.containers import read_container
from svcframework.problems import WiringError


class Database:
    """Something to be injected."""


class Repository:
    def __init__(self, database: Database) -> None:
        self.database = database


class Report:
    def __init__(self, database: Database, title: str = "none") -> None:
        self.database, self.title = database, title


class Mailer:
    """A base."""


class Smtp(Mailer): ...


class Slack(Mailer): ...


class News:
    def __init__(self, senders: list[Mailer]) -> None:
        self.senders = senders


class Tenant(str):
    __slots__ = ()


def host_of(container: Any) -> ServiceHost:
    return ServiceHost(container, log_events=False)


def problems_of(container: Any) -> list[str]:
    """The kinds of all problems."""
    try:
        host_of(container).validate()
    except WiringError as error:
        return [problem.kind for problem in error.problems]
    return []


# --- singletons and factories ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", [providers.Singleton, providers.ThreadSafeSingleton, providers.Service])
def test_singletons_are_shared(provider: Any) -> None:
    """One instance for the host, injected into others by type."""

    class App(ServiceContainer):
        database = provider(Database)
        repository = provider(Repository)

    host = host_of(App)
    assert host["repository"] is host["repository"]
    assert host[Database] is host["repository"].database


@pytest.mark.parametrize("provider", [providers.Factory, providers.Transient])
def test_factories_make_a_new_one_each_time(provider: Any) -> None:
    """Their own dependencies are still the host's."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        report = provider(Report, title="may")

    host = host_of(App)
    first, second = host["report"], host["report"]
    assert first is not second
    assert (host["database"], "may") == (first.database, second.title)


def test_thread_local_singleton_is_one_per_thread() -> None:
    """Each thread has its own, made with the host's services."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        repository = providers.ThreadLocalSingleton(Repository, database=database)

    host = host_of(App)
    here = host["repository"]
    elsewhere: list[Any] = []
    thread = threading.Thread(target=lambda: elsewhere.append(host["repository"]))
    thread.start()
    thread.join()
    assert here is host["repository"]
    assert elsewhere[0] is not here
    assert elsewhere[0].database is here.database is host["database"]


async def test_context_local_singleton_is_one_per_scope() -> None:
    """It lives in the request scope."""

    class App(ServiceContainer):
        repository = providers.ContextLocalSingleton(Database)

    async with host_of(App) as host:
        async with host.scope() as scope:
            first = await scope.get("repository")
            assert first is await scope.get("repository")
        async with host.scope() as scope:
            assert first is not await scope.get("repository")


def test_callable_is_called_with_the_hosts_services() -> None:
    """A function's result, each time anew."""

    def title(database: Database, prefix: str) -> str:
        return f"{prefix} {type(database).__name__}"

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        title_of = providers.Callable(title, prefix="the")

    assert "the Database" == host_of(App)["title_of"]


async def test_coroutine_is_awaited_in_a_scope() -> None:
    """What an async function returns, not a coroutine."""

    async def fetch(database: Database) -> str:
        return type(database).__name__

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        fetched = providers.Coroutine(fetch)

    async with host_of(App) as host, host.scope() as scope:
        assert "Database" == await scope.get("fetched")


def test_object_is_given_as_it_is() -> None:
    """A class, a value or an instance, found by its type too."""
    database = Database()

    class App(ServiceContainer):
        given = providers.Object(database)
        number = providers.Object(42)
        repository = providers.Service(Repository)

    host = host_of(App)
    assert (42, database) == (host["number"], host["repository"].database)


def test_factory_sets_attributes_with_the_hosts_services() -> None:
    """`add_attributes` sees the same instances as everybody else."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        report = providers.Factory(Report, database).add_attributes(title="set", source=database)

    host = host_of(App)
    report = host["report"]
    assert ("set", host["database"]) == (report.title, report.source)


def test_factory_whose_caller_gives_the_rest_is_no_mistake() -> None:
    """Existing containers have factories that only their callers can complete."""

    class Letter:
        def __init__(self, database: Database, text: str) -> None:
            self.database, self.text = database, text

    class Writer:
        def __init__(self, letter: Callable[[str], Letter]) -> None:
            self.letter = letter

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        letter = providers.Factory(Letter, database=database)
        writer = providers.Service(Writer, letter=letter.provider)

    host = host_of(App)
    letter = host["writer"].letter(text="dear")
    assert ("dear", host["database"]) == (letter.text, letter.database)
    assert letter is not host["writer"].letter(text="dear")


def test_factory_whose_caller_gives_the_rest_cannot_be_used_by_a_service() -> None:
    """Then nobody would give it."""

    class Letter:
        def __init__(self, text: str) -> None: ...

    class Writer:
        def __init__(self, letter: Letter) -> None: ...

    class App(ServiceContainer):
        letter = providers.Factory(Letter)
        writer = providers.Service(Writer)

    assert ["missing"] == problems_of(App)


# --- configuration --------------------------------------------------------------------------------------


def test_configuration_options_are_read_when_a_service_is_made() -> None:
    """Also typed ones, and whole sections."""

    class Pool:
        def __init__(self, size: int, options: dict[str, Any], host: str) -> None:
            self.given = (size, options, host)

    class App(ServiceContainer):
        config = providers.Configuration()
        pool = providers.Singleton(Pool, config.db.size.as_int(), options=config.db, host=config["db"]["host"])

    App.config.from_dict({"db": {"size": "4", "host": "here"}})
    host = host_of(App)
    assert (4, {"size": "4", "host": "here"}, "here") == host["pool"].given
    assert "here" == host["config"]["db"]["host"]


def test_configuration_files_are_loaded(tmp_path: Path) -> None:
    """As instantiating the container would."""
    (tmp_path / "app.json").write_text('{"title": "from a file"}')

    class App(ServiceContainer):
        config = providers.Configuration(json_files=[str(tmp_path / "app.json")])
        database = providers.Singleton(Database)
        report = providers.Factory(Report, title=config.title)

    assert "from a file" == host_of(App)["report"].title


def test_option_that_cannot_be_read_is_reported_without_its_value() -> None:
    """The error would quote it."""

    class App(ServiceContainer):
        config = providers.Configuration(strict=True)
        database = providers.Singleton(Database)
        report = providers.Factory(Report, title=config.title)
        other = providers.Singleton(Report, title=config.port.as_int())

    App.config.from_dict({"port": "hunter2"})
    with pytest.raises(WiringError) as caught:
        host_of(App).validate()
    assert ["misconfigured", "misconfigured"] == [problem.kind for problem in caught.value.problems]
    assert "hunter2" not in str(caught.value)


# --- resources ------------------------------------------------------------------------------------------


class SyncResource(resources.Resource[str]):
    closed: list[Any]

    def init(self, closed: list[Any]) -> str:
        self.closed = closed
        return "class"

    def shutdown(self, resource: str | None) -> None:
        self.closed.append(resource)


class AsyncResource(resources.AsyncResource[str]):
    closed: list[Any]

    async def init(self, closed: list[Any]) -> str:
        self.closed = closed
        return "async class"

    async def shutdown(self, resource: str | None) -> None:
        self.closed.append(resource)


def generator(closed: list[Any]) -> Iterator[str]:
    yield "generator"
    closed.append("generator")


async def async_generator(closed: list[Any]) -> AsyncIterator[str]:
    yield "async generator"
    closed.append("async generator")


def function(closed: list[Any]) -> str:
    closed.append("function")
    return "function"


async def coroutine(closed: list[Any]) -> str:
    closed.append("coroutine")
    return "coroutine"


@contextlib.asynccontextmanager
async def context(closed: list[Any]) -> AsyncIterator[str]:
    yield "context"
    closed.append("context")


class Entered:
    def __init__(self, closed: list[Any]) -> None:
        self.closed = closed

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, *_: object) -> None:
        self.closed.append("entered")


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (function, "function"),
        (coroutine, "coroutine"),
        (generator, "generator"),
        (async_generator, "async generator"),
        (context, "context"),
        (Entered, "entered"),
        (SyncResource, "class"),
        (AsyncResource, "async class"),
    ],
)
async def test_resource_is_opened_by_the_start_and_closed_by_the_stop(made: Any, given: str) -> None:
    """Whatever it is: what it gives is injected, and it is closed once."""
    closed: list[Any] = []

    class User:
        def __init__(self, resource: str) -> None:
            self.resource = resource

    class App(ServiceContainer):
        resource = providers.Resource(made, closed=closed)
        user = providers.Service(User, resource=resource)

    async with host_of(App) as host:
        assert (given, given) == (host["resource"], host["user"].resource)
    assert [given] == closed


async def test_context_local_resource_is_opened_by_the_scope_and_closed_with_it() -> None:
    """One per scope."""
    closed: list[Any] = []

    class App(ServiceContainer):
        resource = providers.ContextLocalResource(generator, closed)

    async with host_of(App) as host:
        for _ in range(2):
            async with host.scope() as scope:
                assert "generator" == await scope.get("resource")
    assert ["generator"] * 2 == closed


# --- composition ----------------------------------------------------------------------------------------


def test_list_and_dict_hold_the_hosts_services() -> None:
    """Named members are the shared ones; the collection is made anew."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        several = providers.List(database, providers.Factory(Report, database=database, title="inner"), 3)
        mapped = providers.Dict({"db": database, 2: "two"})

    host = host_of(App)
    database, report, three = host["several"]
    assert (host["database"], "inner", 3) == (database, report.title, three)
    assert {"db": host["database"], 2: "two"} == host["mapped"]
    assert host["several"] is not host["several"]


def test_selector_chooses_by_configuration() -> None:
    """The chosen one's name or value; an unknown choice is reported."""

    class App(ServiceContainer):
        config = providers.Configuration()
        database = providers.Singleton(Database)
        chosen = providers.Selector(config.kind, named=database, made=providers.Factory(Report, database, "made"))

    App.config.from_dict({"kind": "named"})
    host = host_of(App)
    assert host["database"] is host["chosen"]
    App.config.from_dict({"kind": "made"})
    assert "made" == host_of(App)["chosen"].title
    App.config.from_dict({"kind": "odd"})
    assert ["unmet"] == problems_of(App)


def test_aggregates_are_passed_on_to_be_called() -> None:
    """By name, by attribute, and with the caller's arguments."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        reports = providers.Aggregate(short=providers.Factory(Report, database, title="short"), db=database)
        made = providers.FactoryAggregate(long=providers.Factory(Report, database=database))

    host = host_of(App)
    reports, made = host["reports"], host["made"]
    assert ("short", host["database"]) == (reports("short").title, reports.db())
    assert "given" == made.long(title="given").title
    assert host["database"] is made("long").database


def test_delegates_give_what_they_stand_for_when_called() -> None:
    """Of shared services the shared one, of factories a new one."""

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        report = providers.Factory(Report, database=database)
        get_database = database.provider
        make_report = providers.FactoryDelegate(report)
        delegated = providers.DelegatedFactory(Report, database=database)
        user = providers.Factory(dict, database=providers.SingletonDelegate(database), delegated=delegated)

    host = host_of(App)
    assert host["database"] is host["get_database"]()
    assert "given" == host["make_report"](title="given").title
    assert host["database"] is host["user"]["database"]()
    assert "also" == host["user"]["delegated"](title="also").title


def test_provided_reaches_into_a_service() -> None:
    """Attributes, items and calls, in any order."""

    class Holder:
        table = {"key": "item"}

        def find(self, key: str) -> str:
            return self.table[key]

    class Keeper:
        def __init__(self, one: str, two: str, three: str) -> None:
            self.values = [one, two, three]

    class App(ServiceContainer):
        holder = providers.Singleton(Holder)
        keeper = providers.Service(
            Keeper, holder.provided.table["key"], two=holder.provided.find.call("key"), three=holder.provided.table.keys
        )

    values = host_of(App)["keeper"].values
    assert ["item", "item", ["key"]] == [*values[:2], list(values[2]())]


def test_nested_containers_have_dotted_names() -> None:
    """Their dependencies are the outer container's services, once."""

    class Inner(ServiceContainer):
        database = providers.Dependency(instance_of=Database)
        repository = providers.Singleton(Repository, database)

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        inner = providers.Container(Inner, database=database)
        both = providers.List(inner.repository, inner.database)

    host = host_of(App)
    assert host["inner.repository"].database is host["database"] is host["inner.database"]
    assert [host["inner.repository"], host["database"]] == host["both"]
    assert host["database"] is host[Database]


def test_dependencies_container_stands_for_one_that_comes_later() -> None:
    """Overridden, its members are that one's; without, they are reported."""

    class Gateways(ServiceContainer):
        database = providers.Singleton(Database)

    class App(ServiceContainer):
        gateways = providers.DependenciesContainer()
        repository = providers.Singleton(Repository, database=gateways.database)

    assert ["unmet"] == problems_of(App)
    host = host_of(App(gateways=Gateways()))
    assert host["gateways.database"] is host["repository"].database


def test_dependency_takes_what_overrides_it_or_its_default() -> None:
    """Unmet, it is reported with all else."""

    class App(ServiceContainer):
        database = providers.Dependency(instance_of=Database)
        repository = providers.Singleton(Repository, database)

    class Defaulted(ServiceContainer):
        database = providers.Dependency(instance_of=Database, default=Database())
        repository = providers.Singleton(Repository, database)

    given = Database()
    assert ["unmet"] == [kind for kind in problems_of(App) if kind == "unmet"]
    assert given is host_of(App(database=providers.Object(given)))["repository"].database
    host = host_of(Defaulted)
    assert isinstance(host["repository"].database, Database)


def test_overridden_providers_are_read_as_overridden() -> None:
    """By value, by provider, and by a whole container."""
    fake = Database()

    class App(ServiceContainer):
        database = providers.Singleton(Database)
        repository = providers.Singleton(Repository, database=database)

    with App.database.override(fake):
        assert fake is host_of(App)["repository"].database

    @stock_containers.override(App)
    class _Testing(ServiceContainer):
        database = providers.Object(fake)

    assert fake is host_of(App)["repository"].database
    App.reset_override()
    assert fake is not host_of(App)["repository"].database


def test_one_provider_under_two_names_is_one_service() -> None:
    """The second name is another way to ask for it."""

    class App(ServiceContainer):
        database = providers.Service(Database)
        same = database

    host = host_of(App)
    assert host["database"] is host["same"] is host[Database]


def test_inner_providers_without_a_name_are_wired_and_nobody_elses() -> None:
    """They get their missing arguments by type, and do not answer to their own type."""

    class Two:
        def __init__(self, first: Repository, second: Repository) -> None:
            self.first, self.second = first, second

    class App(ServiceContainer):
        database = providers.Service(Database)
        two = providers.Service(Two, first=providers.Singleton(Repository), second=providers.Factory(Repository))

    host = host_of(App)
    two = host["two"]
    assert two.first is not two.second
    assert host["database"] is two.first.database is two.second.database
    assert Repository not in host


def test_abstract_providers_must_be_overridden() -> None:
    """Until then there is no implementation."""

    class App(ServiceContainer):
        database = providers.AbstractSingleton(Database)

    assert ["unmet"] == problems_of(App)
    with App.database.override(providers.Singleton(Database)):
        assert isinstance(host_of(App)["database"], Database)


# --- our own --------------------------------------------------------------------------------------------


class Settings(ServiceConfig):
    url: str = "nowhere"


class Configured(BaseService[Settings]):
    """A service with settings."""


def test_service_keeps_its_declaration_through_copies() -> None:
    """An instance of the container, and a subclass, declare the same."""

    class App(ServiceContainer):
        database = providers.Service(Database, groups="storage", optional=True)
        configured = providers.Service(
            Configured, config={"url": "there"}, groups=["a", "b"], dependencies=["repository"],
            optional_dependencies="database",
        )  # fmt: skip
        repository = providers.Service(Repository, database=providers.Factory(Database))

    class Sub(App):
        pass

    for container in (App, App(), Sub, copy.deepcopy(App())):
        host = host_of(container)
        descriptor = host.registry["configured"] if host.graph else None
        assert descriptor is not None
        assert (("a", "b"), ("repository",), ("database",)) == (
            descriptor.groups, descriptor.dependencies, descriptor.optional_dependencies,
        )  # fmt: skip
        assert host.registry["database"].optional
        assert Path(__file__).name == Path(descriptor.at.file).name if descriptor.at else False
        assert "there" == host["configured"].config.url
        assert ("storage", "database") == (descriptor_groups(host)[0], host.registry.group("storage")[0])


def descriptor_groups(host: ServiceHost) -> tuple[str, ...]:
    return host.registry["database"].groups


def test_service_takes_settings_from_a_configuration_and_from_settings() -> None:
    """Both are known before anything is built."""
    import pydantic

    class Section(pydantic.BaseModel):
        url: str = "from settings"

    class AppSettings(pydantic.BaseModel):
        main: Section = Section()

    class App(ServiceContainer):
        config = providers.Configuration()
        settings = providers.Settings(AppSettings)
        first = providers.Service(Configured, config=config.main)
        second = providers.Service(Configured, config=settings.provided.main.model_dump.call())

    App.config.from_dict({"main": {"url": "from options"}})
    host = host_of(App)
    assert ["from options", "from settings"] == [host["first"].config.url, host["second"].config.url]
    assert isinstance(host[AppSettings], AppSettings)


async def test_scoped_transient_and_scope_value_work_together() -> None:
    """One session per scope, closed with it; a new report each time; the tenant as it was passed."""
    closed: list[str] = []

    def open_session(tenant: Tenant) -> Iterator[Database]:
        yield Database()
        closed.append(tenant)

    class App(ServiceContainer):
        tenant = providers.ScopeValue(Tenant)
        session = providers.Scoped(open_session)
        report = providers.Transient(Report, title="may")

    async with host_of(App) as host:
        async with host.scope(tenant=Tenant("acme")) as scope:
            first, second = await scope.get("report"), await scope.get("report")
            assert first is not second
            assert first.database is second.database is await scope.get("session")
    assert ["acme"] == closed


def test_group_is_a_list_of_services_and_a_group() -> None:
    """Asked for as a list of the common type, by the group's name, or as the group."""

    class App(ServiceContainer):
        mailers = providers.Group(Smtp, Slack)
        news = providers.Service(News)

    host = host_of(App)
    assert [Smtp, Slack] == [type(one) for one in host["mailers"]]
    assert host["mailers"] == host["news"].senders == host.group("mailers") == host.all(Mailer)


# --- a drop-in ------------------------------------------------------------------------------------------


class Base(ServiceContainer):
    database = providers.Service(Database)


class Derived(Base):
    repository = providers.Service(Repository, Base.database)


def test_containers_inherit() -> None:
    """Providers of the base come first, and are told from the class's own."""
    assert {"database": Base.database, "repository": Derived.repository} == Derived.providers
    assert {"repository": Derived.repository} == Derived.cls_providers
    assert {"database": Base.database} == Derived.inherited_providers


def test_instances_work_with_dependency_injector_alone() -> None:
    """Calling a provider gives its instance, as ever; each container instance has its own."""
    first, second = Derived(), Derived()
    assert first.repository().database is first.database()
    assert first.database() is not second.database()
    assert isinstance(first, stock_containers.DynamicContainer)


def test_instances_take_overriding_providers() -> None:
    """By keyword, at once and for that instance only."""
    fake = Database()
    container = Derived(database=providers.Object(fake))
    assert fake is container.repository().database
    assert fake is not Derived().repository().database
    with container.override_providers(repository=providers.Object("other")):
        assert "other" == container.repository()
    assert isinstance(container.repository(), Repository)


def test_container_refuses_to_override_itself() -> None:
    """As dependency-injector's does."""
    with pytest.raises(stock_errors.Error):
        Derived.override(Base)


def test_containers_are_copied_by_decorator() -> None:
    """The copy has providers of its own, and what the class replaces."""

    @stock_containers.copy(Derived)
    class Copied(ServiceContainer):
        database = providers.Service(Database)

    container = Copied()
    assert ["database", "repository"] == sorted(Copied.providers)
    assert Copied.repository is not Derived.repository
    assert isinstance(container.repository().database, Database)


def test_containers_take_and_lose_providers_as_attributes() -> None:
    """On the class and on instances."""

    class App(ServiceContainer):
        pass

    App.database = providers.Service(Database)
    assert ["database"] == list(App.providers)
    container = App()
    container.repository = providers.Service(Repository, container.database)
    assert container.repository().database is container.database()
    del App.database
    assert {} == App.providers


def test_containers_reset_and_traverse() -> None:
    """Singletons are forgotten; every provider is found."""
    container = Derived()
    before = container.database()
    with container.reset_singletons():
        assert before is not container.database()
    found = list(container.traverse(types=[providers.Service]))
    assert {container.database, container.repository} == set(found)
    assert "database" == container.resolve_provider_name(container.database)


def test_container_knows_itself() -> None:
    """`Self` gives the instance."""

    class App(ServiceContainer):
        me = providers.Self()
        holder = providers.Factory(dict, container=me)

    container = App()
    assert container is container.holder()["container"]
    assert container is host_of(container)["holder"]["container"]


def test_containers_keep_their_wiring_configuration() -> None:
    """And refuse what is none."""

    class App(ServiceContainer):
        wiring_config = stock_containers.WiringConfiguration(auto_wire=False)

    assert not App().is_auto_wiring_enabled()
    with pytest.raises(stock_errors.Error):
        type("Bad", (ServiceContainer,), {"wiring_config": 1})


def test_deep_copies_are_independent() -> None:
    """A copied instance builds its own."""
    container = Derived()
    copied = copy.deepcopy(container)
    assert container.database() is not copied.database()


def test_check_dependencies_names_what_is_missing() -> None:
    """The stock check works on our containers."""

    class App(ServiceContainer):
        database = providers.Dependency(instance_of=Database)

    with pytest.raises(stock_errors.Error, match="database"):
        App().check_dependencies()


def test_stock_containers_run_on_a_host() -> None:
    """Nobody has to change the base class."""

    class App(stock_containers.DeclarativeContainer):
        database = providers.Singleton(Database)
        repository = providers.Singleton(Repository, database)

    dynamic = stock_containers.DynamicContainer()
    dynamic.number = providers.Object(1)
    host = ServiceHost(App, dynamic, log_events=False)
    assert (1, host["database"]) == (host["number"], host["repository"].database)
    assert host.name.endswith("App")


def test_stock_providers_are_found_in_the_class_body() -> None:
    """They don't remember where they are written; the container's source does."""

    class Outer(ServiceContainer):
        first = providers.Singleton(Database)
        second: providers.Singleton[Repository] = providers.Singleton(Repository)

    class Inheriting(Outer):
        third = providers.Factory(Report, title="x")

    start = test_stock_providers_are_found_in_the_class_body.__code__.co_firstlineno
    lines = {d.name: d.at.line - start if d.at else None for d in read_container(Inheriting)[0]}
    assert {"first": 4, "second": 5, "third": 8} == lines
