"""Every fault on a real server, and what the service promises under it; `make faults` writes the results down."""

from contextlib import asynccontextmanager

import asyncpg
import pytest

from svcframework.testing import FaultConformance
from svcframework_embedded.testing import own_postgres
from svcframework_postgres import PostgresService


@pytest.fixture(scope="module")
def mortal_server():
    """A server that only these tests kill."""
    with own_postgres() as server:
        yield server


class TestPostgresFaults(FaultConformance):
    service = PostgresService
    server = "mortal_server"
    settings = {"pool_max_size": 3}
    limits = {"command_timeout": 0.3, "connect_timeout": 0.3, "acquire_timeout": 0.3}
    limit = 0.3
    pool_size = 3
    not_applicable = {"overloaded": "PostgreSQL speaks no HTTP"}

    async def call(self, service, key):
        return (await service.execute_one("SELECT $1::text AS key", key))["key"]

    async def slow_call(self, service, seconds):
        return await service.execute_query("SELECT pg_sleep($1)", seconds, timeout=seconds + 1)

    async def change(self, service, key):
        """Two rows that belong together, in one transaction of several statements."""
        await service.execute_query("CREATE TABLE IF NOT EXISTS changes (half int, key text)")
        async with service.transaction() as tx:
            await tx.execute("INSERT INTO changes VALUES (1, $1)", key)
            await tx.execute("INSERT INTO changes VALUES (2, $1)", key)

    async def check_changes(self, service):
        halves = "SELECT key FROM changes GROUP BY key HAVING count(*) <> 2"
        assert [] == await service.execute_query(halves)
        assert (await service.execute_one("SELECT count(*) AS n FROM changes"))["n"] > 0
        async with service.transaction() as tx:
            await tx.execute("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE NOWAIT")

    @asynccontextmanager
    async def rotated_password(self, server):
        admin = await asyncpg.connect(server.dsn)
        old = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = current_user")
        others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename IS NOT NULL"
        try:
            await admin.execute("ALTER ROLE postgres PASSWORD 'another'")
            await admin.execute(f"SELECT pg_terminate_backend(pid) {others}")
            yield
        finally:
            await admin.execute(f"ALTER ROLE postgres PASSWORD '{old}'")
            await admin.close()

    def server_on(self, folder):
        return own_postgres(data_dir=folder / "data")
