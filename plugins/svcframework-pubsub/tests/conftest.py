"""Servers that tests share, servers of their own for those that kill them, and a service on each backend."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest

from svcframework_pubsub import PubSubConfig, PubSubService

BACKENDS = ["memory", "postgres", "redis", "both", "nats"]
FAST = {"heartbeat_interval": 0.3, "reconnect_delay": 0.02}
PATIENT = {"heartbeat_timeout": 8.0, "connect_timeout": 8.0}  # a busy machine is not taken for a silent server


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"  # the drivers' only one; what runs on trio too says so


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of each backend in its turn."""
    return request.param


@pytest.fixture
def address(backend, request):
    """Where the backend's server is; None in memory."""
    if backend == "postgres":
        return request.getfixturevalue("postgres_server").dsn
    if backend in {"redis", "both"}:
        return request.getfixturevalue("valkey_server").url
    if backend == "nats":
        return request.getfixturevalue("nats_server").url
    return None


class NatsServer:
    """A nats-server of the tests' own, with JetStream; stays dead after `kill()` until `start()`."""

    def __init__(self, program, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"nats://tester:sesame@127.0.0.1:{self.port}"
        self._command = [program, "-js", "-sd", str(folder), "-a", "127.0.0.1", "-p", str(self.port)]
        self._command += ["--user", "tester", "--pass", "sesame"]
        self._process = None

    def start(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 20
        while time.monotonic() < ends and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise TimeoutError("nats-server does not start")

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory):
    """A NATS server for the whole test run; tests may kill and restart it. CI installs the program."""
    program = shutil.which("nats-server")
    if program is None and not os.environ.get("CI"):
        pytest.skip("nats-server isn't on PATH")
    assert program is not None, "nats-server is missing: apt-get install nats-server"
    for left in (2, 1, 0):
        server = NatsServer(program, tmp_path_factory.mktemp("nats"))
        try:
            server.start()
            break
        except TimeoutError:  # somebody else may have taken its port meanwhile
            server.kill()
            if not left:
                raise
    yield server
    server.kill()


@pytest.fixture(name="serving")
def _serving():
    """Runs a service on any backend and address, for a block."""
    return serving


@asynccontextmanager
async def serving(backend, address, **settings):
    """A running service."""
    if backend == "both":
        backend, settings = "redis", {"fallback": "postgres", **settings}
    service = PubSubService(PubSubConfig(backend=backend, url=address, **{**FAST, **PATIENT, **settings}))
    await service.on_startup()
    try:
        yield service
    finally:
        await service.on_shutdown()


@pytest.fixture
def serve(backend, address, request):
    """Runs a service on each backend in its turn, for a block; called with settings."""
    if backend == "both":
        return partial(serving, backend, address, fallback_url=request.getfixturevalue("postgres_server").dsn)
    return partial(serving, backend, address)


@pytest.fixture
async def pubsub(serve):
    """A running service on each backend in its turn."""
    async with serve() as service:
        yield service
