"""MetricsMixin, as the seed uses it and in any order of bases."""

from __future__ import annotations

import time
from typing import Any

import pytest

from svcframework.config import ServiceConfig
from svcframework.mixins import CommonServiceBase, MetricsMixin
from svcframework.service import BaseService


class MetricsService(BaseService, MetricsMixin):  # type: ignore[type-arg]
    """The seed's example, word for word."""

    def __init__(self) -> None:
        super().__init__(ServiceConfig(name="metrics_service"))
        self.metrics_enabled = True

    async def perform_operation(self) -> str:
        return "done"

    async def track_operation(self, operation_name: str) -> Any:
        start_time = time.time()
        try:
            result = await self.perform_operation()
            self.record_metric(operation_name, "success", time.time() - start_time)
            return result
        except Exception:
            self.record_metric(operation_name, "error", time.time() - start_time)
            raise


class Failing(MetricsMixin, BaseService):  # type: ignore[type-arg]
    """The other order."""


async def test_seed_usage() -> None:
    """The example of the services document counts its operation."""
    service = MetricsService()
    assert "done" == await service.track_operation("load")
    assert (1, 1, 0) == tuple(
        service.metrics.operations["load"].snapshot()[key] for key in ("count", "success", "error")
    )


@pytest.mark.parametrize("kind", [MetricsService, Failing])
def test_outcomes_are_counted(kind: type[Any]) -> None:
    """Successes and errors are counted and timed under the operation's name, whatever the order of bases."""
    service = kind()
    service.record_metric("load", "success", 0.5)
    service.record_metric("load", "error", 1.5)
    figures = service.metrics.operations["load"]
    assert (2, 1, 1, 2.0) == (figures.count, figures.success, figures.error, figures.total)


def test_timer_counts_the_block() -> None:
    """A block that ends is a success, one that raises an error, and the error goes on."""
    service = Failing()
    with service.timer("load"):
        pass
    with pytest.raises(KeyError), service.timer("load"):
        raise KeyError
    figures = service.metrics.operations["load"]
    assert (1, 1) == (figures.success, figures.error)


def test_disabled_metrics_record_nothing() -> None:
    """The config switches counting off, and the instance can switch it on again."""
    service = Failing(ServiceConfig(metrics_enabled=False))
    service.record_metric("load", "success", 1)
    with service.timer("load"):
        pass
    assert {} == service.metrics.operations
    service.metrics_enabled = True
    service.record_metric("load", "success", 1)
    assert 1 == service.metrics.operations["load"].count


def test_wrong_outcome_is_refused() -> None:
    """A word that is no outcome is an error that lists the words."""
    with pytest.raises(ValueError, match="success, error"):
        Failing().record_metric("load", "sucess", 1)  # type: ignore[arg-type]


def test_common_base_has_its_mixins() -> None:
    """CommonServiceBase validates, reads configuration, counts and gathers."""

    class Service(CommonServiceBase[ServiceConfig]):
        pass

    service = Service()
    for method in ("validate", "get_config", "record_metric", "gather", "health_check"):
        assert callable(getattr(service, method))
    assert "service" == service.name
