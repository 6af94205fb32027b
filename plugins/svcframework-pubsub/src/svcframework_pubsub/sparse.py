"""Sparse: a log that says the same thing once in a while, and how often it was meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Sparse:
    """Lets one event of a kind through per `interval` seconds; lives as long as who logs.

    Args:
        log: Takes the event's text and its fields.
        interval: Seconds.
        clock: Seconds that only grow.
    """

    def __init__(
        self, log: Callable[..., Any], *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._interval, self._clock = log, interval, clock
        self._kinds: dict[str, tuple[float, int]] = {}  # when it was let through, and how many weren't since

    def __call__(self, event: str, **fields: Any) -> None:
        """Log, unless the same event was logged a moment ago.

        Args:
            event: What happened; the kind.
            fields: The rest, which doesn't make it another kind.
        """
        now = self._clock()
        last, held_back = self._kinds.get(event, (float("-inf"), 0))
        if now - last < self._interval:
            self._kinds[event] = (last, held_back + 1)
            return
        self._kinds[event] = (now, 0)
        if held_back:
            fields["since_last"] = held_back
        self._log(event, **fields)
