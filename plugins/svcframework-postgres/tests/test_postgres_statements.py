"""Statements, transactions and values against a real server."""

import asyncio
import contextlib
import traceback
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from svcframework.errors import DatabaseError, ServiceTimeoutError, ServiceUnavailableError
from svcframework.testing._trials import journal
from svcframework_postgres import AuroraService, Identifier, PostgresConfig, PostgresService


@pytest.fixture
async def table(database):
    name = Identifier(f"t {uuid.uuid4().hex}")
    await database.execute_query(f"CREATE TABLE {name} (id serial PRIMARY KEY, word text UNIQUE)")
    return name


async def test_query_returns_every_row(database):
    """Rows arrive in order, as records that read by name."""
    rows = await database.execute_query("SELECT n FROM generate_series(1, $1::int) n", 3)
    assert [1, 2, 3] == [row["n"] for row in rows]


async def test_one_returns_the_first_row_or_none(database):
    """No row is None, not an error."""
    assert (await database.execute_one("SELECT 7 AS n"))["n"] == 7
    assert await database.execute_one("SELECT 7 WHERE false") is None


async def test_returning_needs_a_row(database, table):
    """A statement that changes nothing is an error that says what may be missing."""
    row = await database.execute_returning(f"INSERT INTO {table} (word) VALUES ($1) RETURNING id", "a")
    assert row["id"] == 1
    with pytest.raises(DatabaseError, match="returned no row; is RETURNING missing") as caught:
        await database.execute_returning(f"UPDATE {table} SET word = 'b' WHERE id = 99 RETURNING id")
    assert caught.value.sqlstate == "02000"


async def test_many_is_all_or_nothing(database, table):
    """One bad row undoes the good ones."""
    await database.execute_many(f"INSERT INTO {table} (word) VALUES ($1)", [("a",), ("b",)])
    with pytest.raises(DatabaseError):
        await database.execute_many(f"INSERT INTO {table} (word) VALUES ($1)", [("c",), ("a",)])
    assert ["a", "b"] == [row["word"] for row in await database.execute_query(f"SELECT word FROM {table} ORDER BY id")]


async def test_statement_error_carries_its_sqlstate(database, table):
    """A driver error becomes ours, caused by the driver's, without the values."""
    await database.execute_query(f"INSERT INTO {table} (word) VALUES ('secret@example.org')")
    with pytest.raises(DatabaseError) as caught:
        await database.execute_query(f"INSERT INTO {table} (word) VALUES ('secret@example.org')")
    assert caught.value.sqlstate == "23505"
    assert not caught.value.retryable
    assert caught.value.__cause__ is not None
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT $1::int",
        "SELECT $1::text::int",
        "SELECT $1::uuid",
        "SELECT $1::text::timestamptz",
        "SELECT $1::numeric",
        "SELECT $1::bytea",
        "SELECT $1::int[]",
    ],
)
@pytest.mark.parametrize("value", ["canary-7Q", 'can"ary-7Q', "can'ary-7Q (", "it's a 'canary-7Q' object"])
async def test_value_that_does_not_fit_is_not_told(database, statement, value):
    """Neither in the error, nor in its cause, nor in the log: only what was wrong with it."""
    with journal() as logged, pytest.raises(DatabaseError) as caught:
        await database.execute_query(statement, value)
    told = "".join([*traceback.format_exception(caught.value), logged.text])
    assert "service method failed" in told
    assert "ary-7Q" not in told
    assert "invalid" in str(caught.value)


async def test_wrong_argument_is_a_database_error(database):
    """An argument that the driver can't bind is refused before anything is sent, and the connection stays usable."""
    with pytest.raises(DatabaseError, match="expected str"):
        await database.execute_query("SELECT $1::text", 5)
    assert database.pool.statistics.idle == database.pool.statistics.size


@dataclass
class Point:
    x: int
    at: datetime


async def test_json_values_roundtrip(database):
    """Big and nested values go through json and jsonb unchanged; dataclasses are written."""
    value = {"text": "é\n" * 300_000, "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}}
    row = await database.execute_one("SELECT $1::jsonb AS b, $2::json AS j", value, value)
    assert value == row["b"] == row["j"]
    row = await database.execute_one("SELECT $1::jsonb AS b", Point(1, datetime(2026, 1, 1, tzinfo=UTC)))
    assert {"x": 1, "at": "2026-01-01T00:00:00Z"} == row["b"]


async def test_transaction_commits_and_rolls_back(database, table):
    """What the block did stays, unless it raised."""
    async with database.transaction() as tx:
        await tx.execute_query(f"INSERT INTO {table} (word) VALUES ('kept')")
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.execute_query(f"INSERT INTO {table} (word) VALUES ('lost')")
            raise LookupError
    assert ["kept"] == [row["word"] for row in await database.execute_query(f"SELECT word FROM {table}")]


async def test_nested_transaction_is_a_savepoint(database, table):
    """An inner block that fails undoes its own part only."""
    async with database.transaction() as tx:
        await tx.execute_query(f"INSERT INTO {table} (word) VALUES ('outer')")
        with pytest.raises(DatabaseError):
            async with tx.transaction() as inner:
                await inner.execute_query(f"INSERT INTO {table} (word) VALUES ('outer')")
        assert await tx.fetchval(f"SELECT count(*) FROM {table}") == 1
    assert len(await database.execute_query(f"SELECT 1 FROM {table}")) == 1


async def test_swallowed_error_does_not_commit_silently(database, table):
    """PostgreSQL answers COMMIT after an error with ROLLBACK and no error; the block raises one."""
    with pytest.raises(DatabaseError, match="rolled back") as caught:
        async with database.transaction() as tx:
            await tx.execute_query(f"INSERT INTO {table} (word) VALUES ('lost')")
            with contextlib.suppress(DatabaseError):
                await tx.execute_query("SELECT 1/0")
    assert caught.value.sqlstate == "25P02"
    assert await database.execute_query(f"SELECT 1 FROM {table}") == []


async def test_timed_out_statement_ends_its_transaction(database):
    """After a statement was cut off the transaction is over, also for code that swallowed the error."""
    with pytest.raises(DatabaseError, match="cut off"):
        async with database.transaction() as tx:
            with pytest.raises(ServiceTimeoutError):
                await tx.execute_query("SELECT pg_sleep(10)", timeout=0.05)
            await tx.execute_query("SELECT 1")


async def test_transaction_options(database, table):
    """Isolation and read-only reach the server."""
    async with database.transaction(isolation="serializable", readonly=True) as tx:
        assert await tx.fetchval("SHOW transaction_isolation") == "serializable"
        with pytest.raises(DatabaseError, match="read-only"):
            async with tx.transaction():
                await tx.execute_query(f"INSERT INTO {table} (word) VALUES ('no')")


@pytest.mark.parametrize("reset", ["when_needed", "always"])
async def test_session_state_never_leaks(postgres, reset):
    """A setting, a lock, a temporary table or an open transaction is gone for the next user of a connection."""
    config = PostgresConfig(pool_max_size=1, reset=reset)
    service = PostgresService(config, server=postgres)
    await service.on_startup()
    pid = (await service.execute_one("SELECT pg_backend_pid() AS pid"))["pid"]
    await service.execute_query("SET statement_timeout = '7s'")
    await service.execute_query("SELECT set_config('work_mem', '7MB', false)")
    await service.execute_query("SELECT pg_advisory_lock(7)")
    async with service.pool.acquire() as connection:
        await connection.execute("SET search_path = 'nowhere'")
    async with service.transaction() as tx:
        await tx.execute_query("SET lock_timeout = '7s'")
    row = await service.execute_one(
        "SELECT current_setting('statement_timeout') AS a, current_setting('work_mem') AS b,"
        " current_setting('search_path') AS c, current_setting('lock_timeout') AS d, pg_backend_pid() AS pid,"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks"
    )
    assert ["0", "4MB", '"$user", public', "0", pid, 0] == list(row.values())
    await service.on_shutdown()


async def test_plain_statements_pay_no_reset(database):
    """One statement is one round trip: RESET is not among what the server has seen last."""
    async with database.pool.acquire() as connection:
        pid = connection.get_server_pid()
    for _ in range(3):
        await database.execute_one("SELECT 'plain' AS word")
    row = await database.execute_one("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
    assert "RESET" not in row["query"]


async def test_pools_per_database(database):
    """A pool given before the statement runs it on its own database; seeds write it so."""
    name = f"org {uuid.uuid4().hex}"
    await database.execute_query(f"CREATE DATABASE {Identifier(name)}", timeout=30)
    pool = await database.get_org_pool(name)
    assert pool is await database.get_org_pool(name)
    assert name == (await database.execute_one(pool, "SELECT current_database() AS d"))["d"]
    await database.execute_query(pool, "CREATE TABLE t (n int)")
    await database.execute_many(pool, "INSERT INTO t VALUES ($1)", [(1,), (2,)])
    assert (await database.execute_returning(pool, "DELETE FROM t WHERE n = $1 RETURNING n", 1))["n"] == 1
    async with database.transaction(pool) as tx:
        assert 1 == len(await tx.execute_query("SELECT * FROM t"))


async def test_pools_of_unknown_databases_are_refused(database):
    """A missing tenant is an error, never the default database; so is a name from an attacker."""
    with pytest.raises(ValueError, match="names no database"):
        await database.get_org_pool("")
    for name in ("nope", "postgres?host=evil", "postgres host=evil"):
        with pytest.raises(DatabaseError) as caught:
            await database.get_org_pool(name)
        assert caught.value.sqlstate == "3D000"


async def test_pools_of_many_databases_are_bounded(postgres):
    """The pools used longest ago close their idle connections, and still work for whoever holds one."""
    service = PostgresService(PostgresConfig(max_databases=1), server=postgres)
    await service.on_startup()
    first = await service.get_org_pool("postgres")
    await service.get_org_pool("template1")
    assert first.statistics.idle == 0
    assert (await service.execute_one(first, "SELECT 1 AS n"))["n"] == 1
    await service.on_shutdown()


async def test_wrong_first_argument_is_named(database):
    """What is neither a statement nor a pool is refused with the fix."""
    with pytest.raises(TypeError, match="a pool from get_org_pool"):
        await database.execute_query(5)


async def test_service_that_is_not_started_says_so(postgres):
    """No call waits for a pool that isn't there; start after stop works."""
    service = AuroraService(server=postgres)
    with pytest.raises(ServiceUnavailableError, match="isn't started"):
        await service.execute_query("SELECT 1")
    for _ in range(2):
        await service.on_startup()
        assert (await service.execute_one("SELECT 1 AS n"))["n"] == 1
        await service.on_shutdown()


async def test_stop_waits_for_running_calls(postgres):
    """A call that runs while the service stops still gets its answer, one that comes later does not start."""
    service = PostgresService(server=postgres)
    await service.on_startup()
    running = asyncio.create_task(service.execute_one("SELECT pg_sleep(0.2), 5 AS n"))
    while not service.pool.statistics.in_use:
        await asyncio.sleep(0)
    pool = service.pool
    await service.on_shutdown()
    assert (await running)["n"] == 5
    with pytest.raises(ServiceUnavailableError):
        await pool.execute_query("SELECT 1")


def test_identifiers_are_quoted():
    """Whatever is in a name, it stays one name."""
    assert '"a"."b ""c"""' == str(Identifier("a", 'b "c"'))
    for wrong in ((), ("",), ("a\0",), ("é" * 32,)):
        with pytest.raises(ValueError, match="identifier"):
            Identifier(*wrong)
