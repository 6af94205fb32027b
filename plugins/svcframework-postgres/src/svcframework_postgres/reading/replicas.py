"""Replicas: the standbys of one primary, how far each is behind, and which may be read from."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from svcframework.errors import DatabaseError, ServiceFrameworkError, ServiceTimeoutError
from svcframework_postgres.connections import Connection
from svcframework_postgres.errors import ReadOnlyServerError
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.reading.servers import Read, ReadServer, T
from svcframework_postgres.reading.wal import WalHistory, end_of_records, shown_position
from svcframework_postgres.reading.watching import ServerWatch, run_all

_QUIET = 2.0  # seconds between two reports that a replica is out

Opener = Callable[[], Awaitable[Connection]]
"""Opens a connection; raises our errors."""

_ASK_PRIMARY = """
SELECT written - '0/0'::pg_lsn AS position, substr(pg_walfile_name(written), 1, 8) AS timeline,
    (SELECT system_identifier FROM pg_control_system()) AS cluster,
    current_setting('wal_block_size')::bigint AS page, pg_size_bytes(current_setting('wal_segment_size')) AS segment
FROM (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() END AS written) AS primary_server
"""
# pg_stat_wal_receiver has a row while it streams; its columns are null for roles without pg_read_all_stats.
_ASK_REPLICA = """
SELECT pg_is_in_recovery() AS is_standby, pg_last_wal_replay_lsn() - '0/0'::pg_lsn AS position,
    (SELECT upper(lpad(to_hex(received_tli), 8, '0')) FROM pg_stat_wal_receiver) AS timeline,
    (SELECT system_identifier FROM pg_control_system()) AS cluster
"""


async def written_position(pool: PostgresPool) -> str:
    """How far the server of a pool, a primary, has written.

    Raises:
        ReadOnlyServerError: It is a standby.
    """
    row = await pool.execute_one(_ASK_PRIMARY)
    if row is None or row["position"] is None:
        pool.renew()
        raise ReadOnlyServerError(f"position on {pool.address}")
    return shown_position(_end(row))


def _end(row: asyncpg.Record) -> int:
    return end_of_records(int(row["position"]), page=row["page"], segment=row["segment"])


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What is known of a replica at one moment.

    Args:
        address: `host:port/database`.
        in_use: It may be read from: it answers and is within `max_replica_lag`.
        lag: Seconds that it is behind at most; None if that isn't known.
        problem: Why it isn't in use; empty if it is.
        is_primary: It is no standby (any more), which is no fault of its own.
        reads: Reads that it has answered.
        failures: Reads that it has failed; they were repeated elsewhere.
    """

    address: str
    in_use: bool
    lag: float | None
    problem: str
    is_primary: bool
    reads: int
    failures: int


class Replica(ReadServer):
    """One server of `replicas`, and what is known of it; lives as long as its service.

    Args:
        new_pool: As in `ReadServer`.
        max_databases: As in `ReadServer`.
        on_change: Called with the address and why it is out, or nothing when it is usable again; not for every flicker.
    """

    def __init__(
        self,
        new_pool: Callable[[str | None], PostgresPool],
        *,
        max_databases: int,
        on_change: Callable[[str, str], None],
    ) -> None:
        super().__init__(new_pool, max_databases=max_databases)
        self._on_change = on_change
        self._told, self._told_at = True, -math.inf  # that it is out
        self.reads = self.failures = 0
        self.position = 0
        """What it has replayed."""
        self.fresh_as_of = -math.inf
        """The loop's time by which everything committed is there."""
        self.problem = "it has not been asked yet"
        """Why it can't be read from, whatever its lag; empty if it can."""
        self.is_primary = False
        self.timeline: str | None = None

    async def attempt(self, read: Read[T], seconds: float, database: str | None) -> T:
        """As `ReadServer.attempt`; whoever is away isn't used again until it has answered the watch."""
        try:
            result = await super().attempt(read, seconds, database)
        except DatabaseError:  # it works
            raise
        except ServiceTimeoutError:
            self.failures += 1
            raise
        except ServiceFrameworkError as error:
            self.failures += 1
            self.judge(self.problem or str(error))
            raise
        self.reads += 1
        return result

    def judge(self, problem: str) -> None:
        """Why it can't be read from now, whatever its lag; nothing if it can."""
        self.problem = problem
        now = asyncio.get_running_loop().time()
        if problem and not self._told and now - self._told_at >= _QUIET:
            self._told, self._told_at = True, now
            self._on_change(self.address, problem)
        elif self._told and not problem:
            self._told = False
            self._on_change(self.address, "")

    def fell_silent(self, problem: str) -> None:
        """It doesn't answer: use it no more, and repeat elsewhere what waits for it."""
        self.judge(problem)
        self.give_up()


class ReplicaSet:
    """The replicas of one primary; lives as long as its service.

    Args:
        replicas: The replicas, and how to open a connection to each beside its pools.
        primary: The primary, and the same.
        max_lag: Seconds that one may be behind.
        max_lag_in_failover: The same while there is no primary.
        check_interval: Seconds within which a silent one is out.
        on_new_primary: Called when another server has taken over.
    """

    def __init__(
        self,
        replicas: Sequence[tuple[Replica, Opener]],
        primary: tuple[ReadServer, Opener],
        *,
        max_lag: float,
        max_lag_in_failover: float,
        check_interval: float,
        on_new_primary: Callable[[], None],
    ) -> None:
        self.primary, self._primary_opener = primary
        self.replicas = tuple(replica for replica, _ in replicas)
        self._openers = [opener for _, opener in replicas]
        self._max_lag, self._max_lag_in_failover, self._period = max_lag, max_lag_in_failover, check_interval / 2
        self._history = WalHistory(max(max_lag, max_lag_in_failover) * 2)
        self._origin: tuple[int, str] | None = None  # whose positions the history has: cluster and timeline
        self._on_new_primary = on_new_primary
        self._turn = 0
        self._primary_problem = ""
        self._primary_answered_at = -math.inf

    # --- choosing ---------------------------------------------------------------------------------------

    @property
    def has_primary(self) -> bool:
        """False once the primary has been silent, or been none any more, for longer than `max_lag`."""
        now = asyncio.get_running_loop().time()
        return not self._primary_problem or now - self._primary_answered_at <= self._max_lag

    def candidates(self, position: int = 0) -> list[Replica]:
        """The replicas that may be read from now, the least busy first; several that are alike take turns.

        Args:
            position: What each must have replayed.
        """
        return self._within(self._max_lag, position)

    def last_resort(self, position: int = 0) -> list[Replica]:
        """Those that may be read from when there is no primary."""
        return self._within(max(self._max_lag, self._max_lag_in_failover), position)

    def _within(self, lag: float, position: int) -> list[Replica]:
        oldest = asyncio.get_running_loop().time() - lag
        found = [r for r in self.replicas if not r.problem and r.fresh_as_of >= oldest and r.position >= position]
        if len(found) > 1:
            self._turn = (self._turn + 1) % len(found)
            found = sorted(found[self._turn :] + found[: self._turn], key=lambda replica: replica.busy)
        return found

    def status(self) -> tuple[ReplicaStatus, ...]:
        """What is known of each."""
        now = asyncio.get_running_loop().time()
        return tuple(self._status(replica, now) for replica in self.replicas)

    def _status(self, replica: Replica, now: float) -> ReplicaStatus:
        lag = None if replica.problem or replica.fresh_as_of == -math.inf else now - replica.fresh_as_of
        problem = replica.problem
        if not problem and (lag is None or lag > self._max_lag):
            behind = "an unknown time" if lag is None else f"{lag:.1f} s"
            problem = f"it is {behind} behind, {self._max_lag:g} s are allowed"
        return ReplicaStatus(
            address=replica.address,
            in_use=not problem,
            lag=lag,
            problem=problem,
            is_primary=replica.is_primary,
            reads=replica.reads,
            failures=replica.failures,
        )

    # --- measuring --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Measure until cancelled."""
        primary = ServerWatch(
            self._primary_opener,
            _ASK_PRIMARY,
            period=self._period,
            on_answer=self._primary_answered,
            on_silence=self._primary_is_away,
        )
        replicas = map(self._watch, self.replicas, self._openers)
        await run_all([primary, *replicas])

    def _watch(self, replica: Replica, opener: Opener) -> ServerWatch:
        return ServerWatch(
            opener,
            _ASK_REPLICA,
            period=self._period,
            on_answer=lambda row, _: self._replica_answered(replica, row),
            on_silence=replica.fell_silent,
        )

    def _primary_answered(self, row: asyncpg.Record, asked_at: float) -> None:
        if row["position"] is None:
            self._primary_is_away("it is a standby")
            return
        origin = row["cluster"], row["timeline"]
        if self._origin not in {None, origin}:
            self._follow_new_primary()
        self._origin, self._primary_problem, self._primary_answered_at = origin, "", asked_at
        self._history.add(_end(row), asked_at)
        for replica in self.replicas:
            self._refresh(replica)

    def _follow_new_primary(self) -> None:
        """Another server has taken over: positions of the old one may be ahead of its own, and mean something else."""
        self._history.clear()
        for replica in self.replicas:
            self._forget(replica, "it has not been asked since there is a new primary")
        self.primary.renew()
        self._on_new_primary()

    def _primary_is_away(self, problem: str) -> None:
        self._primary_problem = problem
        if not self.has_primary and self.last_resort():
            self.primary.give_up()

    def _replica_answered(self, replica: Replica, row: asyncpg.Record) -> None:
        replica.is_primary = not row["is_standby"]
        replica.timeline = row["timeline"] or replica.timeline
        problem = self._mismatch(replica, row)
        if problem:
            self._forget(replica, problem)
        else:
            replica.position = int(row["position"])
            replica.judge("")
            self._refresh(replica)

    def _mismatch(self, replica: Replica, row: asyncpg.Record) -> str:
        """Why what a replica has isn't what its primary had; empty if it is."""
        cluster, timeline = self._origin or (None, None)
        if replica.is_primary:
            return "it is a primary itself"
        if row["position"] is None:
            return "it has replayed nothing yet"
        if cluster is not None and row["cluster"] != cluster:
            return "it belongs to another cluster than the primary"
        if replica.timeline is not None and replica.timeline != timeline and not self._primary_problem and timeline:
            return f"it is on timeline {replica.timeline}, the primary on {timeline}"
        return ""

    def _forget(self, replica: Replica, problem: str) -> None:
        replica.fresh_as_of = -math.inf
        replica.judge(problem)

    def _refresh(self, replica: Replica) -> None:
        if not replica.problem:
            reached = self._history.reached(replica.position)
            replica.fresh_as_of = -math.inf if reached is None else reached
