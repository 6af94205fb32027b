"""anydi: resolution by type; functions injected by a decorator, scopes by a context."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anydi.ext.fastapi
from anydi import Container, Provide
from fastapi import FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from types import ModuleType


def mark(kind: type) -> Any:
    """How a parameter asks for a service."""
    return Provide[kind]  # type: ignore[misc, valid-type]  # a class at run time


def singletons(graph: ModuleType) -> Container:
    """Two singletons."""
    container = Container()
    for kind in (graph.A, graph.B):
        container.register(kind, scope="singleton")
    container.build()
    return container


def scoped_graph(graph: ModuleType) -> Container:
    """The scoped graph."""
    container = Container()
    for kind in graph.SCOPED_CLASSES:
        container.register(kind, scope="request")
    opened = contextmanager(graph.open_h)

    async def open_h(c: Any, d: Any) -> Any:  # it would run the plain generator in a thread, ten times slower
        with opened(c, d) as h:
            yield h

    open_h.__annotations__ = {"c": graph.C, "d": graph.D, "return": AsyncIterator[graph.H]}  # type: ignore[name-defined]
    container.register(graph.H, open_h, scope="request")
    container.register(graph.I, graph.open_i, scope="request")
    container.build()
    return container


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("anydi_resolve")
    yield Operation("resolve(B)", {"resolve": singletons(graph).resolve, "B": graph.B}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("anydi_async")
    use = singletons(graph).inject(graph.async_function(mark))
    yield Operation("await use(1)", {"use": use}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("anydi_sync")
    yield Operation("use(1)", {"use": singletons(graph).inject(graph.sync_function(mark))}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method."""
    graph = fresh_graph("anydi_method")
    read = graph.method(mark)
    read.__annotations__ = {"self": object, "number": int, **read.__annotations__}  # it wants all of them annotated
    yield Operation("await consumer.read(1)", {"consumer": graph.consumer(singletons(graph).inject(read))}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """A decorated function in a request context."""
    graph = fresh_graph("anydi_scoped")
    container = scoped_graph(graph)
    handle = container.inject(graph.scoped_handler(mark))

    async def call() -> Any:
        async with container.arequest_context():
            return await handle()

    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The request context is opened and asked."""
    graph = fresh_graph("anydi_dynamic")
    container = scoped_graph(graph)
    handle, kinds = graph.scoped_handler(), graph.SCOPED_CLASSES

    async def call() -> Any:
        async with container.arequest_context():
            c, d, e, f, g = [container.resolve(kind) for kind in kinds]
            h, i = await container.aresolve(graph.H), await container.aresolve(graph.I)
            return await handle(c, c, c, d, d, e, f, g, h, i)

    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("anydi_transient")
    container = Container()
    for number in range(1, 6):
        container.register(getattr(graph, f"T{number}"), scope="transient")
    container.build()
    yield Operation("resolve(T5)", {"resolve": container.resolve, "T5": graph.T5}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty request context."""
    graph = fresh_graph("anydi_scope")
    names = {"scope": scoped_graph(graph).arequest_context}
    yield Operation("async with scope(): pass", names, graph, is_statement=True)


@asynccontextmanager
async def _web(graph: ModuleType, container: Container, endpoint: Any, *, scoped: bool) -> AsyncIterator[Operation]:
    app = FastAPI()
    if scoped:
        app.add_middleware(anydi.ext.fastapi.RequestScopedMiddleware, container=container)
    app.get("/")(endpoint)
    anydi.ext.fastapi.install(app, container)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("anydi_web_singleton")
    endpoint = graph.singleton_endpoint(Response(status_code=204), mark)
    return _web(graph, singletons(graph), endpoint, scoped=False)


def web_scoped() -> Any:
    """The FastAPI integration with its middleware."""
    graph = fresh_graph("anydi_web_scoped")
    endpoint = graph.scoped_endpoint(Response(status_code=204), mark)
    return _web(graph, scoped_graph(graph), endpoint, scoped=True)


def build(services: Services) -> Built:
    """Build validates; the first question compiles."""
    container = Container()
    for cls in services.classes:
        container.register(cls, scope="singleton")
    container.build()
    return container, [container.resolve(cls) for cls in services.last]


ADAPTER = Adapter(
    name="anydi",
    distribution="anydi",
    rows={
        "resolve": resolve,
        "async": async_call,
        "sync": sync_call,
        "method": method_call,
        "scoped": scoped,
        "scoped-dynamic": scoped_dynamic,
        "transient": transient,
        "scope": scope,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
    },
    build=build,
    imports={"import": "import anydi"},
)
