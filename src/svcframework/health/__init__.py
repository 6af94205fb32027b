"""Health: what services say about themselves, cached, settled and put into words for probes."""

from svcframework.health.monitor import HealthMonitor, HealthTarget
from svcframework.health.report import HealthReport

__all__ = ["HealthMonitor", "HealthReport", "HealthTarget"]
