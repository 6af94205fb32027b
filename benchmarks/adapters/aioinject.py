"""aioinject: compiled resolution in contexts; functions injected through its decorator helper."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from aioinject import Container, Injected, Scoped, Singleton, SyncContainer, Transient
from aioinject.decorators import base_inject
from aioinject.ext.fastapi import AioInjectMiddleware, inject
from fastapi import FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def mark(kind: type) -> Any:
    """How a parameter asks for a service."""
    return Injected[kind]  # type: ignore[misc, valid-type]  # a class at run time


def singletons(graph: ModuleType) -> list[Any]:
    """Two singletons."""
    return [Singleton(graph.A), Singleton(graph.B)]


def scoped_graph(graph: ModuleType) -> list[Any]:
    """The scoped graph."""
    opened = [contextmanager(graph.open_h), asynccontextmanager(graph.open_i)]
    return [Scoped(one) for one in (*graph.SCOPED_CLASSES, *opened)]


def registered(container: Any, providers: list[Any]) -> Any:
    """The container, with the providers in it."""
    container.register(*providers)
    return container


def injected(function: Any, context: Any, *, enter: bool = False) -> Any:
    """The function, injected from a context, or from a new one within it per call."""
    getter = lambda _args, _kwargs: context  # noqa: E731 - an argument
    return base_inject(function, context_parameters=(), context_getter=getter, enter_context=enter)


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("aioinject_resolve")
    with registered(SyncContainer(), singletons(graph)) as container:
        yield Operation("resolve(B)", {"resolve": container.root.resolve, "B": graph.B}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A wrapped function."""
    graph = fresh_graph("aioinject_async")
    async with registered(Container(), singletons(graph)) as container:
        yield Operation("await use(1)", {"use": injected(graph.async_function(mark), container.root)}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A wrapped function."""
    graph = fresh_graph("aioinject_sync")
    with registered(SyncContainer(), singletons(graph)) as container:
        yield Operation("use(1)", {"use": injected(graph.sync_function(mark), container.root)}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A wrapped method."""
    graph = fresh_graph("aioinject_method")
    async with registered(Container(), singletons(graph)) as container:
        consumer = graph.consumer(injected(graph.method(mark), container.root))
        yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The wrapper opens the context."""
    graph = fresh_graph("aioinject_scoped")
    async with registered(Container(), scoped_graph(graph)) as container:
        call = injected(graph.scoped_handler(mark), container.root, enter=True)
        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The context is opened and asked."""
    graph = fresh_graph("aioinject_dynamic")
    handle, kinds = graph.scoped_handler(), [*graph.SCOPED_CLASSES, graph.H, graph.I]
    async with registered(Container(), scoped_graph(graph)) as container:

        async def call() -> Any:
            async with container.context() as context:
                c, d, e, f, g, h, i = [await context.resolve(kind) for kind in kinds]
                return await handle(c, c, c, d, d, e, f, g, h, i)

        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type, in a context that stays open."""
    graph = fresh_graph("aioinject_transient")
    providers = [Transient(getattr(graph, f"T{number}")) for number in range(1, 6)]
    with registered(SyncContainer(), providers) as container, container.context() as context:
        yield Operation("resolve(T5)", {"resolve": context.resolve, "T5": graph.T5}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty context."""
    graph = fresh_graph("aioinject_scope")
    async with registered(Container(), scoped_graph(graph)) as container:
        yield Operation("async with scope(): pass", {"scope": container.context}, graph, is_statement=True)


@asynccontextmanager
async def _web(graph: ModuleType, providers: list[Any], endpoint: Any) -> AsyncIterator[Operation]:
    app = FastAPI()
    app.get("/")(inject(endpoint))
    async with registered(Container(), providers) as container:
        app.add_middleware(AioInjectMiddleware, container=container)
        async with running(app) as state:
            yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("aioinject_web_singleton")
    return _web(graph, singletons(graph), graph.singleton_endpoint(Response(status_code=204), mark))


def web_scoped() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("aioinject_web_scoped")
    return _web(graph, scoped_graph(graph), graph.scoped_endpoint(Response(status_code=204), mark))


def build(services: Services) -> Built:
    """Compiled on demand."""
    container = registered(SyncContainer(), [Singleton(cls) for cls in services.classes])
    return container, [container.root.resolve(cls) for cls in services.last]


ADAPTER = Adapter(
    name="aioinject",
    distribution="aioinject",
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
    imports={"import": "import aioinject"},
)
