"""modern-di: providers in a group, child containers as scopes; finalizers instead of generators, no injection."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from modern_di import Container, Group, Scope
from modern_di.providers import CacheSettings, Factory

from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def container_of(scope: Scope, kinds: list[Any], *, cache: bool = True, **more: Any) -> Container:
    """A container with a provider per class."""
    members = {kind.__name__: Factory(kind, scope=scope, cache=cache) for kind in kinds}
    container = Container(groups=[type("Providers", (Group,), {**members, **more})])
    container.validate()
    return container


def scoped_graph(graph: ModuleType) -> Container:
    """The scoped graph; what the generators do after their yield is a finalizer here."""

    async def close_i(_: Any) -> None:
        graph.log("close i")

    h: CacheSettings[Any] = CacheSettings(finalizer=lambda _: graph.log("close h"))
    return container_of(
        Scope.REQUEST,
        list(graph.SCOPED_CLASSES),
        H=Factory(graph.H, scope=Scope.REQUEST, cache=h),
        I=Factory(graph.I, scope=Scope.REQUEST, cache=CacheSettings(finalizer=close_i)),
    )


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("modern_di_resolve")
    container = container_of(Scope.APP, [graph.A, graph.B])
    yield Operation("resolve(B)", {"resolve": container.resolve, "B": graph.B}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """A child container is opened and asked."""
    graph = fresh_graph("modern_di_scoped")
    container = scoped_graph(graph)
    handle, kinds = graph.scoped_handler(), [*graph.SCOPED_CLASSES, graph.H, graph.I]

    async def call() -> Any:
        async with container.build_child_container(scope=Scope.REQUEST) as child:
            c, d, e, f, g, h, i = [child.resolve(kind) for kind in kinds]
            return await handle(c, c, c, d, d, e, f, g, h, i)

    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("modern_di_transient")
    container = container_of(Scope.APP, [getattr(graph, f"T{number}") for number in range(1, 6)], cache=False)
    yield Operation("resolve(T5)", {"resolve": container.resolve, "T5": graph.T5}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty child container."""
    graph = fresh_graph("modern_di_scope")
    names = {"child": scoped_graph(graph).build_child_container, "REQUEST": Scope.REQUEST}
    yield Operation("async with child(scope=REQUEST): pass", names, graph, is_statement=True)


def build(services: Services) -> Built:
    """Validated on request; compiled on demand."""
    container = container_of(Scope.APP, services.classes)
    return container, [container.resolve(cls) for cls in services.last]


ADAPTER = Adapter(
    name="modern-di",
    distribution="modern-di",
    rows={"resolve": resolve, "scoped-dynamic": scoped, "transient": transient, "scope": scope},
    build=build,
    imports={"import": "import modern_di"},
    notes={"scoped-dynamic": "finalizers, no generators"},
)
