"""Services in FastAPI's endpoints and dependencies."""

import threading
from collections.abc import AsyncIterator
from typing import Annotated, Any, Protocol

import anyio
import pytest

pytest.importorskip("fastapi", exc_type=ImportError)

import httpx2
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.requests import HTTPConnection

from svcframework import BaseService, ServiceContainer, ServiceHost, inject_service, providers
from svcframework.errors import HostNotRunningError
from svcframework.integrations.fastapi import Injected, inject, setup
from svcframework.problems import WiringError

EVENTS: list[str] = []


class Users(BaseService):
    """Lives as long as the host."""

    def look_up(self, user_id: int) -> str:
        return f"user {user_id}"


class Finder(Protocol):
    def look_up(self, user_id: int) -> str: ...


class Session:
    """Lives as long as a request."""

    count = 0

    def __init__(self) -> None:
        Session.count += 1
        self.number = Session.count


class Database:
    def __init__(self, name: str) -> None:
        self.name = name


class Visitor:
    """Knows the request it is made for."""

    def __init__(self, request: Request) -> None:
        self.agent = request.headers["user-agent"]


class Peer:
    """Knows the connection, whichever kind it is."""

    def __init__(self, connection: HTTPConnection, tenant: str) -> None:
        self.path, self.tenant = connection.url.path, tenant


class Absent:
    """Nobody provides it."""


class Draft:
    """New for each one who asks."""


class Thread:
    """Knows the thread it was made in."""

    def __init__(self) -> None:
        self.name = threading.current_thread().name


async def open_session() -> AsyncIterator[Session]:
    session = Session()
    EVENTS.append("open")
    try:
        yield session
    except BaseException as error:
        EVENTS.append(f"roll back after {type(error).__name__}")
        raise
    else:
        EVENTS.append("commit")


class Container(ServiceContainer):
    """One of each lifetime."""

    request = providers.ScopeValue(Request)
    connection = providers.ScopeValue(HTTPConnection)
    tenant = providers.ScopeValue(str)
    users = providers.Service(Users)
    session = providers.Scoped(open_session)
    visitor = providers.Scoped(Visitor)
    peer = providers.Scoped(Peer)
    draft = providers.Transient(Draft)
    maker = providers.Scoped(Thread)
    main_database = providers.Service(Database, name="main")
    reports = providers.Service(Database, name="reports")


OpenSession = Annotated[Session, inject("session")]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(Container, log_events=False)


@pytest.fixture
def app(host: ServiceHost) -> FastAPI:
    application = FastAPI(lifespan=host.lifespan)
    setup(application, host)
    return application


class Client:
    """The application's lifespan, and a client that speaks to it without a socket."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test")

    async def __aenter__(self) -> httpx2.AsyncClient:
        self.life = self.app.router.lifespan_context(self.app)
        await self.life.__aenter__()
        return await self.http.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        await self.http.__aexit__()
        await self.life.__aexit__(None, None, None)


async def websocket(app: FastAPI, path: str) -> list[Any]:
    """What the application says on a websocket that only opens and waits."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [], "subprotocols": [],
        "client": ("test", 1), "server": ("test", 80), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return [message["text"] for message in said if message["type"] == "websocket.send"]


# --- endpoints ------------------------------------------------------------------------------------------


async def test_endpoint_gets_services_beside_its_own_parameters(app: FastAPI) -> None:
    """Path and query parameters come from the request, injected ones from the host."""

    @app.get("/users/{user_id}")
    async def read(user_id: int, users: Injected[Users], session: OpenSession, loud: bool = False) -> str:
        assert isinstance(session, Session)
        return users.look_up(user_id).upper() if loud else users.look_up(user_id)

    async with Client(app) as client:
        assert '"user 7"' == (await client.get("/users/7")).text
        assert '"USER 7"' == (await client.get("/users/7", params={"loud": True})).text
        assert 422 == (await client.get("/users/seven")).status_code
    assert ["open", "commit"] * 2 == EVENTS


async def test_plain_function_is_an_endpoint_too(app: FastAPI) -> None:
    """It runs in a thread, with what it needs made in that thread where nothing has to be awaited."""

    @app.get("/now")
    def now(users: Injected[Users], made: Annotated[Thread, inject("maker")]) -> list[Any]:
        return [users.look_up(1), made.name == threading.current_thread().name]

    @app.get("/awaited")
    def awaited(users: Injected[Users], session: OpenSession) -> str:
        return users.look_up(session.number - session.number)

    async with Client(app) as client:
        assert ["user 1", True] == (await client.get("/now")).json()
        assert "user 0" == (await client.get("/awaited")).json()
    assert ["open", "commit"] == EVENTS


async def test_every_form_of_annotation_is_understood(app: FastAPI) -> None:
    """Protocols, lists, dicts and options are asked for as anywhere else."""

    @app.get("/forms")
    async def forms(
        finder: Injected[Finder],
        databases: Injected[list[Database]],
        named: Injected[dict[str, Database]],
        absent: Injected[Absent | None],
        reports: Injected[Database],
        other: Annotated[Database, inject("main_database")],
    ) -> list[Any]:
        return [finder.look_up(2), [d.name for d in databases], sorted(named), absent, reports.name, other.name]

    expected = ["user 2", ["main", "reports"], ["main_database", "reports"], None, "reports", "main"]
    async with Client(app) as client:
        assert expected == (await client.get("/forms")).json()


async def test_transients_are_new_for_each_parameter(app: FastAPI) -> None:
    """Two parameters of a transient type get two instances, in endpoints and in dependencies."""

    def both(one: Injected[Draft], two: Injected[Draft]) -> bool:
        return one is two

    @app.get("/drafts")
    async def drafts(one: Injected[Draft], two: Injected[Draft], same: Annotated[bool, Depends(both)]) -> list[bool]:
        return [one is two, same]

    async with Client(app) as client:
        assert [False, False] == (await client.get("/drafts")).json()


async def test_handler_error_reaches_the_open_generator(app: FastAPI) -> None:
    """The session is told of the error and rolls back; the client gets the status that was raised."""

    @app.get("/missing")
    async def missing(session: OpenSession) -> None:
        raise HTTPException(404)

    def checked(session: OpenSession) -> None:
        raise HTTPException(403)

    @app.get("/forbidden")
    async def forbidden(session: OpenSession, _: Annotated[None, Depends(checked)]) -> None: ...

    async with Client(app) as client:
        assert 404 == (await client.get("/missing")).status_code
        assert 403 == (await client.get("/forbidden")).status_code
    assert ["open", "roll back after HTTPException"] * 2 == EVENTS


async def test_failing_commit_is_the_clients_error(app: FastAPI, host: ServiceHost) -> None:
    """A session is closed when its endpoint has returned, before the answer is sent."""

    async def fails() -> AsyncIterator[Session]:
        yield Session()
        raise HTTPException(409)

    host.register(fails, name="fragile", lifetime=host.graph.nodes["session"].descriptor.lifetime)

    @app.get("/commit")
    async def commit(session: Annotated[Session, inject("fragile")]) -> str:
        return "written"

    async with Client(app) as client:
        assert 409 == (await client.get("/commit")).status_code


async def test_stream_keeps_its_services_open(app: FastAPI) -> None:
    """An endpoint that yields holds its session until the last item is sent."""

    @app.get("/stream", response_class=StreamingResponse)
    async def stream(session: OpenSession) -> AsyncIterator[str]:
        for item in ("a", "b"):
            EVENTS.append(item)
            yield item

    async with Client(app) as client:
        assert "ab" == (await client.get("/stream")).text
    assert ["open", "a", "b", "commit"] == EVENTS


async def test_websocket_has_a_scope_of_its_own(app: FastAPI) -> None:
    """A session lives as long as its websocket's endpoint."""

    @app.websocket("/ws")
    async def talk(socket: WebSocket, users: Injected[Users], session: OpenSession) -> None:
        await socket.accept()
        EVENTS.append("talk")
        await socket.send_text(users.look_up(3))
        await socket.close()

    async with Client(app):
        assert ["user 3"] == await websocket(app, "/ws")
    assert ["open", "talk", "commit"] == EVENTS


# --- sharing --------------------------------------------------------------------------------------------


async def test_dependencies_and_endpoint_share_the_requests_scope(app: FastAPI) -> None:
    """One session per request, whoever asks: sync and async dependencies, generators and the endpoint."""

    def first(session: OpenSession) -> int:
        return session.number

    async def second(session: OpenSession, before: Annotated[int, Depends(first)]) -> list[int]:
        return [before, session.number]

    async def third(session: OpenSession) -> AsyncIterator[int]:
        yield session.number
        EVENTS.append("still open")

    @app.get("/shared")
    async def shared(
        session: OpenSession, two: Annotated[list[int], Depends(second)], three: Annotated[int, Depends(third)]
    ) -> list[int]:
        return [*two, three, session.number]

    async with Client(app) as client:
        one, other = (await client.get("/shared")).json(), (await client.get("/shared")).json()
    assert [1, 1] == [len(set(one)), len(set(other))]
    assert one[0] != other[0]
    assert ["open", "still open", "commit"] * 2 == EVENTS


async def test_nested_injected_function_shares_the_endpoints_session(app: FastAPI) -> None:
    """What an endpoint calls sees the very session that the endpoint has."""

    @inject_service("session")
    async def number(session: Session) -> int:
        return session.number

    @app.get("/nested")
    async def nested(session: OpenSession) -> bool:
        return session.number == await number()

    async with Client(app) as client:
        assert (await client.get("/nested")).json() is True
    assert ["open", "commit"] == EVENTS


async def test_concurrent_requests_share_nothing(app: FastAPI) -> None:
    """Requests that are under way at the same time have sessions of their own."""
    together = anyio.Event()
    waiting = 0

    @app.get("/wait")
    async def wait(session: OpenSession) -> int:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            together.set()
        await together.wait()
        return session.number

    numbers: list[int] = []
    async with Client(app) as client:

        async def ask() -> None:
            numbers.append((await client.get("/wait")).json())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
    assert 3 == len(set(numbers))


# --- scope values ---------------------------------------------------------------------------------------


async def test_services_may_need_the_request(app: FastAPI) -> None:
    """A declared ScopeValue of the type Request is filled in."""

    @app.get("/agent")
    async def agent(visitor: Injected[Visitor]) -> str:
        return visitor.agent

    async with Client(app) as client:
        assert "me" == (await client.get("/agent", headers={"user-agent": "me"})).json()


async def test_further_scope_values_come_from_the_application(host: ServiceHost) -> None:
    """`values` is asked for each connection, be it a request or a websocket."""
    app = FastAPI(lifespan=host.lifespan)
    setup(app, host, values=lambda connection: {"tenant": connection.query_params.get("tenant", "acme")})

    @app.get("/peer")
    async def http(peer: Injected[Peer]) -> list[str]:
        return [peer.path, peer.tenant]

    @app.websocket("/peer")
    async def socket(socket: WebSocket, peer: Injected[Peer]) -> None:
        await socket.accept()
        await socket.send_text(f"{peer.path} {peer.tenant}")
        await socket.close()

    async with Client(app) as client:
        assert ["/peer", "other"] == (await client.get("/peer", params={"tenant": "other"})).json()
        assert ["/peer acme"] == await websocket(app, "/peer")


# --- routers and hosts ----------------------------------------------------------------------------------


async def test_routers_may_be_included_before_and_after(host: ServiceHost) -> None:
    """Routers know of no host; nested ones, late routes and mounted applications are served as well."""
    app, inner, outer, late = FastAPI(lifespan=host.lifespan), APIRouter(prefix="/in"), APIRouter(), APIRouter()
    mounted = FastAPI()

    async def find(users: Injected[Users], session: OpenSession) -> str:
        return users.look_up(session.number - session.number)

    inner.get("/find")(find)
    outer.include_router(inner, prefix="/out")
    app.include_router(outer)
    setup(app, host)
    app.include_router(late, prefix="/late")
    late.get("/find")(find)
    mounted.get("/find")(find)
    app.mount("/sub", mounted)
    async with Client(app) as client:
        app.get("/last/find")(find)  # too late to be compiled, but not to be served
        for path in ("/out/in", "/late", "/sub", "/last"):
            assert [path, "user 0"] == [path, (await client.get(f"{path}/find")).json()]
    assert ["open", "commit"] * 4 == EVENTS


async def test_each_application_has_its_own_host(host: ServiceHost) -> None:
    """Two applications with two running hosts keep apart, in endpoints, dependencies and nested calls."""

    class Other(ServiceContainer):
        main_database = providers.Service(Database, name="other")

    @inject_service("main_database")
    def nested(main_database: Database) -> str:
        return main_database.name

    def dependency(main: Annotated[Database, inject("main_database")]) -> str:
        return main.name

    router = APIRouter()

    @router.get("/")
    async def read(
        main: Annotated[Database, inject("main_database")], same: Annotated[str, Depends(dependency)]
    ) -> list[str]:
        return [main.name, same, nested()]

    answers = []
    applications = []
    for each in (host, ServiceHost(Other, log_events=False)):
        app = FastAPI(lifespan=each.lifespan)
        setup(app, each)
        app.include_router(router)
        applications.append(app)
    async with Client(applications[0]) as one, Client(applications[1]) as two:
        for client in (one, two, one):
            answers.append((await client.get("/")).json())
    assert [["main"] * 3, ["other"] * 3, ["main"] * 3] == answers


async def test_application_can_be_started_again(app: FastAPI) -> None:
    """Compiled endpoints serve the second life as well."""

    @app.get("/")
    async def read(users: Injected[Users], session: OpenSession) -> str:
        return users.look_up(1)

    for _ in range(2):
        async with Client(app) as client:
            assert "user 1" == (await client.get("/")).json()
    assert ["open", "commit"] * 2 == EVENTS


async def test_override_reaches_endpoints(app: FastAPI, host: ServiceHost) -> None:
    """An override on the running host holds for the requests made inside its block."""

    class Fake(Users):
        def look_up(self, user_id: int) -> str:
            return "fake"

    def dependency(users: Injected[Users]) -> str:
        return users.look_up(1)

    @app.get("/")
    async def read(users: Injected[Users], other: Annotated[str, Depends(dependency)]) -> list[str]:
        return [users.look_up(1), other]

    async with Client(app) as client:
        assert ["user 1"] * 2 == (await client.get("/")).json()
        with host.override(users=Fake()):
            assert ["fake"] * 2 == (await client.get("/")).json()
        assert ["user 1"] * 2 == (await client.get("/")).json()


# --- what FastAPI sees ----------------------------------------------------------------------------------


def _declare(app: FastAPI, *, injected: bool) -> FastAPI:
    router = APIRouter(prefix="/r", tags=["users"])

    def limit(limit: int = 10) -> int:
        return limit

    def limited(users: Injected[Users], limit: int = 10) -> int:
        return limit

    async def plain(user_id: int, size: Annotated[int, Depends(limit)], q: str | None = None) -> list[str]:
        """Read one."""

    async def rich(
        user_id: int,
        users: Injected[Users],
        session: OpenSession,
        visitor: Injected[Visitor],
        size: Annotated[int, Depends(limited)],
        q: str | None = None,
    ) -> list[str]:
        """Read one."""  # fmt: skip

    plain.__name__ = rich.__name__ = "read"
    endpoint = rich if injected else plain
    app.get("/users/{user_id}")(endpoint)
    router.post("/users/{user_id}")(endpoint)
    app.include_router(router)
    return app


async def test_openapi_shows_nothing_of_it(app: FastAPI) -> None:
    """The document is that of the same application without injected parameters, compiled or not."""
    expected = _declare(FastAPI(), injected=False).openapi()
    assert expected == _declare(FastAPI(), injected=True).openapi()
    async with Client(_declare(app, injected=True)) as client:
        assert expected == (await client.get("/openapi.json")).json()


async def test_compiled_endpoint_leaves_fastapi_nothing_to_solve(app: FastAPI) -> None:
    """After the start, no dependency of ours is left where the compiler could take over."""

    @app.get("/")
    async def read(user_id: int, users: Injected[Users], session: OpenSession) -> None: ...

    route: Any = next(each for each in app.routes if getattr(each, "endpoint", None) is read)
    assert 2 == len(route.dependant.dependencies)
    async with Client(app):
        assert [] == route.dependant.dependencies
        assert ["user_id"] == [each.name for each in route.dependant.query_params]
        assert {"users", "session"} == set(route.endpoint.__injections__)


# --- errors ---------------------------------------------------------------------------------------------


async def test_missing_services_are_found_before_anything_starts(host: ServiceHost) -> None:
    """All endpoints' and dependencies' problems come in one report, with route, parameter and nearest names."""
    app = FastAPI(lifespan=host.lifespan)
    setup(app, host)

    def dependency(users: Annotated[Users, inject("usres")]) -> None: ...

    @app.get("/one")
    async def one(_: Annotated[None, Depends(dependency)]) -> None: ...

    router = APIRouter()

    @router.get("/two")
    async def two(number: Injected[Absent], some: Injected[Database]) -> None: ...

    app.include_router(router)
    with pytest.raises(WiringError) as caught:
        async with app.router.lifespan_context(app):
            pytest.fail("it started")
    text = str(caught.value)
    assert not host.is_running
    assert ["missing", "missing", "ambiguous"] == [problem.kind for problem in caught.value.problems]
    for part in ("dependency(users: usres)", "'users'", "/one", "two(number: Absent)", "/two", "main_database"):
        assert part in text


async def test_request_without_a_running_host_says_so() -> None:
    """An application whose lifespan starts no host answers with an error that tells what to do."""
    app = FastAPI()

    @app.get("/")
    async def read(users: Injected[Users]) -> None: ...

    async with Client(app) as client:
        with pytest.raises(HostNotRunningError, match=r"FastAPI\(lifespan=host.lifespan\)"):
            await client.get("/")


def test_wrong_use_is_refused_at_once() -> None:
    """What names no service can't be injected."""
    with pytest.raises(ValueError, match="names no service"):
        inject(3)
