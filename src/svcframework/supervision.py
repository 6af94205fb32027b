"""What an end of `on_run` means: the arithmetic of restart policies. No clock, no task and no service here."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcframework._types import Restart


@dataclass(frozen=True, slots=True)
class Again:
    """Restart.

    Args:
        attempt: Which restart of its window this is, from 1.
        delay: Seconds to wait before it.
    """

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Restart no more: the policy forbids it (`max_restarts` is 0) or its intensity is exceeded.

    Args:
        max_restarts: Restarts that were borne.
        within: Seconds of the window.
    """

    max_restarts: int
    within: float


class Supervisor:
    """Counts the restarts of one service; lives from its first start to its last stop.

    Args:
        policy: What the service's author or configuration asked for.
        draw: Gives a number from 0 up to 1, for the jitter.
    """

    __slots__ = ("_draw", "_failed_starts", "_policy", "_restarts")

    def __init__(self, policy: Restart, draw: Callable[[], float]) -> None:
        self._policy, self._draw = policy, draw
        self._restarts: deque[float] = deque()
        self._failed_starts = 0

    def bears(self, *, error: bool) -> bool:
        """Whether an end of that kind is answered with a restart at all."""
        return self._policy.on_error if error else self._policy.on_return

    def after_crash(self, *, error: bool, now: float) -> Again | GiveUp:
        """What follows an end of `on_run`, or a restart that failed.

        Args:
            error: Whether it raised.
            now: Seconds on any clock that never goes back.
        """
        if not self.bears(error=error):
            return GiveUp(0, self._policy.within)
        while self._restarts and now - self._restarts[0] > self._policy.within:
            self._restarts.popleft()
        if len(self._restarts) >= self._policy.max_restarts:
            return GiveUp(self._policy.max_restarts, self._policy.within)
        self._restarts.append(now)
        return Again(len(self._restarts), backoff(self._policy, len(self._restarts), self._draw()))

    def after_failed_start(self) -> Again:
        """What follows a start of an optional service that failed: another, for ever, ever later."""
        self._failed_starts += 1
        return Again(self._failed_starts, backoff(self._policy, self._failed_starts, self._draw()))

    def came_up(self) -> None:
        """The service runs: the next failed start is a first one again."""
        self._failed_starts = 0


def backoff(policy: Restart, attempt: int, draw: float) -> float:
    """Seconds before restart number `attempt` (from 1).

    The delay doubles each time up to `max_delay`; the share `jitter` of it is left to chance, so that services
    which fell together don't rise together.

    >>> from svcframework._types import Restart
    >>> [backoff(Restart.transient(delay=1.0, max_delay=5.0), attempt, 0.0) for attempt in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]
    """
    longest = min(policy.delay * 2.0 ** min(attempt - 1, 60), policy.max_delay)
    return longest * (1.0 - policy.jitter * draw)
