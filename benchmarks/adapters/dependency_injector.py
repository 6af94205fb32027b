"""dependency-injector: providers in a declarative container, wired markers; its compiled extension."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from dependency_injector import containers, providers
from dependency_injector.wiring import Closing, Provide, inject
from fastapi import Depends, FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def singletons(graph: ModuleType) -> Any:
    """Two singletons."""

    class Container(containers.DeclarativeContainer):
        a = providers.Singleton(graph.A)
        b = providers.Singleton(graph.B, a)

    return Container


def scoped_graph(graph: ModuleType) -> Any:
    """The scoped graph: resources closed after the call, and singletons of the context that the caller resets."""
    C, D, E, F, G = graph.SCOPED_CLASSES  # noqa: N806 - they are classes
    kept, opened = providers.ContextLocalSingleton, providers.Resource

    class Container(containers.DeclarativeContainer):
        c = kept(C)
        d = kept(D, c)
        e = kept(E, c, d)
        f = kept(F, c, d, e)
        g = kept(G, c, d, e, f)
        h = opened(graph.open_h, c, d)
        i = opened(graph.open_i, e, f)

    return Container


def _default(graph: ModuleType, container: Any, wrap: Any = lambda marker: marker) -> Any:
    def default(kind: type) -> Any:
        marker: Any = Provide[getattr(container, kind.__name__.lower())]
        return wrap(Closing[marker] if kind in {graph.H, graph.I} else marker)

    return default


def wired(graph: Any, container: Any, function: Any) -> Any:
    """The function, decorated and wired as a member of the graph's module."""
    graph.wired = inject(function)
    container().wire(modules=[graph])
    return graph.wired


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """The provider is called."""
    graph = fresh_graph("di_resolve")
    yield Operation("b()", {"b": singletons(graph)().b}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("di_async")
    container = singletons(graph)
    use = wired(graph, container, graph.async_function(default=_default(graph, container)))
    yield Operation("await use(1)", {"use": use}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("di_sync")
    container = singletons(graph)
    use = wired(graph, container, graph.sync_function(default=_default(graph, container)))
    yield Operation("use(1)", {"use": use}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method."""
    graph = fresh_graph("di_method")
    container = singletons(graph)
    read = wired(graph, container, graph.method(default=_default(graph, container)))
    yield Operation("await consumer.read(1)", {"consumer": graph.consumer(read)}, graph)


def resetting(container: Any, call: Any) -> Any:
    """The call, after which the context's singletons are gone."""
    kept = [container.c, container.d, container.e, container.f, container.g]

    async def scoped_call() -> Any:
        try:
            return await call()
        finally:
            for provider in kept:
                provider.reset()

    return scoped_call


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """A decorated function; resources are closed by the decorator, the rest is reset by hand."""
    graph: Any = fresh_graph("di_scoped")
    declared = scoped_graph(graph)
    graph.wired = inject(graph.scoped_handler(default=_default(graph, declared)))
    container = declared()
    container.wire(modules=[graph])
    yield Operation("await call()", {"call": resetting(container, graph.wired)}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """The provider is called."""
    graph = fresh_graph("di_transient")
    provider = providers.Factory(graph.T1)
    for number in range(2, 6):
        provider = providers.Factory(getattr(graph, f"T{number}"), provider)
    yield Operation("t5()", {"t5": provider}, graph)


@asynccontextmanager
async def web_singleton() -> AsyncIterator[Operation]:
    """Wired markers as FastAPI dependencies."""
    graph = fresh_graph("di_web_singleton")
    container = singletons(graph)
    endpoint = graph.singleton_endpoint(Response(status_code=204), default=_default(graph, container, Depends))
    app = FastAPI()
    app.get("/")(wired(graph, container, endpoint))
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


@asynccontextmanager
async def web_scoped() -> AsyncIterator[Operation]:
    """Wired markers as FastAPI dependencies; the context's singletons are reset by hand."""
    graph: Any = fresh_graph("di_web_scoped")
    declared = scoped_graph(graph)
    endpoint = graph.scoped_endpoint(Response(status_code=204), default=_default(graph, declared, Depends))
    graph.wired = inject(endpoint)
    app, container = FastAPI(), declared()
    app.get("/")(graph.wired)
    container.wire(modules=[graph])
    async with running(app) as state:
        call = resetting(container, requester(app, state))
        yield Operation("await request()", {"request": call}, graph)


def build(services: Services) -> Built:
    """Nothing is validated."""
    made: list[Any] = []
    for cls, needs in zip(services.classes, services.needs, strict=True):
        made.append(providers.Singleton(cls, *[made[index] for index in needs]))
    members = {f"s{number}": provider for number, provider in enumerate(made)}
    container = type("Container", (containers.DeclarativeContainer,), members)()
    first = len(made) - len(services.last)
    return container, [getattr(container, f"s{number}")() for number in range(first, len(made))]


ADAPTER = Adapter(
    name="dependency-injector",
    distribution="dependency-injector",
    rows={
        "resolve": resolve,
        "async": async_call,
        "sync": sync_call,
        "method": method_call,
        "scoped": scoped,
        "transient": transient,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
    },
    build=build,
    imports={
        "import": "import dependency_injector",
        "import and declare": "from dependency_injector import containers, providers",
    },
    notes={
        "build": "validates nothing",
        "scoped": "concurrent calls share the generators' instances",
        "fastapi-scoped": "concurrent calls share the generators' instances",
    },
)
