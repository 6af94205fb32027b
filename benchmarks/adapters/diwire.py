"""diwire: compiled resolvers in strict mode; functions injected through its resolver context."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from diwire import Container, DependencyRegistrationPolicy, Injected, Lifetime, MissingPolicy, ResolverContext, Scope
from fastapi import FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def mark(kind: type) -> Any:
    """How a parameter asks for a service."""
    return Injected[kind]  # type: ignore[misc, valid-type]  # a class at run time


def strict(context: ResolverContext | None = None) -> Container:
    """A container in the mode that its documentation calls the fastest; decorators need a context."""
    more: dict[str, Any] = {"use_resolver_context": False} if context is None else {"resolver_context": context}
    return Container(
        missing_policy=MissingPolicy.ERROR,
        dependency_registration_policy=DependencyRegistrationPolicy.IGNORE,
        **more,
    )


def singletons(graph: ModuleType, context: ResolverContext | None = None) -> Container:
    """Two singletons."""
    container = strict(context)
    for kind in (graph.A, graph.B):
        container.add(kind)
    container.compile()
    return container


def scoped_graph(graph: ModuleType, context: ResolverContext | None = None) -> Container:
    """The scoped graph."""
    container = strict(context)
    for kind in graph.SCOPED_CLASSES:
        container.add(kind, scope=Scope.REQUEST)
    container.add_generator(graph.open_h, provides=graph.H, scope=Scope.REQUEST)
    container.add_generator(graph.open_i, provides=graph.I, scope=Scope.REQUEST)
    container.compile()
    return container


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("diwire_resolve")
    container = singletons(graph)
    container.resolve(graph.B)
    yield Operation("resolve(B)", {"resolve": container.resolve, "B": graph.B}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph, context = fresh_graph("diwire_async"), ResolverContext()
    singletons(graph, context)
    yield Operation("await use(1)", {"use": context.inject(graph.async_function(mark))}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph, context = fresh_graph("diwire_sync"), ResolverContext()
    singletons(graph, context)
    yield Operation("use(1)", {"use": context.inject(graph.sync_function(mark))}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method."""
    graph, context = fresh_graph("diwire_method"), ResolverContext()
    singletons(graph, context)
    consumer = graph.consumer(context.inject(graph.method(mark)))
    yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The decorator opens the scope."""
    graph, context = fresh_graph("diwire_scoped"), ResolverContext()
    scoped_graph(graph, context)
    call = context.inject(scope=Scope.REQUEST)(graph.scoped_handler(mark))
    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The scope is opened and asked."""
    graph = fresh_graph("diwire_dynamic")
    container = scoped_graph(graph)
    handle, kinds = graph.scoped_handler(), [*graph.SCOPED_CLASSES, graph.H, graph.I]

    async def call() -> Any:
        async with container.enter_scope(Scope.REQUEST) as scope:
            c, d, e, f, g, h, i = [await scope.aresolve(kind) for kind in kinds]
            return await handle(c, c, c, d, d, e, f, g, h, i)

    yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("diwire_transient")
    container = strict()
    for number in range(1, 6):
        container.add(getattr(graph, f"T{number}"), lifetime=Lifetime.TRANSIENT)
    container.compile()
    container.resolve(graph.T5)
    yield Operation("resolve(T5)", {"resolve": container.resolve, "T5": graph.T5}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty scope."""
    graph = fresh_graph("diwire_scope")
    container = scoped_graph(graph)
    names = {"scope": container.enter_scope, "REQUEST": Scope.REQUEST}
    yield Operation("async with scope(REQUEST): pass", names, graph, is_statement=True)


@asynccontextmanager
async def _web(graph: ModuleType, endpoint: Any) -> AsyncIterator[Operation]:
    app = FastAPI()
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """A decorated endpoint."""
    graph, context = fresh_graph("diwire_web_singleton"), ResolverContext()
    singletons(graph, context)
    return _web(graph, context.inject(graph.singleton_endpoint(Response(status_code=204), mark)))


def web_scoped() -> Any:
    """A decorated endpoint; the decorator opens the scope."""
    graph, context = fresh_graph("diwire_web_scoped"), ResolverContext()
    scoped_graph(graph, context)
    inject = context.inject(scope=Scope.REQUEST)
    return _web(graph, inject(graph.scoped_endpoint(Response(status_code=204), mark)))


def build(services: Services) -> Built:
    """Compiled on demand."""
    container = strict()
    for cls in services.classes:
        container.add(cls)
    container.compile()
    return container, [container.resolve(cls) for cls in services.last]


ADAPTER = Adapter(
    name="diwire",
    distribution="diwire",
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
    imports={"import": "import diwire"},
)
