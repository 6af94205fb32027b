"""LocalCache: values in this process for a short time, within a bound. No I/O; the clock is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from svcframework_redis.caching.counts import CacheCounts
from svcframework_redis.caching.entries import Entry
from svcframework_redis.caching.values import MISSING, Codec, is_immutable

_OVERHEAD = 300  # bytes that an entry needs besides its value, about


class LocalEntry:
    """One value; lives until it is dropped.

    `kind` is the type that `value` was read as. Where a caller could change the value it is kept as bytes only, and
    `kind` is none that anybody asks for.
    """

    __slots__ = ("deadline", "entry", "kind", "size", "tags", "used", "value")

    def __init__(self, entry: Entry, deadline: float, size: int, tags: tuple[str, ...]) -> None:
        self.entry, self.deadline, self.size, self.tags = entry, deadline, size, tags
        self.value: Any = None
        self.kind: Any = MISSING
        self.used = False


class LocalPlace:
    """Where a value would be kept in this process, for callers that ask for the same one again; lives as they do."""

    __slots__ = ("cache", "clock", "counts", "entries", "kind", "name")

    def __init__(
        self, name: str, kind: Any, entries: dict[str, LocalEntry], clock: Callable[[], float], counts: CacheCounts
    ) -> None:
        self.name, self.kind, self.entries, self.clock, self.counts = name, kind, entries, clock, counts
        self.cache: Any = None
        """The cache whose entries these are."""


class LocalCache:
    """Entries by name, those not used lately dropped first; lives as long as its owner.

    Whoever reads a value from elsewhere takes a ticket first (`begin`), and what he has read is taken in only if
    nobody has dropped the name since: an answer that was overtaken by the news of a change is thrown away.

    Args:
        size: Entries at most; 0 keeps none.
        limit: Bytes at most, of all values as they are written.
        codec: Reads the values.
        clock: Seconds that only grow.
    """

    def __init__(self, *, size: int, limit: int, codec: Codec, clock: Callable[[], float]) -> None:
        self.entries: dict[str, LocalEntry] = {}
        """What is kept, oldest first. Others may read it, to save a call."""
        self._size, self._limit, self._codec, self._clock = size, limit, codec, clock
        self._bytes = 0
        self._tagged: dict[str, set[str]] = {}
        self._tickets: dict[str, object] = {}

    @property
    def size_in_bytes(self) -> int:
        """Bytes of what is kept, about."""
        return self._bytes

    def __len__(self) -> int:
        return len(self.entries)

    def peek(self, name: str, kind: Any) -> Any:
        """The value read as `kind`; `MISSING` if there is none, it is too old or of another shape.

        Callers share it only if it can't be changed; otherwise each gets one of his own.
        """
        found = self.entries.get(name)
        if found is None:
            return MISSING
        if found.deadline <= self._clock():
            self._remove(name)
            return MISSING
        found.used = True
        if found.entry.kind == "none":
            found.kind = kind
            return None
        if found.kind == kind:
            return found.value
        value = self._codec.decode(found.entry.body, kind)
        if value is not MISSING and is_immutable(value):
            found.value, found.kind = value, kind
        return value

    # --- taking in --------------------------------------------------------------------------------------

    def begin(self, name: str) -> object:
        """A ticket to `fill` a name with what is read from now on."""
        ticket = object()
        if self._size:
            self._tickets[name] = ticket
        return ticket

    def fill(self, name: str, ticket: object, entry: Entry, seconds: float, tags: Iterable[str]) -> bool:
        """Keep an entry, unless the name was dropped since the ticket was taken.

        Args:
            name: Its name.
            ticket: What `begin` returned; used up.
            entry: The entry.
            seconds: How long it is believed.
            tags: Names of the tags with which it goes.

        Returns:
            Whether the ticket was still good.
        """
        if self._tickets.get(name) is not ticket:
            return False
        del self._tickets[name]
        self._remove(name)
        size = len(entry.body) + len(name) + _OVERHEAD
        if seconds <= 0 or size > self._limit:
            return True
        self.entries[name] = kept = LocalEntry(entry, self._clock() + seconds, size, tuple(tags))
        self._bytes += size
        for tag in kept.tags:
            self._tagged.setdefault(tag, set()).add(name)
        while len(self.entries) > self._size or self._bytes > self._limit:
            self._evict()
        return True

    def end(self, name: str, ticket: object) -> None:
        """Give a ticket back, used or not."""
        if self._tickets.get(name) is ticket:
            del self._tickets[name]

    # --- dropping ---------------------------------------------------------------------------------------

    def drop(self, name: str) -> None:
        """Forget a name, also what is being read for it."""
        self._tickets.pop(name, None)
        self._remove(name)

    def drop_tag(self, tag: str) -> None:
        """Forget all names with a tag, and what is being read: whether it bears the tag isn't known yet."""
        self._tickets.clear()
        for name in self._tagged.pop(tag, ()):
            self._remove(name)

    def drop_below(self, prefix: str) -> None:
        """Forget a name and all that begin with it and a colon, and what is being read."""
        self._tickets.clear()
        below = f"{prefix}:"
        for name in [name for name in self.entries if name == prefix or name.startswith(below)]:
            self._remove(name)

    def clear(self) -> None:
        """Forget everything, also what is being read."""
        self.entries.clear()
        self._tagged.clear()
        self._tickets.clear()
        self._bytes = 0

    def _evict(self) -> None:
        """Drop the oldest entry that wasn't used since it was last looked at here (the "second chance" rule)."""
        while True:
            name = next(iter(self.entries))
            found = self.entries[name]
            if not found.used:
                self._remove(name)
                return
            found.used = False
            del self.entries[name]
            self.entries[name] = found

    def _remove(self, name: str) -> None:
        found = self.entries.pop(name, None)
        if found is None:
            return
        self._bytes -= found.size
        for tag in found.tags:
            names = self._tagged.get(tag)
            if names is not None:
                names.discard(name)
                if not names:
                    del self._tagged[tag]
