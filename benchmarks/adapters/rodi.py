"""rodi: compiled resolution by type; no function injection and no teardown."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rodi import Container

from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("rodi_resolve")
    provider = Container().add_singleton(graph.A).add_singleton(graph.B).build_provider()
    yield Operation("get(B)", {"get": provider.get, "B": graph.B}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("rodi_transient")
    container = Container()
    for number in range(1, 6):
        container.add_transient(getattr(graph, f"T{number}"))
    yield Operation("get(T5)", {"get": container.build_provider().get, "T5": graph.T5}, graph)


def build(services: Services) -> Built:
    """Building the provider validates and compiles."""
    container = Container()
    for cls in services.classes:
        container.add_singleton(cls)
    provider = container.build_provider()
    return provider, [provider.get(cls) for cls in services.last]


ADAPTER = Adapter(
    name="rodi",
    distribution="rodi",
    rows={"resolve": resolve, "transient": transient},
    build=build,
    imports={"import": "import rodi"},
)
