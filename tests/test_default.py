"""The function API acts on the current host; a default one is made on first use, and its handles follow it."""

from __future__ import annotations

import copy
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from svcframework import (
    BaseService,
    HealthResult,
    ServiceHost,
    current_host,
    discover_services,
    get_service,
    get_service_metrics,
    get_service_summary,
    get_services_by_group,
    health_check_all_services,
    register_discovered_services,
    register_instance,
    register_scoped,
    register_service_group,
    register_singleton,
    register_transient,
    reset_default_host,
    service_container,
    service_factory,
    service_health_monitor,
    service_manager,
    service_method,
    service_registry,
    shutdown_all_services,
    startup_all_services,
    unregister,
)
from svcframework.default import default_host, existing_default_host
from svcframework.errors import IllegalStateError, RegistrationError, ServiceNotFoundError
from svcframework.events import HostStarted


class Store(BaseService):
    @service_method
    async def read(self, key: str) -> str:
        return key


class Reader(BaseService):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """A default host of its own for each test."""
    reset_default_host()
    yield
    reset_default_host()


def test_default_host_is_made_on_first_use() -> None:
    """Looking at a handle makes none; asking for a service does."""
    repr(service_registry)
    assert not hasattr(service_registry, "__wrapped__")
    copy.copy(service_registry)
    assert existing_default_host() is None
    with pytest.raises(ServiceNotFoundError, match="Nothing is registered yet"):
        get_service("store")
    assert existing_default_host() is current_host() is default_host()


async def test_entered_host_is_the_current_one() -> None:
    """Within its block the functions act on it, and on the default one again afterwards."""
    register_singleton(Store, name="store")
    host = ServiceHost(log_events=False)
    host.register(Reader, arguments={"store": Store()})
    async with host:
        assert host is current_host()
        assert host["reader"] is get_service(Reader)
    assert default_host() is current_host()
    assert isinstance(get_service("store"), Store)


async def test_life_by_functions() -> None:
    """Start, health, metrics, summary, stop."""
    register_singleton(Store)
    register_singleton(Reader, groups="front", optional_dependencies=["absent"])
    await startup_all_services()
    try:
        assert "x" == await get_service(Store).read("x")
        assert {"store", "reader"} == set(await health_check_all_services())
        assert {"reader"} == set(await health_check_all_services(group="front"))
        metrics = get_service_metrics("store")
        assert (100.0, 0.0, 1) == (metrics["success_rate"], metrics["error_rate"], metrics["count"])
        assert metrics["avg_response_time"] >= 0.0
        assert "read" in metrics["operations"]
        summary = get_service_summary()
        assert (2, 2) == (summary["total_services"], summary["healthy_services"])
        assert {"store": "running", "reader": "running"} == summary["states"]
        assert {"store", "reader"} == set(summary["metrics"])
        assert [get_service("reader")] == get_services_by_group("front")
        with pytest.raises(IllegalStateError, match=r"await shutdown_all_services\(\) first"):
            reset_default_host()
    finally:
        await shutdown_all_services()


def test_name_that_is_taken_is_refused() -> None:
    """The error names both places."""
    register_singleton(Store)
    with pytest.raises(RegistrationError, match=r"'store' is registered already \(.*test_default\.py:\d+\), now again"):
        register_singleton(Store)
    unregister("store")
    register_singleton(Store)
    with pytest.raises(ServiceNotFoundError):
        unregister("reader")


async def test_running_service_is_not_unregistered() -> None:
    """It would run on without a name."""
    register_singleton(Store)
    await startup_all_services()
    with pytest.raises(IllegalStateError, match="unregister 'store'"):
        unregister("store")
    await shutdown_all_services()
    unregister("store")
    assert "store" not in service_registry


async def test_lifetimes() -> None:
    """One for the host, one per scope, one for each who asks, and one that is given."""
    closed: list[str] = []

    class Session:
        pass

    async def session() -> AsyncIterator[Session]:
        yield Session()
        closed.append("session")

    mine = Store()
    register_scoped(session, "session")
    register_transient(Session, "report")
    register_instance(mine, "given")
    assert mine is get_service("given")
    assert get_service("report") is not get_service("report")
    await startup_all_services()
    host = current_host()
    async with host.scope() as scope:
        first = await scope.get("session")
        assert first is await scope.get("session")
    async with host.scope() as scope:
        assert first is not await scope.get("session")
    assert ["session", "session"] == closed
    await shutdown_all_services()


async def test_handles_follow_the_current_host() -> None:
    """Factory, manager, container, registry and health monitor are those of the current host."""
    seen = []
    register_singleton(Store)
    forget = service_manager.subscribe(seen.append)
    await service_manager.startup()
    assert any(isinstance(event, HostStarted) for event in seen)
    made = service_factory.create(Reader)
    assert made.store is get_service(Store)
    assert "reader" not in service_registry
    given = Store()
    assert given is service_factory.create(Reader, store=given).store
    assert "store" in service_container
    assert service_container["store"] is service_registry.store  # type: ignore[attr-defined]
    assert "running" == service_manager.states["store"].value
    await service_manager.restart("store")
    assert isinstance(await service_health_monitor.check("store"), HealthResult)
    assert service_health_monitor.readiness()
    forget()
    await service_manager.shutdown()
    assert not service_health_monitor.readiness()
    assert ["store"] == list(service_registry)
    assert 1 == len(service_registry)


async def test_manager_starts_and_stops_groups() -> None:
    """A group with what it needs, and with what needs it."""
    register_singleton(Store)
    register_singleton(Reader)
    register_service_group("data", ["store"])
    await service_manager.start_group("data")
    assert ("running", "registered") == tuple(service_manager.states[name].value for name in ("store", "reader"))
    await service_manager.startup()
    await service_manager.stop_group("data")
    assert ("stopped", "stopped") == tuple(service_manager.states[name].value for name in ("store", "reader"))
    await service_manager.shutdown()


def test_discovered_services_are_registered_under_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails is returned as data and prevents no other."""
    for name in ("good", "raising"):
        monkeypatch.syspath_prepend(str(Path(__file__).parent / "fixtures" / "plugins" / name))
    before = set(sys.modules)
    found = [one for one in discover_services() if one.module.startswith("fixture_")]
    failures = register_discovered_services(found)
    for name in set(sys.modules) - before:
        if name.startswith("fixture_"):
            del sys.modules[name]
    assert ["raising_service"] == [failure.name for failure in failures]
    assert {"good_service"} <= set(service_registry)
    assert "raising_service" not in service_registry


def test_metrics_need_a_service_that_keeps_some() -> None:
    """A plain object has none, and the error says so."""
    register_instance(object(), "thing")
    with pytest.raises(ServiceNotFoundError, match="needs a BaseService"):
        get_service_metrics("thing")
