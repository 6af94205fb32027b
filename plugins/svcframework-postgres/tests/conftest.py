"""The servers that tests share, one of its own for each that kills it, and a Hypothesis profile that repeats itself."""

import contextlib
import os
import uuid
from pathlib import Path

import anyio
import asyncpg
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings

from svcframework_embedded import EmbeddedPostgres, EmbeddedPostgresConfig, running
from svcframework_embedded.testing import PostgresHandle, served
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


@pytest.fixture(scope="session")
def planted_server():
    """A server with statement statistics and the database of planted.sql, which tests may look at and not change."""
    own = {"shared_preload_libraries": "pg_stat_statements", "autovacuum": "off", "max_wal_size": "4GB"}
    server = EmbeddedPostgres(EmbeddedPostgresConfig(settings=own))
    with served(server) as portal:
        handle = PostgresHandle(server, portal)
        anyio.run(_plant, handle.dsn)
        yield handle
        handle.kill()  # its last checkpoint would take seconds, for data that nobody needs


async def _plant(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE EXTENSION pg_stat_statements")
    await connection.execute((Path(__file__).parent / "planted.sql").read_text(encoding="utf-8"))
    with contextlib.suppress(asyncpg.UniqueViolationError):
        await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY coupons_code_idx ON coupons (code)")
    await connection.execute("ANALYZE countries, customers, orders, notes, places, coupons")
    await connection.execute("VACUUM (ANALYZE) sessions")
    await connection.execute("REINDEX INDEX sessions_id_idx")
    await connection.execute("SELECT count(*) FROM orders WHERE placed < to_timestamp(1767225700)")  # uses its index
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_statements_reset()")
    await connection.close()


@pytest.fixture
async def planted(planted_server):
    """A running service on the planted database."""
    service = PostgresService(PostgresConfig(pool_max_size=4, command_timeout=60), server=planted_server)
    await service.on_startup()
    yield service
    await service.on_shutdown()


@pytest.fixture
async def planted_copy(planted_server):
    """A running service on a copy of the planted database, which the test may change."""
    async with _copy_of(planted_server) as dsn, _service(dsn) as service:
        yield service


@pytest.fixture(scope="module")
def scratch_dsn(planted_server):
    """The address of a copy that the tests of a module share: they may add to it."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(_copy_of(planted_server)) as dsn:
        yield dsn


@pytest.fixture
async def scratch(scratch_dsn):
    """A running service on that copy."""
    async with _service(scratch_dsn) as service:
        yield service


@contextlib.asynccontextmanager
async def _service(dsn):
    service = PostgresService(PostgresConfig(dsn=dsn, pool_max_size=4, command_timeout=60))
    await service.on_startup()
    yield service
    await service.on_shutdown()


@contextlib.asynccontextmanager
async def _copy_of(server):
    name = f"copy_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(server.dsn, database="template1")
    await connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'postgres'"
    )  # nobody may be in a database that is copied
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE postgres STRATEGY file_copy')
    yield server.dsn.removesuffix("/postgres") + f"/{name}"
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()
