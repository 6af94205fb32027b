"""PoolStatistics: the numbers of one pool."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """How full a pool is, and what it has done since it was made.

    Args:
        size: Open connections, with those being opened or closed.
        idle: Those that wait for work.
        in_use: Those that a call holds.
        waiting: Calls that wait for a connection.
        limit: `pool_max_size`.
        opened: Connections opened.
        closed: Connections closed, for whatever reason.
        discarded: Connections closed because their call was cut off or their state wasn't known.
        waited: Calls that had to wait for a connection, or for one to be opened.
        timeouts: Calls that got none in time.
        wait_seconds: How long all of them have waited together.
        wait_p95: Seconds that 95 of 100 of those calls did not exceed.
        wait_max: Seconds of the longest wait.
    """

    size: int
    idle: int
    in_use: int
    waiting: int
    limit: int
    opened: int = 0
    closed: int = 0
    discarded: int = 0
    waited: int = 0
    timeouts: int = 0
    wait_seconds: float = 0.0
    wait_p95: float = 0.0
    wait_max: float = 0.0

    def as_dict(self) -> dict[str, int | float]:
        """The numbers by name."""
        return asdict(self)
