"""The server that tests share, and one of its own for each that kills it."""

import pytest

from svcframework_embedded import EmbeddedValkey, EmbeddedValkeyConfig, running
from svcframework_redis import RedisConfig, RedisService


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"  # the driver's only one


@pytest.fixture
def valkey(valkey_server):
    """The server of the whole test run."""
    return valkey_server


@pytest.fixture
async def mortal_valkey():
    """A server of the test's own, that stays dead until `relaunch()`."""
    config = EmbeddedValkeyConfig(settings={"enable-debug-command": "local"})
    async with running(EmbeddedValkey(config), restart=False) as server:
        yield server


@pytest.fixture
async def redis(valkey):
    """A running service on an empty database."""
    service = RedisService(RedisConfig(max_connections=4), server=valkey)
    await service.on_startup()
    await service.execute("FLUSHDB")
    yield service
    await service.on_shutdown()
