"""The server that tests share, and one of its own for each that kills it."""

import pytest

from svcframework_embedded import EmbeddedPostgres, running
from svcframework_postgres import PostgresConfig, PostgresService


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"  # the driver's only one


@pytest.fixture
def postgres(postgres_server):
    """The server of the whole test run."""
    return postgres_server


@pytest.fixture
async def mortal_postgres():
    """A server of the test's own, that stays dead until `relaunch()`."""
    async with running(EmbeddedPostgres(), restart=False) as server:
        yield server


@pytest.fixture
async def database(postgres):
    """A running service with a small pool."""
    service = PostgresService(PostgresConfig(pool_max_size=4), server=postgres)
    await service.on_startup()
    yield service
    await service.on_shutdown()
