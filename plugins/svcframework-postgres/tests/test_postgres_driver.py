"""The short way to the driver gives what its public methods give, in each case that they know."""

import asyncio

import pytest

from svcframework.errors import DatabaseError
from svcframework_postgres import PostgresConfig, PostgresService, driver


@pytest.fixture(params=["short way", "public methods", "nothing prepared"])
async def any_way(request, single, postgres, monkeypatch):
    """A service with one connection, by each way to run a statement."""
    if request.param == "public methods":
        monkeypatch.setattr(driver, "_HAS_SHORT_WAY", False)
    if request.param != "nothing prepared":
        yield single
        return
    service = PostgresService(PostgresConfig(pool_max_size=1, statement_cache_size=0), server=postgres)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_short_way_exists():
    """The driver that is installed has what the short way needs; it would be slower without, and nobody would know."""
    assert driver._HAS_SHORT_WAY


async def test_statement_survives_a_change_of_its_table(any_way):
    """A table that changes under a prepared statement costs nobody a call, but for a transaction that is open."""
    await any_way.execute("DROP TABLE IF EXISTS svc_changing; CREATE TABLE svc_changing (a int)")
    await any_way.execute_query("INSERT INTO svc_changing VALUES ($1)", 1)
    query = "SELECT * FROM svc_changing WHERE a = $1"
    for column in ("b", "c"):
        before = [len(row) for row in await any_way.execute_query(query, 1)]
        await any_way.execute(f"ALTER TABLE svc_changing ADD {column} text")
        assert before[0] + 1 == len(await any_way.execute_one(query, 1))
    try:
        async with any_way.transaction() as tx:
            await tx.execute("ALTER TABLE svc_changing ADD d text")
            assert 4 == len(await tx.execute_one(query, 1))
    except DatabaseError as error:
        assert "0A000" == error.sqlstate  # noqa: PT017 - PostgreSQL lets nobody prepare it again in here
    assert len(await any_way.execute_one(query, 1)) in {3, 4}
    assert 1 == any_way.pool.statistics.opened


async def test_errors_and_arguments_are_the_same(any_way):
    """Too few arguments, wrong ones, several statements and none: each is the same typed error every time."""
    wrong = {
        "SELECT $1::int": ((), "expects 1 argument"),
        "SELECT $1::int + $2::int": ((1, "x"), "expected|integer"),
        "SELECT 1; SELECT 2": ((), "multiple commands"),
        "SELEKT": ((), "syntax error"),
    }
    for _ in range(3):
        for query, (args, message) in wrong.items():
            with pytest.raises(DatabaseError, match=message):
                await any_way.execute_query(query, *args)
        assert [(3,)] == [tuple(row) for row in await any_way.execute_query("SELECT $1::int + $2::int", 1, 2)]
    assert 1 == any_way.pool.statistics.opened


async def test_one_row_is_asked_for_and_changes_are_whole(any_way):
    """The first row of many comes alone; a statement that changes many rows changes all of them."""
    await any_way.execute("DROP TABLE IF EXISTS svc_many; CREATE TABLE svc_many (n int)")
    for _ in range(2):
        row = await any_way.execute_one("INSERT INTO svc_many SELECT generate_series(1, $1::int) RETURNING n", 5)
        assert 1 == row["n"]
        assert 1 == (await any_way.execute_one("SELECT n FROM svc_many ORDER BY n"))["n"]
    assert 10 == (await any_way.execute_one("SELECT count(*) AS n FROM svc_many"))["n"]


async def test_two_statements_at_once_in_one_transaction(any_way):
    """The second one is refused and the first one answered right; neither gets the other's answer."""
    async with any_way.transaction() as tx:
        await tx.execute_one("SELECT $1::int AS n, pg_sleep(0.02)", 0)
        both = (tx.execute_one("SELECT $1::int AS n, pg_sleep(0.02)", number) for number in (1, 2))
        first, second = await asyncio.gather(*both, return_exceptions=True)
        assert 1 == first["n"]
        assert isinstance(second, DatabaseError)
        assert 3 == (await tx.execute_one("SELECT $1::int AS n, pg_sleep(0.02)", 3))["n"]


async def test_connection_that_a_transaction_lent_is_reset(single):
    """What is done with the driver's connection itself can't be seen, so that it counts as a change."""
    async with single.transaction() as tx:
        await tx.connection.execute("SET work_mem = '7MB'")
    assert "4MB" == (await single.execute_one("SHOW work_mem"))["work_mem"]


async def test_refused_commit_costs_no_connection(single):
    """The server has rolled back and is ready for the next transaction."""
    await single.execute(
        "DROP TABLE IF EXISTS svc_late; CREATE TABLE svc_late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    for _ in range(3):
        with pytest.raises(DatabaseError):
            async with single.transaction() as tx:
                await tx.execute_query("INSERT INTO svc_late VALUES (1), (1)")
    assert 1 == single.pool.statistics.opened
