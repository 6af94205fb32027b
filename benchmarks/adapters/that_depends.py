"""that-depends: providers in a declarative container; parameters default to them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Response
from that_depends import BaseContainer, ContextScopes, Provide, container_context, inject, providers

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def singletons(graph: ModuleType) -> Any:
    """Two singletons."""

    class Container(BaseContainer):
        alias = graph.__name__
        a = providers.Singleton(graph.A)
        b = providers.Singleton(graph.B, a.cast)

    return Container


def scoped_graph(graph: ModuleType, scope: Any = ContextScopes.REQUEST) -> Any:
    """The scoped graph: what is shared within a context has to be a context resource, so all are generators."""

    def kept(cls: Any) -> Any:
        async def keep(*args: Any) -> Any:
            yield cls(*args)

        return keep

    C, D, E, F, G = (kept(cls) for cls in graph.SCOPED_CLASSES)  # noqa: N806 - they stand for classes
    shared = providers.ContextResource

    class Container(BaseContainer):
        alias = graph.__name__
        default_scope = scope
        c = shared(C)
        d = shared(D, c.cast)
        e = shared(E, c.cast, d.cast)
        f = shared(F, c.cast, d.cast, e.cast)
        g = shared(G, c.cast, d.cast, e.cast, f.cast)
        h = shared(graph.open_h, c.cast, d.cast)
        i = shared(graph.open_i, e.cast, f.cast)

    return Container


def _default(graph: ModuleType, container: Any) -> Any:
    names = {kind: kind.__name__.lower() for kind in (graph.A, graph.B, *graph.SCOPED_CLASSES, graph.H, graph.I)}
    return lambda kind: Provide[getattr(container, names[kind])]


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """The provider is asked."""
    graph = fresh_graph("that_depends_resolve")
    yield Operation("resolve()", {"resolve": singletons(graph).b.resolve_sync}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("that_depends_async")
    use = inject(graph.async_function(default=_default(graph, singletons(graph))))
    yield Operation("await use(1)", {"use": use}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("that_depends_sync")
    use = inject(graph.sync_function(default=_default(graph, singletons(graph))))
    yield Operation("use(1)", {"use": use}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method."""
    graph = fresh_graph("that_depends_method")
    consumer = graph.consumer(inject(graph.method(default=_default(graph, singletons(graph)))))
    yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """A decorated function; the decorator opens the contexts."""
    graph = fresh_graph("that_depends_scoped")
    container = scoped_graph(graph, ContextScopes.INJECT)
    call = inject(graph.scoped_handler(default=_default(graph, container)))
    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """The provider is asked."""
    graph = fresh_graph("that_depends_transient")

    class Container(BaseContainer):
        alias = graph.__name__
        t1 = providers.Factory(graph.T1)
        t2 = providers.Factory(graph.T2, t1.cast)
        t3 = providers.Factory(graph.T3, t2.cast)
        t4 = providers.Factory(graph.T4, t3.cast)
        t5 = providers.Factory(graph.T5, t4.cast)

    yield Operation("resolve()", {"resolve": Container.t5.resolve_sync}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """A context for one container's resources, none of them made."""
    graph = fresh_graph("that_depends_scope")
    container = scoped_graph(graph)
    names = {"scope": container_context, "Container": container, "REQUEST": ContextScopes.REQUEST}
    yield Operation("async with scope(Container, scope=REQUEST): pass", names, graph, is_statement=True)


@asynccontextmanager
async def _web(graph: ModuleType, endpoint: Any) -> AsyncIterator[Operation]:
    app = FastAPI()
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """Providers are FastAPI dependencies."""
    graph = fresh_graph("that_depends_web_singleton")
    container = singletons(graph)
    default = {graph.A: Depends(container.a), graph.B: Depends(container.b)}
    return _web(graph, graph.singleton_endpoint(Response(status_code=204), default=default.__getitem__))


@asynccontextmanager
async def web_scoped() -> AsyncIterator[Operation]:
    """Providers are FastAPI dependencies; a dependency opens the context."""
    graph = fresh_graph("that_depends_web_scoped")
    container = scoped_graph(graph)

    async def in_context() -> Any:
        async with container_context(container, scope=ContextScopes.REQUEST):
            yield

    names = {kind: kind.__name__.lower() for kind in (*graph.SCOPED_CLASSES, graph.H, graph.I)}
    endpoint = graph.scoped_endpoint(
        Response(status_code=204), default=lambda kind: Depends(getattr(container, names[kind]))
    )
    app = FastAPI(dependencies=[Depends(in_context)])
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def build(services: Services) -> Built:
    """Nothing is validated."""
    made: list[Any] = []
    for cls, needs in zip(services.classes, services.needs, strict=True):
        made.append(providers.Singleton(cls, *[made[index].cast for index in needs]))
    members = {f"s{number}": provider for number, provider in enumerate(made)}
    metaclass: Any = type(BaseContainer)
    container = metaclass("Container", (BaseContainer,), {"alias": f"many{id(services)}", **members})
    return container, [provider.resolve_sync() for provider in made[-len(services.last) :]]


ADAPTER = Adapter(
    name="that-depends",
    distribution="that-depends",
    rows={
        "resolve": resolve,
        "async": async_call,
        "sync": sync_call,
        "method": method_call,
        "scoped": scoped,
        "transient": transient,
        "scope": scope,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
    },
    build=build,
    imports={"import": "import that_depends"},
    notes={"build": "validates nothing"},
)
