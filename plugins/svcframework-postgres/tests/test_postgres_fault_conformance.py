"""Every fault on a real server, and what the service promises under it; `make faults` writes the results down."""

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
        if key < "8":  # one half of the calls is a transaction, of several statements
            async with service.transaction() as tx:
                return await tx.fetchval("SELECT $1::text", key)
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

    def server_on(self, folder):
        return own_postgres(data_dir=folder / "data")
