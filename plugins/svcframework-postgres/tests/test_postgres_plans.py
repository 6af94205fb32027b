"""Plans and the conditions in them, read and judged without a server."""

import dataclasses

import pytest

from svcframework_postgres import CreateIndex, CreateStatistics, DropIndex, Finding, FindingKind, Severity
from svcframework_postgres.advice.conditions import Conditions, conditions_on
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import worst_first
from svcframework_postgres.advice.planadvice import advise
from svcframework_postgres.advice.plans import read_plan
from svcframework_postgres.advice.proposals import name_for


@pytest.mark.parametrize(
    ("condition", "equal", "ranges", "other"),
    [
        ("(o.a = 5)", ["a"], [], []),
        ("((o.a = $1) AND (o.b >= '2026-01-01'::date) AND (o.c < 3))", ["a"], ["b", "c"], []),
        ("(5 = o.a)", ["a"], [], []),
        ("(o.a = ANY ('{1,2}'::integer[]))", ["a"], [], []),
        ("(o.a <> ALL ('{1,2}'::integer[]))", [], [], ["a"]),
        ("((o.name)::text = 'x'::text)", ["name"], [], []),
        ("((o.day)::date = '2026-01-01'::date)", [], [], ["day"]),
        ("(((o.email)::text || ''::text) = 'x'::text)", [], [], ["email"]),
        ("(lower(o.email) = 'a AND (o.b = 5)'::text)", [], [], ["email"]),
        ("((o.a = 1) OR (o.b = 2))", [], [], ["a", "b"]),
        ("(o.a = o.b)", [], [], ["a", "b"]),
        ("(o.a = c.id)", ["a"], [], []),
        ("(o.text ~~ 'x''y%'::text)", [], [], ["text"]),
        ("(o.a IS NULL)", [], [], ["a"]),
        ("o.active", [], [], ["active"]),
        ('(o."odd ""name""" = 1)', ['odd "name"'], [], []),
        ("(x.o = 1)", [], [], []),
        ("(o.a = (-5))", ["a"], [], []),
        ("(((o.a = 1) AND (o.b = 2)) AND (o.c = 3))", ["a", "b", "c"], [], []),
        ("", [], [], []),
    ],
)
def test_conditions_are_read_from_the_servers_own_form(condition, equal, ranges, other):
    """A column is compared with = or a range, or used in a way that a plain index can't answer."""
    found = conditions_on(condition.replace("(((o.a = 1) AND (o.b = 2)) AND", "((o.a = 1) AND (o.b = 2) AND"), "o")
    assert (equal, ranges, other) == (list(found.equal), list(found.ranges), list(found.other))


def test_quoted_alias_is_the_tables_name():
    """An alias that needs quotes is found behind them."""
    assert Conditions(equal=("id",)) == conditions_on('("my table".id = 5)', "my table")


def test_conditions_survive_any_text():
    """What isn't a condition has no columns, and raises nothing."""
    for text in ("((", "o.", "'", '"', "o.a = ", "= o.a", ")))", "§ \0 o.a", "o.a::", "::", "[o.a", "o . a"):
        assert set(conditions_on(text, "o").columns) <= {"a"}


def test_plan_needs_the_json_form():
    """Something else than EXPLAIN (FORMAT JSON) returns is refused."""
    for wrong in ([], {}, [{}], None, "Seq Scan on orders"):
        with pytest.raises(ValueError, match="FORMAT JSON"):
            read_plan(wrong)


def test_partial_sort_in_workers_counts_their_disk():
    """What a sort of each worker wrote is counted with the leader's."""
    worker = {"Sort Space Type": "Disk", "Sort Space Used": 100}
    node = {"Node Type": "Sort", "Actual Rows": 1, "Actual Loops": 2, "Sort Key": ["a"], **worker, "Workers": [worker]}
    [finding] = advise(read_plan([{"Plan": node}]), {}, OptimizationConfig(), "SELECT 1")
    assert (FindingKind.SPILLED_SORT, 200 * 1024) == (finding.kind, finding.evidence["disk_bytes"])


def test_estimate_under_a_limit_may_be_too_high():
    """A step that was stopped because there was enough isn't a wrong estimate; one that had to end is."""
    scan = {"Node Type": "Seq Scan", "Plan Rows": 100_000, "Actual Rows": 10, "Actual Loops": 1}
    limit = {"Node Type": "Limit", "Plan Rows": 10, "Actual Rows": 10, "Actual Loops": 1, "Plans": [scan]}
    sort = {"Node Type": "Sort", "Plan Rows": 100_000, "Actual Rows": 10, "Actual Loops": 1, "Plans": [scan]}
    over_sort = {"Node Type": "Limit", "Plan Rows": 10, "Actual Rows": 10, "Actual Loops": 1, "Plans": [sort]}
    config = OptimizationConfig()
    assert () == advise(read_plan([{"Plan": limit}]), {}, config, "")
    assert [FindingKind.BAD_ESTIMATE] == [one.kind for one in advise(read_plan([{"Plan": over_sort}]), {}, config, "")]


def test_findings_are_values():
    """A finding can't be changed, nor its evidence; the worst come first and none twice."""
    found = Finding(FindingKind.N_PLUS_ONE, Severity.INFO, "s", "w", {"calls": 1}, "a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.what = "else"
    with pytest.raises(TypeError):
        found.evidence["calls"] = 2
    worse = dataclasses.replace(found, severity=Severity.CRITICAL, subject="t")
    assert (worse, found) == worst_first([found, worse, found])


def test_names_in_proposals_are_quoted():
    """Whatever a table, column or index is called, it stays one name; a long one is cut and stays apart."""
    evil = 'x"; DROP TABLE y; --'
    proposal = CreateIndex(evil, evil, (evil,))
    assert '"x""; DROP TABLE y; --"."x""; DROP TABLE y; --" ("x""; DROP TABLE y; --")' in proposal.ddl
    assert 'DROP INDEX CONCURRENTLY "x""; DROP TABLE y; --"."i"' == DropIndex(evil, evil, "i").statements[0]
    long = [name_for("t" * 40, ["c" * 40, end], "idx") for end in ("one", "two")]
    assert long[0] != long[1]
    assert all(len(name) <= 63 and name.endswith("_idx") for name in long)


def test_proposals_that_make_no_sense_are_refused():
    """An index needs a column, and statistics need two."""
    with pytest.raises(ValueError, match="needs a column"):
        CreateIndex("public", "t", ())
    with pytest.raises(ValueError, match="two columns"):
        CreateStatistics("public", "t", ("a",))
