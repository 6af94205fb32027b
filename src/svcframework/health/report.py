"""HealthReport: a group of results as one verdict and as JSON. Knows no clock and checks nothing.

The words and keys are those of the health check response draft for HTTP APIs (`application/health+json`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from svcframework._redaction import redact
from svcframework._secrettext import redact_text
from svcframework._types import HealthStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from svcframework._types import HealthResult, ServiceState

Verdict = Literal["pass", "warn", "fail"]

MEDIA_TYPE = "application/health+json"
"""The media type of both views."""

_WORDS: dict[HealthStatus, Verdict] = {
    HealthStatus.HEALTHY: "pass",
    HealthStatus.DEGRADED: "warn",
    HealthStatus.UNHEALTHY: "fail",
    HealthStatus.UNKNOWN: "fail",
}


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """One service's line in a report.

    Args:
        result: The settled result, unknown if there is none or it has expired.
        state: Where the service is in its life.
        critical: Whether the whole fails with it.
    """

    result: HealthResult
    state: ServiceState
    critical: bool

    @property
    def verdict(self) -> Verdict:
        """The service's own word; an optional service warns at worst."""
        word = _WORDS[self.result.status]
        return "warn" if word == "fail" and not self.critical else word


@dataclass(frozen=True, slots=True)
class HealthReport:
    """One probe's answer: truthy unless it failed.

    Args:
        group: `liveness`, `readiness` or `startup`.
        reason: Why it fails whatever the services say (`starting`, `draining`), empty otherwise.
        services: The services it looked at; none for liveness.
    """

    group: str
    reason: str = ""
    services: Mapping[str, ServiceHealth] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The worst word of all: `pass`, `warn` (still serves) or `fail`."""
        words = {health.verdict for health in self.services.values()}
        if self.reason or "fail" in words:
            return "fail"
        return "warn" if "warn" in words else "pass"

    def __bool__(self) -> bool:
        return self.verdict != "fail"

    @property
    def status_code(self) -> int:
        """The HTTP status: 200, or 503 when it failed."""
        return 200 if self else 503

    def public_view(self) -> dict[str, Any]:
        """The verdict and nothing else: fit for anybody's eyes. JSON-ready."""
        return {"status": self.verdict}

    def details_view(self) -> dict[str, Any]:
        """All that is known, for those who may see it. JSON-ready."""
        view: dict[str, Any] = {"status": self.verdict, "description": self.group}
        if self.reason:
            view["output"] = self.reason
        if self.services:
            view["checks"] = {name: [_check_view(name, health)] for name, health in self.services.items()}
        return view


def _check_view(name: str, health: ServiceHealth) -> dict[str, Any]:
    result = health.result
    view: dict[str, Any] = {
        "componentId": name,
        "componentType": "component",
        "status": health.verdict,
        "observedValue": round(result.latency, 6),
        "observedUnit": "s",
        "time": result.checked_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "state": health.state.value,
        "health": result.status.value,
        "critical": health.critical,
    }
    if result.message:
        view["output"] = redact_text(result.message)
    if result.details:
        view["details"] = _json_ready(result.details)
    return view


def _json_ready(details: Mapping[str, Any]) -> Any:
    """The details of somebody else's check as JSON values without secrets; what JSON lacks becomes its text."""
    return redact(msgspec.to_builtins(dict(details), enc_hook=str, str_keys=True))
