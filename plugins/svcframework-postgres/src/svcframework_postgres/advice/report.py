"""OptimizationReport: everything that was found about one database at one moment, as data and as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from svcframework.errors import ServiceFrameworkError, did_you_mean
from svcframework_postgres.advice.findings import Finding, Severity
from svcframework_postgres.advice.proposals import Proposal
from svcframework_postgres.advice.statementstatistics import StatementStatistics
from svcframework_postgres.advice.words import one_line, shown

Choice = str | Proposal | Finding
"""What chooses a proposal: its key, the proposal itself, or the finding that has it."""

_WIDTH = 100  # characters of a line of text
_QUERY = 70  # characters of a statement in a table


class UnknownProposalError(ServiceFrameworkError, LookupError):
    """Something was chosen that the report doesn't propose.

    Args:
        wanted: What was chosen.
        known: The keys of the report's proposals.
    """

    def __init__(self, wanted: str, known: Iterable[str]) -> None:
        self.wanted, self.known = wanted, tuple(known)
        super().__init__(f"The report proposes no {wanted!r}.{did_you_mean(wanted, self.known)}")


@dataclass(frozen=True, slots=True)
class OptimizationReport:
    """What was found about one database, worst first; a value that doesn't change.

    Args:
        database: Where it is: `host:port/database`.
        made_at: When, by the server's clock.
        since: Since when the server has counted the use of indexes, at the latest.
        findings: What is wrong, worst first.
        statements: The statements that cost the most time, the most costly first.
        seconds: What making the report took.
    """

    database: str
    made_at: datetime
    since: datetime
    findings: tuple[Finding, ...]
    statements: tuple[StatementStatistics, ...]
    seconds: float

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """Each change that a finding proposes, once, in the order of the findings."""
        return tuple({one.proposal.key: one.proposal for one in self.findings if one.proposal is not None}.values())

    def count(self, severity: Severity) -> int:
        """How many findings are of that severity."""
        return sum(one.severity is severity for one in self.findings)

    def choose(self, choices: Iterable[Choice]) -> tuple[Proposal, ...]:
        """The proposals that are meant, each once, in the given order.

        Raises:
            UnknownProposalError: The report has no such proposal.
        """
        known = {proposal.key: proposal for proposal in self.proposals}
        chosen: dict[str, Proposal] = {}
        for choice in choices:
            proposal = choice.proposal if isinstance(choice, Finding) else choice
            key = proposal.key if isinstance(proposal, Proposal) else str(proposal or "nothing")
            if key not in known:
                raise UnknownProposalError(key, known)
            chosen[key] = known[key]
        return tuple(chosen.values())

    def as_dict(self) -> dict[str, Any]:
        """The report in plain values, for JSON."""
        return {
            "database": self.database,
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "since": self.since.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "findings": [_plain(finding) for finding in self.findings],
            "statements": [
                {"query": one.query, "calls": one.calls, "rows": one.rows, "total_seconds": round(one.total_seconds, 6)}
                for one in self.statements
            ],
        }

    def text(self) -> str:
        """The report for a terminal: 100 characters wide, without colours."""
        return "\n".join(_lines(self))

    def html(self) -> str:
        """The report as one page that needs nothing else: no script, no request to anyone."""
        from svcframework_postgres.advice.reportpage import page  # noqa: PLC0415 - only who wants a page pays for it

        return page(self)


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.value,
        "severity": finding.severity.value,
        "subject": finding.subject,
        "what": finding.what,
        "evidence": dict(finding.evidence),
        "advice": finding.advice,
        "proposal": None if finding.proposal is None else {"key": finding.proposal.key, "ddl": finding.proposal.ddl},
        "statement": finding.statement,
    }


def summary(report: OptimizationReport) -> str:
    """How many findings of each severity there are, in words."""
    counts = [(report.count(severity), severity.value) for severity in Severity]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "nothing found"


def _lines(report: OptimizationReport) -> Iterator[str]:
    yield f"Database {report.database}, {report.made_at:%Y-%m-%d %H:%M:%S} UTC: {summary(report)}"
    yield f"The use of indexes is counted since {report.since:%Y-%m-%d %H:%M:%S} UTC or longer."
    for number, finding in enumerate(report.findings, start=1):
        yield ""
        yield from _finding_lines(number, finding)
    if report.statements:
        yield ""
        yield "Statements by total time"
        yield f"  {'total s':>9}  {'calls':>9}  {'mean ms':>9}  {'rows/call':>9}  statement"
        for one in report.statements:
            numbers = (
                f"{one.total_seconds:9.3f}  {one.calls:9d}  {one.mean_seconds * 1000:9.3f}  {one.rows_per_call:9.1f}"
            )
            yield f"  {numbers}  {one_line(one.query, _QUERY)}"


def _finding_lines(number: int, finding: Finding) -> Iterator[str]:
    yield f"{number:3}. {finding.severity.value.upper()}  {finding.kind.value}: {one_line(finding.subject, _QUERY)}"
    yield from _wrapped(finding.what)
    if finding.evidence:
        yield from _wrapped(", ".join(f"{name} {shown(value)}" for name, value in finding.evidence.items()))
    if finding.statement is not None and one_line(finding.statement, _QUERY) != one_line(finding.subject, _QUERY):
        yield from _wrapped(f"in: {one_line(finding.statement, _WIDTH * 2)}")
    yield from _wrapped(f"-> {finding.advice}")
    if finding.proposal is not None:
        yield f"     [{finding.proposal.key}]"
        yield from (f"       {line}" for line in finding.proposal.ddl.splitlines())


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent="     ",
        subsequent_indent="       ",
        break_long_words=False,
        break_on_hyphens=False,
    )
