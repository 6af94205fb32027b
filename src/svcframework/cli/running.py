"""Commands that start services, or ask those that run."""

from __future__ import annotations

import functools
import json
import urllib.error
import urllib.request
from typing import Any, Literal

import anyio
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from svcframework import log
from svcframework._loading import load_host
from svcframework._secrettext import redact_text
from svcframework._types import ServiceState
from svcframework.errors import CommandError, ServiceNotFoundError
from svcframework.host import ServiceHost

_NEVER_TRIED = {ServiceState.REGISTERED, ServiceState.STOPPED}
_COLOURS = {"healthy": "green", "pass": "green", "degraded": "yellow", "warn": "yellow"}


def run(
    target: str,
    *,
    backend: Literal["asyncio", "uvloop", "trio"] = "asyncio",
    health_port: int | None = None,
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:
    """Run a host until it is told to end.

    Args:
        target: Where the host is, e.g. app.container:host.
        backend: The event loop.
        health_port: Serve /livez, /readyz and /startupz on this port of the loopback address.
        log_level: What is logged, unless the project has configured structlog itself.
    """
    host = load_host(target)
    if not log.is_configured():
        log.configure_logging(log_level)
    host.run(backend=backend, health_port=health_port)
    return 0


def doctor(target: str, service: str | None = None) -> int:
    """Start one service with what it needs, or all, check their health, stop them, and tell.

    Args:
        target: Where the host is, e.g. app.container:host.
        service: The service's name.
    """
    host = load_host(target)
    if service is not None:
        if service not in host:
            raise ServiceNotFoundError(service, known=host.graph.nodes)
        host.register_group("svc doctor", [service])
    return anyio.run(functools.partial(_examine, host, group=None if service is None else "svc doctor"))


def health(target: str | None = None, *, port: int | None = None, token: str | None = None) -> int:
    """Ask a running host how it is by its health port, or start a host and check every service.

    Args:
        target: The host to start, e.g. app.container:host.
        port: The health port of a host that runs on this machine.
        token: Shows the details, if the host knows the same token.
    """
    if port is not None:
        return _ask(port, token)
    if target is None:
        raise CommandError("Name a host to start (svc health app.container:host) or a port to ask (--port 8080).")
    return anyio.run(functools.partial(_examine, load_host(target)))


async def _examine(host: ServiceHost, *, group: str | None = None) -> int:
    await host.start(group=group)
    try:
        results = await host.health.check_all(fresh=True)
        started = dict(host.lifecycle.started_in)
        states = dict(host.states)
    finally:
        await host.stop(reason="examined")
    table = Table("service", "health", "start", "check", "message")
    examined = {name: result for name, result in results.items() if states[name] not in _NEVER_TRIED}
    for name, result in examined.items():
        word = result.status.value
        times = (f"{started.get(name, 0.0) * 1000:.0f} ms", f"{result.latency * 1000:.0f} ms")
        table.add_row(name, f"[{_COLOURS.get(word, 'red')}]{word}[/]", *times, escape(redact_text(result.message)))
    Console().print(table)
    return 0 if all(examined.values()) else 1


def _ask(port: int, token: str | None) -> int:
    path = "readyz" if token is None else "healthz"
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5.0) as answer:  # noqa: S310 - likewise
            body, is_good = answer.read(), True
    except urllib.error.HTTPError as refusal:
        with refusal:
            body, is_good = refusal.read(), False
        if refusal.code not in {200, 503}:
            raise CommandError(f"Port {port} answers HTTP {refusal.code} to /{path}: is the token right?") from None
    except OSError as error:
        raise CommandError(f"Nothing answers on port {port}: {getattr(error, 'reason', error)}.") from None
    view: dict[str, Any] = json.loads(body)
    console = Console()
    console.print(_line(view))
    for name, checks in view.get("checks", {}).items():
        console.print(f"  {_line(checks[0], name)}")
    return 0 if is_good else 1


def _line(view: dict[str, Any], name: str = "") -> str:
    """A word in its colour, and what there is to say."""
    words = escape(f"{name} {view.get('output', '')}".strip())
    return f"[{_COLOURS.get(view['status'], 'red')}]{view['status']}[/] {words}"
