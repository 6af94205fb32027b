"""OptimizationService: one report as data, text and page, and doing what is chosen of it."""

import asyncio
import json
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from svcframework import ServiceContainer, ServiceHost, providers
from svcframework.errors import ConnectionFailedError, ServiceTimeoutError
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import (
    AnalyzeTable,
    CreateIndex,
    FindingKind,
    OptimizationConfig,
    OptimizationService,
    PostgresService,
    Severity,
    UnknownProposalError,
)

LIMITS = {"index_bytes": 100_000, "bloat_bytes": 500_000, "unused_after": 0}
EVIL = '<script src="https://evil.example/x.js">alert(1)</script>'


def looking_at(database):
    return OptimizationService(LIMITS, database_service=database)


@pytest.fixture
def service(planted_copy):
    return looking_at(planted_copy)


async def test_report_has_everything(scratch):
    """Findings about indexes and statements, worst first, and the statements that cost the most."""
    await scratch.execute_query("SELECT * FROM orders WHERE customer_id = $1 AND total > $2", 5, 0)
    report = await looking_at(scratch).report()
    kinds = {finding.kind for finding in report.findings}
    assert {FindingKind.INVALID_INDEX, FindingKind.SEQUENTIAL_SCAN, FindingKind.MISSING_FOREIGN_KEY_INDEX} <= kinds
    assert [one.severity.rank for one in report.findings] == sorted(one.severity.rank for one in report.findings)
    assert report.count(Severity.CRITICAL) >= 2
    assert any("customer_id" in one.query for one in report.statements)
    assert report.database.endswith(scratch.pool.address.rpartition("/")[2])
    assert len({proposal.key for proposal in report.proposals}) == len(report.proposals)
    as_data = json.loads(json.dumps(report.as_dict()))
    assert len(report.findings) == len(as_data["findings"])


async def test_one_index_helps_all_findings_that_it_can(service, planted_copy):
    """Two indexes of which one is the beginning of the other are never proposed together."""
    await planted_copy.execute_query("SELECT * FROM orders WHERE customer_id = $1 AND total > $2", 5, 0)
    report = await service.report()
    new = [one for one in report.proposals if isinstance(one, CreateIndex) and one.table == "orders"]
    assert [("customer_id", "total")] == [one.columns for one in new]
    [change] = await service.apply(new, dry_run=False)
    assert change.is_done
    after = await service.report()
    subjects = {(one.kind, one.subject) for one in after.findings}
    assert (FindingKind.MISSING_FOREIGN_KEY_INDEX, "public.orders") not in subjects
    assert (FindingKind.SEQUENTIAL_SCAN, "public.orders") not in subjects


async def test_nothing_is_done_unless_told_to(scratch):
    """A dry run, the default, says what would be run; nothing has changed after it."""
    service = looking_at(scratch)
    before = await service.indexing().indexes()
    report = await service.report()
    changes = await service.apply([report.findings[0], *report.proposals], report=report)
    assert [proposal.key for proposal in report.proposals] == [change.proposal.key for change in changes]
    assert not any(change.is_done for change in changes)
    assert all(change.statements and change.error is None for change in changes)
    assert before == await service.indexing().indexes()


async def test_what_is_chosen_is_done(service):
    """By key, proposal or finding; one that fails keeps no other back, and what is done is found no more."""
    report = await service.report()
    chosen = ["create index public.orders_customer_id_idx", "drop index public.customers_country_again_idx"]
    [finding] = [one for one in report.findings if one.kind is FindingKind.INVALID_INDEX]
    failed, *done = await service.apply([finding, *chosen], dry_run=False, report=report)
    assert (False, "23505") == (failed.is_done, failed.error.sqlstate)
    assert [(True, None)] * 2 == [(change.is_done, change.error) for change in done]
    assert all(change.seconds > 0 for change in done)
    keys = {proposal.key for proposal in (await service.report()).proposals}
    assert not keys & set(chosen)
    assert finding.proposal.key in keys


async def test_unknown_choice_is_refused_before_anything_is_done(scratch):
    """A key that isn't in the report, a proposal of another one, and a finding without a proposal."""
    service = looking_at(scratch)
    good = "drop index public.customers_country_again_idx"
    with pytest.raises(UnknownProposalError, match=r"Did you mean 'drop index public\.customers_country_again_idx'"):
        await service.apply([good, good + "x"], dry_run=False)
    with pytest.raises(UnknownProposalError):
        await service.apply([AnalyzeTable("pg_catalog", "pg_class")], dry_run=False)
    assert good in {proposal.key for proposal in (await service.report()).proposals}


async def test_text_is_readable_in_a_terminal(scratch):
    """Each finding with its numbers and its key, no line beyond 120 characters, no control characters."""
    await scratch.execute_query('CREATE TABLE "bad\x1b[31m\nname" (n int)')
    await scratch.execute_query('CREATE INDEX twice ON "bad\x1b[31m\nname" (n)')
    await scratch.execute_query('CREATE INDEX twice_again ON "bad\x1b[31m\nname" (n)')
    report = await looking_at(scratch).report()
    text = report.text()
    assert f"Database {report.database}, " in text
    assert "CRITICAL  invalid index: public.coupons_code_idx" in text
    assert "[create index public.orders_customer_id" in text
    assert "table_rows 1,000,000" in text
    assert max(map(len, text.splitlines())) <= 120
    assert not [c for c in text if not c.isprintable() and c != "\n"]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "action", "style"}]

    def handle_data(self, data):
        self.texts.append(data)


async def test_page_needs_nothing_else(scratch):
    """One page without a script, a link or a request, whatever tables and statements are called."""
    await scratch.execute_query(f'CREATE TABLE "{EVIL.replace(chr(34), chr(34) * 2)}" (n int)')
    for name in ("one", "two"):
        await scratch.execute_query(f'CREATE INDEX {name} ON "{EVIL.replace(chr(34), chr(34) * 2)}" (n)')
    await scratch.execute_query("SELECT * FROM orders WHERE customer_id = $1 AND total < 0 -- " + EVIL, 5)
    report = await looking_at(scratch).report()
    html = report.html()
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "form", "a"}
    assert [] == [link for link in page.links if not re.fullmatch(r"width:\d+%", link)]
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "@import" not in html
    assert EVIL in "".join(page.texts)
    for finding in report.findings:
        assert finding.subject in "".join(page.texts)


async def test_server_without_statistics_has_a_report(database):
    """What is missing is a finding that says what to do; the rest is there."""
    service = OptimizationService(OptimizationConfig(), database_service=database)
    report = await service.report()
    [finding] = [one for one in report.findings if one.kind is FindingKind.NO_STATEMENT_STATISTICS]
    assert "shared_preload_libraries" in finding.advice
    assert () == report.statements
    assert "Nothing was found" not in report.html()


async def test_database_with_nothing_wrong(planted_copy):
    """An empty report says so, as text and as a page."""
    for row in await planted_copy.execute_query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
        await planted_copy.execute_query(f"DROP TABLE {row['tablename']} CASCADE")
    report = await OptimizationService({"slow_seconds": 1000}, database_service=planted_copy).report()
    assert () == tuple(one for one in report.findings if one.kind is not FindingKind.SPILLED_STATEMENT)
    assert "nothing found" in report.text()
    assert "Nothing was found." in report.html()


async def test_tenants_are_looked_at_by_their_pool(scratch):
    """A pool from get_org_pool has a report of its own."""
    service = OptimizationService(LIMITS, database_service=scratch)
    pool = await scratch.get_org_pool("template1")
    report = await service.report(pool)
    assert report.database.endswith("/template1")
    assert () == report.proposals


async def test_report_on_a_silent_server_ends_in_time(scratch_dsn):
    """A look that gets no answer is a typed error within its limit, and the next report works."""
    async with FaultProxy(scratch_dsn) as proxy:
        database = PostgresService({"dsn": proxy.through(scratch_dsn), "connect_timeout": 3, "stop_timeout": 1})
        await database.on_startup()
        service = OptimizationService({"query_timeout": 0.5}, database_service=database)
        async with proxy.during(proxy.black_hole), asyncio.timeout(30):
            with pytest.raises((ServiceTimeoutError, ConnectionFailedError)):
                await service.report()
        service = OptimizationService(database_service=database)
        assert (await service.report()).findings
        await database.on_shutdown()


async def test_in_a_host_it_is_wired_to_the_database(scratch):
    """The database service is injected by name; health is that of a service that runs."""

    class Container(ServiceContainer):
        database_service = providers.Service(PostgresService, config=scratch.config)
        optimization_service = providers.Service(OptimizationService)

    async with ServiceHost(Container) as host:
        assert await host[OptimizationService].health_check()
        assert (await host["optimization_service"].report()).findings


async def test_role_that_may_see_little_still_has_a_report(scratch, scratch_dsn):
    """Without rights on tables and statistics the report is there, and says what is hidden and how to see it."""
    await scratch.execute_query("SELECT 'of another role' FROM notes")
    await scratch.execute_query("CREATE ROLE modest LOGIN PASSWORD 'canary-7Q'")
    parts = urlsplit(scratch_dsn)
    dsn = parts._replace(netloc=f"modest:canary-7Q@{parts.netloc.rpartition('@')[2]}").geturl()
    database = PostgresService({"dsn": dsn})
    await database.on_startup()
    report = await looking_at(database).report()
    [hidden] = [one for one in report.findings if one.kind is FindingKind.NO_STATEMENT_STATISTICS]
    assert "pg_read_all_stats" in hidden.advice
    assert "public.orders" in {one.subject for one in report.findings}
    [refused] = await looking_at(database).apply(["create index public.orders_customer_id_idx"], dry_run=False)
    assert (False, "42501") == (refused.is_done, refused.error.sqlstate)
    assert "canary" not in report.text() + report.html() + str(refused.error)
    await database.on_shutdown()
