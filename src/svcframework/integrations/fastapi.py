"""FastAPI: services as parameters of endpoints and dependencies, one scope per request and websocket.

`Injected[T]` is a dependency that FastAPI understands by itself, so it works wherever a dependency does. When the
application starts, endpoints that need no more than the compiler can write are compiled, and FastAPI sees none of it
any more: such a call costs what one by hand costs. The rest (dependencies, services that hold the request) is asked of
the scope that the request shares.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.requests import HTTPConnection

from svcframework._callables import Kind
from svcframework._signatures import Want
from svcframework._types import Location
from svcframework.errors import AmbiguousServiceError, HostNotRunningError, ServiceNotFoundError
from svcframework.injection import as_want, inject_service
from svcframework.problems import Kind as ProblemKind
from svcframework.problems import Problem, WiringError
from svcframework.resolver import names_in
from svcframework.routing import CURRENT, current_resolver, is_sole
from svcframework.scopes import Scope

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as ConnectionScope

    from svcframework.host import ServiceHost
    from svcframework.resolver import Resolver
    from svcframework.wiring import Graph, Node, Ref, Refs

T = TypeVar("T")
Values = Callable[[HTTPConnection], Mapping[Any, Any]]

_VALUES: Final = "svcframework.values"
"""Where the connection's ASGI scope holds the source of further scope values."""
_CONNECTIONS: Final = (Request, WebSocket, HTTPConnection)


def setup(app: FastAPI, host: ServiceHost, *, values: Values | None = None) -> None:
    """Let an application's endpoints and dependencies ask for the services of a host.

    Routes and routers may be added before and after. Endpoints are checked and compiled when the application starts,
    before the host does: `FastAPI(lifespan=host.lifespan)`.

    Args:
        app: The application.
        host: Who provides the services.
        values: Scope values for each request or websocket, by name or type; the `Request`, `WebSocket` or
            `HTTPConnection` itself is passed wherever the container declares it as `providers.ScopeValue`.

    Raises:
        WiringError: At the start of the application: an endpoint or dependency asks for what the host does not have.
    """
    app.add_middleware(_HostMiddleware, host=host, values=values)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(owner: Any) -> AsyncIterator[Any]:
        _compile_endpoints(app, host)
        async with inner(owner) as state:
            yield state

    app.router.lifespan_context = lifespan


# --- what a parameter says ------------------------------------------------------------------------------


async def _shared_scope(connection: HTTPConnection) -> AsyncIterator[Scope]:
    """The scope that all of one request or websocket share; closed after the response, as FastAPI's own `yield`."""
    resolver = current_resolver()
    if resolver is None:
        raise HostNotRunningError(f"{connection.url.path} asks for a service", fix="FastAPI(lifespan=host.lifespan)")
    host: ServiceHost = resolver.host
    values: Values | None = connection.scope.get(_VALUES)
    given = {**_connection_values(host.graph, connection), **(values(connection) if values else {})}
    async with host.scope(values=given) as scope:
        yield scope


def _connection_values(graph: Graph, connection: HTTPConnection) -> dict[str, HTTPConnection]:
    """The connection itself, for each scope value that is declared as one."""
    declared = [node.descriptor for node in graph.nodes.values() if node.descriptor.is_scope_value]
    return {d.name: connection for d in declared if d.provides in _CONNECTIONS and isinstance(connection, d.provides)}


@dataclass(frozen=True, slots=True)
class _Need:
    """What `Injected` stands for: a dependency that takes the service from the request's scope."""

    want: Want

    async def __call__(self, scope: Annotated[Scope, Depends(_shared_scope)]) -> Any:
        resolver = cast("Resolver", current_resolver())  # there is one, it has opened the scope
        return await resolver.value_in(scope, _answer(resolver.graph, self.want, ""))


if TYPE_CHECKING:
    Injected = Annotated[T, "injected"]
    """A parameter that the host fills in: `users: Injected[UserService]`."""
else:

    class Injected:
        """A parameter that the host fills in: `users: Injected[UserService]`.

        Lists, dicts, `Lazy`, protocols and `T | None` are understood as in every injected function.
        """

        def __class_getitem__(cls, wanted: Any) -> Any:
            """The annotation that FastAPI sees."""
            return Annotated[wanted, inject(wanted)]


def inject(service: Any) -> Any:
    """As `Injected`, for one service among several of its type.

    `reports: Annotated[Database, inject("reporting_database")]`

    Args:
        service: The service's name, or a type as for `Injected`.
    """
    return Depends(_Need(as_want(service)), use_cache=False)


def _answer(graph: Graph, want: Want, parameter: str) -> Ref | Refs | None:
    """The service or services a wish names; None for an optional one that is not there.

    Raises:
        ServiceNotFoundError: There is none.
        AmbiguousServiceError: Several would do.
    """
    found = graph.resolve(want, parameter=parameter)
    if found is None and want.how != "optional":
        names = graph.candidates(want.key)
        if len(names) > 1:
            raise AmbiguousServiceError(cast("type", want.key), names, needed_by=parameter or None)
        raise ServiceNotFoundError(want.key, known=graph.nodes, needed_by=parameter or None)
    return found


# --- each connection ------------------------------------------------------------------------------------


class _HostMiddleware:
    """Makes the host the current one of each request and websocket: nested injected functions use it too.

    The only host that runs is the current one as it is; then this costs a comparison, and no frame.
    """

    def __init__(self, app: ASGIApp, *, host: ServiceHost, values: Values | None) -> None:
        self.app, self.values, self.resolver = app, values, host.resolver

    def __call__(self, scope: ConnectionScope, receive: Receive, send: Send) -> Awaitable[None]:
        if self.values is not None:
            scope[_VALUES] = self.values
        if is_sole(self.resolver):
            return self.app(scope, receive, send)
        return self._in_host(scope, receive, send)

    async def _in_host(self, scope: ConnectionScope, receive: Receive, send: Send) -> None:
        token = CURRENT.set(self.resolver)
        try:
            await self.app(scope, receive, send)
        finally:
            CURRENT.reset(token)


# --- the start of the application -----------------------------------------------------------------------


def _compile_endpoints(app: FastAPI, host: ServiceHost) -> None:
    """Check what every route asks for, then compile the endpoints for which that suffices."""
    graph = host.graph
    routes = [route for route in _routes(app.router, set()) if hasattr(route, "dependant")]
    problems = [problem for route in routes for problem in _problems(route, route.dependant, graph)]
    if problems:
        raise WiringError([*graph.problems, *problems], subject=f"{host.name}, as the application asks for it")
    for route in routes:
        _compile(route, graph)


def _routes(router: Any, seen: set[int]) -> Iterator[Any]:
    """All routes, those of included routers and mounted applications too."""
    if id(router) in seen:
        return
    seen.add(id(router))
    for route in getattr(router, "routes", None) or ():
        yield route
        yield from _routes(getattr(route, "original_router", route), seen)


def _problems(route: Any, dependant: Any, graph: Graph) -> Iterator[Problem]:
    for inner in dependant.dependencies:
        if not isinstance(inner.call, _Need):
            yield from _problems(route, inner, graph)
            continue
        name, want = inner.name or "", inner.call.want
        try:
            _answer(graph, want, name)
        except (ServiceNotFoundError, AmbiguousServiceError) as error:
            kind: ProblemKind = "missing" if isinstance(error, ServiceNotFoundError) else "ambiguous"
            headline = f"{getattr(dependant.call, '__qualname__', dependant.call)}({name}: {want})"
            yield Problem(kind, headline, Location.of(dependant.call), (f"asked for by {route.path}", str(error)))


def _compile(route: Any, graph: Graph) -> None:
    """Take the injected parameters away from FastAPI, and give it a function that fills them in.

    FastAPI reads the endpoint from the dependant at each request, and anew for each inclusion of a router.
    """
    dependant, endpoint = route.dependant, route.endpoint
    wants = {inner.name: inner.call.want for inner in dependant.dependencies if isinstance(inner.call, _Need)}
    if not wants or not isinstance(endpoint, FunctionType) or not _can_compile(endpoint, wants, graph):
        return
    compiled = inject_service(**wants)(endpoint)
    dependant.dependencies[:] = [inner for inner in dependant.dependencies if not isinstance(inner.call, _Need)]
    dependant.call = route.endpoint = compiled


def _can_compile(endpoint: FunctionType, wants: Mapping[str, Want], graph: Graph) -> bool:
    """Nothing that comes with the connection, and in a thread nothing to be awaited."""
    is_async = Kind.of(endpoint) in {Kind.ASYNC, Kind.ASYNC_GENERATOR}
    found = [_answer(graph, want, name) for name, want in wants.items()]
    made = list(_made_per_call([name for each in found for name in names_in(each)], graph))
    return not any(node.descriptor.is_scope_value or (node.is_async and not is_async) for node in made)


def _made_per_call(names: Iterable[str], graph: Graph) -> Iterator[Node]:
    """The scoped and transient services among these and what they hold."""
    queue = list(names)
    seen = set(queue)
    for name in queue:
        node = graph.nodes[name]
        if node.is_singleton:
            continue
        yield node
        queue += [used for used in node.uses if used not in seen]
        seen.update(node.uses)
