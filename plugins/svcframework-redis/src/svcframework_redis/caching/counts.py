"""CacheCounts: what a cache has done, as plain numbers."""

from __future__ import annotations


class CacheCounts:
    """What a cache has done; plain numbers, counted on the hot path and read by whoever scrapes."""

    __slots__ = ("hits", "local_hits", "lost", "made", "misses", "refreshed", "shared", "too_large", "waited")

    def __init__(self) -> None:
        self.local_hits = 0
        """Values found in this process."""
        self.hits = 0
        """Values found in the store."""
        self.misses = 0
        """Values that were found nowhere."""
        self.made = 0
        """Calls of a source."""
        self.shared = 0
        """Callers who got what another one in this process made."""
        self.waited = 0
        """Values that another process made while this one waited."""
        self.refreshed = 0
        """Values that were made anew in the background."""
        self.lost = 0
        """Values that were not stored, because something was removed or replaced while they were made."""
        self.too_large = 0
        """Values that were not stored, because of their size."""

    def snapshot(self) -> dict[str, int]:
        """The numbers by their names."""
        return {name: getattr(self, name) for name in self.__slots__}
