"""LocalCache: a few values in this process for a short time. No I/O; the clock is given."""

from __future__ import annotations

from collections.abc import Callable


class LocalCache:
    """Bytes by key, the least recently used dropped first; lives as long as its owner.

    Args:
        size: Values at most; 0 keeps none.
        ttl: Seconds a value is believed.
        clock: Seconds that only grow.
    """

    def __init__(self, *, size: int, ttl: float, clock: Callable[[], float]) -> None:
        self._size, self._ttl, self._clock = size, ttl, clock
        self._values: dict[str, tuple[float, bytes]] = {}  # in order of use

    def get(self, key: str) -> bytes | None:
        """The value, None if there is none or it is too old."""
        found = self._values.pop(key, None)
        if found is None or found[0] <= self._clock():
            return None
        self._values[key] = found
        return found[1]

    def set(self, key: str, value: bytes, ttl: float) -> None:
        """Keep a value for its own ttl or this cache's, whichever is shorter."""
        self._values.pop(key, None)
        if self._size:
            self._values[key] = (self._clock() + min(ttl, self._ttl), value)
            if len(self._values) > self._size:
                del self._values[next(iter(self._values))]

    def delete(self, key: str) -> None:
        """Forget a value."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
