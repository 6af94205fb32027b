"""Positions in the write-ahead log, and when a primary had written how far: what lag is told from. No I/O here."""

from __future__ import annotations

from collections import deque

_SHORT_HEADER, _LONG_HEADER = 24, 40  # bytes at the start of a page, and of a segment (access/xlog_internal.h)


def parsed_position(text: str) -> int:
    """The number behind a position as PostgreSQL writes it.

    >>> parsed_position("16/B374D848")
    97500059720

    Raises:
        ValueError: It is none.
    """
    high, slash, low = text.partition("/")
    if not slash or not 1 <= len(high) <= 8 or not 1 <= len(low) <= 8:  # noqa: PLR2004 - 32 bits in hexadecimal
        raise ValueError(f"{text[:40]!r} is no position in the write-ahead log, such as 16/B374D848")
    return int(high, 16) << 32 | int(low, 16)


def shown_position(position: int) -> str:
    """A position as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def end_of_records(inserted: int, *, page: int, segment: int) -> int:
    """Where the last record ends, of `pg_current_wal_insert_lsn()`, which tells where the next one begins.

    The two differ by the header of a page, if the last record has just filled one. A replica that has replayed
    everything never gets past the header, so without this it would seem behind for as long as the primary is idle.

    Args:
        inserted: Where the next record begins.
        page: Bytes in a page (`wal_block_size`).
        segment: Bytes in a segment file (`wal_segment_size`).
    """
    into_page, into_segment = inserted % page, inserted % segment
    if into_segment == _LONG_HEADER:
        return inserted - _LONG_HEADER
    return inserted - _SHORT_HEADER if into_page == _SHORT_HEADER else inserted


class WalHistory:
    """How far a primary had written at which time; lives as long as somebody watches that primary.

    Whoever has replayed what was written by a certain time has everything that was committed before it. That is the
    only clock a lag needs: the watcher's own. Nothing happens on an idle primary, and a replica that has replayed
    everything is not behind, however long ago its last transaction was.

    Args:
        window: Seconds that are remembered.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._written: deque[tuple[int, float]] = deque()  # positions and times, both growing

    def add(self, position: int, at: float) -> None:
        """The primary had written up to `position`, asked at `at` (seconds) or later."""
        while self._written and self._written[-1][0] >= position:  # it was idle, or is another server
            self._written.pop()
        self._written.append((position, at))
        while len(self._written) > 1 and self._written[1][1] < at - self._window:
            self._written.popleft()

    def reached(self, position: int) -> float | None:
        """The last time (seconds) by which the primary had written no more than `position`; None if none is known."""
        for written, at in reversed(self._written):
            if written <= position:
                return at
        return None

    def clear(self) -> None:
        """Forget everything: another primary's positions mean something else."""
        self._written.clear()
