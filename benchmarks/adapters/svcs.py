"""svcs: a locator; factories ask the container, and so do handlers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import svcs
import svcs.fastapi
from fastapi import FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from types import ModuleType


def asking(cls: Any, *needs: Any) -> Callable[[svcs.Container], Any]:
    """A factory that asks the container for what the class needs."""

    def create(svcs_container: svcs.Container) -> Any:
        return cls(*[svcs_container.get(need) for need in needs])

    return create


def singletons(graph: ModuleType) -> svcs.Registry:
    """Two singletons: values in the registry."""
    registry, a = svcs.Registry(), graph.A()
    registry.register_value(graph.A, a)
    registry.register_value(graph.B, graph.B(a))
    return registry


def scoped_graph(graph: ModuleType, registry: svcs.Registry) -> None:
    """The scoped graph."""
    C, D, E, F, G = graph.SCOPED_CLASSES  # noqa: N806 - they are classes
    open_h, open_i = graph.open_h, graph.open_i

    def make_h(svcs_container: svcs.Container) -> Any:
        yield from open_h(svcs_container.get(C), svcs_container.get(D))

    async def make_i(svcs_container: svcs.Container) -> Any:
        async with asynccontextmanager(open_i)(svcs_container.get(E), svcs_container.get(F)) as i:
            yield i

    registry.register_factory(C, C)
    registry.register_factory(D, asking(D, C))
    registry.register_factory(E, asking(E, C, D))
    registry.register_factory(F, asking(F, C, D, E))
    registry.register_factory(G, asking(G, C, D, E, F))
    registry.register_factory(graph.H, make_h)
    registry.register_factory(graph.I, make_i)


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type, from a container that lives on."""
    graph = fresh_graph("svcs_resolve")
    with singletons(graph) as registry, svcs.Container(registry) as container:
        yield Operation("get(B)", {"get": container.get, "B": graph.B}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The container is opened and asked for everything at once."""
    graph = fresh_graph("svcs_scoped")
    handle, (C, D, E, F, G) = graph.scoped_handler(), graph.SCOPED_CLASSES  # noqa: N806 - classes
    H, I = graph.H, graph.I  # noqa: E741, N806 - same
    with svcs.Registry() as registry:
        scoped_graph(graph, registry)

        async def call() -> Any:
            async with svcs.Container(registry) as container:
                c, d, e, f, g, h, i = await container.aget(C, D, E, F, G, H, I)
                return await handle(c, c, c, d, d, e, f, g, h, i)

        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type; a container keeps what it made, so each chain has its own."""
    graph = fresh_graph("svcs_transient")
    with svcs.Registry() as registry:
        registry.register_factory(graph.T1, graph.T1)
        for number in range(2, 6):
            cls, need = getattr(graph, f"T{number}"), getattr(graph, f"T{number - 1}")
            registry.register_factory(cls, asking(cls, need))
        names = {"Container": svcs.Container, "registry": registry, "T5": graph.T5}
        yield Operation("Container(registry).get(T5)", names, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty container."""
    graph = fresh_graph("svcs_scope")
    with svcs.Registry() as registry:
        names = {"Container": svcs.Container, "registry": registry}
        yield Operation("async with Container(registry): pass", names, graph, is_statement=True)


@asynccontextmanager
async def _web(graph: ModuleType, kinds: list[Any], handle: Any, register: Any) -> AsyncIterator[Operation]:
    @svcs.fastapi.lifespan
    async def lifespan(_app: FastAPI, registry: svcs.Registry) -> AsyncGenerator[None]:
        register(registry)
        yield

    app = FastAPI(lifespan=lifespan)

    async def endpoint(services: Any) -> Any:
        return await handle(*await services.aget(*kinds))

    endpoint.__annotations__ = {"services": svcs.fastapi.DepContainer}
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("svcs_web_singleton")
    a = graph.A()

    def register(registry: svcs.Registry) -> None:
        registry.register_value(graph.A, a)
        registry.register_value(graph.B, graph.B(a))

    return _web(graph, [graph.A, graph.B], graph.singleton_endpoint(Response(status_code=204)), register)


def web_scoped() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("svcs_web_scoped")
    endpoint = graph.scoped_endpoint(Response(status_code=204))

    async def handle(*made: Any) -> Any:
        c, d, e, f, g, h, i = made
        return await endpoint(c, c, c, d, d, e, f, g, h, i)

    kinds = [*graph.SCOPED_CLASSES, graph.H, graph.I]
    return _web(graph, kinds, handle, lambda registry: scoped_graph(graph, registry))


def build(services: Services) -> Built:
    """Nothing is validated."""
    registry = svcs.Registry()
    for cls, needs in zip(services.classes, services.needs, strict=True):
        registry.register_factory(cls, asking(cls, *[services.classes[index] for index in needs]))
    container = svcs.Container(registry)
    return container, [container.get(cls) for cls in services.last]


ADAPTER = Adapter(
    name="svcs",
    distribution="svcs",
    rows={
        "resolve": resolve,
        "scoped-dynamic": scoped,
        "transient": transient,
        "scope": scope,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
    },
    build=build,
    imports={"import": "import svcs"},
    notes={"build": "validates nothing"},
)
