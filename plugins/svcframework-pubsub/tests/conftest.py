"""Servers that tests share, servers of their own for those that kill them, and a service on each backend."""

from contextlib import asynccontextmanager
from functools import partial

import pytest

from svcframework.testing import FaultProxy
from svcframework_embedded import EmbeddedPostgres, running
from svcframework_pubsub import PubSubConfig, PubSubService

BACKENDS = ["memory", "postgres"]
FAST = {"heartbeat_interval": 0.3, "heartbeat_timeout": 0.5, "connect_timeout": 1.0, "reconnect_delay": 0.02}


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
    return None


@asynccontextmanager
async def serving(backend, address, **settings):
    """A running service."""
    service = PubSubService(PubSubConfig(backend=backend, url=address, **{**FAST, **settings}))
    await service.on_startup()
    try:
        yield service
    finally:
        await service.on_shutdown()


@pytest.fixture
def serve(backend, address):
    """Runs a service on each backend in its turn, for a block: `async with serve(queue_size=1) as pubsub:`."""
    return partial(serving, backend, address)


@pytest.fixture
async def pubsub(serve):
    """A running service on each backend in its turn."""
    async with serve() as service:
        yield service


@pytest.fixture
async def proxy(address):
    """A network that fails on command before the backend's server."""
    async with FaultProxy(address) as proxy:
        yield proxy


@pytest.fixture
async def mortal_postgres():
    """A server of the test's own, that stays dead until `relaunch()`."""
    async with running(EmbeddedPostgres(), restart=False) as server:
        yield server
