"""MetricsMixin: counts and times of a service's own operations, under names of its choice."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from svcframework.metrics import Outcome, ServiceMetrics
    from svcframework.service import BaseService


class MetricsMixin:
    """Adds `record_metric` and `timer` to a service; mixed into a `BaseService`, in either order.

    Methods under `@service_method` are counted without it. The names of operations are few and fixed.
    """

    @property
    def metrics_enabled(self) -> bool:
        """Whether anything is counted: as set on the instance, or else in its config."""
        set_here = self.__dict__.get("_metrics_enabled")
        if set_here is not None:
            return bool(set_here)
        return bool(getattr(cast("BaseService[Any]", self).config, "metrics_enabled", True))

    @metrics_enabled.setter
    def metrics_enabled(self, enabled: bool) -> None:
        self.__dict__["_metrics_enabled"] = enabled

    def record_metric(self, operation: str, outcome: Outcome, seconds: float) -> None:
        """Count one call of `operation`.

        Args:
            operation: Its name.
            outcome: `success`, `error` or `cancelled`.
            seconds: How long it took.

        Raises:
            ValueError: The outcome is another word.
        """
        if self.metrics_enabled:
            self._own_metrics.record(operation, outcome, seconds)

    def timer(self, operation: str) -> AbstractContextManager[None]:
        """Time and count the `with` block: a success if it ends, an error if it raises. It may await."""
        return self._own_metrics.timer(operation) if self.metrics_enabled else nullcontext()

    @property
    def _own_metrics(self) -> ServiceMetrics:
        return cast("BaseService[Any]", self).metrics
