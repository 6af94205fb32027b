"""What each step looks like: values in, something that rich can print out. Asks no service and waits for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from catalogue.demo.checks import Check
from catalogue.packages import Hit
from svcframework import HealthResult, HealthStatus, ServiceState
from svcframework.events import (
    Event,
    HealthChanged,
    RetryScheduled,
    ServiceCrashed,
    ServiceRestarting,
    ServiceStarted,
    ServiceStopped,
)

_BAR = 32  # characters of the timeline
_FLEXIBLE = {"message", "claim", "found", "until then it had"}  # columns that give way in a narrow terminal
_COLOURS = {
    HealthStatus.HEALTHY: "green",
    HealthStatus.DEGRADED: "yellow",
    HealthStatus.UNHEALTHY: "bold red",
    HealthStatus.UNKNOWN: "dim",
}


def timeline(spans: Sequence[tuple[str, float, float]], critical: Sequence[str]) -> Table:
    """When each service began to start and how long it took, as bars; solid where all the others waited for it."""
    table = _table(("service", ""), ("after", "right"), ("took", "right"), ("", ""))
    total = max((offset + seconds for _, offset, seconds in spans), default=0.0) or 1.0
    for name, offset, seconds in spans:
        before = round(offset / total * _BAR)
        length = max(1, round(seconds / total * _BAR))
        style, block = ("bold yellow", "█") if name in critical else ("cyan", "▒")
        bar = Text(" " * min(before, _BAR - 1) + block * length, style=style)
        table.add_row(Text(name, style=style if name in critical else ""), _ms(offset), _ms(seconds), bar)
    return table


def progress(console: Console) -> Progress:
    """A bar for the ingest."""
    columns = (TextColumn("  packages"), BarColumn(_BAR), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def searches(rows: Iterable[tuple[str, Sequence[Hit], float, float]]) -> Table:
    """Each query with its best hit, and the seconds it took cold and from the cache."""
    table = _table(
        ("query", ""), ("hits", "right"), ("best", ""), ("cold", "right"), ("cached", "right"), ("", "right")
    )
    for query, hits, cold, cached in rows:
        best = f"{hits[0].name} {hits[0].version}" if hits else "-"
        faster = f"{cold / cached:.0f}x" if cached else ""
        table.add_row(escape(query), str(len(hits)), best, _ms(cold), f"[green]{_ms(cached)}[/]", f"[dim]{faster}[/]")
    return table


def licences(counts: Iterable[tuple[str, int]]) -> str:
    """The most used licences on one line."""
    return "most used licences: " + ", ".join(f"{escape(name)} [dim]({number})[/]" for name, number in counts)


def outage_line(event: Event) -> str | None:
    """One line about an event of the outage; None for those that say nothing here."""
    if isinstance(event, ServiceCrashed):
        return f"[bold red]{event.service} crashed[/]: {escape(_short(event.error))}"
    if isinstance(event, ServiceRestarting):
        return f"{event.service} is started again in {event.delay:.1f} s (attempt {event.attempt})"
    if isinstance(event, ServiceStarted):
        return f"[green]{event.service} runs again[/], after {_ms(event.seconds)}"
    if isinstance(event, HealthChanged) and event.old is not None and event.old.status is not event.new.status:
        return f"health of {event.service}: {_health(event.old)} → {_health(event.new)}"
    if isinstance(event, RetryScheduled):
        return f"[yellow]a read failed and is retried[/]: {escape(_short(event.error))}"
    return None


def health(results: Mapping[str, HealthResult], states: Mapping[str, ServiceState]) -> Table:
    """How each service is."""
    table = _table(("service", ""), ("state", ""), ("health", ""), ("check", "right"), ("message", ""))
    for name, result in results.items():
        message = escape(_clip(result.message, 28))
        table.add_row(name, states[name].value, _health(result), _ms(result.latency), f"[dim]{message}[/]")
    return table


def metrics(services: Mapping[str, Mapping[str, Any]]) -> Table:
    """Calls, times and success of every operation of every service."""
    figures_of = [(title, "right") for title in ("calls", "average", "p95", "success")]
    table = _table(("service", ""), ("operation", ""), *figures_of)
    for service, snapshot in services.items():
        for operation, figures in snapshot["operations"].items():
            rate = figures["success_rate"]
            table.add_row(
                service,
                operation,
                f"{figures['count']}",
                f"{figures['avg_response_time']:.2f} ms",
                _ms(figures["p95_seconds"]),
                f"[{'green' if rate == 100 else 'yellow'}]{rate:.1f} %[/]",  # noqa: PLR2004 - percent
            )
            service = ""  # noqa: PLW2901 - named once, as a heading of its rows
    return table


def stops(events: Iterable[ServiceStopped], needs: Mapping[str, Sequence[str]]) -> Table:
    """In which order the services stopped, and what each of them needed until then."""
    table = _table(("", "right"), ("stopped", ""), ("took", "right"), ("until then it had", ""))
    for number, event in enumerate(events, 1):
        error = f" [red]{escape(str(event.error))}[/]" if event.error else ""
        table.add_row(
            str(number), event.service + error, _ms(event.seconds), f"[dim]{', '.join(needs[event.service])}[/]"
        )
    return table


def verdict(checks: Iterable[Check]) -> Table:
    """Every claim with its mark."""
    table = _table(("", ""), ("claim", ""), ("found", ""))
    for check in checks:
        mark = "[bold green]✓[/]" if check.is_true else "[bold red]✗[/]"
        table.add_row(mark, check.claim, Text(check.found, style="dim" if check.is_true else "red"))
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title, justify in columns:
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=title not in _FLEXIBLE)
    return table


def _health(result: HealthResult) -> str:
    return f"[{_COLOURS[result.status]}]{result.status.value}[/]"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _short(error: BaseException | None) -> str:
    return _clip("it ended" if error is None else str(error), 60)


def _clip(text: str, length: int) -> str:
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= length else f"{line[: length - 1]}…"
