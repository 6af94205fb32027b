"""FastAPI's own Depends: async dependencies throughout, because it runs the others in threads."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Response

from benchmarks.asgi import requester, running
from benchmarks.workloads import Adapter, Operation, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType


def _returning(value: object) -> Any:
    async def dependency() -> Any:
        return value

    return dependency


def _creating(cls: type, **needs: Any) -> Any:
    """An async dependency that creates the class from other dependencies."""
    parameters = ", ".join(f"{name}=Depends({name}_)" for name in needs)
    source = f"async def dependency({parameters}):\n return cls({', '.join(needs)})\n"
    scope: dict[str, Any] = {"Depends": Depends, "cls": cls, **{f"{name}_": need for name, need in needs.items()}}
    exec(source, scope)  # noqa: S102 - FastAPI reads the parameters from a real signature
    return scope["dependency"]


@asynccontextmanager
async def _web(graph: ModuleType, endpoint: Any) -> AsyncIterator[Operation]:
    app = FastAPI()
    app.get("/")(endpoint)
    async with running(app) as state:
        yield Operation("await request()", {"request": requester(app, state)}, graph)


def web_singleton() -> Any:
    """Two dependencies that return what exists."""
    graph = fresh_graph("fastapi_web_singleton")
    a = graph.A()
    found = {graph.A: Depends(_returning(a)), graph.B: Depends(_returning(graph.B(a)))}
    return _web(graph, graph.singleton_endpoint(Response(status_code=204), default=found.__getitem__))


def web_scoped() -> Any:
    """One dependency per class; FastAPI caches them per request."""
    graph = fresh_graph("fastapi_web_scoped")
    opened_h, opened_i = contextmanager(graph.open_h), asynccontextmanager(graph.open_i)
    c = _creating(graph.C)
    d = _creating(graph.D, c=c)
    e = _creating(graph.E, c=c, d=d)
    f = _creating(graph.F, c=c, d=d, e=e)
    g = _creating(graph.G, c=c, d=d, e=e, f=f)

    async def h(c: Any = Depends(c), d: Any = Depends(d)) -> Any:  # noqa: B008 - FastAPI's idiom
        with opened_h(c, d) as made:
            yield made

    async def i(e: Any = Depends(e), f: Any = Depends(f)) -> Any:  # noqa: B008 - FastAPI's idiom
        async with opened_i(e, f) as made:
            yield made

    kinds = (*graph.SCOPED_CLASSES, graph.H, graph.I)
    found = {kind: Depends(dependency) for kind, dependency in zip(kinds, (c, d, e, f, g, h, i), strict=True)}
    return _web(graph, graph.scoped_endpoint(Response(status_code=204), default=found.__getitem__))


ADAPTER = Adapter(
    name="FastAPI Depends",
    distribution="fastapi",
    rows={"fastapi-singleton": web_singleton, "fastapi-scoped": web_scoped},
    imports={"import": "import fastapi"},
)
