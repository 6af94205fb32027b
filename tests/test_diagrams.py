"""A host as a text tree and as a Mermaid flowchart."""

from __future__ import annotations

import pytest

from svcframework import BaseService, Lazy, ServiceContainer, ServiceHost, ServiceState, providers
from svcframework.diagrams import mermaid, tree


class Store(BaseService):
    pass


class Cache(BaseService):
    def __init__(self, store: Store) -> None:
        super().__init__()


class Api(BaseService):
    def __init__(self, cache: Cache, store: Store, later: Lazy[Store]) -> None:
        super().__init__()


class Report:
    def __init__(self, store: Store) -> None:
        pass


class App(ServiceContainer):
    store = providers.Service(Store)
    cache = providers.Service(Cache)
    api = providers.Service(Api)
    report = providers.Transient(Report)
    session = providers.Scoped(Report)


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(App, log_events=False)


def test_tree_shows_each_service_below_those_that_need_it(host: ServiceHost) -> None:
    """States have marks, times are milliseconds, and what was shown before is only named again."""
    states = {"store": ServiceState.RUNNING, "cache": ServiceState.DEGRADED, "api": ServiceState.FAILED}
    lines = tree(host.graph, states, {"store": 0.25}).splitlines()
    assert "● store (Store) running 250 ms" in {line.lstrip("└├│─ ") for line in lines}
    assert any(line.endswith("◐ cache (Cache) degraded") for line in lines)
    assert "✗ api (Api) failed" in lines
    assert "◇ report (Report, transient)" in lines
    assert "◇ session (Report, request)" in lines
    assert 4 == sum("store (Store)" in line for line in lines)


def test_tree_of_nothing() -> None:
    """It is empty."""
    assert "" == ServiceHost(log_events=False).describe()


def test_mermaid_has_a_node_and_its_arrows_for_each_service(host: ServiceHost) -> None:
    """Singletons are boxes, others are round; colours show what is wrong."""
    drawn = mermaid(host.graph, {"cache": ServiceState.DEGRADED, "api": ServiceState.FAILED})
    lines = drawn.splitlines()
    assert "flowchart TD" == lines[0]
    assert '  store["store<br/>Store"]' in lines
    assert '  report(["report<br/>Report"])' in lines
    assert {"  cache --> store", "  api --> cache", "  api --> store", "  report --> store"} <= set(lines)
    assert "  style cache stroke:orange" in lines
    assert "  style api stroke:red" in lines
    assert drawn.endswith("\n")


def test_drawings_are_the_same_each_time() -> None:
    """Two hosts of one container draw alike."""
    one, two = ServiceHost(App, log_events=False), ServiceHost(App, log_events=False)
    assert (one.describe(), one.mermaid()) == (two.describe(), two.mermaid())
