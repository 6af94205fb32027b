"""A circuit breaker: calls to what is down fail at once. One small protocol, so that a shared one can take its place.

Ours and not purgatory, which the survey had picked: its half-open state lets every caller through, it counts
cancellations as failures, and its clock can't be injected.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Literal, Protocol

from svcframework.errors import CircuitOpenError

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = Literal["success", "failure", "neutral"]
"""How a call ended, as to the other side: it works, it doesn't, or nobody can tell (cancelled, throttled)."""

CircuitState = Literal["closed", "open", "half-open"]


class CircuitBreaker(Protocol):
    """Decides whether a call is tried, and learns how it ended."""

    @property
    def state(self) -> CircuitState:
        """Closed lets all calls through, open none, half-open one."""

    def acquire(self) -> int:
        """Ask to make a call; the ticket is to be given back with `release`.

        Raises:
            CircuitOpenError: Not now.
        """

    def release(self, ticket: int, outcome: Outcome) -> None:
        """Tell how the call ended."""


class ConsecutiveBreaker:
    """Opens after so many failures in a row, and lets a single probe through from time to time.

    Lives as long as its service; for one event loop.

    Args:
        name: What `CircuitOpenError` names.
        failures: Failures in a row that open the circuit.
        recovery: Seconds between opening and the probe.
        clock: Seconds that only grow.
    """

    def __init__(
        self, name: str, *, failures: int = 5, recovery: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.failures, self.recovery = name, failures, recovery
        self._clock = clock
        self._count = 0
        self._open_until = -math.inf
        self._ticket = 0  # changes when the circuit opens or closes: older calls have no say any more
        self._closed = True
        self._probing = False

    @property
    def state(self) -> CircuitState:
        """Closed lets all calls through, open none, half-open one."""
        if self._closed:
            return "closed"
        return "half-open" if self._probing or self._clock() >= self._open_until else "open"

    def acquire(self) -> int:
        """Ask to make a call.

        Raises:
            CircuitOpenError: The circuit is open, or another call is the probe.
        """
        if not self._closed:
            left = self._open_until - self._clock()
            if left > 0 or self._probing:
                raise CircuitOpenError(self.name, retry_after=max(left, 0.0))
            self._probing = True
        return self._ticket

    def release(self, ticket: int, outcome: Outcome) -> None:
        """Tell how the call ended. A call that began before the circuit turned counts no more."""
        if ticket != self._ticket:
            return
        if outcome == "neutral":
            self._probing = False  # the next caller is the probe
        elif outcome == "success":
            self._count = 0
            if not self._closed:
                self._turn(closed=True)
        else:
            self._count += 1
            if not self._closed or self._count >= self.failures:
                self._open_until = self._clock() + self.recovery
                self._turn(closed=False)

    def _turn(self, *, closed: bool) -> None:
        self._closed, self._probing = closed, False
        self._count = 0
        self._ticket += 1
