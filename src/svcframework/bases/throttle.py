"""A token bucket for outgoing calls. Ours and not that of `limits`, whose asynchronous storage is asyncio-only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from svcframework.deadlines import remaining
from svcframework.errors import RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable


class TokenBucket:
    """Lets `rate` calls per second through, after a burst; waiting callers go in the order they came.

    Lives as long as its service; for one event loop.

    Args:
        name: What the error names.
        rate: Calls per second in the long run.
        burst: Calls that may be made at once after a pause.
        clock: Seconds that only grow.

    Raises:
        ValueError: The rate is not above 0, or the burst is below 1.
    """

    def __init__(
        self, name: str, rate: float, *, burst: int = 1, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        if not rate > 0 or burst < 1:
            raise ValueError(f"{name}: a rate limit needs a rate above 0 and a burst of 1 or more")
        self.name, self.rate, self.burst = name, rate, burst
        self._clock = clock
        self._tokens = float(burst)  # below 0 by what waiting callers have taken in advance
        self._seen: float | None = None

    async def acquire(self) -> None:
        """Return when a call may be made.

        Raises:
            RateLimitedError: The caller's deadline would pass first; said at once and not at the deadline.
        """
        self._refill()
        wait = max(0.0, (1 - self._tokens) / self.rate)
        left = remaining()
        if left is not None and wait > left:
            raise RateLimitedError(f"{self.name}: our own limit of {self.rate:g} calls/s is used up", retry_after=wait)
        self._tokens -= 1
        if not wait:
            return
        try:
            await anyio.sleep(wait)
        except BaseException:  # cancelled: somebody else may have it
            self._tokens += 1
            raise

    def _refill(self) -> None:
        now = self._clock()
        if self._seen is not None:
            self._tokens = min(float(self.burst), self._tokens + (now - self._seen) * self.rate)
        self._seen = now
