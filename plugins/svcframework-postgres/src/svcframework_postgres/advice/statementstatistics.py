"""Statement statistics: what pg_stat_statements has counted, and the errors of a server without it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from svcframework.errors import DatabaseError, ServiceFrameworkError
from svcframework_postgres.advice.catalogue import MARK, Ask
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, FindingKind, Severity
from svcframework_postgres.advice.words import one_line
from svcframework_postgres.identifiers import Identifier

Order = Literal["total_seconds", "mean_seconds", "calls", "temp_blocks"]

_ORDERS: dict[Order, str] = {
    "total_seconds": "total_exec_time",
    "mean_seconds": "mean_exec_time",
    "calls": "calls",
    "temp_blocks": "temp_blks_written",
}
_NOT_PRELOADED = "55000"  # object not in prerequisite state
_BLOCK = 8192
_SUBJECT = 60  # characters of a statement that stand for it

# Only what changes or reads rows: CREATE ROLE and ALTER ROLE have passwords in their text.
_PLAIN = r"^(\s|--[^\n]*\n|/\*.*?\*/|\()*(select|insert|update|delete|merge|with|values)\y"

# What the pool, and whoever looks at statistics, runs between the statements that somebody wrote.
_HOUSEKEEPING = r"pg_advisory_unlock_all\(\)|pg_stat_(statements_)?reset\(|FROM pg_(catalog\.)?pg_type"

_WHERE = "dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND calls > 0"


class StatementStatisticsError(ServiceFrameworkError):
    """The server keeps no statistics about statements, or not for us.

    Args:
        reason: What is missing.
        fix: What to do.
    """

    def __init__(self, reason: str, *, fix: str) -> None:
        self.reason, self.fix = reason, fix
        super().__init__(f"There are no statement statistics: {reason}. {fix}")


@dataclass(frozen=True, slots=True)
class StatementStatistics:
    """What the server has counted about one statement, whoever ran it.

    Args:
        query_id: The server's number for it.
        query: Its text, with `$1` in the place of each constant.
        calls: How often it was run.
        rows: Rows it returned or changed, in all.
        total_seconds: Time it took, in all.
        mean_seconds: Time of one call.
        max_seconds: Time of the slowest.
        blocks_hit: Blocks of 8 kB that were in memory.
        blocks_read: Blocks that were not.
        temp_blocks: Blocks written to disk for want of memory.
    """

    query_id: int
    query: str
    calls: int
    rows: int
    total_seconds: float
    mean_seconds: float
    max_seconds: float
    blocks_hit: int
    blocks_read: int
    temp_blocks: int

    @property
    def rows_per_call(self) -> float:
        """Rows of one call, on average."""
        return self.rows / self.calls

    @property
    def is_reading(self) -> bool:
        """Whether it only reads, as far as its first word tells."""
        return self.query.lstrip("( \n\t").lower().startswith(("select", "with", "values"))


async def read_statements(ask: Ask, *, limit: int, order: Order) -> list[StatementStatistics]:
    """The statements that lead by `order`, those that read or change rows.

    Raises:
        StatementStatisticsError: The server keeps none; says what to do.
    """
    view = await _view(ask)
    query = f"""
        SELECT {MARK} queryid, query, calls, rows, total_exec_time, mean_exec_time, max_exec_time,
            shared_blks_hit, shared_blks_read, temp_blks_written
        FROM {view} WHERE {_WHERE} AND query ~* $1 AND query !~ $2 AND strpos(query, $3) = 0
        ORDER BY {_ORDERS[order]} DESC, queryid LIMIT $4"""  # noqa: S608 - an Identifier and constants of this module
    return [_statement(row) for row in await _asked(ask, query, _PLAIN, _HOUSEKEEPING, MARK, limit)]


async def count_reading_calls(ask: Ask) -> int:
    """Calls of all reading statements together."""
    view = await _view(ask)
    query = f"SELECT {MARK} coalesce(sum(calls), 0)::bigint AS calls FROM {view} WHERE {_WHERE} AND query ~* $1"  # noqa: S608
    [row] = await _asked(ask, query, r"^(\s|\()*(select|with|values)\y")
    return int(row["calls"])


async def hidden_statements(ask: Ask) -> StatementStatisticsError | None:
    """Why some statements are missing from the others, None if none is: other roles' are shown to members only."""
    view = await _view(ask)
    hidden = f"SELECT {MARK} count(*) AS n FROM {view} WHERE {_WHERE} AND query = '<insufficient privilege>'"  # noqa: S608
    [row] = await _asked(ask, hidden)
    if not row["n"]:
        return None
    reason = f"{row['n']} statements of other roles are hidden from this one"
    return StatementStatisticsError(reason, fix="Run GRANT pg_read_all_stats TO … for the role that looks.")


async def _view(ask: Ask) -> Identifier:
    """The extension's view, in whatever schema it is."""
    rows = await ask(
        f"SELECT {MARK} n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"  # noqa: S608
        " WHERE e.extname = 'pg_stat_statements'"
    )
    if rows:
        return Identifier(rows[0]["schema"], "pg_stat_statements")
    [row] = await ask(
        f"SELECT {MARK} current_setting('pg_stat_statements.max', true) IS NOT NULL AS is_loaded,"  # noqa: S608 - a constant of ours
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') AS is_there"
    )
    if not row["is_there"]:
        raise StatementStatisticsError(
            "the server comes without the extension pg_stat_statements",
            fix="Install PostgreSQL's contrib package on the server.",
        )
    if not row["is_loaded"]:
        raise _not_preloaded()
    raise StatementStatisticsError(
        "this database has no extension pg_stat_statements", fix="Run CREATE EXTENSION pg_stat_statements in it."
    )


async def _asked(ask: Ask, query: str, *args: Any) -> Iterable[Any]:
    try:
        return await ask(query, *args)
    except DatabaseError as error:
        if error.sqlstate == _NOT_PRELOADED:
            raise _not_preloaded() from error
        raise


def _not_preloaded() -> StatementStatisticsError:
    return StatementStatisticsError(
        "the server has not loaded pg_stat_statements",
        fix="Set shared_preload_libraries = 'pg_stat_statements' in its configuration, restart it, and run"
        " CREATE EXTENSION pg_stat_statements.",
    )


def _statement(row: Any) -> StatementStatistics:
    return StatementStatistics(
        row["queryid"] or 0,
        row["query"],
        row["calls"],
        row["rows"],
        row["total_exec_time"] / 1000,
        row["mean_exec_time"] / 1000,
        row["max_exec_time"] / 1000,
        row["shared_blks_hit"],
        row["shared_blks_read"],
        row["temp_blks_written"],
    )


# --- what it tells --------------------------------------------------------------------------------------


def without_statistics(error: StatementStatisticsError) -> Finding:
    """The finding that a report has in the place of what the statistics would tell."""
    return Finding(
        FindingKind.NO_STATEMENT_STATISTICS,
        Severity.INFO,
        "pg_stat_statements",
        f"not all is known about statements: {error.reason}",
        {},
        error.fix,
    )


def judge_statement(one: StatementStatistics, reading_calls: int, config: OptimizationConfig) -> Iterable[Finding]:
    """What the numbers of one statement say.

    Args:
        one: The statement.
        reading_calls: Calls of all reading statements together.
        config: The limits.
    """
    subject = one_line(one.query, _SUBJECT)
    if one.mean_seconds >= config.slow_seconds:
        yield Finding(
            FindingKind.SLOW_STATEMENT,
            Severity.WARNING,
            subject,
            f"takes {one.mean_seconds:.3g} s on average, {one.total_seconds:.3g} s in {_calls(one.calls)}",
            {"mean_seconds": round(one.mean_seconds, 4), "max_seconds": round(one.max_seconds, 4), "calls": one.calls}
            | {"total_seconds": round(one.total_seconds, 3)},
            "See the findings about its plan, or look at it with explain(…, analyze=True).",
            statement=one.query,
        )
    if one.temp_blocks:
        per_call = one.temp_blocks * _BLOCK // one.calls
        yield Finding(
            FindingKind.SPILLED_STATEMENT,
            Severity.WARNING,
            subject,
            f"writes {per_call / 1_000_000:.1f} MB to disk in each call, for want of memory",
            {"temp_bytes_per_call": per_call, "calls": one.calls},
            "Read fewer rows or columns, or raise work_mem for its transaction: SET LOCAL work_mem.",
            statement=one.query,
        )
    share = one.calls / max(1, reading_calls)
    is_small = one.rows_per_call <= config.n_plus_one_rows
    if one.is_reading and is_small and one.calls >= config.n_plus_one_calls and share >= config.n_plus_one_share:
        yield Finding(
            FindingKind.N_PLUS_ONE,
            Severity.INFO,
            subject,
            f"is {share:.0%} of all reads, {_calls(one.calls)} of {one.rows_per_call:.1f} rows each",
            {"calls": one.calls, "rows_per_call": round(one.rows_per_call, 2), "share_of_reads": round(share, 3)}
            | {"total_seconds": round(one.total_seconds, 3)},
            "If a loop asks once for each row of another answer, ask once for all: a join, or WHERE id = ANY($1).",
            statement=one.query,
        )


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count:,} calls"
