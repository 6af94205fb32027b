"""The server that tests share, one of its own for each that kills it, and a Hypothesis profile that repeats itself."""

import os

import pytest
from hypothesis import HealthCheck, settings

from svcframework_embedded import EmbeddedPostgres, running
from svcframework_postgres import PostgresConfig, PostgresService

SLOW = [HealthCheck.too_slow]  # a server is asked
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25, suppress_health_check=SLOW)
settings.register_profile("soak", deadline=None, max_examples=2_000, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("SVC_HYPOTHESIS_PROFILE", "ci"))


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


@pytest.fixture
async def single(postgres):
    """A running service with one connection: whoever comes next gets the one that was used before."""
    service = PostgresService(PostgresConfig(pool_max_size=1), server=postgres)
    await service.on_startup()
    yield service
    await service.on_shutdown()
