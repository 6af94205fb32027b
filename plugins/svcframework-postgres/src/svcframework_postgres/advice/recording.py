"""Recording: which statements one piece of code runs. For tests, and for a look at one request.

Statements are noted where they are run, in the task that asked for them and the tasks that it starts: what others run
at the same time isn't in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, FindingKind, Severity, worst_first

_READS = ("select", "with", "values", "table")


@dataclass(frozen=True, slots=True)
class RecordedStatement:
    """All runs of one statement within a recording.

    Args:
        query: Its text, without its arguments.
        calls: How often it was run.
        rows: Rows it returned, in all.
        seconds: Time it took, in all, waiting for a connection not included.
    """

    query: str
    calls: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Recording:
    """The statements of a scope; grows while the scope is open and stays readable after it.

    Args:
        config: The limits of what is suspicious.
    """

    config: OptimizationConfig = field(default_factory=OptimizationConfig)
    _by_query: dict[str, RecordedStatement] = field(default_factory=dict)

    def note(self, query: str, rows: int, seconds: float) -> None:
        """Count one run of a statement."""
        before = self._by_query.get(query, RecordedStatement(query))
        self._by_query[query] = RecordedStatement(query, before.calls + 1, before.rows + rows, before.seconds + seconds)

    @property
    def statements(self) -> tuple[RecordedStatement, ...]:
        """Each statement once, those with the most calls first."""
        return tuple(sorted(self._by_query.values(), key=lambda one: -one.calls))

    @property
    def calls(self) -> int:
        """Runs of all statements together."""
        return sum(one.calls for one in self._by_query.values())

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The statements that look like N+1: read again and again, few rows each time."""
        return worst_first(_suspicion(one) for one in self.statements if self._is_suspicious(one))

    def _is_suspicious(self, one: RecordedStatement) -> bool:
        is_read = one.query.lstrip("( \n\t").lower().startswith(_READS)
        is_small = one.rows <= one.calls * self.config.n_plus_one_rows
        return is_read and is_small and one.calls >= self.config.recorded_repeats


def _suspicion(one: RecordedStatement) -> Finding:
    return Finding(
        FindingKind.N_PLUS_ONE,
        Severity.WARNING,
        one.query,
        f"was run {one.calls} times for {one.rows / one.calls:.1f} rows each",
        {"calls": one.calls, "rows_per_call": round(one.rows / one.calls, 2), "seconds": round(one.seconds, 6)},
        "Ask once for all rows: a join, or WHERE id = ANY($1).",
        statement=one.query,
    )
