"""Rules that turn a plan into findings. They know the plan, the tables it reads and the limits; they ask no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from svcframework_postgres.advice.catalogue import Table
from svcframework_postgres.advice.conditions import Conditions, conditions_on, without_constants
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, FindingKind, Severity, worst_first
from svcframework_postgres.advice.plans import PlanNode, PlanTree
from svcframework_postgres.advice.proposals import AnalyzeTable, CreateIndex, CreateStatistics, Proposal

Tables = Mapping[tuple[str, str], Table]

_MANY_ROWS = 1000  # a wrong estimate below that costs nothing
_CRITICAL_ROWS = 100_000  # rows read in vain from which a statement hurts others, too
_STALE_SHARE = 0.1  # of a table's rows changed since ANALYZE; autovacuum counts anew at this share
_MEGABYTE = 1 << 20
_BITMAPS = frozenset({"Bitmap Index Scan", "BitmapAnd", "BitmapOr"})  # parts of the heap scan above them, which tells


def advise(plan: PlanTree, tables: Tables, config: OptimizationConfig, statement: str) -> tuple[Finding, ...]:
    """What is wrong with a plan, worst first.

    Args:
        plan: From `EXPLAIN`; what only a run shows (wrong estimates, spills, rows removed) needs one with `ANALYZE`.
        tables: What is known about the tables it reads.
        config: The limits.
        statement: The statement, for the findings.
    """
    found = _Rules(tables, config).below(plan.root, wanted=None)
    return worst_first(replace(finding, statement=statement) for finding in found)


@dataclass(frozen=True, slots=True)
class _Rules:
    tables: Tables
    config: OptimizationConfig

    def below(self, node: PlanNode, *, wanted: float | None) -> Iterator[Finding]:
        """Findings about a step and all below it.

        Args:
            node: The step.
            wanted: Rows after which a `Limit` above stops it; None if it runs to its end.
        """
        yield from self._of(node, wanted=wanted)
        for child in node.children:
            yield from self.below(child, wanted=_wanted_below(node, wanted))

    def _of(self, node: PlanNode, *, wanted: float | None) -> Iterator[Finding]:
        scan = self._sequential_scan(node, wanted=wanted)
        if scan is not None:
            yield scan
        else:
            yield from self._rows_removed(node)
        yield from self._nested_loop(node)
        yield from self._spilled(node)
        yield from self._bad_estimate(node, wanted=wanted)

    # --- rows read in vain ------------------------------------------------------------------------------

    def _sequential_scan(self, node: PlanNode, *, wanted: float | None) -> Finding | None:
        table = self._table(node)
        if node.kind != "Seq Scan" or table is None or node.filter is None:
            return None
        runs, kept, read = _scanned(node, table, wanted)
        if read < self.config.big_table_rows or kept > read * self.config.selective_share:
            return None
        conditions = conditions_on(node.filter, node.alias or table.name)
        proposal = _index_for(table, conditions)
        evidence: dict[str, int | float | str] = {"table_rows": table.rows, "read_rows": round(read)}
        evidence |= {"found_rows": round(kept), "runs": round(runs), "filter": without_constants(node.filter)}
        if conditions.columns:
            evidence["columns"] = ", ".join(conditions.columns)
        return Finding(
            FindingKind.SEQUENTIAL_SCAN,
            Severity.CRITICAL if read * runs >= _CRITICAL_ROWS else Severity.WARNING,
            table.full_name,
            f"reads {read:,.0f} rows of {table.full_name} to find {kept:,.0f}"
            + (f" by {', '.join(conditions.columns)}" if conditions.columns else "")
            + (f", {runs:,.0f} times" if runs > 1 else ""),
            evidence,
            _scan_advice(table, conditions, proposal),
            proposal,
        )

    def _rows_removed(self, node: PlanNode) -> Iterator[Finding]:
        if node.loops is None or node.removed_rows < self.config.removed_rows or node.kind == "Nested Loop":
            return
        kept = node.all_rows
        if kept > node.removed_rows * self.config.selective_share:
            return
        table = self._table(node)
        proposal = None
        if table is not None:
            alias = node.alias or table.name
            proposal = _index_for(
                table, _merged(conditions_on(node.index_condition, alias), conditions_on(node.filter, alias))
            )
        advice = "Let an index answer the filter as well" if proposal else "Make the condition earlier or narrower"
        yield Finding(
            FindingKind.ROWS_REMOVED,
            Severity.WARNING,
            table.full_name if table else node.kind,
            f"{_named(node, table)} reads {node.removed_rows:,.0f} rows only to throw them away",
            {"removed_rows": int(node.removed_rows), "kept_rows": round(kept)}
            | {"condition": without_constants(node.filter or node.join_condition or "")},
            f"{advice}, so that these rows are never read.",
            proposal,
        )

    def _nested_loop(self, node: PlanNode) -> Iterator[Finding]:
        if node.kind != "Nested Loop" or len(node.children) < 2:  # noqa: PLR2004 - an outer and an inner side
            return
        outer, inner = node.children[0], node.children[1]
        scan = next((one for one in inner.walk() if one.kind == "Seq Scan" and one.table), None)
        runs = outer.all_rows if inner.loops is None else max(outer.all_rows, inner.loops)
        rows = _rows_per_run(inner) * runs
        if runs < 2 or rows < self.config.loop_rows:  # noqa: PLR2004 - once is no loop
            return
        if scan is None and rows < (outer.all_rows + node.all_rows) * 10:
            return  # an index finds about what is asked for: that is what a nested loop is for
        table = None if scan is None else self._table(scan)
        proposal = None
        if scan is not None and table is not None:
            alias = scan.alias or table.name
            joined = _merged(conditions_on(node.join_condition, alias), conditions_on(scan.filter, alias))
            proposal = _index_for(table, joined) if joined.equal else None
        what = table.full_name if table is not None else inner.kind
        yield Finding(
            FindingKind.NESTED_LOOP,
            Severity.CRITICAL,
            what,
            f"goes through {what} once for each of {runs:,.0f} rows, {rows:,.0f} rows in all",
            {"runs": round(runs), "rows_per_run": round(_rows_per_run(inner)), "rows": int(rows)}
            | {"expected_runs": round(outer.planned_rows), "condition": without_constants(node.join_condition or "")},
            "Index the columns that the join compares, so that each run is a look-up."
            if proposal
            else "Join by columns that can be compared with =, and see that the planner's estimates are right.",
            proposal,
        )

    # --- memory and estimates ---------------------------------------------------------------------------

    def _spilled(self, node: PlanNode) -> Iterator[Finding]:
        if node.disk_bytes <= 0 and (node.batches <= 1 or node.loops is None):
            return
        is_sort = "Sort" in node.kind
        megabytes = node.disk_bytes / _MEGABYTE
        needed = max(8, 2 ** (int(megabytes * 2.5).bit_length()))  # rows take more room in memory than on disk
        what = f"by {', '.join(node.sort_keys)}" if node.sort_keys else f"in {node.batches} parts"
        yield Finding(
            FindingKind.SPILLED_SORT if is_sort else FindingKind.SPILLED_HASH,
            Severity.WARNING,
            node.kind,
            f"{node.kind} {what} did not fit into work_mem and went through the disk ({megabytes:.1f} MB)",
            {"disk_bytes": node.disk_bytes, "rows": round(node.all_rows), "parts": node.batches},
            f"Read fewer rows or columns, or give this transaction more memory: SET LOCAL work_mem = '{needed}MB'.",
        )

    def _bad_estimate(self, node: PlanNode, *, wanted: float | None) -> Iterator[Finding]:
        factor = self._estimate_factor(node, wanted=wanted)
        below = _wanted_below(node, wanted)
        if factor is None or any(self._estimate_factor(child, wanted=below) for child in node.children):
            return  # what is wrong below makes all above it wrong
        actual = node.actual_rows or 0.0
        table = self._table(node)
        proposal, advice = _estimate_advice(table, node)
        direction = "more" if actual > node.planned_rows else "fewer"
        yield Finding(
            FindingKind.BAD_ESTIMATE,
            Severity.WARNING,
            table.full_name if table else node.kind,
            f"{_named(node, table)} has {factor:,.0f} times {direction} rows than the planner expected",
            {"expected_rows": round(node.planned_rows), "actual_rows": round(actual), "factor": round(factor, 1)}
            | ({"condition": without_constants(node.filter or node.index_condition or "")} if table else {}),
            advice,
            proposal,
        )

    def _estimate_factor(self, node: PlanNode, *, wanted: float | None) -> float | None:
        """How many times the estimate is off; None if it is good enough, or nobody can tell."""
        if node.actual_rows is None or not node.loops or node.kind in _BITMAPS:
            return None
        actual, planned = max(node.actual_rows, 1.0), max(node.planned_rows, 1.0)
        if actual < planned and wanted is not None:
            return None  # it was stopped when there was enough
        factor = max(actual / planned, planned / actual)
        is_costly = max(actual, planned) * max(1.0, node.loops) >= _MANY_ROWS
        return factor if factor >= self.config.estimate_factor and is_costly else None

    # --- parts ------------------------------------------------------------------------------------------

    def _table(self, node: PlanNode) -> Table | None:
        return self.tables.get((node.schema or "public", node.table)) if node.table else None


def _wanted_below(node: PlanNode, wanted: float | None) -> float | None:
    """How many rows are taken from the steps below one."""
    if node.kind == "Limit":
        return node.planned_rows if wanted is None else min(wanted, node.planned_rows)
    return None if node.reads_to_the_end else wanted


def _scanned(node: PlanNode, table: Table, wanted: float | None) -> tuple[float, float, float]:
    """Runs of a whole scan, and the rows that one run keeps and reads: counted if it was run, else expected."""
    if node.loops is None:
        expected = max(node.all_rows, 1.0)
        part = 1.0 if wanted is None else min(1.0, wanted / expected)
        return 1.0, node.all_rows * part, table.rows * part
    runs = 1.0 if node.is_parallel else max(1.0, node.loops)  # the processes of a parallel one share a single scan
    return runs, node.all_rows / runs, (node.all_rows + node.removed_rows) / runs


def _rows_per_run(inner: PlanNode) -> float:
    """Rows that one run of a join's inner side goes through, whatever it keeps of them."""
    below = list(inner.walk())
    if inner.loops is None:
        return max(one.planned_rows for one in below)
    return max((one.actual_rows or 0.0) + one.removed_rows / max(1.0, one.loops or 1.0) for one in below)


def _index_for(table: Table, conditions: Conditions) -> CreateIndex | None:
    """The index that answers these conditions; None where a plain one can't, or there is one already."""
    usable = [
        column
        for column in (*conditions.equal, *conditions.ranges[:1])
        if column in table.columns and _fits(table, column, as_text=column in conditions.as_text)
    ]
    columns = tuple(dict.fromkeys(usable))
    if not columns or any(index.begins_with(columns) for index in table.indexes):
        return None
    return CreateIndex(table.schema, table.name, columns)


def _fits(table: Table, column: str, *, as_text: bool) -> bool:
    found = table.columns[column]
    return found.is_indexable and (not as_text or found.type.startswith(("character", "text")))


def _scan_advice(table: Table, conditions: Conditions, proposal: CreateIndex | None) -> str:
    if proposal is not None:
        return f"Index {', '.join(proposal.columns)}, so that only the rows that are wanted are read."
    compared = (*conditions.equal, *conditions.ranges)
    indexed = [index.name for index in table.indexes if compared and index.begins_with(compared[:1])]
    if indexed:
        return f"There is {indexed[0]}, but it is not used: compare the bare column with a value of its own type."
    if conditions.other:
        names = ", ".join(conditions.other)
        return (
            f"A plain index can't help, as {names} is used in an expression: index that expression, or compare {names}."
        )
    return "Narrow the condition to columns that an index can hold."


def _merged(first: Conditions, second: Conditions) -> Conditions:
    return Conditions(
        tuple(dict.fromkeys([*first.equal, *second.equal])),
        tuple(dict.fromkeys([*first.ranges, *second.ranges])),
        tuple(dict.fromkeys([*first.other, *second.other])),
        first.as_text | second.as_text,
    )


def _estimate_advice(table: Table | None, node: PlanNode) -> tuple[Proposal | None, str]:
    if table is None:
        return None, "See that the conditions of the join compare bare columns, and that its tables are analyzed."
    if table.never_analyzed or table.changed_rows > max(_MANY_ROWS, table.rows * _STALE_SHARE):
        advice = f"{table.changed_rows:,} rows have changed since the table's values were counted: count them anew."
        return AnalyzeTable(table.schema, table.name), advice
    alias = node.alias or table.name
    found = _merged(conditions_on(node.index_condition, alias), conditions_on(node.filter, alias))
    compared = tuple(column for column in found.equal if column in table.columns)
    if len(compared) > 1:
        advice = f"{', '.join(compared)} depend on each other, which the planner doesn't know: tell it."
        return CreateStatistics(table.schema, table.name, compared), advice
    return None, "Compare bare columns: the planner has no numbers about the result of an expression."


def _named(node: PlanNode, table: Table | None) -> str:
    if table is None:
        return node.kind
    return f"{node.kind} on {table.full_name}" + (f" through {node.index}" if node.index else "")
