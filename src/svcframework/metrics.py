"""Counts and times of operations, in constant memory. Knows no exporter: they read `snapshot()` when they scrape."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

Outcome = Literal["success", "error", "cancelled"]
"""How an operation ended. A cancelled one is neither a success nor an error."""

BUCKETS = 64
"""Bucket n counts durations of [2**(n-1), 2**n) nanoseconds; the last one holds 146 years and more."""


class OperationMetrics:
    """Counts and times of one operation; lives as long as its `ServiceMetrics`.

    Times are kept in whole nanoseconds, because integers neither round nor drift. Recording is a handful of
    attribute updates without a lock or a call between reading and writing, and so exact under the GIL; without
    one (free-threaded builds) concurrent threads may lose a count.
    """

    __slots__ = ("buckets", "cancelled", "error", "finished", "max_ns", "min_ns", "started", "total_ns")

    def __init__(self) -> None:
        self.started = 0
        """Calls that have begun."""
        self.finished = 0
        """Calls that have ended, however they did."""
        self.error = 0
        """Calls that raised."""
        self.cancelled = 0
        """Calls that were cancelled: neither success nor error."""
        self.total_ns = 0
        self.min_ns = 0
        self.max_ns = 0
        self.buckets = [0] * BUCKETS

    def finish(self, nanoseconds: int) -> None:
        """A call that was counted in `started` ended after `nanoseconds`; the caller adds to error or cancelled."""
        if nanoseconds > self.max_ns:  # noqa: PLR1730 - max() costs a call, this is the hot path
            self.max_ns = nanoseconds
        if nanoseconds < self.min_ns or not self.finished:
            self.min_ns = nanoseconds
        self.total_ns += nanoseconds
        self.buckets[nanoseconds.bit_length()] += 1
        self.finished += 1

    def record(self, outcome: Outcome, seconds: float) -> None:
        """Count one call that took `seconds`. A negative time, as of a clock set back, counts as 0."""
        self.started += 1
        if outcome == "error":
            self.error += 1
        elif outcome == "cancelled":
            self.cancelled += 1
        self.finish(min(max(0, round(seconds * 1e9)), 2 ** (BUCKETS - 1) - 1))

    @property
    def count(self) -> int:
        """Calls that succeeded or failed; the cancelled ones are apart."""
        return self.finished - self.cancelled

    @property
    def success(self) -> int:
        """Calls that returned."""
        return self.finished - self.cancelled - self.error

    @property
    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return self.started - self.finished

    @property
    def total(self) -> float:
        """Seconds of all ended calls together."""
        return self.total_ns / 1e9

    @property
    def min(self) -> float:
        """Seconds of the shortest call; 0 before the first."""
        return self.min_ns / 1e9

    @property
    def max(self) -> float:
        """Seconds of the longest call; 0 before the first."""
        return self.max_ns / 1e9

    @property
    def p50(self) -> float:
        """Half of the calls took at most so many seconds."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """95 of 100 calls took at most so many seconds."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """99 of 100 calls took at most so many seconds."""
        return self.percentile(99)

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of the calls did not exceed.

        Interpolated within a bucket, whose upper bound is twice its lower one, and within the shortest and longest
        call: off by less than a factor of two, exact when all calls took the same time.

        Args:
            percent: 0 to 100.

        Returns:
            Seconds; 0 before the first call.
        """
        rank = percent / 100 * sum(self.buckets)
        below = 0
        for place, held in enumerate(self.buckets):
            if held and below + held >= rank:
                low, high = (1 << place) >> 1, (1 << place) - 1
                low, high = max(low, self.min_ns), min(high, self.max_ns)
                return (low + (high - low) * max(0.0, rank - below) / held) / 1e9
            below += held
        return 0.0

    def add(self, other: OperationMetrics) -> None:
        """Take in what another operation has counted."""
        if other.finished and (not self.finished or other.min_ns < self.min_ns):
            self.min_ns = other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.started += other.started
        self.finished += other.finished
        self.error += other.error
        self.cancelled += other.cancelled
        self.total_ns += other.total_ns
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def snapshot(self) -> dict[str, Any]:
        """The figures now, as `ServiceMetrics.snapshot()` shows them for one operation."""
        count, success, error = self.count, self.success, self.error
        return {
            "count": count,
            "success": success,
            "error": error,
            "cancelled": self.cancelled,
            "in_flight": self.in_flight,
            "avg_response_time": self.total_ns / 1e6 / self.finished if self.finished else 0.0,
            "success_rate": 100.0 * success / count if count else 100.0,
            "error_rate": 100.0 * error / count if count else 0.0,
            "total_seconds": self.total,
            "min_seconds": self.min,
            "max_seconds": self.max,
            "p50_seconds": self.p50,
            "p95_seconds": self.p95,
            "p99_seconds": self.p99,
        }


class ServiceMetrics:
    """Counts and times of one service's operations; lives as long as the service.

    Args:
        service: The service's name.
    """

    __slots__ = ("_operations", "service")

    def __init__(self, service: str) -> None:
        self.service = service
        self._operations: dict[str, OperationMetrics] = {}

    def operation(self, name: str) -> OperationMetrics:
        """The metrics of one operation, made on first use. Names are few and fixed: never put an id into one."""
        found = self._operations.get(name)
        # setdefault is atomic, so that two threads get the same one
        return self._operations.setdefault(name, OperationMetrics()) if found is None else found

    @property
    def operations(self) -> Mapping[str, OperationMetrics]:
        """All operations so far, by name; a copy."""
        return dict(self._operations)

    def record(self, operation: str, outcome: Outcome, seconds: float) -> None:
        """Count one call of `operation`.

        Args:
            operation: Its name.
            outcome: `success`, `error` or `cancelled`.
            seconds: How long it took.

        Raises:
            ValueError: The outcome is another word.
        """
        if outcome not in {"success", "error", "cancelled"}:
            raise ValueError(
                f"{self.service}.{operation}: outcome {outcome!r} is unknown; record success, error or cancelled"
            )
        self.operation(operation).record(outcome, seconds)

    @contextmanager
    def timer(self, operation: str) -> Generator[None, None, None]:
        """Time and count the block: a success if it ends, an error if it raises, cancelled if it was."""
        metrics = self.operation(operation)
        metrics.started += 1
        begun = time.perf_counter_ns()
        try:
            yield
        except Exception:
            metrics.error += 1
            raise
        except GeneratorExit:  # the caller's generator was closed early, which is a normal end
            raise
        except BaseException:
            metrics.cancelled += 1
            raise
        finally:
            metrics.finish(time.perf_counter_ns() - begun)

    def snapshot(self) -> dict[str, Any]:
        """The figures now: of the service as a whole, and the same of each operation below `operations`.

        Returns:
            `count`, `success`, `error`, `cancelled`, `in_flight`; `avg_response_time` in milliseconds;
            `success_rate` and `error_rate` in percent (100 and 0 before the first call); `total_seconds`,
            `min_seconds`, `max_seconds`, `p50_seconds`, `p95_seconds`, `p99_seconds`; and `service`.
        """
        operations = self.operations
        together = OperationMetrics()
        for metrics in operations.values():
            together.add(metrics)
        each = {name: metrics.snapshot() for name, metrics in operations.items()}
        return {"service": self.service, **together.snapshot(), "operations": each}
