"""Value types that every layer shares; nothing here does anything."""

from __future__ import annotations

import enum
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class Lifetime(enum.Enum):
    """How long an instance lives."""

    SINGLETON = "singleton"
    SCOPED = "scoped"
    TRANSIENT = "transient"


class ServiceState(enum.Enum):
    """Where a service is in its life."""

    REGISTERED = "registered"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_running(self) -> bool:
        """Calls are accepted: running or degraded."""
        return self in {ServiceState.RUNNING, ServiceState.DEGRADED}


class HealthStatus(enum.Enum):
    """What a health check found."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class HealthResult:
    """The outcome of one health check; truthy when healthy or degraded.

    `result["status"]` reads like the mapping that older code returned: `status` is then the word.

    Args:
        status: What was found.
        message: One line for an operator.
        latency: Seconds the check took.
        details: More for an operator; shown only to those who may see it.
        checked_at: When the check ended, in UTC.
    """

    status: HealthStatus
    message: str = ""
    latency: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    checked_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def healthy(cls, message: str = "", **details: Any) -> HealthResult:
        """All is well."""
        return cls(HealthStatus.HEALTHY, message, details=details)

    @classmethod
    def degraded(cls, message: str = "", **details: Any) -> HealthResult:
        """It works, but not as well as it should."""
        return cls(HealthStatus.DEGRADED, message, details=details)

    @classmethod
    def unhealthy(cls, message: str = "", **details: Any) -> HealthResult:
        """It does not work."""
        return cls(HealthStatus.UNHEALTHY, message, details=details)

    @classmethod
    def unknown(cls, message: str = "", **details: Any) -> HealthResult:
        """Nobody knows: not checked yet, or the last result has expired."""
        return cls(HealthStatus.UNKNOWN, message, details=details)

    def __bool__(self) -> bool:
        return self.status in {HealthStatus.HEALTHY, HealthStatus.DEGRADED}

    def __getitem__(self, key: str) -> Any:
        if key not in {"status", "message", "latency", "details", "checked_at"}:
            raise KeyError(key)
        value = getattr(self, key)
        return value.value if isinstance(value, HealthStatus) else value

    def __str__(self) -> str:
        return f"{self.status.value}: {self.message}" if self.message else self.status.value


@dataclass(frozen=True, slots=True)
class Location:
    """A place in somebody's source; prints as `file:line`."""

    file: str
    line: int

    @classmethod
    def of_caller(cls, depth: int = 1) -> Location:
        """The line that called the function that asks, `depth` frames further up."""
        frame = sys._getframe(depth + 1)  # noqa: SLF001 - the public inspect.stack() reads every source file
        return cls(frame.f_code.co_filename, frame.f_lineno)

    @classmethod
    def of(cls, target: object) -> Location | None:
        """Where a class or function was written; None for what has no source of ours."""
        code = getattr(target, "__code__", None) or getattr(getattr(target, "__init__", None), "__code__", None)
        return None if code is None else cls(code.co_filename, code.co_firstlineno)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Restart:
    """What happens when a service's `on_run` ends or raises.

    The names are Erlang's: a *permanent* service is always restarted, a *transient* one after an error,
    a *temporary* one never. More than `max_restarts` within `within` seconds escalate: the host stops.

    Args:
        on_return: Restart when `on_run` returns.
        on_error: Restart when `on_run` raises.
        max_restarts: How many restarts in `within` are borne.
        within: Seconds of the sliding window.
        delay: Seconds before the first restart; doubled each time.
        max_delay: Seconds that no single delay exceeds.
        jitter: The share of the delay that is drawn by chance, 0 to 1.
    """

    on_return: bool
    on_error: bool
    max_restarts: int = 5
    within: float = 60.0
    delay: float = 0.1
    max_delay: float = 30.0
    jitter: float = 0.5

    @classmethod
    def permanent(cls, **limits: Any) -> Restart:
        """Restarted whenever `on_run` ends."""
        return cls(on_return=True, on_error=True, **limits)

    @classmethod
    def transient(cls, **limits: Any) -> Restart:
        """Restarted when `on_run` raises; a return is a normal end. The default."""
        return cls(on_return=False, on_error=True, **limits)

    @classmethod
    def temporary(cls) -> Restart:
        """Never restarted. An error escalates at once if the service is critical."""
        return cls(on_return=False, on_error=False)
