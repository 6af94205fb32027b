"""QueryOptimizer on a million rows: each planted fault is found, its twin is not, and what is proposed helps."""

import pytest

from svcframework.errors import DatabaseError, ServiceTimeoutError
from svcframework_postgres import (
    AnalyzeTable,
    CreateIndex,
    CreateStatistics,
    FindingKind,
    IndexingStrategy,
    QueryOptimizer,
    Severity,
    StatementStatisticsError,
)

BY_CUSTOMER = "SELECT * FROM orders WHERE customer_id = $1"
NESTED = """SELECT v.day, x.size FROM visits v,
    LATERAL (SELECT p.size FROM places p WHERE p.city = v.city ORDER BY p.size LIMIT 1) x WHERE v.day = 0"""


@pytest.fixture
def optimizer(planted):
    return QueryOptimizer(planted)


def kinds(plan):
    return [finding.kind for finding in plan.findings]


async def test_sequential_scan_of_a_big_table(optimizer):
    """All of a table is read for a few rows: the finding has the numbers and the index that would help."""
    [finding] = (await optimizer.explain(BY_CUSTOMER, 5)).findings
    assert (FindingKind.SEQUENTIAL_SCAN, Severity.CRITICAL) == (finding.kind, finding.severity)
    assert ("public.orders", "customer_id") == (finding.subject, finding.evidence["columns"])
    assert finding.evidence["table_rows"] >= 1_000_000
    assert finding.evidence["read_rows"] >= 1_000_000
    assert finding.evidence["found_rows"] < 1000
    assert CreateIndex("public", "orders", ("customer_id",)) == finding.proposal
    assert BY_CUSTOMER == finding.statement


@pytest.mark.parametrize(
    "innocent",
    [
        "SELECT count(*) FROM orders",
        "SELECT * FROM orders WHERE id = 5",
        "SELECT * FROM orders WHERE total >= 0",
        "SELECT * FROM countries WHERE code = 'c5'",
        "SELECT * FROM notes WHERE text = 'note'",
        "SELECT o.id FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.id < 100",
        "SELECT * FROM customers ORDER BY id LIMIT 5",
        "SELECT * FROM orders WHERE total = 5 LIMIT 3",
        "SELECT * FROM (SELECT *, row_number() OVER (ORDER BY id) FROM orders) x LIMIT 5",
        "INSERT INTO notes VALUES (1000, 1, 'x')",
    ],
)
async def test_innocent_statements_have_no_findings(optimizer, innocent):
    """A look-up by an index, a count of everything, a small table: nothing is wrong with these."""
    assert () == (await optimizer.explain(innocent)).findings
    if innocent.startswith("SELECT"):
        assert () == (await optimizer.explain(innocent, analyze=True)).findings


async def test_statement_with_parameters_needs_no_arguments(optimizer):
    """Without arguments the plan is the one that fits any, as for the statements that the server has counted."""
    plan = await optimizer.explain("SELECT * FROM orders WHERE customer_id = $1 AND total > $2")
    assert [FindingKind.SEQUENTIAL_SCAN] == [one.kind for one in plan.findings]
    assert ("customer_id", "total") == plan.findings[0].proposal.columns
    assert plan.execution_seconds is None


async def test_arguments_are_not_in_findings(optimizer):
    """A text in a condition is somebody's: it is not shown, whatever quotes are in it."""
    query = "SELECT * FROM orders o JOIN customers c ON c.id = o.customer_id WHERE lower(c.email) = $1"
    plan = await optimizer.explain(query, "canary'7Q\\'x")
    assert FindingKind.SEQUENTIAL_SCAN in kinds(plan)
    assert "canary" in str(plan.document)
    assert "canary" not in "".join(map(str, plan.findings))
    assert "7Q" not in "".join(map(str, plan.findings))


async def test_condition_in_an_expression_has_no_proposal(optimizer):
    """A plain index can't answer it: the advice says so, and names the column."""
    [finding] = (await optimizer.explain("SELECT * FROM customers WHERE lower(email) = 'x'")).findings
    assert FindingKind.SEQUENTIAL_SCAN is finding.kind
    assert finding.proposal is None
    assert "email is used in an expression" in finding.advice


async def test_subquery_that_scans_once_per_row(optimizer):
    """A scan that is run again and again is counted with its runs."""
    query = "SELECT (SELECT count(*) FROM places p WHERE p.city = c.city) FROM customers c WHERE c.id <= 50"
    [finding] = (await optimizer.explain(query, analyze=True)).findings
    assert (FindingKind.SEQUENTIAL_SCAN, 50) == (finding.kind, finding.evidence["runs"])
    assert CreateIndex("public", "places", ("city",)) == finding.proposal


async def test_bad_estimate_of_columns_that_depend(optimizer):
    """The planner multiplies chances that aren't independent: the proposal tells it."""
    query = "SELECT * FROM customers WHERE city = 'city7' AND zip = 'zip7'"
    [finding] = (await optimizer.explain(query, analyze=True)).findings
    assert FindingKind.BAD_ESTIMATE is finding.kind
    assert 2000 == finding.evidence["actual_rows"]
    assert finding.evidence["factor"] >= 10
    assert CreateStatistics("public", "customers", ("city", "zip")) == finding.proposal
    assert () == (await optimizer.explain("SELECT * FROM customers WHERE city = 'city7'", analyze=True)).findings


async def test_bad_estimate_of_a_table_that_was_counted_long_ago(optimizer):
    """What has changed since is in the finding, and ANALYZE is what helps."""
    [finding] = (await optimizer.explain("SELECT * FROM visits WHERE day >= 0", analyze=True)).findings
    assert (FindingKind.BAD_ESTIMATE, AnalyzeTable("public", "visits")) == (finding.kind, finding.proposal)


async def test_sort_and_hash_on_disk(optimizer):
    """What doesn't fit into work_mem is found, with its size; half of it fits and is not."""
    [sort] = (await optimizer.explain("SELECT id FROM orders ORDER BY total, id", analyze=True)).findings
    assert FindingKind.SPILLED_SORT is sort.kind
    assert sort.evidence["disk_bytes"] > 4_000_000
    assert "SET LOCAL work_mem" in sort.advice
    query = "SELECT count(*) FROM (SELECT id + 0 FROM orders WHERE id <= 200000 GROUP BY 1) x"
    assert FindingKind.SPILLED_HASH in kinds(await optimizer.explain(query, analyze=True))
    assert () == (await optimizer.explain("SELECT code FROM coupons ORDER BY code LIMIT 5", analyze=True)).findings


async def test_rows_that_an_index_finds_and_a_filter_throws_away(optimizer):
    """The index answers only half of the condition: the proposal answers all of it, equality first."""
    query = """SELECT * FROM orders WHERE total = 5
        AND placed > to_timestamp(1767225600) AND placed < to_timestamp(1767225600 + 50000)"""
    [finding] = (await optimizer.explain(query, analyze=True)).findings
    assert FindingKind.ROWS_REMOVED is finding.kind
    assert finding.evidence["removed_rows"] > 10_000
    assert CreateIndex("public", "orders", ("total", "placed")) == finding.proposal


async def test_index_that_answers_nothing_of_the_condition(optimizer):
    """An index that only gives the order is gone through for a condition that it doesn't know."""
    query = "SELECT max(placed) FROM orders WHERE customer_id = 5"
    [finding] = (await optimizer.explain(query, analyze=True)).findings
    assert FindingKind.ROWS_REMOVED is finding.kind
    assert "through orders_placed_idx" in finding.what
    assert CreateIndex("public", "orders", ("customer_id",)) == finding.proposal


async def test_nested_loop_explosion(optimizer):
    """A table is gone through once for each row of another one, as planned and as run."""
    query = "SELECT count(*) FROM places a JOIN places b ON a.size < b.size"
    [finding] = (await optimizer.explain(query)).findings
    assert (FindingKind.NESTED_LOOP, None) == (finding.kind, finding.proposal)
    assert finding.evidence["rows"] > 100_000_000
    found = {one.kind: one for one in (await optimizer.explain(NESTED, analyze=True)).findings}
    assert 101 == found[FindingKind.NESTED_LOOP].evidence["runs"]
    assert CreateIndex("public", "places", ("city",)) == found[FindingKind.NESTED_LOOP].proposal


async def test_proposals_make_their_findings_go_away(planted_copy):
    """Once it is applied, the plan is another one and nothing is found any more."""
    optimizer, strategy = QueryOptimizer(planted_copy), IndexingStrategy(planted_copy)
    async with planted_copy.transaction() as tx:  # a session tells of its changes once a second, unless it is asked to
        await tx.execute_query("INSERT INTO visits SELECT city, day FROM visits WHERE day > 0")
        await tx.execute_query("SELECT pg_stat_force_next_flush()")
    for query, analyze in (
        (BY_CUSTOMER.replace("$1", "5"), False),
        (NESTED, True),
        ("SELECT * FROM customers WHERE city = 'city7' AND zip = 'zip7'", True),
        ("SELECT * FROM visits WHERE day >= 0", True),
    ):
        before = await optimizer.explain(query, analyze=analyze)
        proposals = {one.proposal.key: one.proposal for one in before.findings if one.proposal}
        assert proposals, query
        for proposal in proposals.values():
            assert (await strategy.apply(proposal)).is_done
            assert not (await strategy.apply(proposal)).is_done or not isinstance(proposal, CreateIndex)
        after = await optimizer.explain(query, analyze=analyze)
        assert [] == [one for one in after.findings if one.proposal], query
        assert before.root != after.root
    plan = await optimizer.explain(BY_CUSTOMER, 5)
    assert "Seq Scan" not in plan.steps
    assert () == plan.findings


async def test_analyze_changes_nothing(optimizer, planted):
    """A statement that changes rows is not run, whatever hides it; the error says how to plan it."""
    count = "SELECT count(*) AS n FROM notes"
    before = (await planted.execute_one(count))["n"]
    for query in (
        "DELETE FROM notes",
        "WITH gone AS (DELETE FROM notes RETURNING id) SELECT * FROM gone",
        "SELECT nextval('numbers')",
    ):
        await planted.execute_query("CREATE SEQUENCE IF NOT EXISTS numbers")
        with pytest.raises(DatabaseError, match="analyze=False") as caught:
            await optimizer.explain(query, analyze=True)
        assert "25006" == caught.value.sqlstate
        await optimizer.explain(query)
    assert before == (await planted.execute_one(count))["n"]


@pytest.mark.parametrize("query", ["SELECT 1; DROP TABLE notes", "SELECT 1) ; DROP TABLE notes --", "VACUUM", ""])
async def test_only_one_statement_is_explained(optimizer, planted, query):
    """A second statement is never run, nor what has no plan."""
    with pytest.raises(DatabaseError):
        await optimizer.explain(query, analyze=True)
    assert await planted.execute_one("SELECT count(*) FROM notes")


async def test_explain_ends_in_time(optimizer, planted):
    """A statement that takes too long is cut off with a typed error, and leaves nothing behind in its session."""
    with pytest.raises(ServiceTimeoutError):
        await optimizer.explain("SELECT pg_sleep(30)", analyze=True, timeout=0.1)
    with pytest.raises(DatabaseError):
        await optimizer.explain("SELECT 1/0", analyze=True)
    for _ in range(4):
        left = await planted.execute_query("SELECT name FROM pg_prepared_statements WHERE name LIKE 'svcframework%'")
        assert [] == left


async def test_top_statements_and_what_they_tell(optimizer, planted):
    """The server's own counts: the costliest first, slow and spilling ones found, and reads by the thousand."""
    await planted.execute_query("SELECT pg_stat_statements_reset()")
    await planted.execute_query("SELECT 1 FROM pg_sleep(0.12)")
    await planted.execute_query("SELECT count(*) FROM (SELECT id FROM orders ORDER BY total, id OFFSET 0) x")
    async with planted.pool.acquire() as connection:
        for number in range(1000):
            await connection.fetchrow("SELECT city FROM customers WHERE id = $1", number)
        for _ in range(1000):
            await connection.fetch("SELECT id FROM countries WHERE id < $1", 5)
    await planted.execute_query(BY_CUSTOMER, 5)
    await planted.execute_query("CREATE ROLE seen PASSWORD 'canary-7Q'")
    top = await optimizer.top_statements(3)
    assert [one.total_seconds for one in top] == sorted((one.total_seconds for one in top), reverse=True)
    [by_calls] = [one for one in await optimizer.top_statements(order="calls") if "city FROM customers" in one.query]
    assert (1000, 999, True) == (by_calls.calls, by_calls.rows, by_calls.is_reading)
    everything = await optimizer.top_statements(100)
    assert [] == [
        one.query for one in everything if "canary-7Q" in one.query or "pg_stat_statements WHERE" in one.query
    ]
    found = {(one.kind, one.statement) for one in await optimizer.findings()}
    by_kind = {kind: [query for kind_, query in found if kind_ is kind] for kind in FindingKind}
    assert [BY_CUSTOMER] == by_kind[FindingKind.SEQUENTIAL_SCAN]
    assert ["SELECT city FROM customers WHERE id = $1"] == by_kind[FindingKind.N_PLUS_ONE]
    assert any("pg_sleep" in query for query in by_kind[FindingKind.SLOW_STATEMENT])
    assert any("OFFSET" in query for query in by_kind[FindingKind.SPILLED_STATEMENT])


async def test_server_without_statistics_says_what_to_do(database, planted_copy):
    """Not loaded, or not made in this database: each has its own fix."""
    with pytest.raises(StatementStatisticsError, match="shared_preload_libraries = 'pg_stat_statements'"):
        await QueryOptimizer(database).top_statements()
    await planted_copy.execute_query("DROP EXTENSION pg_stat_statements")
    with pytest.raises(StatementStatisticsError, match="Run CREATE EXTENSION pg_stat_statements"):
        await QueryOptimizer(planted_copy).findings()


async def test_extension_of_a_server_that_does_not_load_it(postgres):
    """It can be made without being loaded: the view then fails, and the error says what is missing."""
    from svcframework_postgres import PostgresConfig, PostgresService

    service = PostgresService(PostgresConfig(), server=postgres)
    await service.on_startup()
    await service.execute_query("CREATE EXTENSION pg_stat_statements")
    with pytest.raises(StatementStatisticsError, match="shared_preload_libraries"):
        await QueryOptimizer(service).top_statements()
    await service.execute_query("DROP EXTENSION pg_stat_statements")
    await service.on_shutdown()
