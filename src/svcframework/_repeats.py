"""Repeats: of what comes again and again, lets the first few through and counts the rest. It writes nothing itself."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")

_KEYS = 1024  # kinds that are remembered; the least recently seen is forgotten


class Repeats(Generic[KeyT]):
    """Lets `limit` events of a kind through in `window` seconds; thread-safe.

    Args:
        window: Seconds.
        limit: Events per window and kind.
        clock: Seconds that only grow.
    """

    __slots__ = ("_clock", "_kinds", "_limit", "_lock", "_window")

    def __init__(self, *, window: float = 60.0, limit: int = 10, clock: Callable[[], float] = time.monotonic) -> None:
        self._window, self._limit, self._clock = window, limit, clock
        self._kinds: OrderedDict[KeyT, _Window] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, key: KeyT) -> int | None:
        """Count one event of a kind.

        Returns:
            How many were held back since the last one that came through; None if this one is held back too.
        """
        now = self._clock()
        with self._lock:
            seen = self._kinds.setdefault(key, _Window(now))
            self._kinds.move_to_end(key)
            if len(self._kinds) > _KEYS:
                self._kinds.popitem(last=False)
            seen.count += 1
            if now - seen.begun >= self._window:
                seen.begun, seen.admitted = now, 0
            if seen.admitted >= self._limit:
                seen.held_back += 1
                return None
            seen.admitted += 1
            held_back, seen.held_back = seen.held_back, 0
            return held_back

    @property
    def counts(self) -> Mapping[KeyT, int]:
        """How many there were of each kind; of the 1024 kinds that were seen last."""
        with self._lock:
            return MappingProxyType({key: seen.count for key, seen in self._kinds.items()})


@dataclass(slots=True)
class _Window:
    """What was seen of one kind."""

    begun: float
    count: int = 0
    admitted: int = 0
    held_back: int = 0
