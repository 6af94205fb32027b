"""Transactions: what is kept and what is not, in the face of conflicts, cuts and silence."""

import asyncio
import contextlib
import uuid

import anyio
import pytest

from svcframework.deadlines import deadline
from svcframework.errors import ConnectionFailedError, DatabaseError, DeadlineExceededError, ServiceTimeoutError
from svcframework.retry import RetryBudget, on_retry
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import (
    Identifier,
    PostgresConfig,
    PostgresService,
    TransactionConflictError,
    TransactionOutcomeUnknownError,
)


@pytest.fixture
async def table(database):
    """A table with two numbers."""
    name = Identifier(f"t_{uuid.uuid4().hex}")
    await database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, n int); INSERT INTO {name} VALUES (1, 0), (2, 0)")
    return name


async def _numbers(database, table):
    return [row["n"] for row in await database.execute_query(f"SELECT n FROM {table} ORDER BY id")]


# --- nesting --------------------------------------------------------------------------------------------


async def test_savepoints_nest_and_leave_no_reset_behind(database, table):
    """Each level undoes its own part, and none of BEGIN, SAVEPOINT and COMMIT counts as a change of the session."""
    async with database.transaction() as tx:
        await tx.execute_query(f"UPDATE {table} SET n = 1 WHERE id = 1")
        async with tx.transaction() as inner:
            await inner.execute_query(f"UPDATE {table} SET n = 2 WHERE id = 2")
            with pytest.raises(LookupError):
                async with inner.transaction() as innermost:
                    await innermost.execute_query(f"UPDATE {table} SET n = 9")
                    raise LookupError
            assert await inner.fetchval(f"SELECT sum(n) FROM {table}") == 3
        assert not tx._connection.is_changed
    assert [1, 2] == await _numbers(database, table)


async def test_cancelled_savepoint_is_never_kept(database, table):
    """A block that was called off can't be committed by the code around it."""
    with pytest.raises(DatabaseError, match="the transaction is over"):
        async with database.transaction() as tx:
            with anyio.move_on_after(0.05):
                async with tx.transaction() as inner:
                    await inner.execute_query(f"UPDATE {table} SET n = 9")
                    await anyio.sleep_forever()
            await tx.execute_query("SELECT 1")
    assert [0, 0] == await _numbers(database, table)


async def test_options_reach_the_server(database):
    """Isolation, read-only and deferrable are as asked for; an unknown isolation is refused before anything is sent."""
    async with database.transaction(isolation="serializable", readonly=True, deferrable=True) as tx:
        found = [await tx.fetchval(f"SHOW transaction_{name}") for name in ("isolation", "read_only", "deferrable")]
    assert ["serializable", "on", "on"] == found
    with pytest.raises(ValueError, match="isolation='serialisable' is unknown; give one of read committed"):
        async with database.transaction(isolation="serialisable"):
            pass
    assert 0 == database.pool.statistics.in_use


# --- conflicts ------------------------------------------------------------------------------------------


async def _conflicts_once(database, table):
    """Work that another transaction gets in the way of, the first time."""
    attempts = []

    async def work(tx):
        attempts.append(1)
        total = await tx.fetchval(f"SELECT sum(n) FROM {table}")
        if len(attempts) == 1:
            await database.execute_query(f"UPDATE {table} SET n = n + 10 WHERE id = 1")
        await tx.execute_query(f"UPDATE {table} SET n = {total} + 1 WHERE id = 1")
        return total

    return work, attempts


async def test_serialization_failure_is_run_again(database, table):
    """The work sees the other's change the second time, and its result is that of the attempt that was committed."""
    work, attempts = await _conflicts_once(database, table)
    assert 10 == await database.run_in_transaction(work)
    assert 2 == len(attempts)
    assert [11, 0] == await _numbers(database, table)


async def test_conflict_without_a_retry_is_a_typed_error(database, table):
    """One attempt is one attempt."""
    work, attempts = await _conflicts_once(database, table)
    with pytest.raises(TransactionConflictError) as caught:
        await database.run_in_transaction(work, attempts=1)
    assert ("40001", True, 1) == (caught.value.sqlstate, caught.value.retryable, len(attempts))
    with pytest.raises(ValueError, match="the first attempt is always made"):
        await database.run_in_transaction(work, attempts=0)


async def test_conflict_whose_error_was_swallowed_is_found_at_the_commit(database, table):
    """The commit tells what the statement had told, so that it is run again as well."""
    work, attempts = await _conflicts_once(database, table)

    async def careless(tx):
        with contextlib.suppress(DatabaseError):
            return await work(tx)

    assert 10 == await database.run_in_transaction(careless)
    assert 2 == len(attempts)


async def test_deadlock_is_run_again(database, table):
    """Two transactions that wait for one another both get through."""
    await database.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
    met = asyncio.Barrier(2)

    def moving(first, second):
        attempts = []

        async def work(tx):
            attempts.append(1)
            await tx.execute_query(f"UPDATE {table} SET n = n + 1 WHERE id = $1", first)
            if len(attempts) == 1:
                with contextlib.suppress(asyncio.BrokenBarrierError):
                    await met.wait()
            await tx.execute_query(f"UPDATE {table} SET n = n + 1 WHERE id = $1", second)

        return work

    retried = []
    stop = on_retry.subscribe(lambda event: retried.append(event.error.sqlstate))
    try:
        await asyncio.gather(
            database.run_in_transaction(moving(1, 2), isolation="read committed"),
            database.run_in_transaction(moving(2, 1), isolation="read committed"),
        )
    finally:
        stop()
    assert [2, 2] == await _numbers(database, table)
    assert ["40P01"] == retried


async def test_nothing_else_is_run_again(database):
    """A failed statement, an error of the work's own, a cancellation and a timeout end it at the first attempt."""
    attempts = []

    def failing(how):
        async def work(tx):
            attempts.append(how)
            if how == "cancel":
                asyncio.current_task().cancel()
            elif how == "own":
                raise LookupError
            elif how == "statement":
                await tx.execute_query("SELECT 1/0", timeout=30)
            await tx.execute_query("SELECT pg_sleep(10)", timeout=0.05)

        return work

    expected = {
        "statement": DatabaseError,
        "own": LookupError,
        "cancel": asyncio.CancelledError,
        "timeout": ServiceTimeoutError,
    }
    for how, error in expected.items():
        with pytest.raises(error):
            await database.run_in_transaction(failing(how))
    assert list(expected) == attempts
    assert 1 == (await database.execute_one("SELECT 1 AS n"))["n"]


async def _always_in_the_way(tx):
    raise TransactionConflictError("another one", sqlstate="40001")


async def test_retries_end_with_the_callers_time(database):
    """No attempt begins after the caller's deadline."""
    with pytest.raises((TransactionConflictError, DeadlineExceededError)):
        with deadline(0.3):
            await database.run_in_transaction(_always_in_the_way, attempts=10_000)


async def test_retries_are_bounded_by_the_budget_of_the_service(database):
    """A database in which every transaction conflicts sees little more than one attempt of each."""
    attempts = []

    async def work(tx):
        attempts.append(1)
        await _always_in_the_way(tx)

    database._transactions.budget = RetryBudget(burst=3)
    database._transactions._by_attempts.clear()
    for _ in range(20):
        with pytest.raises(TransactionConflictError):
            await database.run_in_transaction(work)
    assert len(attempts) <= 20 + 3 + 2


async def test_contended_counter_loses_no_update(database, table):
    """Many serializable transactions on one row all get through, each exactly once."""

    async def work(tx):
        n = await tx.fetchval(f"SELECT n FROM {table} WHERE id = 1")
        await tx.execute_query(f"UPDATE {table} SET n = $1 WHERE id = 1", n + 1)

    done = await asyncio.gather(
        *(database.run_in_transaction(work, attempts=50) for _ in range(12)), return_exceptions=True
    )
    succeeded = sum(result is None for result in done)
    assert [succeeded, 0] == await _numbers(database, table)
    assert all(result is None or isinstance(result, TransactionConflictError) for result in done)
    assert succeeded >= 2


# --- how it ends ----------------------------------------------------------------------------------------


@pytest.fixture
async def faulty(postgres):
    """A service behind a network that fails on command."""
    async with FaultProxy(postgres.dsn) as proxy:
        config = PostgresConfig(dsn=proxy.through(postgres.dsn), command_timeout=1.2, connect_timeout=5, stop_timeout=1)
        service = PostgresService(config)
        await service.on_startup()
        yield service, proxy
        await service.on_shutdown()


@pytest.mark.parametrize("fault", ["black_hole", "reset"])
async def test_commit_without_an_answer_says_that_nobody_knows(faulty, fault):
    """The error is typed, has SQLSTATE 08007, and isn't retryable: the work may have been done."""
    service, proxy = faulty
    attempts = []

    async def work(tx):
        attempts.append(1)
        await tx.execute_query("SELECT 1")
        if fault == "black_hole":
            await proxy.black_hole()
        else:
            await proxy.reset_after(0)

    with pytest.raises(TransactionOutcomeUnknownError, match="nobody knows whether it happened") as caught:
        await service.run_in_transaction(work)
    assert ("08007", False, 1) == (caught.value.sqlstate, caught.value.retryable, len(attempts))
    await proxy.pass_on()


async def test_commit_on_a_lost_connection_is_no_mystery(faulty):
    """When the connection was gone before COMMIT was sent, the transaction is rolled back, and the error says so."""
    service, proxy = faulty
    with pytest.raises(ConnectionFailedError, match="rolled back"):
        async with service.transaction() as tx:
            await tx.execute_query("SELECT 1")
            await proxy.drop_connections()
            async with asyncio.timeout(20):
                while not tx._connection.is_closed():
                    await asyncio.sleep(0.01)


async def test_read_only_commit_without_an_answer_is_a_plain_timeout(faulty):
    """Nothing could have been changed, so there is no doubt to speak of, and it may be tried again."""
    service, proxy = faulty
    with pytest.raises(ServiceTimeoutError):
        async with service.transaction(readonly=True) as tx:
            await tx.execute_query("SELECT 1")
            await proxy.black_hole()
    await proxy.pass_on()


async def test_deadline_that_passed_in_the_block_sends_no_commit(database, table):
    """Time that ran out in the block is a rollback for sure."""
    with pytest.raises(DeadlineExceededError):
        with deadline(0.1):
            async with database.transaction() as tx:
                await tx.execute_query(f"UPDATE {table} SET n = 9")
                await asyncio.sleep(20)
    assert [0, 0] == await _numbers(database, table)


async def test_error_of_the_block_outlives_a_failing_rollback(faulty):
    """What the caller sees is why the block failed; the server rolls back by itself."""
    service, proxy = faulty
    with pytest.raises(LookupError, match="the real reason"):
        async with service.transaction() as tx:
            await tx.execute_query("SELECT 1")
            await proxy.reset()
            raise LookupError("the real reason")
    await proxy.pass_on()


async def test_error_at_the_commit_is_the_servers(database, table):
    """A constraint that is checked at the end is a plain database error: rolled back, nothing unknown."""
    await database.execute(f"UPDATE {table} SET n = id")
    await database.execute(f"ALTER TABLE {table} ADD CONSTRAINT u UNIQUE (n) DEFERRABLE INITIALLY DEFERRED", timeout=30)
    with pytest.raises(DatabaseError) as caught:
        async with database.transaction() as tx:
            await tx.execute_query(f"UPDATE {table} SET n = 5")
    assert "23505" == caught.value.sqlstate
    assert 0 == database.pool.statistics.in_use


async def test_timeout_of_something_else_rolls_back(database, table):
    """A time limit that isn't the database's ends the transaction, keeps nothing, and costs the pool nothing."""
    with pytest.raises(TimeoutError):
        async with database.transaction() as tx:
            await tx.execute_query(f"UPDATE {table} SET n = 9")
            raise TimeoutError
    assert [0, 0] == await _numbers(database, table)


# --- settings -------------------------------------------------------------------------------------------


async def test_settings_end_with_their_block(single):
    """They hold for the statements of the block and for nobody after it, however it ends."""
    query = "SELECT current_setting('app.tenant', true) AS tenant, current_setting('work_mem') AS work_mem"
    async with single.settings({"app.tenant": "acme", "work_mem": "7MB"}) as tx:
        assert ["acme", "7MB"] == list((await tx.execute_one(query)).values())
    with pytest.raises(LookupError):
        async with single.settings({"app.tenant": "acme", "work_mem": "7MB"}):
            raise LookupError
    row = await single.execute_one(query)
    assert ("4MB", True) == (row["work_mem"], row["tenant"] in {"", None})
    assert 1 == single.pool.statistics.opened


@pytest.mark.parametrize("value", [None, ""])
async def test_missing_tenant_is_an_error(single, value):
    """A setting of the application's own without a value is refused before a connection is taken."""
    with pytest.raises(ValueError, match=r"'app\.tenant' has no value"):
        async with single.settings({"app.tenant": value}):
            pass
    async with single.transaction() as tx:
        with pytest.raises(ValueError, match=r"'app\.tenant' has no value"):
            await tx.set_local({"app.tenant": value})
    with pytest.raises(ValueError, match="NUL"):
        async with single.settings({"app.tenant": "a\0b"}):
            pass


async def test_values_of_settings_are_values(single):
    """Neither a name nor a value can say more than itself."""
    value = "x', true); DROP TABLE t; --"
    async with single.settings({"app.tenant": value, "enable_seqscan": False, "statement_timeout": 1500}) as tx:
        shown = [await tx.fetchval(f"SHOW {name}") for name in ("app.tenant", "enable_seqscan", "statement_timeout")]
    assert [value, "off", "1500ms"] == shown
    with pytest.raises(DatabaseError):
        async with single.settings({"work_mem = '1GB'; --": "x"}):
            pass


async def test_row_level_security_by_tenant(single):
    """Tenants see their own rows, on one connection after another, and without a tenant there is nothing to see."""
    await single.execute(
        "CREATE TABLE IF NOT EXISTS svc_notes (tenant text, body text); TRUNCATE svc_notes;"
        "DO $$ BEGIN CREATE ROLE svc_app; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        "GRANT SELECT, INSERT ON svc_notes TO svc_app;"
        "ALTER TABLE svc_notes ENABLE ROW LEVEL SECURITY; DROP POLICY IF EXISTS own ON svc_notes;"
        "CREATE POLICY own ON svc_notes USING (tenant = current_setting('app.tenant'))"
    )

    def tenant(name):
        return single.settings({"role": "svc_app", "app.tenant": name})

    for name in ("acme", "umbrella"):
        async with tenant(name) as tx:
            await tx.execute_query("INSERT INTO svc_notes VALUES ($1, $2)", name, f"of {name}")
    for name in ("acme", "umbrella"):
        async with tenant(name) as tx:
            assert [f"of {name}"] == [row["body"] for row in await tx.execute_query("SELECT body FROM svc_notes")]
            with pytest.raises(DatabaseError, match="row-level security"):
                async with tx.transaction():
                    await tx.execute_query("INSERT INTO svc_notes VALUES ('other', 'x')")
    async with single.settings({"role": "svc_app"}) as tx:
        assert [] == await tx.execute_query("SELECT body FROM svc_notes")
    assert "postgres" == (await single.execute_one("SELECT current_user AS u"))["u"]
