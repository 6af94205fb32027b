"""svcframework itself: a container, a running host, injected functions."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, Started, fresh_graph, require
from svcframework import (
    BaseService,
    ServiceContainer,
    ServiceHost,
    inject_service,
    providers,
    retry_on_failure,
    service_method,
)
from svcframework._types import ServiceState
from svcframework.log import ServiceLogger, configure_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

configure_logging("warning")  # as in production; a line per host and row would drown the tables
SCOPED_NAMES = {"c1": "c", "c2": "c", "c3": "c", "d1": "d", "d2": "d", **{name: name for name in "efghi"}}


def singletons(graph: ModuleType) -> ServiceHost:
    """Two singletons."""

    class Container(ServiceContainer):
        a = providers.Service(graph.A)
        b = providers.Service(graph.B)

    return ServiceHost(Container)


def scoped_graph(graph: ModuleType) -> ServiceHost:
    """The scoped graph."""

    class Container(ServiceContainer):
        c = providers.Scoped(graph.C)
        d = providers.Scoped(graph.D)
        e = providers.Scoped(graph.E)
        f = providers.Scoped(graph.F)
        g = providers.Scoped(graph.G)
        h = providers.Scoped(graph.open_h)
        i = providers.Scoped(graph.open_i)

    return ServiceHost(Container)


def transients(graph: ModuleType) -> ServiceHost:
    """The chain."""

    class Container(ServiceContainer):
        t1 = providers.Transient(graph.T1)
        t2 = providers.Transient(graph.T2)
        t3 = providers.Transient(graph.T3)
        t4 = providers.Transient(graph.T4)
        t5 = providers.Transient(graph.T5)

    return ServiceHost(Container)


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """An attribute of the host's services, as one would on a hot path."""
    graph = fresh_graph("svcframework_resolve")
    async with singletons(graph) as host:
        yield Operation("services.b", {"services": host.services}, graph)


@asynccontextmanager
async def resolve_get() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("svcframework_get")
    async with singletons(graph) as host:
        yield Operation("get(B)", {"get": host.get, "B": graph.B}, graph)


@asynccontextmanager
async def resolve_item() -> AsyncIterator[Operation]:
    """Asked by type, in the handier form."""
    graph = fresh_graph("svcframework_item")
    async with singletons(graph) as host:
        yield Operation("host[B]", {"host": host, "B": graph.B}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("svcframework_async")
    async with singletons(graph):
        yield Operation("await use(1)", {"use": inject_service("a", "b")(graph.async_function())}, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """A decorated function."""
    graph = fresh_graph("svcframework_sync")
    async with singletons(graph):
        yield Operation("use(1)", {"use": inject_service("a", "b")(graph.sync_function())}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """A decorated method of a class that is no service."""
    graph = fresh_graph("svcframework_method")
    async with singletons(graph):
        consumer = graph.consumer(inject_service("a")(graph.method()))
        yield Operation("await consumer.read(1)", {"consumer": consumer}, graph)


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """The decorator compiles the graph into the call."""
    graph = fresh_graph("svcframework_scoped")
    async with scoped_graph(graph):
        call = inject_service(**SCOPED_NAMES)(graph.scoped_handler())
        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def scoped_dynamic() -> AsyncIterator[Operation]:
    """The scope is opened and asked."""
    graph = fresh_graph("svcframework_dynamic")
    handle, (C, D, E, F, G) = graph.scoped_handler(), graph.SCOPED_CLASSES  # noqa: N806 - classes
    H, I = graph.H, graph.I  # noqa: E741, N806 - same
    async with scoped_graph(graph) as host:

        async def call() -> Any:
            async with host.scope() as scope:
                c, d, e, f, g, h, i = await scope.get(C, D, E, F, G, H, I)
                return await handle(c, c, c, d, d, e, f, g, h, i)

        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """A factory that the host compiled; new each time."""
    graph = fresh_graph("svcframework_transient")
    async with transients(graph) as host:
        yield Operation("make()", {"make": host.factory(graph.T5)}, graph)


@asynccontextmanager
async def transient_get() -> AsyncIterator[Operation]:
    """Asked by type."""
    graph = fresh_graph("svcframework_transient_get")
    async with transients(graph) as host:
        yield Operation("get(T5)", {"get": host.get, "T5": graph.T5}, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """An empty scope."""
    graph = fresh_graph("svcframework_scope")
    async with scoped_graph(graph) as host:
        yield Operation("async with scope(): pass", {"scope": host.scope}, graph, is_statement=True)


@asynccontextmanager
async def private_scope() -> AsyncIterator[Operation]:
    """An empty scope that nobody else sees, as those of the others."""
    graph = fresh_graph("svcframework_private")
    async with scoped_graph(graph) as host:
        yield Operation("async with scope(): pass", {"scope": host.private_scope}, graph, is_statement=True)


@asynccontextmanager
async def scoped_private() -> AsyncIterator[Operation]:
    """A scope that nobody else sees is opened and asked."""
    graph = fresh_graph("svcframework_dynamic_private")
    handle, (C, D, E, F, G) = graph.scoped_handler(), graph.SCOPED_CLASSES  # noqa: N806 - classes
    H, I = graph.H, graph.I  # noqa: E741, N806 - same
    async with scoped_graph(graph) as host:

        async def call() -> Any:
            async with host.private_scope() as scope:
                c, d, e, f, g, h, i = await scope.get(C, D, E, F, G, H, I)
                return await handle(c, c, c, d, d, e, f, g, h, i)

        yield Operation("await call()", {"call": call}, graph)


@asynccontextmanager
async def _web(
    graph: ModuleType, host: ServiceHost, endpoint: Any, wanted: dict[str, type]
) -> AsyncIterator[Operation]:
    from fastapi import FastAPI  # noqa: PLC0415 - this adapter's other rows need no FastAPI

    from svcframework.integrations import fastapi as integration  # noqa: PLC0415 - same

    app = FastAPI(lifespan=host.lifespan)
    integration.setup(app, host)
    endpoint.__annotations__ = {name: integration.Injected[kind] for name, kind in wanted.items()}
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """The FastAPI integration."""
    from fastapi import Response  # noqa: PLC0415 - this adapter's other rows need no FastAPI

    graph = fresh_graph("svcframework_web_singleton")
    endpoint = graph.singleton_endpoint(Response(status_code=204))
    return _web(graph, singletons(graph), endpoint, {"a": graph.A, "b": graph.B})


def web_scoped() -> Any:
    """The FastAPI integration."""
    from fastapi import Response  # noqa: PLC0415 - this adapter's other rows need no FastAPI

    graph = fresh_graph("svcframework_web_scoped")
    endpoint = graph.scoped_endpoint(Response(status_code=204))
    return _web(graph, scoped_graph(graph), endpoint, graph.SCOPED_PARAMETERS)


# --- overheads ------------------------------------------------------------------------------------------


@asynccontextmanager
async def measured_method() -> AsyncIterator[Operation]:
    """A service's method: timed, counted, traced when tracing is on."""
    graph = fresh_graph("svcframework_method_metrics")
    worker = graph.worker(service_method(graph.work), BaseService)
    for _ in range(3):
        await worker.work()
    yield Operation("await worker.work()", {"worker": worker}, graph)


@asynccontextmanager
async def retried() -> AsyncIterator[Operation]:
    """Up to three retries with backoff and jitter."""
    graph = fresh_graph("svcframework_retry")
    work = retry_on_failure(max_retries=3, delay=0.1)(graph.work)
    yield Operation("await worker.work()", {"worker": graph.worker(work)}, graph)


@asynccontextmanager
async def filtered() -> AsyncIterator[Operation]:
    """An event below the level of a bound logger."""
    names = {"debug": ServiceLogger("orders").debug}
    yield Operation('debug("order read", order=1)', names, fresh_graph("svcframework_log"), is_statement=True)


# --- many services --------------------------------------------------------------------------------------


def container_of(members: dict[str, Any]) -> Any:
    """A container class with these providers."""
    return type("Many", (ServiceContainer,), members)


def build(services: Services) -> Built:
    """Declares, validates, compiles and resolves; constructors are wired by type."""
    host = ServiceHost(container_of({cls.__name__.lower(): providers.Service(cls) for cls in services.classes}))
    host.validate()
    return host, [host[cls] for cls in services.last]


async def start(count: int, seconds: float) -> Started:
    """As many independent services, each with a start of its own."""

    class Empty(BaseService[Any]):
        pass

    class Slow(BaseService[Any]):
        async def on_startup(self) -> None:
            await anyio.sleep(seconds)

    kind: Any = Slow if seconds else Empty
    host = ServiceHost(container_of({f"s{number}": providers.Service(kind) for number in range(count)}))
    host.validate()
    clock, cpu = time.perf_counter(), time.process_time()
    async with host:
        started = Started(time.perf_counter() - clock, time.process_time() - cpu)
        states = {host[f"s{number}"].state for number in range(count)}
        require(states == {ServiceState.RUNNING}, f"after the start the services are {states}")
        require(started.clock >= seconds, "the start didn't wait for the services")
    return started


ADAPTER = Adapter(
    name="svcframework",
    distribution="svcframework",
    rows={
        "resolve": resolve,
        "async": async_call,
        "sync": sync_call,
        "method": method_call,
        "scoped": scoped,
        "scoped-dynamic": scoped_private,  # as the scopes of the others: no call below it joins it
        "transient": transient,
        "scope": private_scope,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
        "service-method": measured_method,
        "retry": retried,
        "log": filtered,
    },
    build=build,
    imports={
        "import": "import svcframework",
        "import and declare": "from svcframework import ServiceContainer, ServiceHost, inject_service, providers",
    },
    start=start,
)
ASKED = Adapter(name="svcframework, `host[Type]`", distribution="svcframework", rows={"resolve": resolve_item})
BY_TYPE = Adapter(
    name="svcframework, `host.get(Type)`",
    distribution="svcframework",
    rows={"resolve": resolve_get, "transient": transient_get},
)
JOINED = Adapter(
    name="svcframework, `host.scope()`",
    distribution="svcframework",
    rows={"scoped-dynamic": scoped_dynamic, "scope": scope},
)
ADAPTERS = [ADAPTER, BY_TYPE, ASKED, JOINED]
