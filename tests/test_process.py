"""The health port answers from the first moment, cheaply, and tells strangers nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from svcframework import BaseService, HealthResult, ServiceHost
from svcframework.errors import LifecycleError
from svcframework.probes import serve_probes
from svcframework.process import own_process

CANARY = "db.internal:5432"


class Backend(BaseService):
    checks = 0
    result = HealthResult.healthy(CANARY)

    async def _service_health_check(self) -> HealthResult:
        type(self).checks += 1
        return self.result


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(port: int, request: bytes) -> Answer:
    """Send bytes, read to the end."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        answer = b""
        while True:
            try:
                answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                break
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return Answer(int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body)


async def get(port: int, path: str, **headers: str) -> Answer:
    lines = [f"GET {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return await ask(port, "\r\n".join(lines).encode())


@asynccontextmanager
async def probes(host: ServiceHost, token: str | None = None) -> AsyncIterator[int]:
    async with anyio.create_task_group() as tasks:

        async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> None:
            await serve_probes(host.health, 0, token=token, task_status=task_status)

        yield await tasks.start(serve)
        tasks.cancel_scope.cancel()


@pytest.fixture
def host() -> ServiceHost:
    host = ServiceHost(log_events=False)
    host.register(Backend)
    Backend.checks, Backend.result = 0, HealthResult.healthy(CANARY)
    return host


async def test_probes_follow_the_host(host: ServiceHost) -> None:
    """Alive always; ready and started only while the host says so."""
    async with probes(host) as port:
        codes = [[(await get(port, path)).status for path in ("/livez", "/readyz", "/startupz")]]
        async with host:
            await host.health.check_all()
            codes.append([(await get(port, path)).status for path in ("/livez", "/readyz", "/startupz")])
        codes.append([(await get(port, path)).status for path in ("/livez", "/readyz", "/startupz")])
    assert [[200, 503, 503], [200, 200, 200], [200, 503, 200]] == codes


async def test_public_answers_are_a_word(host: ServiceHost) -> None:
    """The media type is that of health checks; no version, no name, no message."""
    async with probes(host, token="t0ken") as port, host:
        await host.health.check_all()
        answer = await get(port, "/readyz")
    assert {"status": "pass"} == json.loads(answer.body)
    assert "application/health+json" == answer.headers["content-type"]
    assert "no-store" == answer.headers["cache-control"]
    assert {"content-type", "content-length", "cache-control", "connection"} == set(answer.headers)


async def test_details_need_the_token(host: ServiceHost) -> None:
    """Without it, with a wrong one, and where none was set, nobody sees them."""
    async with host:
        await host.health.check_all()
        async with probes(host, token="t0ken") as port:
            assert 401 == (await get(port, "/healthz")).status
            assert 401 == (await get(port, "/healthz", Authorization="Bearer t0ke")).status
            answer = await get(port, "/healthz", Authorization="bearer t0ken")
            assert 200 == answer.status
            assert CANARY == json.loads(answer.body)["checks"]["backend"][0]["output"]
        async with probes(host) as port:
            assert 401 == (await get(port, "/healthz", Authorization="Bearer ")).status


async def test_probes_cause_no_check(host: ServiceHost) -> None:
    """However often they are asked, each answer is what is known."""
    async with probes(host) as port, host:
        await host.health.check_all()
        before = Backend.checks
        for _ in range(20):
            await get(port, "/readyz")
        assert before == Backend.checks


async def test_critical_service_that_fails_turns_readiness_only(host: ServiceHost) -> None:
    """The process goes on living."""
    Backend.result = HealthResult.unhealthy("gone")
    async with probes(host) as port, host:
        await host.health.check_all()
        assert 503 == (await get(port, "/readyz")).status
        assert 200 == (await get(port, "/livez")).status


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /livez HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /livez SMTP\r\n\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"GET /livez?verbose=1 HTTP/1.0\r\n\r\n", 200),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
    ],
    ids=["unknown", "method", "nonsense", "protocol", "binary", "query", "too-long"],
)
async def test_odd_requests(host: ServiceHost, request_bytes: bytes, status: int) -> None:
    """Whatever comes, the answer is a status, and the next one is served."""
    async with probes(host) as port:
        assert status == (await ask(port, request_bytes)).status
        assert 200 == (await get(port, "/livez")).status


async def test_head_has_no_body(host: ServiceHost) -> None:
    """It has the length of the one it leaves out."""
    async with probes(host) as port:
        answer = await ask(port, b"HEAD /livez HTTP/1.1\r\n\r\n")
    assert (200, b"", "17") == (answer.status, answer.body, answer.headers["content-length"])


async def test_slow_client_is_cut_off_and_delays_no_other(host: ServiceHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that never ends gets 408 after its time; others are answered meanwhile."""
    monkeypatch.setattr("svcframework.probes._READ_TIMEOUT", 0.2)
    async with probes(host) as port, await anyio.connect_tcp("127.0.0.1", port) as slow:
        await slow.send(b"GET /livez")
        assert 200 == (await get(port, "/livez")).status
        assert (await slow.receive()).startswith(b"HTTP/1.1 408 ")


async def test_client_that_hangs_up_harms_nobody(host: ServiceHost) -> None:
    """The port stays open."""
    async with probes(host) as port:
        for _ in range(5):
            await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        assert 200 == (await get(port, "/livez")).status


@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_port_is_open_before_the_first_service_starts(backend: str) -> None:
    """Startup says no while services start, and yes afterwards; the exit code is that of a good end."""
    codes: dict[str, int] = {}
    host = ServiceHost(log_events=False)
    port = 0

    class Slow(BaseService):
        async def on_startup(self) -> None:
            codes["starting"] = (await get(port, "/startupz")).status
            codes["alive"] = (await get(port, "/livez")).status

    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host.register(Slow)

    async def main() -> None:
        codes["running"] = (await get(port, "/startupz")).status

    assert 0 == own_process(host, main, backend=backend, health_port=port)
    assert {"starting": 503, "alive": 200, "running": 200} == codes


def test_owning_needs_the_main_thread() -> None:
    """Elsewhere Python takes no signals, and the error says so."""
    said: list[str] = []

    def run() -> None:
        try:
            own_process(ServiceHost(log_events=False), None)
        except LifecycleError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ["host.run() takes the process's signals: call it in the main thread."] == said


def test_run_always_exits(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when `main` has ended, 1 with our own words for a failed start."""

    class Broken(BaseService):
        async def on_startup(self) -> None:
            raise OSError("no answer")

    async def main() -> None: ...

    with pytest.raises(SystemExit) as good:
        ServiceHost(log_events=False).run(main)
    host = ServiceHost(log_events=False)
    host.register(Broken)
    with pytest.raises(SystemExit) as bad:
        host.run(main)
    assert (0, 1) == (good.value.code, bad.value.code)
    errors = capsys.readouterr().err
    assert errors.startswith("StartupError: 1 of 1 service failed to start\n  broken (")
    assert "Traceback" not in errors
