"""The report as a page. Every text is escaped; there is no script, and the page may load nothing."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from svcframework_postgres.advice.findings import Finding, Severity
from svcframework_postgres.advice.report import OptimizationReport
from svcframework_postgres.advice.statementstatistics import StatementStatistics
from svcframework_postgres.advice.words import shown

_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1c2330; --soft: #5b6678; --line: #dfe3ea;
  --code: #f0f2f6; --critical: #c62839; --warning: #b26a00; --info: #2563b8; --bar: #c7d6f0; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161d; --card: #1a2029; --ink: #e4e9f2; --soft: #97a3b6;
  --line: #2c3542; --code: #232b37; --critical: #ff7583; --warning: #f0b04c; --info: #7db1f7; --bar: #31456a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 0.75rem; }
.about { color: var(--soft); margin: 0.25rem 0 1.5rem; }
.counts { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.count { flex: 1 1 9rem; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 0.8rem 1rem; border-top: 4px solid var(--tone, var(--line)); color: var(--soft); }
.count b { display: block; font-size: 1.7rem; line-height: 1.2; color: var(--ink); font-weight: 650; }
.critical { --tone: var(--critical); } .warning { --tone: var(--warning); } .info { --tone: var(--info); }
article { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--tone);
  border-radius: 10px; padding: 0.9rem 1.2rem 1rem; margin: 0 0 0.9rem; }
article header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.2rem 0.7rem; }
.badge { color: var(--tone); font-size: 0.72rem; font-weight: 700; letter-spacing: 0.06em; text-transform: uppercase; }
h3 { font-size: 1rem; margin: 0; font-weight: 650; overflow-wrap: anywhere; }
.kind { color: var(--soft); margin-left: auto; font-size: 0.85rem; }
article p { margin: 0.45rem 0; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 0.3rem 1.6rem; margin: 0.6rem 0; font-size: 0.85rem; }
dl div { min-width: 0; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
pre { background: var(--code); border-radius: 7px; padding: 0.6rem 0.8rem; margin: 0.5rem 0 0; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 0.83rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
.what::first-letter { text-transform: uppercase; }
.key { color: var(--soft); font-size: 0.8rem; margin-top: 0.6rem; }
.advice { font-weight: 500; }
details summary { cursor: pointer; color: var(--soft); font-size: 0.85rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
th { text-align: right; color: var(--soft); font-weight: 500; white-space: nowrap; }
th, td { padding: 0.5rem 0.8rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:last-child, td:last-child { text-align: left; width: 60%; white-space: normal; }
td code { font: 0.8rem/1.45 ui-monospace, SFMono-Regular, Menlo, monospace; overflow-wrap: anywhere; }
.share { display: block; height: 4px; border-radius: 2px; background: var(--bar); margin: 0.35rem 0 0 auto; }
.none { background: var(--card); border: 1px dashed var(--line); border-radius: 10px; padding: 1.5rem;
  text-align: center; color: var(--soft); }
"""


def page(report: OptimizationReport) -> str:
    """The whole document."""
    return "\n".join(_document(report)) + "\n"


def _document(report: OptimizationReport) -> Iterator[str]:
    title = f"{report.database}: what to optimise"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
    yield f"<h1>{escape(report.database)}</h1>"
    yield f'<p class="about">{report.made_at:%Y-%m-%d %H:%M:%S} UTC · made in {report.seconds:.2f} s'
    yield f" · use of indexes counted since {report.since:%Y-%m-%d %H:%M} UTC or longer</p>"
    yield '<div class="counts">'
    for severity in Severity:
        yield f'<div class="count {severity.value}"><b>{report.count(severity)}</b>{severity.value}</div>'
    yield f'<div class="count"><b>{len(report.proposals)}</b>proposed changes</div></div>'
    yield "<h2>Findings</h2>"
    for finding in report.findings:
        yield from _article(finding)
    if not report.findings:
        yield '<p class="none">Nothing was found.</p>'
    if report.statements:
        yield "<h2>Statements by total time</h2>"
        yield from _table(report.statements)
    yield "</main></body></html>"


def _article(finding: Finding) -> Iterator[str]:
    yield f'<article class="{finding.severity.value}"><header>'
    yield f'<span class="badge">{finding.severity.value}</span><h3>{escape(finding.subject)}</h3>'
    yield f'<span class="kind">{escape(finding.kind.value)}</span></header>'
    yield f'<p class="what">{escape(finding.what)}.</p>'
    if finding.evidence:
        yield "<dl>"
        for name, value in finding.evidence.items():
            yield f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(shown(value))}</dd></div>"
        yield "</dl>"
    yield f'<p class="advice">{escape(finding.advice)}</p>'
    if finding.proposal is not None:
        yield f"<pre>{escape(finding.proposal.ddl)}</pre>"
        yield f'<div class="key">apply(["{escape(finding.proposal.key)}"], dry_run=False)</div>'
    if finding.statement is not None:
        yield f"<details><summary>The statement</summary><pre>{escape(finding.statement)}</pre></details>"
    yield "</article>"


def _table(statements: tuple[StatementStatistics, ...]) -> Iterator[str]:
    whole = max(one.total_seconds for one in statements) or 1.0
    yield '<div class="scroll"><table><thead><tr><th>total s</th><th>calls</th><th>mean ms</th><th>rows / call</th>'
    yield "<th>statement</th></tr></thead><tbody>"
    for one in statements:
        share = f'<span class="share" style="width:{max(2, round(100 * one.total_seconds / whole))}%"></span>'
        yield f"<tr><td>{one.total_seconds:,.3f}{share}</td><td>{one.calls:,}</td>"
        yield f"<td>{one.mean_seconds * 1000:,.3f}</td><td>{one.rows_per_call:,.1f}</td>"
        yield f"<td><code>{escape(one.query)}</code></td></tr>"
    yield "</tbody></table></div>"
