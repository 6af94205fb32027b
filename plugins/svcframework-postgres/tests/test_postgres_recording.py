"""Recording the statements of a scope, and the N+1 suspicions in them."""

import asyncio

import pytest

from svcframework.errors import DatabaseError
from svcframework_postgres import FindingKind, OptimizationConfig, QueryOptimizer

ONE = "SELECT n FROM generate_series(1, 3) n WHERE n = $1"


@pytest.fixture
def optimizer(database):
    return QueryOptimizer(database, OptimizationConfig(recorded_repeats=5))


async def test_statements_of_a_scope_are_noted(optimizer, database):
    """Each statement once, with its calls and rows, from the service, a pool and a transaction; nothing after it."""
    with optimizer.record() as recording:
        for number in range(3):
            await database.execute_one(ONE, number)
        await database.execute_query("SELECT generate_series(1, 7)")
        async with database.transaction() as tx:
            await tx.execute_returning("SELECT 1")
            await tx.fetchval(ONE, 2)
        await database.pool.execute_query(ONE, 1)
        await database.execute("DO 'BEGIN END'")
        with pytest.raises(DatabaseError):
            await database.execute_query("SELECT 1/0")
    await database.execute_query("SELECT 'later'")
    noted = {one.query: (one.calls, one.rows) for one in recording.statements}
    assert {ONE: (5, 4), "SELECT generate_series(1, 7)": (1, 7), "SELECT 1": (1, 1), "DO 'BEGIN END'": (1, 0)} == noted
    assert 8 == recording.calls
    assert all(one.seconds > 0 for one in recording.statements)


async def test_reading_again_and_again_is_suspicious(optimizer, database):
    """The same small read in a loop is found; a loop of big reads, of writes, and few reads are not."""
    with optimizer.record() as recording:
        for number in range(5):
            await database.execute_one(ONE, number)
            await database.execute_query("SELECT generate_series(1, 50)")
            await database.execute_query("UPDATE pg_catalog.pg_class SET relname = relname WHERE false")
        for _ in range(4):
            await database.execute_one("SELECT 'few'")
    [finding] = recording.findings
    assert (FindingKind.N_PLUS_ONE, ONE) == (finding.kind, finding.statement)
    assert (5, 0.6) == (finding.evidence["calls"], finding.evidence["rows_per_call"])


async def test_recordings_stay_apart(optimizer, database):
    """What other tasks run is not noted, what the scope's own tasks run is; an inner scope has its own."""

    async def scope(number):
        with optimizer.record() as recording:
            await asyncio.gather(*(database.execute_query(f"SELECT {number}") for _ in range(number)))
        return {one.query: one.calls for one in recording.statements}

    with optimizer.record() as outer:
        found = await asyncio.gather(*(scope(number) for number in (1, 2, 3)))
        await database.execute_query("SELECT 'outer'")
    assert [{"SELECT 1": 1}, {"SELECT 2": 2}, {"SELECT 3": 3}] == found
    assert ["SELECT 'outer'"] == [one.query for one in outer.statements]
