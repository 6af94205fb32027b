"""dishka: compiled factories; functions injected through its integration helper."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dishka import FromDishka, Provider, Scope, make_async_container, make_container
from dishka.integrations.base import wrap_injection
from dishka.integrations.fastapi import inject, setup_dishka
from fastapi import FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def mark(kind: type) -> Any:
    """How a parameter asks for a service."""
    return FromDishka[kind]  # type: ignore[misc, valid-type]  # a class at run time


def singletons(graph: ModuleType) -> Provider:
    """Two singletons."""
    provider = Provider(scope=Scope.APP)
    provider.provide_all(graph.A, graph.B)
    return provider


def scoped_graph(graph: ModuleType) -> Provider:
    """The scoped graph."""
    provider = Provider(scope=Scope.REQUEST)
    for one in (*graph.SCOPED_CLASSES, graph.open_h, graph.open_i):
        provider.provide(one)
    return provider


def injected(function: Any, container: Any, *, is_async: bool = True, manage_scope: bool = False) -> Any:
    """The function, injected from the container; with a scope of its own per call if wanted."""
    wrap: Any = wrap_injection  # its overloads want a literal
    return wrap(
        func=function, is_async=is_async, manage_scope=manage_scope, container_getter=lambda _args, _kwargs: container
    )


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("dishka_resolve")
    container = make_container(singletons(graph))
    yield Operation("get(B)", {"get": container.get, "B": graph.B}, graph)
    container.close()


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A wrapped function."""
    graph = fresh_graph("dishka_async")
    container = make_async_container(singletons(graph))
    yield Operation("await use(1)", {"use": injected(graph.async_function(mark), container)}, graph)
    await container.close()


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A wrapped function."""
    graph = fresh_graph("dishka_sync")
    container = make_container(singletons(graph))
    yield Operation("use(1)", {"use": injected(graph.sync_function(mark), container, is_async=False)}, graph)
    container.close()


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A wrapped method."""
    graph = fresh_graph("dishka_method")
    container = make_async_container(singletons(graph))
    consumer = graph.consumer(injected(graph.method(mark), container))
    yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)
    await container.close()


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The wrapper opens the scope."""
    graph = fresh_graph("dishka_scoped")
    container = make_async_container(scoped_graph(graph))
    call = injected(graph.scoped_handler(mark), container, manage_scope=True)
    yield Operation("await call()", {"call": call}, graph)
    await container.close()


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The scope is opened and asked."""
    graph = fresh_graph("dishka_dynamic")
    container = make_async_container(scoped_graph(graph))
    handle, kinds = graph.scoped_handler(), [*graph.SCOPED_CLASSES, graph.H, graph.I]

    async def call() -> Any:
        async with container() as scope:
            c, d, e, f, g, h, i = [await scope.get(kind) for kind in kinds]
            return await handle(c, c, c, d, d, e, f, g, h, i)

    yield Operation("await call()", {"call": call}, graph)
    await container.close()


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("dishka_transient")
    provider = Provider(scope=Scope.APP)
    for number in range(1, 6):
        provider.provide(getattr(graph, f"T{number}"), cache=False)
    container = make_container(provider)
    yield Operation("get(T5)", {"get": container.get, "T5": graph.T5}, graph)
    container.close()


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty scope."""
    graph = fresh_graph("dishka_scope")
    container = make_async_container(scoped_graph(graph))
    yield Operation("async with scope(): pass", {"scope": container}, graph, is_statement=True)
    await container.close()


@asynccontextmanager
async def _web(graph: ModuleType, provider: Provider, endpoint: Any) -> AsyncIterator[Operation]:
    app, container = FastAPI(), make_async_container(provider)
    app.get("/")(inject(endpoint))
    setup_dishka(container, app)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)
    await container.close()


def web_singleton() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("dishka_web_singleton")
    return _web(graph, singletons(graph), graph.singleton_endpoint(Response(status_code=204), mark))


def web_scoped() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("dishka_web_scoped")
    return _web(graph, scoped_graph(graph), graph.scoped_endpoint(Response(status_code=204), mark))


def build(services: Services) -> Built:
    """Making the container validates; the first question compiles."""
    provider = Provider(scope=Scope.APP)
    provider.provide_all(*services.classes)
    container = make_container(provider)
    return container, [container.get(cls) for cls in services.last]


ADAPTER = Adapter(
    name="dishka",
    distribution="dishka",
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
    imports={"import": "import dishka"},
)
