"""ExternalService against a transport that answers as told. Time is virtual on both backends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.abc
import httpx2
import pytest

from svcframework._types import HealthStatus, ServiceState
from svcframework.bases import ConsecutiveBreaker, ExternalService, ExternalServiceConfig, TokenBucket
from svcframework.bases.external import parse_retry_after
from svcframework.config import ServiceConfig
from svcframework.deadlines import deadline
from svcframework.errors import (
    AuthenticationFailedError,
    CircuitOpenError,
    ConnectionFailedError,
    DeadlineExceededError,
    HttpStatusError,
    IllegalStateError,
    RateLimitedError,
    ServiceTimeoutError,
)
from svcframework.testing.virtualtime import virtual_backend

SECRET = "k-3f9a1c"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with clocks that jump."""
    return virtual_backend(request.param)


class Api(ExternalService[ExternalServiceConfig]):
    """A client whose server gives the answers it is told to give, the last one for ever."""

    def __init__(self, *answers: Any, **settings: Any) -> None:
        super().__init__(ExternalServiceConfig(base_url="https://api.test/v1", api_key=SECRET, **settings))
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.times: list[float] = []

    def make_transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self._answer)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            await anyio.sleep(answer)
            return httpx2.Response(200)
        if isinstance(answer, int):
            return httpx2.Response(answer, text="quoted: " + SECRET)
        return answer


async def test_answer_and_credentials() -> None:
    """A request goes below base_url, with the key as a bearer token and the caller's own headers."""
    api = Api(httpx2.Response(200, json={"ok": True}))
    await api.on_startup()
    response = await api.get("/users", params={"q": "x"}, headers={"X-Trace": "1"})
    assert {"ok": True} == response.json()
    request = api.requests[0]
    assert "https://api.test/v1/users?q=x" == str(request.url)
    assert ("Bearer " + SECRET, "1") == (request.headers["authorization"], request.headers["x-trace"])
    await api.on_shutdown()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("failure", [500, 503, httpx2.ConnectError("no"), httpx2.ReadError("no")])
async def test_idempotent_call_is_sent_again(method: str, failure: Any) -> None:
    """A failed server or connection is tried again, and the caller sees only the good answer."""
    api = Api(failure, failure, 200)
    assert 200 == (await api.request(method, "/x")).status_code
    assert 3 == len(api.requests)


async def test_other_calls_are_sent_once() -> None:
    """A POST is sent again only with an Idempotency-Key or when asked to, and never if its body can't be re-read."""

    async def body() -> Any:
        yield b"x"

    for options, sent in [
        ({}, 1),
        ({"headers": {"idempotency-key": "1"}}, 3),
        ({"retry": True}, 3),
        ({"retry": True, "content": body()}, 1),
    ]:
        api = Api(500)
        with pytest.raises(HttpStatusError):
            await api.post("/x", **options)
        assert sent == len(api.requests), options


async def test_retry_after_is_waited_for() -> None:
    """The next attempt comes no earlier than the server asked for."""
    api = Api(
        httpx2.Response(429, headers={"Retry-After": "2"}), httpx2.Response(503, headers={"Retry-After": "1"}), 200
    )
    await api.get("/x")
    first, second, third = api.times
    assert second - first >= 2
    assert third - second >= 1


async def test_retry_after_beyond_the_limit_fails_at_once() -> None:
    """A wait that doesn't fit into the call's time is not begun; the error says how long it would be."""
    api = Api(httpx2.Response(429, headers={"Retry-After": "60"}))
    before = anyio.current_time()
    with pytest.raises(RateLimitedError) as raised:
        await api.get("/x")
    assert (60.0, 1) == (raised.value.retry_after, len(api.requests))
    assert anyio.current_time() - before < 1


@pytest.mark.parametrize(
    ("status", "error", "attempts"),
    [
        (400, HttpStatusError, 1),
        (401, AuthenticationFailedError, 1),
        (403, AuthenticationFailedError, 1),
        (404, HttpStatusError, 1),
        (408, HttpStatusError, 3),
        (429, RateLimitedError, 3),
        (500, HttpStatusError, 3),
    ],
)
async def test_statuses_become_typed_errors(status: int, error: type[Exception], attempts: int) -> None:
    """Each status has its error; only what may pass is tried again; no error shows secrets, query or body."""
    api = Api(status)
    with pytest.raises(error) as raised:
        await api.get("/users/1", params={"token": SECRET})
    assert attempts == len(api.requests)
    assert "api: GET /users/1" in str(raised.value)
    assert SECRET not in str(raised.value) + repr(raised.value)
    if isinstance(raised.value, HttpStatusError):
        assert (status, "quoted: " + SECRET) == (raised.value.status, raised.value.body)


async def test_accepted_status_is_returned() -> None:
    """A caller who expects a 404 gets the answer."""
    assert 404 == (await Api(404).get("/x", accept={404})).status_code


async def test_driver_errors_are_ours_and_hide_the_url() -> None:
    """A connection error holds the path but neither the query nor the driver's error."""
    api = Api(httpx2.ConnectError(f"https://api.test/?key={SECRET}"), max_retries=0)
    with pytest.raises(ConnectionFailedError) as raised:
        await api.get("/x", params={"key": SECRET})
    assert "api: GET /x: ConnectError" == str(raised.value)
    assert raised.value.__suppress_context__


async def test_silent_server_is_a_timeout() -> None:
    """A call to a server that never answers ends after the service's limit, retries included."""
    before = anyio.current_time()
    with pytest.raises(ServiceTimeoutError, match="no answer within 5 s") as raised:
        await Api(1e6).get("/x")
    assert not isinstance(raised.value, DeadlineExceededError)
    assert 5.0 == pytest.approx(anyio.current_time() - before)


async def test_callers_own_timeout_wins() -> None:
    """`timeout=` replaces the config's."""
    before = anyio.current_time()
    with pytest.raises(ServiceTimeoutError):
        await Api(1e6).get("/x", timeout=0.5)
    assert 0.5 == pytest.approx(anyio.current_time() - before)


async def test_callers_deadline_holds() -> None:
    """A shorter deadline of the caller cuts the call off, and is what the error is about."""
    before = anyio.current_time()
    with pytest.raises(DeadlineExceededError):
        with deadline(1.0):
            await Api(1e6).get("/x")
    assert 1.0 == pytest.approx(anyio.current_time() - before, abs=0.01)


async def test_circuit_opens_after_failures_and_closes_after_a_probe() -> None:
    """After five failures in a row nothing is sent; later one call tries, and its success lets all through."""
    now = 0.0
    api = Api(500, max_retries=0)
    api.circuit = ConsecutiveBreaker("api", failures=5, recovery=10, clock=lambda: now)
    for _ in range(5):
        with pytest.raises(HttpStatusError):
            await api.get("/x")
    with pytest.raises(CircuitOpenError) as raised:
        await api.get("/x")
    assert (10.0, 5) == (raised.value.retry_after, len(api.requests))
    api.state = ServiceState.RUNNING
    assert HealthStatus.DEGRADED == (await api.health_check()).status
    now, api.answers = 10.0, [200]
    await api.get("/x")
    await api.get("/x")
    assert 7 == len(api.requests)
    assert HealthStatus.HEALTHY == (await api.health_check()).status


async def test_silent_server_opens_the_circuit_and_impatient_callers_do_not() -> None:
    """A call that had all the time counts as a failure, one that was cut off early doesn't."""
    api = Api(1e6, circuit_failures=1)
    with anyio.move_on_after(0.1):
        await api.get("/x")
    assert "closed" == api.circuit.state
    with pytest.raises(ServiceTimeoutError):
        await api.get("/x")
    assert "open" == api.circuit.state


def test_breaker_lets_one_probe_through() -> None:
    """Half-open lets a single call through; its cancellation passes the turn on, its failure opens again."""
    now = 0.0
    breaker = ConsecutiveBreaker("x", failures=1, recovery=5, clock=lambda: now)
    breaker.release(breaker.acquire(), "failure")
    now = 5.0
    probe = breaker.acquire()
    assert "half-open" == breaker.state
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    breaker.release(probe, "neutral")
    breaker.release(breaker.acquire(), "failure")
    assert "open" == breaker.state


def test_breaker_forgets_calls_from_before() -> None:
    """A slow success from before the circuit opened doesn't close it, and success in between starts the count over."""
    breaker = ConsecutiveBreaker("x", failures=2, recovery=5, clock=lambda: 0.0)
    slow = breaker.acquire()
    for outcome in ("failure", "success", "failure"):
        breaker.release(breaker.acquire(), outcome)
    assert "closed" == breaker.state
    breaker.release(breaker.acquire(), "failure")
    breaker.release(slow, "success")
    assert "open" == breaker.state


async def test_rate_limit_spaces_calls() -> None:
    """After the burst calls go out at the rate, also when they come all at once."""
    api = Api(200, rate_limit=2.0, rate_burst=2, timeout=60.0)
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(api.get, "/x")
    assert [0.0, 0.0, 0.5, 1.0, 1.5, 2.0] == [pytest.approx(at - start, abs=0.01) for at in api.times]


async def test_rate_limit_beyond_the_deadline_fails_at_once() -> None:
    """A caller whose deadline comes before its turn is told now, with the wait, and takes no turn."""
    bucket = TokenBucket("api", 0.1, clock=anyio.current_time)
    await bucket.acquire()
    with anyio.move_on_after(5), pytest.raises(RateLimitedError) as raised:
        await bucket.acquire()
    assert 10.0 == pytest.approx(raised.value.retry_after)
    before = anyio.current_time()
    await bucket.acquire()
    assert 10.0 == pytest.approx(anyio.current_time() - before)


async def test_foreign_origin_is_refused() -> None:
    """A whole URL to another server would carry the credentials there; one to the same server is fine."""
    api = Api(200)
    for url in ("https://evil.test/x", "http://api.test/v1/x", "//evil.test/x", "https://api.test@evil.test/"):
        with pytest.raises(ValueError, match="leads away"):
            await api.get(url)
    assert 200 == (await api.get("https://api.test/v1/x")).status_code


async def test_stopped_service_refuses_calls() -> None:
    """After the stop the pool is closed and a call says so."""
    api = Api(200)
    await api.on_startup()
    client = api.http_client
    await api.on_shutdown()
    api.state = ServiceState.STOPPED
    assert client.is_closed
    with pytest.raises(IllegalStateError, match="stopped"):
        await api.get("/x")


async def test_health_path_is_read() -> None:
    """With a health_path the check asks the server, once; a failing one is unhealthy."""
    api = Api(503, health_path="/health")
    api.state = ServiceState.RUNNING
    assert HealthStatus.UNHEALTHY == (await api.health_check()).status
    assert 1 == len(api.requests)


async def test_other_settings_objects_get_the_defaults() -> None:
    """A plain ServiceConfig works: the rest has its default."""

    class Plain(Api):
        def __init__(self) -> None:
            self.config = ServiceConfig(name="plain")
            self.answers, self.requests, self.times = [200], [], []

    plain = Plain()
    assert 200 == (await plain.get("https://anywhere.test/x")).status_code
    assert "authorization" not in plain.requests[0].headers


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("3", 3.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("x", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    """Both forms of the header are understood; nonsense counts as none."""
    assert seconds == parse_retry_after(value, now=datetime(2026, 11, 21, 12, tzinfo=UTC))


class RawServer:
    """A real server on the loopback address that answers each request with `answer`, or never if it is empty."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.connections = 0

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with stream:
            try:
                while True:
                    await stream.receive()
                    if self.answer:
                        await stream.send(self.answer)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async def __aenter__(self) -> str:
        self._tasks = await anyio.create_task_group().__aenter__()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self._tasks.start_soon(listener.serve, self._serve)
        self._listener = listener
        return f"http://127.0.0.1:{port}"

    async def __aexit__(self, *args: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._listener.aclose()


real_time = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # sockets take real time


@real_time
async def test_real_server_and_pool(anyio_backend: str) -> None:
    """Over the network the answer arrives, and a second call uses the same connection."""
    server = RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    async with server as url:
        service = ExternalService(ExternalServiceConfig(base_url=url))
        await service.on_startup()
        assert ["ok", "ok"] == [(await service.get("/")).text for _ in range(2)]
        assert 1 == server.connections
        await service.on_shutdown()


@real_time
async def test_black_hole_and_refused_connection(anyio_backend: str) -> None:
    """A server that accepts and never answers is a timeout, a port where nobody listens a failed connection."""
    async with RawServer(b"") as url:
        service = ExternalService(ExternalServiceConfig(base_url=url, timeout=0.05))
        with pytest.raises(ServiceTimeoutError):
            await service.get("/")
    with pytest.raises(ConnectionFailedError):
        await service.get("/", timeout=20, retry=False)
    await service.on_shutdown()
