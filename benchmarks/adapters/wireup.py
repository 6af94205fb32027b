"""wireup: functions injected from a container that opens their scope; generated wrappers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import wireup
import wireup.integration.fastapi
from fastapi import APIRouter, FastAPI, Response
from wireup import Injected, injectable

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
    return [injectable(graph.A), injectable(graph.B)]


def scoped_graph(graph: ModuleType) -> list[Any]:
    """The scoped graph."""
    scoped = injectable(lifetime="scoped")
    return [scoped(one) for one in (*graph.SCOPED_CLASSES, graph.open_h, graph.open_i)]


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("wireup_resolve")
    container = wireup.create_sync_container(injectables=singletons(graph))
    yield Operation("get(B)", {"get": container.get, "B": graph.B}, graph)
    container.close()


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("wireup_async")
    container = wireup.create_async_container(injectables=singletons(graph))
    use = wireup.inject_from_container(container)(graph.async_function(mark))
    yield Operation("await use(1)", {"use": use}, graph)
    await container.close()


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("wireup_sync")
    container = wireup.create_sync_container(injectables=singletons(graph))
    yield Operation("use(1)", {"use": wireup.inject_from_container(container)(graph.sync_function(mark))}, graph)
    container.close()


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method."""
    graph = fresh_graph("wireup_method")
    container = wireup.create_async_container(injectables=singletons(graph))
    consumer = graph.consumer(wireup.inject_from_container(container)(graph.method(mark)))
    yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)
    await container.close()


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The decorator opens the scope."""
    graph = fresh_graph("wireup_scoped")
    container = wireup.create_async_container(injectables=scoped_graph(graph))
    call = wireup.inject_from_container(container)(graph.scoped_handler(mark))
    yield Operation("await call()", {"call": call}, graph)
    await container.close()


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The scope is opened and asked."""
    graph = fresh_graph("wireup_dynamic")
    container = wireup.create_async_container(injectables=scoped_graph(graph))
    handle, kinds = graph.scoped_handler(), [*graph.SCOPED_CLASSES, graph.H, graph.I]

    async def call() -> Any:
        async with container.enter_scope() as scope:
            c, d, e, f, g, h, i = [await scope.get(kind) for kind in kinds]
            return await handle(c, c, c, d, d, e, f, g, h, i)

    yield Operation("await call()", {"call": call}, graph)
    await container.close()


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type; transient services need a scope, which stays open."""
    graph = fresh_graph("wireup_transient")
    new = injectable(lifetime="transient")
    container = wireup.create_sync_container(injectables=[new(getattr(graph, f"T{i}")) for i in range(1, 6)])
    with container.enter_scope() as scope:
        yield Operation("get(T5)", {"get": scope.get, "T5": graph.T5}, graph)
    container.close()


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty scope."""
    graph = fresh_graph("wireup_scope")
    container = wireup.create_async_container(injectables=scoped_graph(graph))
    yield Operation("async with scope(): pass", {"scope": container.enter_scope}, graph, is_statement=True)
    await container.close()


@asynccontextmanager
async def _web(graph: ModuleType, injectables: list[Any], endpoint: Any) -> AsyncIterator[Operation]:
    app = FastAPI()
    app.router.route_class = (
        wireup.integration.fastapi.WireupRoute
    )  # keeps the services out of FastAPI's own dependencies
    app.get("/")(endpoint)
    wireup.integration.fastapi.setup(wireup.create_async_container(injectables=injectables), app)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("wireup_web_singleton")
    return _web(graph, singletons(graph), graph.singleton_endpoint(Response(status_code=204), mark))


def web_scoped() -> Any:
    """The FastAPI integration."""
    graph = fresh_graph("wireup_web_scoped")
    return _web(graph, scoped_graph(graph), graph.scoped_endpoint(Response(status_code=204), mark))


@asynccontextmanager
async def web_class_based() -> AsyncIterator[Operation]:
    """A handler class gets its singletons once, when the application starts."""
    graph = fresh_graph("wireup_web_class")
    router, handle = APIRouter(), graph.singleton_endpoint(Response(status_code=204))

    class Handler:
        def __init__(self, a: Any, b: Any) -> None:
            self.a, self.b = a, b

        @router.get("/")
        async def endpoint(self) -> Any:
            return await handle(self.a, self.b)

    Handler.router = router  # type: ignore[attr-defined]
    Handler.__init__.__annotations__ = {"a": graph.A, "b": graph.B, "return": None}
    app = FastAPI()
    container = wireup.create_async_container(injectables=singletons(graph))
    wireup.integration.fastapi.setup(container, app, class_based_handlers=[Handler])  # type: ignore[list-item]
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def build(services: Services) -> Built:
    """Creating the container validates and compiles."""
    container = wireup.create_sync_container(injectables=[injectable(cls) for cls in services.classes])
    return container, [container.get(cls) for cls in services.last]


ADAPTER = Adapter(
    name="wireup",
    distribution="wireup",
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
    imports={"import": "import wireup"},
)
CLASS_BASED = Adapter(name="wireup, handler class", distribution="wireup", rows={"fastapi-singleton": web_class_based})
ADAPTERS = [ADAPTER, CLASS_BASED]
