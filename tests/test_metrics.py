"""What ServiceMetrics counts, and that its memory is constant."""

import sys

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework.metrics import OperationMetrics, ServiceMetrics


def test_rates_are_in_percent_and_the_average_in_milliseconds() -> None:
    """The snapshot has the units that the seeds print."""
    metrics = ServiceMetrics("user_service")
    for _ in range(3):
        metrics.record("get", "success", 0.010)
    metrics.record("get", "error", 0.050)

    found = metrics.snapshot()

    assert (4, 3, 1) == (found["count"], found["success"], found["error"])
    assert (20.0, 75.0, 25.0) == (found["avg_response_time"], found["success_rate"], found["error_rate"])
    assert found["operations"]["get"]["p99_seconds"] == found["p99_seconds"]


def test_a_service_is_the_sum_of_its_operations() -> None:
    """Shortest, longest and total are over all operations, whichever came first."""
    metrics = ServiceMetrics("s")
    metrics.record("slow", "success", 2.0)
    metrics.record("fast", "success", 0.5)
    metrics.operation("never called")

    found = metrics.snapshot()

    assert (0.5, 2.0, 2.5) == (found["min_seconds"], found["max_seconds"], found["total_seconds"])
    assert {"slow", "fast", "never called"} == found["operations"].keys()


def test_nothing_recorded_reads_as_all_well() -> None:
    """Before the first call there are no errors, no times and no division by zero."""
    found = ServiceMetrics("s").snapshot()

    assert (0, 100.0, 0.0, 0.0, 0.0) == (
        found["count"],
        found["success_rate"],
        found["error_rate"],
        found["avg_response_time"],
        found["p95_seconds"],
    )


def test_cancelled_calls_are_neither_success_nor_error() -> None:
    """They have a counter of their own and leave the rates alone."""
    metrics = ServiceMetrics("s")
    metrics.record("get", "success", 0.1)
    metrics.record("get", "cancelled", 0.1)

    found = metrics.snapshot()

    assert (1, 1, 0, 1) == (found["count"], found["success"], found["error"], found["cancelled"])
    assert 100.0 == found["success_rate"]


def test_an_unknown_outcome_is_refused() -> None:
    """A word that isn't counted anywhere is a mistake of the caller's."""
    with pytest.raises(ValueError, match="'failure' is unknown; record success, error or cancelled"):
        ServiceMetrics("s").record("get", "failure", 0.1)  # type: ignore[arg-type]


def test_the_timer_counts_how_its_block_ended() -> None:
    """A block that raises is an error, one that ends a success, and in between it is in flight."""
    metrics = ServiceMetrics("s")
    with metrics.timer("get"):
        assert 1 == metrics.operation("get").in_flight
    with pytest.raises(KeyError), metrics.timer("get"):
        raise KeyError

    found = metrics.operation("get")

    assert (1, 1, 0) == (found.success, found.error, found.in_flight)


async def test_the_timer_counts_a_cancelled_block_apart() -> None:
    """A cancellation is no failure of the service."""
    metrics = ServiceMetrics("s")
    with anyio.CancelScope() as scope, metrics.timer("get"):
        scope.cancel()
        await anyio.sleep(1)

    assert (0, 0, 1) == (
        metrics.operation("get").success,
        metrics.operation("get").error,
        metrics.operation("get").cancelled,
    )


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=50), st.floats(min_value=0, max_value=100))
def test_a_percentile_is_off_by_less_than_a_factor_of_two(seconds: list[float], percent: float) -> None:
    """The estimate lies in the bucket of the true value and within the shortest and longest call."""
    metrics = OperationMetrics()
    for each in seconds:
        metrics.record("success", each)
    ordered = sorted(seconds)
    # the smallest duration that `percent` of the calls did not exceed
    true = next(value for place, value in enumerate(ordered, 1) if place >= percent / 100 * len(ordered))

    found = metrics.percentile(percent)

    assert metrics.min <= found <= metrics.max
    assert true / 2 - 2e-9 <= found <= true * 2 + 2e-9


def test_percentiles_are_exact_when_all_calls_took_the_same_time() -> None:
    """Within a bucket the shortest and longest call bound the estimate."""
    metrics = OperationMetrics()
    for _ in range(100):
        metrics.record("success", 0.003)

    assert [0.003] * 3 == [metrics.p50, metrics.p95, metrics.p99]


def test_absurd_durations_are_kept_in_range() -> None:
    """A clock set back or a duration of centuries neither raises nor breaks the buckets."""
    metrics = OperationMetrics()
    for seconds in (-5.0, 0.0, 1e18):
        metrics.record("success", seconds)

    assert (3, 3, 0.0) == (metrics.count, sum(metrics.buckets), metrics.min)


def test_memory_is_constant() -> None:
    """A million calls take no more room than the first."""
    metrics = OperationMetrics()
    metrics.record("success", 0.1)
    before = sys.getsizeof(metrics) + sys.getsizeof(metrics.buckets)
    for place in range(10_000):
        metrics.record("success", place / 1e4)

    assert before == sys.getsizeof(metrics) + sys.getsizeof(metrics.buckets)
