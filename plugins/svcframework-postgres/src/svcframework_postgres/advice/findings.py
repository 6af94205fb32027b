"""Findings: what is wrong with a statement, a plan or an index, how one knows, and what helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from svcframework_postgres.advice.proposals import CreateIndex, Proposal


class Severity(Enum):
    """How much a finding matters."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class FindingKind(Enum):
    """What sort of thing was found."""

    SEQUENTIAL_SCAN = "sequential scan"
    ROWS_REMOVED = "rows removed by a filter"
    BAD_ESTIMATE = "bad estimate"
    SPILLED_SORT = "sort on disk"
    SPILLED_HASH = "hash on disk"
    NESTED_LOOP = "nested loop explosion"
    SLOW_STATEMENT = "slow statement"
    SPILLED_STATEMENT = "statement spills"
    N_PLUS_ONE = "N+1 suspicion"
    NO_STATEMENT_STATISTICS = "no statement statistics"
    MISSING_FOREIGN_KEY_INDEX = "foreign key without index"
    UNUSED_INDEX = "unused index"
    DUPLICATE_INDEX = "duplicate index"
    REDUNDANT_INDEX = "redundant index"
    BLOATED_INDEX = "bloated index"
    INVALID_INDEX = "invalid index"


Evidence = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, with its proof.

    Args:
        kind: What sort of thing.
        severity: How much it matters.
        subject: The table, index or statement it is about.
        what: One sentence that says what is wrong.
        evidence: The numbers that show it, by name; a name says its unit.
        advice: What to do.
        proposal: A change that does it, where there is one.
        statement: The statement whose plan or statistics show it, where there is one.
    """

    kind: FindingKind
    severity: Severity
    subject: str
    what: str
    evidence: Evidence = field(hash=False)
    advice: str
    proposal: Proposal | None = None
    statement: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by severity, then kind and subject, without those that say the same twice."""
    kept: dict[tuple[FindingKind, str, str], Finding] = {}
    for finding in findings:
        kept.setdefault((finding.kind, finding.subject, finding.what), finding)
    return tuple(sorted(kept.values(), key=lambda one: (one.severity.rank, one.kind.value, one.subject)))


def without_overlap(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, where one index helps several of them, with that index as the proposal of each.

    Otherwise the next report would call the shorter of two new indexes the beginning of the longer one.
    """
    found = tuple(findings)
    indexes = {one.proposal for one in found if isinstance(one.proposal, CreateIndex)}
    longest = sorted(indexes, key=lambda one: (-len(one.columns), one.key))
    return tuple(
        replace(one, proposal=next(other for other in longest if _covers(other, one.proposal)))
        if isinstance(one.proposal, CreateIndex)
        else one
        for one in found
    )


def _covers(longer: CreateIndex, shorter: CreateIndex) -> bool:
    is_same_table = (longer.schema, longer.table) == (shorter.schema, shorter.table)
    return is_same_table and longer.columns[: len(shorter.columns)] == shorter.columns
