"""No user of a connection leaves anything behind for the next, whatever was run and however."""

import contextlib
import time

import pytest

from svcframework.errors import DatabaseError
from svcframework_postgres import PostgresConfig, PostgresService
from svcframework_postgres.sessions import changes_session

SEEDED = "SELECT setseed(0.5)"

LEAVES_SOMETHING = (
    "SET work_mem = '7MB'",
    "set session lock_timeout = '7s'",
    "SET ROLE svc_other",
    "SET SESSION AUTHORIZATION svc_other",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SELECT set_config('work_mem', '7MB', false)",
    "SELECT \"set_config\" ('work_mem', '7MB', false)",
    "SELECT U&\"set\\005fconfig\"('work_mem', '7MB', false)",
    "SELECT n, set_config('work_mem', '7MB', false) FROM generate_series(1, 2) n",
    "WITH s AS (SELECT set_config('work_mem', '7MB', false)) SELECT * FROM s",
    "VALUES (set_config('work_mem', '7MB', false))",
    "UPDATE pg_settings SET setting = '7168' WHERE name = 'work_mem'",
    "EXPLAIN ANALYZE SELECT set_config('work_mem', '7MB', false)",
    "DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); END $$",
    "-- SELECT\rSET work_mem = '7MB'",
    "/* SELECT */ SET work_mem = '7MB'",
    "/* a /* b */ SELECT 1 */ SET work_mem = '7MB'",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_try_advisory_lock_shared(8)",
    "LISTEN svc_left_behind",
    "PREPARE svc_left AS SELECT 1",
    "DECLARE svc_left CURSOR WITH HOLD FOR SELECT 1",
    "CREATE TEMP TABLE svc_left (n int)",
    "CREATE TABLE pg_temp.svc_left (n int)",
    "SELECT 1 AS n INTO TEMPORARY svc_left",
    SEEDED,
)

STATE = """
SELECT current_setting('work_mem') AS work_mem, current_setting('lock_timeout') AS lock_timeout,
    current_setting('default_transaction_read_only') AS read_only, current_user AS who, session_user AS login,
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
    (SELECT count(*) FROM pg_listening_channels()) AS channels,
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql) AS prepared,
    (SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors,
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS temporary
"""


async def _one(service, statement):
    await service.execute_one(statement)


async def _query(service, statement):
    await service.execute_query(statement)


async def _many(service, statement):
    await service.execute_many(statement, [()])


async def _returning(service, statement):
    await service.execute_returning(statement)


async def _execute(service, statement):
    await service.execute(statement)


async def _second(service, statement):
    await service.execute(f"SELECT 1; {statement}")


async def _committed(service, statement):
    async with service.transaction() as tx:
        await tx.execute_query(statement)


async def _rolled_back(service, statement):
    async with service.transaction() as tx:
        await tx.execute(statement)
        raise LookupError


async def _in_savepoint(service, statement):
    async with service.transaction() as tx:
        await tx.execute("SELECT 1")
        async with tx.transaction() as inner:
            await inner.execute_query(statement)


async def _retried(service, statement):
    await service.run_in_transaction(lambda tx: tx.execute(statement))


async def _with_settings(service, statement):
    async with service.settings({"app.tenant": "acme"}) as tx:
        await tx.execute(statement)


async def _acquired(service, statement):
    async with service.pool.acquire() as connection:
        await connection.execute(statement)


async def _streamed(service, statement):
    async for _ in service.stream(statement, batch=1):
        pass


async def _left_stream(service, statement):
    async with service.stream(statement, batch=1) as rows:
        async for _ in rows:
            break


async def _copied(service, statement):
    await service.copy_out(statement)


WAYS = (
    _one,
    _query,
    _many,
    _returning,
    _execute,
    _second,
    _committed,
    _rolled_back,
    _in_savepoint,
    _retried,
    _with_settings,
    _acquired,
    _streamed,
    _left_stream,
    _copied,
)


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__.strip("_") for way in WAYS])
async def test_session_of_the_next_user_is_clean(single, way):
    """After each statement that changes a session, by each way there is to run it, the next call finds none of it."""
    with contextlib.suppress(DatabaseError):
        await single.execute("CREATE ROLE svc_other")
    clean = dict(await single.execute_one(STATE))
    random_after_seed = []
    async with single.transaction() as tx:
        await tx.execute(SEEDED)
        random_after_seed.append(await tx.fetchval("SELECT random()"))
    left = {}
    done = 0
    for statement in LEAVES_SOMETHING:
        with contextlib.suppress(DatabaseError, LookupError):  # some ways can't run some statements
            await way(single, statement)
            done += 1
        found = dict(await single.execute_one(STATE))
        if statement == SEEDED and (await single.execute_one("SELECT random() AS r"))["r"] in random_after_seed:
            found["seed"] = "kept"
        if found != clean:
            left[statement] = {key: value for key, value in found.items() if value != clean.get(key)}
    assert {} == left
    assert done > 4 or way is _rolled_back
    assert single.pool.statistics.opened <= 1 + single.pool.statistics.discarded


@pytest.mark.parametrize("statement", LEAVES_SOMETHING)
def test_change_is_seen_in_the_text(statement):
    """Each of them counts as a change of the session."""
    assert changes_session(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "  \n( select 1 )",
        "-- a comment\nSELECT 1;",
        "/* a */ /* b ** / */ WITH a AS (SELECT 1) SELECT * FROM a ; ",
        "INSERT INTO t (offset_set, template) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id",
        "UPDATE users SET name = $1 WHERE id = $2",
        "MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE",
        "TABLE t",
    ],
)
def test_plain_statement_is_no_change(statement):
    """What is run most costs no reset."""
    assert not changes_session(statement)


@pytest.mark.parametrize("statement", ["/**/" * 50_000 + "SET", "(" * 200_000, "/*" * 100_000, "--\n" * 70_000 + "SET"])
def test_text_is_read_in_linear_time(statement):
    """No text, however hostile, keeps the loop busy."""
    started = time.process_time()
    assert changes_session(statement)
    assert time.process_time() - started < 5


async def test_always_resets_what_the_text_does_not_show(postgres):
    """`reset: always` is for functions that change their session; without it theirs is the one gap there is."""
    service = PostgresService(PostgresConfig(pool_max_size=1, reset="always"), server=postgres)
    await service.on_startup()
    await service.execute(
        "CREATE OR REPLACE FUNCTION svc_sneaky() RETURNS void LANGUAGE sql AS"
        " $$ SELECT set_config('work_mem', '7MB', false) $$"
    )
    before = await service.execute_one(STATE)
    await service.execute_one("SELECT svc_sneaky()")
    assert before == await service.execute_one(STATE)
    await service.on_shutdown()


async def test_reset_keeps_the_prepared_statements_of_the_driver(single):
    """A reset doesn't make the next call of a known statement prepare it again."""
    await single.execute_one("SELECT $1::int AS n", 1)
    await single.execute("SET work_mem = '7MB'")
    assert 2 == (await single.execute_one("SELECT $1::int AS n", 2))["n"]
    count = "SELECT count(*) AS n FROM pg_prepared_statements WHERE statement = 'SELECT $1::int AS n'"
    assert 1 == (await single.execute_one(count))["n"]
