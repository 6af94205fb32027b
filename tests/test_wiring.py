"""The declared services as one graph: who answers to what, in which order, and at what cost."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import types
from typing import Annotated, Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework import INJECTED, BaseService, Lazy, ServiceConfig, inject_service
from svcframework._signatures import Want
from svcframework._types import Lifetime
from svcframework.config import ConfigManager
from svcframework.problems import WiringError
from svcframework.registry import ServiceDescriptor, ServiceRegistry
from svcframework.wiring import Graph, Ref, Refs, wire


class Database: ...


class Replica(Database): ...


class Users:
    def __init__(self, database: Database) -> None: ...


def graph_of(*declared: Any, scopes: tuple[str, ...] = ("request",), **named: Any) -> Graph:
    """Wire classes under their own names, and those given by name; a tuple has further fields."""
    registry = ServiceRegistry()
    for name, one in [*((None, one) for one in declared), *named.items()]:
        target, fields = one if isinstance(one, tuple) else (one, {})
        registry.add(ServiceDescriptor.describe(target, name=name, **fields))
    return wire(registry, scopes=scopes, manager=ConfigManager(environ={}))


def kinds(graph: Graph) -> list[str]:
    return [problem.kind for problem in graph.problems]


SCOPED = {"lifetime": Lifetime.SCOPED, "scope": "request"}


# --- matching -------------------------------------------------------------------------------------------


def test_parameter_is_answered_by_type() -> None:
    """Also by a subclass."""
    assert {"database": Ref("replica")} == graph_of(Users, Replica).nodes["users"].kwargs


def test_parameters_name_decides_between_several() -> None:
    """Then the only one of exactly the type; then it is ambiguous."""
    assert Ref("database") == graph_of(Users, database=Replica, other=Database).nodes["users"].kwargs["database"]
    assert Ref("exact") == graph_of(Users, sub=Replica, exact=Database).nodes["users"].kwargs["database"]
    assert ["ambiguous"] == kinds(graph_of(Users, one=Database, two=Database))


def test_service_never_answers_its_own_wish() -> None:
    """A wrapper of its own base type gets the other one."""

    class Cached(Database):
        def __init__(self, database: Annotated[Database, "plain"]) -> None: ...

    class ByType(Database):
        def __init__(self, inner) -> None: ...

    ByType.__init__.__annotations__["inner"] = Database
    graph = graph_of(plain=Database, by_type=ByType)
    assert ([], Ref("plain")) == (kinds(graph), graph.nodes["by_type"].kwargs["inner"])
    assert ["missing"] == kinds(graph_of(by_type=ByType))
    assert Ref("plain") == graph_of(plain=Database, cached=Cached).nodes["cached"].kwargs["database"]


def test_defaults_and_optional_wishes_may_stay_open() -> None:
    """None for what may be missing; a default is left to Python."""

    class Reader:
        def __init__(self, users: Users | None, database: Database = Database(), size: int = 3) -> None: ...  # noqa: B008

    node = graph_of(Reader).nodes["reader"]
    assert ({"users": None}, {}) == (node.kwargs, dict(node.uses))


def test_collections_hold_all_of_a_type() -> None:
    """Lists and dicts by name, in the order of declaration; none is no mistake."""

    class Many:
        def __init__(self, some: list[Database], named: dict[str, Database], nobody: list[Users]) -> None: ...

    node = graph_of(Many, one=Database, two=Replica).nodes["many"]
    both = ("one", "two")
    assert {"some": Refs(both), "named": Refs(both, by_name=True), "nobody": Refs(())} == node.kwargs
    assert (list(both), []) == (list(node.uses), list(node.requires))


class Sender(Protocol):
    def send(self) -> None: ...


class Mail:
    def send(self) -> None: ...


def test_protocol_is_answered_by_shape() -> None:
    """Nobody has to inherit."""

    class News:
        def __init__(self, sender: Sender) -> None: ...

    assert Ref("mail") == graph_of(News, Mail, Database).nodes["news"].kwargs["sender"]


def test_positional_only_parameters_are_passed_by_position() -> None:
    """With the default in between where it has to be."""

    class Odd:
        def __init__(
            self, size: int = 3, database: Database | None = None, /, *, users: Users | None = None
        ) -> None: ...

    node = graph_of(Odd, Database).nodes["odd"]
    assert ((3, Ref("database")), {}) == (node.args, dict(node.kwargs))


def test_wishes_from_outside_are_resolved() -> None:
    """By name, by type and by group; None where nothing answers."""
    graph = graph_of(Users, Replica, other=(Replica, {"groups": ("all",)}))
    assert [Ref("users"), Ref("other")] == [graph.resolve(Want(Users)), graph.resolve(Want("other"))]
    assert [None, None] == [graph.resolve(Want("nobody")), graph.resolve(Want(Replica))]
    assert Ref("other") == graph.resolve(Want(Replica), parameter="other")
    assert Refs(("other",)) == graph.resolve(Want("all", "list"))
    assert ["replica", "other"] == graph.candidates(Database)


# --- settings -------------------------------------------------------------------------------------------


class MailConfig(ServiceConfig, prefix="mail"):
    server: str = "nowhere"


class Configured(BaseService[MailConfig]): ...


def test_settings_are_loaded_while_wiring() -> None:
    """They go to the constructor that takes them, or to the service."""

    class Plain:
        def __init__(self, options: MailConfig) -> None: ...

    class Bare(BaseService[MailConfig]):
        def __init__(self) -> None: ...

    given = {"config": {"server": "here"}}
    graph = graph_of(Configured, Plain, Bare, plain_given=(Plain, {"config": MailConfig(server="there")}))
    assert "nowhere" == graph.nodes["configured"].kwargs["config"].server
    assert "nowhere" == graph.nodes["plain"].kwargs["options"].server
    assert "there" == graph.nodes["plain_given"].kwargs["options"].server
    assert ("nowhere", {}) == (graph.nodes["bare"].config.server, dict(graph.nodes["bare"].kwargs))
    assert "here" == graph_of((Configured, given)).nodes["configured"].kwargs["config"].server


def test_dependencies_in_the_settings_order_the_start() -> None:
    """As those of the declaration do."""
    config = MailConfig(dependencies=("database",), optional_dependencies=("users", "nobody"))
    node = graph_of((Configured, {"config": config}), Database, Users).nodes["configured"]
    assert (["database"], ["users"]) == (list(node.requires), list(node.wants))


# --- order ----------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 30), max_size=4), min_size=1, max_size=30))
def test_dependencies_come_first(edges: list[list[int]]) -> None:
    """Whatever the order of declaration; the same declaration gives the same order."""
    declared = {
        f"s{n}": (Database, {"dependencies": tuple(f"s{t}" for t in targets if t < n)})
        for n, targets in reversed(list(enumerate(edges)))
    }
    graph = graph_of(**declared)
    place = {name: number for number, name in enumerate(graph.nodes)}
    assert all(place[target] < place[name] for name, node in graph.nodes.items() for target in node.requires)
    assert list(graph.nodes) == list(graph_of(**declared).nodes)


class First(BaseService):
    @inject_service("second")
    async def ask(self, second: Any = INJECTED) -> None: ...


class Second(BaseService):
    @inject_service("first")
    async def ask(self, first: Any = INJECTED) -> None: ...


def test_what_methods_ask_for_starts_first_unless_that_closes_a_ring() -> None:
    """A ring of methods is no mistake: they ask when they are called."""
    alone = graph_of(First, second=Database)
    assert (["second", "first"], ["second"]) == (list(alone.nodes), list(alone.nodes["first"].wants))
    ring = graph_of(First, Second)
    assert ([], {}) == (kinds(ring), dict(ring.nodes["first"].wants))


class Chicken:
    def __init__(self, egg: Lazy[Egg]) -> None: ...


class Egg:
    def __init__(self, chicken: Chicken) -> None: ...


def test_lazy_breaks_a_ring() -> None:
    """A handle is no dependency of the constructor."""
    graph = graph_of(Chicken, Egg)
    assert ([], Ref("egg", lazy=True)) == (kinds(graph), graph.nodes["chicken"].kwargs["egg"])


# --- problems -------------------------------------------------------------------------------------------


def test_check_raises_only_what_concerns() -> None:
    """Those asked for and what they need, without those that are replaced."""

    class Broken:
        def __init__(self, size: int) -> None: ...

    class Holder:
        def __init__(self, broken: Broken) -> None: ...

    graph = graph_of(Broken, Holder, Database)
    graph.check(["database"])
    graph.check(without=["broken"])
    for names in (None, ["holder"], ["broken"]):
        with pytest.raises(WiringError) as caught:
            graph.check(names)
        assert 1 == len(caught.value.problems)


def test_one_service_is_wired_beside_the_graph() -> None:
    """Its problems are its own."""
    graph = graph_of(Database)
    node, problems = graph.wire_one(ServiceDescriptor.describe(Users))
    assert (Ref("database"), []) == (node.kwargs["database"], problems)
    _, problems = graph_of().wire_one(ServiceDescriptor.describe(Users))
    assert ["missing"] == [problem.kind for problem in problems]
    assert () == graph.problems


def test_shorter_scopes_may_hold_longer_ones() -> None:
    """Only the other way round is a mistake."""
    tenant = {"lifetime": Lifetime.SCOPED, "scope": "tenant"}
    levels = ("tenant", "request")
    assert [] == kinds(graph_of((Users, SCOPED), (Database, tenant), scopes=levels))
    assert ["captive"] == kinds(graph_of((Users, tenant), (Database, SCOPED), scopes=levels))
    assert ["captive"] == kinds(graph_of(Users, (Database, SCOPED)))
    assert [1, 2] == [graph_of(scopes=levels).depth(level) for level in levels]


def test_optional_services_may_be_needed_by_optional_ones() -> None:
    """They are started or not, together."""
    optional = {"optional": True}
    assert ["optional"] == kinds(graph_of(Users, (Database, optional)))
    assert [] == kinds(graph_of((Users, optional), (Database, optional)))


# --- cost -----------------------------------------------------------------------------------------------


def many(count: int) -> list[type]:
    """Classes of which each needs the three before it."""
    source = [
        f"class S{n}:\n def __init__(self{''.join(f', s{t}: S{t}' for t in range(max(0, n - 3), n))}): ..."
        for n in range(count)
    ]
    module = types.ModuleType("many")
    exec("\n".join(source), module.__dict__)
    return [module.__dict__[f"S{n}"] for n in range(count)]


def test_thousand_services_take_little_memory() -> None:
    """Three KiB each, declaration and wiring."""
    classes = many(1_000)
    graph_of(*classes[:10])
    gc.collect()
    tracemalloc.start()
    try:
        graph = graph_of(*classes)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 1_000 == len(graph.nodes)
    assert used / 1_000 < 3 * 1024


def test_work_grows_linearly() -> None:
    """Ten times the services are ten times the calls, not a hundred times."""

    def calls(count: int) -> int:
        classes, seen = many(count), 0

        def profile(*_: object) -> None:
            nonlocal seen
            seen += 1

        sys.setprofile(profile)
        try:
            graph_of(*classes)
        finally:
            sys.setprofile(None)
        return seen

    assert calls(1_000) < 11 * calls(100)
