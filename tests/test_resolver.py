"""The resolver: one host's instances, built when they are asked for, and what it says when they can't be had."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

import pytest

from svcframework import BaseService, Lazy, ServiceContainer, ServiceHost, providers
from svcframework._signatures import Want
from svcframework.errors import (
    AmbiguousServiceError,
    ScopeError,
    ServiceNotFoundError,
    ServiceUnavailableError,
)
from svcframework.problems import WiringError
from svcframework.registry import ServiceDescriptor

BUILT: list[str] = []


class Base:
    """Has two subclasses that are declared."""


class One(Base):
    def __init__(self) -> None:
        BUILT.append("one")


class Two(Base):
    def __init__(self, one: One) -> None:
        BUILT.append("two")
        self.one = one


class Named(Protocol):
    label: str


class Labelled:
    label = "mine"


class Service(BaseService):
    """Knows its name."""


class Draft:
    """A transient."""


class Holds:
    def __init__(self, later: Lazy[Base2], draft: Draft) -> None:
        self.later, self.draft = later, draft


class Base2:
    def __init__(self, holds: Holds) -> None:
        self.holds = holds


class Container(ServiceContainer):
    """Singletons and transients."""

    one = providers.Service(One)
    two = providers.Service(Two)
    labelled = providers.Service(Labelled)
    renamed = providers.Service(Service)
    draft = providers.Transient(Draft)
    holds = providers.Service(Holds)
    base = providers.Service(Base2)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BUILT.clear()


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(Container, log_events=False)


def test_every_way_of_asking_gives_the_same_instance(host: ServiceHost) -> None:
    """By name, by type, by protocol, as an attribute; built once, with what it needs and nothing more."""
    two = host["two"]
    assert two is host[Two] is host.get("two") is host.get(Two) is host.services.two is host.resolver.get(Two)
    assert two.one is host[One]
    assert ["one", "two"] == BUILT
    assert host["labelled"] is host[Named]  # type: ignore[type-abstract]  # a protocol is asked for by its type
    assert [host["one"], two] == host.all(Base)
    assert ("renamed", host) == (host[Service].name, host[Service].host)


def test_membership_needs_no_instance(host: ServiceHost) -> None:
    """Whether there is one can be asked without building it."""
    assert [True, True, False, False, False] == [w in host for w in ("one", One, "three", Exception, 3)]
    assert [] == BUILT


def test_transients_are_new_each_time(host: ServiceHost) -> None:
    """However they are asked for."""
    made = [host["draft"], host[Draft], host.get(Draft), host.factory(Draft)(), host["draft"], host[Draft]]
    assert 6 == len({id(each) for each in made})


def test_lazy_handle_breaks_a_ring(host: ServiceHost) -> None:
    """It is looked up when it is called, and gives what the host has then."""
    holds = host[Holds]
    assert holds.later() is host[Base2]
    assert holds is host[Base2].holds


def test_unknown_and_ambiguous_wishes(host: ServiceHost) -> None:
    """The errors name what was asked for, what is near, and the candidates."""
    with pytest.raises(ServiceNotFoundError, match=r"'tow'.*[Dd]id you mean .*two"):
        host["tow"]
    with pytest.raises(ServiceNotFoundError, match="Exception"):
        host[Exception]
    with pytest.raises(AmbiguousServiceError, match=r"2 services are a Base: one, two.*list\[Base\]"):
        host[Base]
    with pytest.raises(AttributeError, match=r"'tow'.*two"):
        _ = host.services.tow
    with pytest.raises(ServiceNotFoundError):
        host.factory(Exception)


def test_attributes_are_for_what_lives_as_long_as_the_host(host: ServiceHost) -> None:
    """A transient is no attribute: reading one twice would give two."""
    with pytest.raises(AttributeError, match="draft"):
        _ = host.services.draft


def test_constructor_that_raises_leaves_nothing_behind() -> None:
    """The error is the caller's; the next one to ask tries again, and what was built before stays."""
    attempts: list[int] = []

    class Flaky:
        def __init__(self, one: One) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                raise OSError("not yet")

    host = ServiceHost(type("C", (ServiceContainer,), {"one": providers.Service(One)}), log_events=False)
    host.register(Flaky, name="flaky")
    with pytest.raises(OSError, match="not yet"):
        host["flaky"]
    assert host["flaky"] is host[Flaky]
    assert ["one"] == BUILT


def test_wiring_problem_concerns_only_those_who_need_it(host: ServiceHost) -> None:
    """A broken service does not stand in the way of the others, until the host starts."""

    class Broken:
        def __init__(self, missing: Exception) -> None: ...

    class Needs:
        def __init__(self, broken: Broken) -> None: ...

    host.register(Broken, name="broken")
    host.register(Needs, name="needs")
    assert isinstance(host["one"], One)
    for name in ("broken", "needs"):
        with pytest.raises(WiringError, match="Exception"):
            host[name]
    with pytest.raises(WiringError):
        host.validate()


def test_long_chain_of_singletons_is_built_without_recursion() -> None:
    """Thousands of services, each needing the one before: no limit of Python's stack is met."""
    host = ServiceHost(log_events=False)
    count = 3_000

    def make(number: int) -> Any:
        def factory(**before: Any) -> list[int]:
            return [number]

        return factory

    for number in range(count):
        before = {"before": Want(f"s{number - 1}")} if number else {}
        host.registry.register(ServiceDescriptor.describe(make(number), name=f"s{number}", kwargs=before))
    host.resolver.invalidate()
    assert [count - 1] == host[f"s{count - 1}"]
    assert count == len(host.resolver.instances)


def test_registration_keeps_what_was_built(host: ServiceHost) -> None:
    """A new service changes nothing for the others; one that is forgotten is gone."""
    one = host["one"]
    host.register(Draft, name="another")
    assert one is host["one"] is host.services.one
    assert isinstance(host["another"], Draft)
    host.unregister("another")
    with pytest.raises(ServiceNotFoundError):
        host["another"]
    assert one is host["one"]


def test_later_registration_can_make_a_type_ambiguous(host: ServiceHost) -> None:
    """An answer that was remembered is not given when it is no longer the only one."""
    assert isinstance(host[Draft], Draft)
    host.register(Draft, name="other_draft")
    with pytest.raises(AmbiguousServiceError, match="draft, other_draft"):
        host[Draft]


async def test_what_the_start_opens_is_not_there_before() -> None:
    """Generators and coroutines are opened by the start, in their own task, and by nobody else."""

    async def open_it() -> AsyncIterator[Draft]:
        BUILT.append("open")
        yield Draft()
        BUILT.append("close")

    def open_now() -> Iterator[Base]:
        yield Base()

    class Holder:
        def __init__(self, opened: Draft) -> None:
            self.opened = opened

    declared = {
        "opened": providers.Service(open_it),
        "now": providers.Service(open_now),
        "holder": providers.Service(Holder),
    }
    host = ServiceHost(type("C", (ServiceContainer,), declared), log_events=False)
    for name in ("opened", "now", "holder"):
        with pytest.raises(ServiceUnavailableError, match="opened when the host starts"):
            host[name]
    for _ in range(2):
        async with host:
            assert host["opened"] is host[Holder].opened
        assert ["open", "close"] == BUILT
        BUILT.clear()
        with pytest.raises(ServiceUnavailableError):
            host["opened"]


def test_create_wires_what_is_not_registered(host: ServiceHost) -> None:
    """Each call gives a new instance; given arguments win, and what can't be wired is a report."""

    class Report:
        def __init__(self, two: Two, title: str) -> None:
            self.two, self.title = two, title

    first, second = host.create(Report, title="a"), host.create(Report, title="b")
    assert first.two is second.two is host[Two]
    assert ("a", "b") == (first.title, second.title)
    with pytest.raises(WiringError, match="title"):
        host.create(Report)


def test_scoped_service_is_refused_outside_a_scope() -> None:
    """The error names the scope to enter."""
    host = ServiceHost(type("C", (ServiceContainer,), {"draft": providers.Scoped(Draft)}), log_events=False)
    for ask in (lambda: host["draft"], lambda: host[Draft]):
        with pytest.raises(ScopeError, match=r"'draft' is scoped and no scope is open.*host.scope\('request'\)"):
            ask()


async def test_scope_of_another_host_does_not_answer() -> None:
    """With two hosts, a lookup on one never finds what the other's scope holds."""
    hosts = [
        ServiceHost(type("C", (ServiceContainer,), {"draft": providers.Scoped(Draft)}), log_events=False)
        for _ in range(2)
    ]
    async with hosts[0].scope() as scope:
        draft = await scope.get(Draft)
        assert draft is hosts[0][Draft]
        with pytest.raises(ScopeError, match="no scope is open"):
            hosts[1][Draft]


def test_class_of_services_gives_types_to_names() -> None:
    """It is the fast way with types; all that doesn't fit is reported at once."""

    class Right:
        one: Base
        two: Any

    class Wrong:
        one: int
        tow: Base
        three: Base

    class Container(ServiceContainer):
        one = providers.Service(Base)
        two = providers.Service(Base)
        three = providers.Scoped(Base)

    host = ServiceHost(Container, log_events=False)
    services = host.services_as(Right)
    assert (host["one"], host["two"]) == (services.one, services.two)
    with pytest.raises(WiringError) as caught:
        host.services_as(Wrong)
    text = str(caught.value)
    assert "3 problems in " in text
    assert "'one' is a " in text
    assert "no service is named 'tow'. Did you mean 'two'?" in text
    assert "'three' doesn't live as long as the host: ask a scope for it" in text
