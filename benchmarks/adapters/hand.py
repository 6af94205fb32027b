"""The tightest hand-written wiring: the limit that the others are measured against."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import anyio

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Built, Operation, Services, Started, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


class Wired:
    """The application's services, one attribute each."""

    def __init__(self, graph: ModuleType) -> None:
        self.a = graph.A()
        self.b = graph.B(self.a)


class Scope:
    """The least that a scope which can be asked has: its instances and what to close."""

    __slots__ = ("exits", "instances")

    def __init__(self) -> None:
        self.instances: dict[object, object] = {}
        self.exits: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        while self.exits:
            await self.exits.pop().__aexit__(*error)


@asynccontextmanager
async def resolve() -> AsyncIterator[Operation]:
    """An attribute."""
    graph = fresh_graph("hand_resolve")
    yield Operation("services.b", {"services": Wired(graph)}, graph)


@asynccontextmanager
async def async_call() -> AsyncIterator[Operation]:
    """Attributes as arguments."""
    graph = fresh_graph("hand_async")
    names = {"use": graph.async_function(), "services": Wired(graph)}
    yield Operation("await use(1, services.a, services.b)", names, graph)


@asynccontextmanager
async def sync_call() -> AsyncIterator[Operation]:
    """Attributes as arguments."""
    graph = fresh_graph("hand_sync")
    yield Operation("use(1, services.a, services.b)", {"use": graph.sync_function(), "services": Wired(graph)}, graph)


@asynccontextmanager
async def method_call() -> AsyncIterator[Operation]:
    """An attribute as an argument."""
    graph = fresh_graph("hand_method")
    names = {"consumer": graph.consumer(graph.method()), "services": Wired(graph)}
    yield Operation("await consumer.read(1, services.a)", names, graph)


def scoped_call(graph: ModuleType) -> Any:
    """The scoped graph built, used and closed in straight-line code, with the same generators as everybody."""
    C, D, E, F, G = graph.C, graph.D, graph.E, graph.F, graph.G  # noqa: N806 - they are classes
    open_h, open_i, handle = graph.open_h, graph.open_i, graph.scoped_handler()

    async def call() -> Any:
        c = C()
        d = D(c)
        e = E(c, d)
        f = F(c, d, e)
        g = G(c, d, e, f)
        closing_h = open_h(c, d)
        h = next(closing_h)
        try:
            closing_i = open_i(e, f)
            i = await anext(closing_i)
            try:
                result = await handle(c, c, c, d, d, e, f, g, h, i)
            except BaseException as error:
                await closing_i.athrow(error)
                raise
            async for _ in closing_i:
                break
        except BaseException as error:
            closing_h.throw(error)
            raise
        for _ in closing_h:
            break
        return result

    return call


@asynccontextmanager
async def scoped() -> AsyncIterator[Operation]:
    """Straight-line code."""
    graph = fresh_graph("hand_scoped")
    yield Operation("await call()", {"call": scoped_call(graph)}, graph)


@asynccontextmanager
async def transient() -> AsyncIterator[Operation]:
    """Nested calls."""
    graph = fresh_graph("hand_transient")
    names = {f"T{i}": getattr(graph, f"T{i}") for i in range(1, 6)}
    yield Operation("T5(T4(T3(T2(T1()))))", names, graph)


@asynccontextmanager
async def scope() -> AsyncIterator[Operation]:
    """A class with two slots."""
    yield Operation("async with Scope(): pass", {"Scope": Scope}, fresh_graph("hand_scope"), is_statement=True)


@asynccontextmanager
async def web_singleton() -> AsyncIterator[Operation]:
    """An endpoint that reads the attributes."""
    from fastapi import FastAPI, Response  # noqa: PLC0415 - the limit of the other rows needs no FastAPI

    graph = fresh_graph("hand_web_singleton")
    app, services, probe, response = FastAPI(), Wired(graph), graph.probe, Response(status_code=204)

    @app.get("/")
    async def endpoint() -> Any:
        probe.seen = (services.a, services.b)
        return response

    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


@asynccontextmanager
async def web_scoped() -> AsyncIterator[Operation]:
    """An endpoint as one would write it: the generators as context managers from contextlib."""
    from fastapi import FastAPI, Response  # noqa: PLC0415 - the limit of the other rows needs no FastAPI

    graph = fresh_graph("hand_web_scoped")
    app, probe, response = FastAPI(), graph.probe, Response(status_code=204)
    opened_h, opened_i = contextmanager(graph.open_h), asynccontextmanager(graph.open_i)
    C, D, E, F, G = graph.C, graph.D, graph.E, graph.F, graph.G  # noqa: N806 - they are classes

    @app.get("/")
    async def endpoint() -> Any:
        c = C()
        d = D(c)
        e = E(c, d)
        f = F(c, d, e)
        g = G(c, d, e, f)
        with opened_h(c, d) as h:
            async with opened_i(e, f) as i:
                if probe.fail:
                    raise graph.HandlerError
                probe.seen = (c, c, c, d, d, e, f, g, h, i)
                return response

    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


@asynccontextmanager
async def bare_await() -> AsyncIterator[Operation]:
    """The undecorated method."""
    graph = fresh_graph("hand_await")
    yield Operation("await worker.work()", {"worker": graph.worker(graph.work)}, graph)


@asynccontextmanager
async def nothing() -> AsyncIterator[Operation]:
    """No event at all."""
    yield Operation("pass", {}, fresh_graph("hand_nothing"), is_statement=True)


def build(services: Services) -> Built:
    """One constructor call after the other."""
    made: list[Any] = []
    for cls, needs in zip(services.classes, services.needs, strict=True):
        made.append(cls(*[made[index] for index in needs]))
    return made, made[-len(services.last) :]


async def start(count: int, seconds: float) -> Started:
    """A task per service in one task group: what starting costs without a framework."""

    async def service() -> None:
        if seconds:
            await anyio.sleep(seconds)

    clock, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(service)
    return Started(time.perf_counter() - clock, time.process_time() - cpu)


ADAPTER = Adapter(
    name="hand",
    distribution=None,
    rows={
        "resolve": resolve,
        "async": async_call,
        "sync": sync_call,
        "method": method_call,
        "scoped": scoped,
        "scoped-dynamic": scoped,
        "transient": transient,
        "scope": scope,
        "fastapi-singleton": web_singleton,
        "fastapi-scoped": web_scoped,
        "service-method": bare_await,
        "retry": bare_await,
        "log": nothing,
    },
    build=build,
    start=start,
)
