"""IndexingStrategy: the planted faults are found and nothing else is; changes survive what goes wrong on the way."""

import asyncio
import contextlib

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import ConnectionFailedError, DatabaseError, DeadlineExceededError, ServiceTimeoutError
from svcframework_postgres import (
    CreateIndex,
    DropIndex,
    FindingKind,
    IndexingStrategy,
    OptimizationConfig,
    RebuildIndex,
    Severity,
)

SMALL = {"index_bytes": 100_000, "bloat_bytes": 500_000}
INVALID = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid"


@pytest.fixture
def strategy(planted):
    return IndexingStrategy(planted, OptimizationConfig(**SMALL))


def by_kind(findings):
    found = {}
    for one in findings:
        found.setdefault(one.kind, {})[one.subject] = one
    return found


async def test_planted_faults_are_found_and_nothing_else(strategy):
    """One index of each kind is named; their twins are not, nor what a constraint or a foreign key stands on."""
    found = by_kind(await strategy.findings())
    assert {
        FindingKind.INVALID_INDEX: {"public.coupons_code_idx"},
        FindingKind.MISSING_FOREIGN_KEY_INDEX: {"public.orders"},
        FindingKind.DUPLICATE_INDEX: {"public.customers_country_again_idx"},
        FindingKind.REDUNDANT_INDEX: {"public.customers_city_idx"},
        FindingKind.BLOATED_INDEX: {"public.sessions_token_idx"},
    } == {kind: set(subjects) for kind, subjects in found.items() if kind is not FindingKind.UNUSED_INDEX}
    unused = set(found[FindingKind.UNUSED_INDEX])
    assert "public.customers_zip_idx" in unused
    assert not unused & {"public.orders_placed_idx", "public.customers_email_idx", "public.orders_pkey"}
    key = found[FindingKind.MISSING_FOREIGN_KEY_INDEX]["public.orders"]
    assert ("customer_id", 1_000_000) == (key.evidence["columns"], key.evidence["table_rows"])
    assert CreateIndex("public", "orders", ("customer_id",)) == key.proposal
    bloated = found[FindingKind.BLOATED_INDEX]["public.sessions_token_idx"]
    assert (bloated.evidence["source"], bloated.evidence["share"] > 0.8) == ("estimated", True)


async def test_each_kind_can_be_asked_for(strategy):
    """The methods for one kind find what `findings` finds of it."""
    asked = [strategy.missing, strategy.unused, strategy.duplicates, strategy.bloated, strategy.invalid]
    parts = [finding for one in asked for finding in await one()]
    assert {(one.kind, one.subject) for one in await strategy.findings()} == {(one.kind, one.subject) for one in parts}


async def test_applied_proposals_are_found_no_more(planted_copy):
    """Every proposal of a report can be followed, and the next report has none of them."""
    planted_copy.config = planted_copy.config.model_copy(update={"command_timeout": 60})
    await planted_copy.execute_query("DELETE FROM coupons a USING coupons b WHERE a.code = b.code AND a.ctid > b.ctid")
    await planted_copy.execute_query("CREATE EXTENSION pgstattuple")
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(**SMALL, unused_after=0))
    before = await strategy.findings()
    bloated = by_kind(before)[FindingKind.BLOATED_INDEX]["public.sessions_token_idx"]
    assert "measured" == bloated.evidence["source"]
    for finding in before:
        change = await strategy.apply(finding.proposal)
        assert finding.kind is FindingKind.UNUSED_INDEX or change.is_done
    after = await strategy.findings()
    assert {FindingKind.UNUSED_INDEX} >= {one.kind for one in after}
    assert {one.subject for one in before}.isdisjoint({one.subject for one in after})


async def test_index_of_a_foreign_key_is_kept_though_unused(planted_copy):
    """Dropping it would make the next report ask for it again."""
    await planted_copy.execute_query("DROP INDEX customers_country_again_idx")
    found = by_kind(await IndexingStrategy(planted_copy, OptimizationConfig(**SMALL)).findings())
    assert "public.customers_country_idx" not in found[FindingKind.UNUSED_INDEX]


async def test_what_replaces_another_index_is_kept(planted_copy):
    """The longer index is unused as long as the shorter one is there: dropping both would leave neither."""
    await planted_copy.execute_query("SELECT count(*) FROM customers WHERE city = 'city7'")
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(**SMALL))
    assert "public.customers_city_zip_idx" not in [one.subject for one in await strategy.unused()]
    assert "public.customers_city_idx" in [one.subject for one in await strategy.duplicates()]


async def test_young_statistics_make_no_warning(planted_copy):
    """An index that nothing has used since a minute ago is no more than worth watching; the finding says since when."""
    row = await planted_copy.execute_one("SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()")
    assert row["stats_reset"] is None  # as in a database that was made a moment ago
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(**SMALL))
    [zip_index] = [one for one in await strategy.unused() if one.subject == "public.customers_zip_idx"]
    assert Severity.INFO is zip_index.severity
    assert zip_index.evidence["watched_seconds"] < 600
    await planted_copy.execute_query("SELECT pg_stat_reset()")
    row = await planted_copy.execute_one("SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()")
    [zip_index] = [one for one in await strategy.unused() if one.subject == "public.customers_zip_idx"]
    assert row["stats_reset"].isoformat(timespec="seconds") == zip_index.evidence["since"]
    sure = IndexingStrategy(planted_copy, OptimizationConfig(**SMALL, unused_after=0))
    assert Severity.WARNING is next(iter(await sure.unused())).severity


async def test_index_built_here_is_young_whatever_the_statistics(planted_copy):
    """What was built a moment ago can't have been used: its own age counts."""
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(**SMALL))
    await strategy.apply(CreateIndex("public", "places", ("city", "size")))
    [found] = [one for one in await strategy.unused() if one.subject == "public.places_city_size_idx"]
    assert Severity.INFO is found.severity
    assert found.evidence["watched_seconds"] < 600


async def test_what_looks_like_a_duplicate_and_is_none(planted_copy):
    """Another order, condition, method, class, expression or uniqueness makes another index."""
    for tail in (
        "USING hash (city)",
        "(city DESC, size)",
        "(city, size) WHERE size > 5",
        "(city text_pattern_ops)",
        "(lower(city))",
        "(size, city)",
        "(city) INCLUDE (size)",
    ):
        await planted_copy.execute_query(f"CREATE INDEX ON places {tail}")
    await planted_copy.execute_query("CREATE UNIQUE INDEX places_unique ON places (size)")
    strategy = IndexingStrategy(planted_copy)
    assert [] == [one for one in await strategy.duplicates() if "places" in one.subject]
    await planted_copy.execute_query("CREATE INDEX places_again ON places (size)")
    [found] = [one for one in await strategy.duplicates() if "places" in one.subject]
    assert ("public.places_again", "places_unique") == (found.subject, found.evidence["other"])


async def test_nothing_is_built_twice(planted_copy):
    """The same index is left alone; another one of the same name is an error."""
    strategy = IndexingStrategy(planted_copy)
    proposal = CreateIndex("public", "places", ("city",))
    assert (await strategy.apply(proposal)).is_done
    assert not (await strategy.apply(proposal)).is_done
    for other in (
        CreateIndex("public", "places", ("size",), name="places_city_idx"),
        CreateIndex("public", "notes", ("text",), name="places_city_idx"),
    ):
        with pytest.raises(DatabaseError, match="has that name") as caught:
            await strategy.apply(other)
        assert "42P07" == caught.value.sqlstate


async def _builder(database):
    """The server's process that builds an index, once there is one that waits for the blocker."""
    async with asyncio.timeout(30):
        while True:
            row = await database.execute_one("SELECT pid FROM pg_stat_progress_create_index WHERE lockers_total > 0")
            if row is not None:
                return row["pid"]
            await asyncio.sleep(0.01)


async def test_failed_build_leaves_nothing(planted_copy):
    """A build that is ended half-way is cleared away as soon as that can be done."""
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(lock_timeout=60))
    async with planted_copy.transaction() as blocker:
        await blocker.execute_query("INSERT INTO places VALUES ('x', 1)")  # a build waits for whoever writes already
        build = asyncio.create_task(strategy.apply(CreateIndex("public", "places", ("city",))))
        await planted_copy.execute_query("SELECT pg_cancel_backend($1)", await _builder(planted_copy))
    with pytest.raises(DatabaseError) as caught:
        await build
    assert "57014" == caught.value.sqlstate
    assert ["coupons_code_idx"] == [row["relname"] for row in await planted_copy.execute_query(INVALID)]


async def test_build_that_died_is_recovered(planted_copy):
    """What a build has left that was killed, or that could not be cleared away, is dropped before the next one."""
    proposal = CreateIndex("public", "places", ("city",))
    async with planted_copy.transaction() as blocker:
        await blocker.execute_query("INSERT INTO places VALUES ('x', 1)")
        build = asyncio.create_task(IndexingStrategy(planted_copy).apply(proposal))
        await planted_copy.execute_query("SELECT pg_terminate_backend($1)", await _builder(planted_copy))
        with pytest.raises(ConnectionFailedError):
            await build
    hasty = IndexingStrategy(planted_copy, OptimizationConfig(lock_timeout=0.2))
    assert "public.places_city_idx" in [one.subject for one in await hasty.invalid()]
    async with planted_copy.transaction() as blocker:
        await blocker.execute_query("SELECT count(*) FROM places")
        await blocker.execute_query("LOCK TABLE places IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(DatabaseError) as caught:
            await hasty.apply(proposal)
        assert caught.value.retryable
    change = await hasty.apply(proposal)
    assert ["DROP", "CREATE"] == [statement.split()[0] for statement in change.statements]
    assert [] == [one.subject for one in await hasty.invalid() if "places" in one.subject]


async def test_failed_rebuild_leaves_nothing(planted_copy):
    """The half-built twin of a rebuild that fails is dropped; the index itself stays as it was."""
    strategy = IndexingStrategy(planted_copy)
    with pytest.raises(DatabaseError):
        await strategy.apply(RebuildIndex("public", "coupons", "coupons_code_idx"))
    assert ["coupons_code_idx"] == [row["relname"] for row in await planted_copy.execute_query(INVALID)]


async def test_change_ends_in_time(planted_copy):
    """Its own limit and the caller's hold, and a cancelled one can be done again."""
    strategy = IndexingStrategy(planted_copy, OptimizationConfig(lock_timeout=60))
    proposal = CreateIndex("public", "places", ("city",))
    async with planted_copy.transaction() as blocker:
        await blocker.execute_query("INSERT INTO places VALUES ('x', 1)")
        with pytest.raises((DatabaseError, ServiceTimeoutError)):
            await strategy.apply(proposal, timeout=0.3)
        with pytest.raises(DeadlineExceededError):
            with deadline(0.3):
                await strategy.apply(proposal)
        cancelled = asyncio.create_task(strategy.apply(proposal))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(DatabaseError):  # what was cut off ends a moment later on the server
                await strategy.apply(proposal)
                break
            await asyncio.sleep(0.05)
    assert "places_city_idx" in {one.name for one in await strategy.indexes() if one.is_valid}


async def test_one_change_at_a_time(planted_copy):
    """Who comes second waits for the first, or says that it is busy; both never stand in each other's way."""
    patient = IndexingStrategy(planted_copy, OptimizationConfig(lock_timeout=30))
    hasty = IndexingStrategy(planted_copy, OptimizationConfig(lock_timeout=0.1))
    async with planted_copy.transaction() as blocker:
        await blocker.execute_query("INSERT INTO places VALUES ('x', 1)")
        first = asyncio.create_task(patient.apply(CreateIndex("public", "places", ("city",))))
        second = asyncio.create_task(patient.apply(CreateIndex("public", "places", ("size",))))
        await _builder(planted_copy)
        with pytest.raises(DatabaseError, match="another change is under way in process") as caught:
            await hasty.apply(CreateIndex("public", "notes", ("text",)))
        assert caught.value.retryable
        assert not first.done()
    assert [True, True] == [change.is_done for change in await asyncio.gather(first, second)]


async def test_names_from_an_attacker_stay_names(planted_copy):
    """A table, column and index named like a statement are indexed, reported and dropped like any other."""
    evil = 'x"; DROP TABLE notes; --'
    quoted = f'"{evil.replace(chr(34), chr(34) * 2)}"'
    await planted_copy.execute_query(f"CREATE TABLE {quoted} ({quoted} int)")
    strategy = IndexingStrategy(planted_copy)
    await strategy.apply(CreateIndex("public", evil, (evil,)))
    await planted_copy.execute_query(f"CREATE INDEX twice ON {quoted} ({quoted})")
    [found] = [one for one in await strategy.duplicates() if "twice" in one.subject]
    await strategy.apply(found.proposal)
    await strategy.apply(DropIndex("public", evil, CreateIndex("public", evil, (evil,)).name))
    assert await planted_copy.execute_one("SELECT count(*) FROM notes")
    assert [] == [one.name for one in await strategy.indexes() if one.table == evil]
