"""QueryPlan: what `EXPLAIN (FORMAT JSON)` says, as a tree of values. Reads JSON; asks no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One step of a plan.

    Args:
        kind: The server's word for it, such as `Seq Scan`.
        schema: The schema of the table it reads, where it reads one.
        table: That table.
        alias: The table's name in the statement, which conditions use.
        index: The index it goes through, where it does.
        role: How its parent uses it: `Outer`, `Inner`, `SubPlan`, `InitPlan`.
        planned_rows: Rows that the planner expected of one run.
        actual_rows: Rows of one run, on average; None unless the statement was run.
        loops: How often it was run, in all processes together; None unless the statement was run.
        seconds: Time of all runs, children included; None unless the statement was run.
        total_cost: The planner's price, in its own unit.
        filter: The condition that rows had to pass after they were read.
        index_condition: The condition that the index answered.
        join_condition: The condition that a join checked pair by pair.
        removed_rows: Rows that conditions threw away, in all runs together.
        disk_bytes: What it wrote to disk for want of memory.
        batches: Parts that a hash was split into; 1 when it fitted.
        strategy: How an aggregate is made: `Plain`, `Sorted`, `Hashed`.
        sort_keys: What it sorts by.
        workers: Processes planned beside the main one, for the steps below a `Gather`.
        is_parallel: Its rows are one process's share.
        children: The steps it takes its rows from.
    """

    kind: str
    schema: str | None = None
    table: str | None = None
    alias: str | None = None
    index: str | None = None
    role: str | None = None
    planned_rows: float = 0.0
    actual_rows: float | None = None
    loops: float | None = None
    seconds: float | None = None
    total_cost: float = 0.0
    filter: str | None = None
    index_condition: str | None = None
    join_condition: str | None = None
    removed_rows: float = 0.0
    disk_bytes: int = 0
    batches: int = 1
    strategy: str | None = None
    sort_keys: tuple[str, ...] = ()
    workers: int = 0
    is_parallel: bool = False
    children: tuple[PlanNode, ...] = field(default=(), repr=False)

    def walk(self) -> Iterator[PlanNode]:
        """This step and all below it, top down."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def reads_to_the_end(self) -> bool:
        """Whether it takes all rows from below before it gives any, so that a `Limit` above doesn't shorten that."""
        return self.kind in {"Sort", "Hash"} or (self.kind == "Aggregate" and self.strategy != "Sorted")

    @property
    def all_rows(self) -> float:
        """Rows of all runs together: counted if it was run, else as the planner expects for one run."""
        if self.actual_rows is not None and self.loops is not None:
            return self.actual_rows * self.loops
        return self.planned_rows * (_divisor(self.workers) if self.is_parallel else 1.0)


@dataclass(frozen=True, slots=True)
class PlanTree:
    """A whole plan.

    Args:
        root: Its last step, whose rows are the answer.
        planning_seconds: What planning took; None unless the statement was run.
        execution_seconds: What the run took; None unless the statement was run.
    """

    root: PlanNode
    planning_seconds: float | None = None
    execution_seconds: float | None = None


def read_plan(document: Any) -> PlanTree:
    """The plan in what `EXPLAIN (FORMAT JSON)` returned: a list with one object.

    Raises:
        ValueError: It is something else.
    """
    try:
        top = document[0]
        root = _node(top["Plan"], workers=0)
    except (LookupError, TypeError) as error:
        raise ValueError("not the JSON form of a plan: EXPLAIN (FORMAT JSON) returns one") from error
    return PlanTree(root, _seconds(top.get("Planning Time")), _seconds(top.get("Execution Time")))


def _node(found: Mapping[str, Any], *, workers: int) -> PlanNode:
    planned_workers = int(found.get("Workers Planned", workers))
    loops = found.get("Actual Loops")
    mean_time = found.get("Actual Total Time")
    removed = sum(
        found.get(name, 0)
        for name in ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")
    )
    return PlanNode(
        kind=found["Node Type"],
        schema=found.get("Schema"),
        table=found.get("Relation Name"),
        alias=found.get("Alias"),
        index=found.get("Index Name"),
        role=found.get("Parent Relationship"),
        planned_rows=float(found.get("Plan Rows", 0)),
        actual_rows=None if loops is None else float(found.get("Actual Rows", 0)),
        loops=None if loops is None else float(loops),
        seconds=None if mean_time is None or loops is None else mean_time * loops / 1000,
        total_cost=float(found.get("Total Cost", 0)),
        filter=found.get("Filter"),
        index_condition=found.get("Index Cond") or found.get("Recheck Cond"),
        join_condition=found.get("Join Filter"),
        removed_rows=removed * (1 if loops is None else max(1, loops)),
        disk_bytes=_disk_bytes(found),
        batches=max(int(found.get("Hash Batches", 1)), int(found.get("HashAgg Batches", 1)), 1),
        strategy=found.get("Strategy"),
        sort_keys=tuple(found.get("Sort Key", ())),
        workers=workers,
        is_parallel=bool(found.get("Parallel Aware")) and workers > 0,
        children=tuple(_node(child, workers=planned_workers) for child in found.get("Plans", ())),
    )


def _disk_bytes(found: Mapping[str, Any]) -> int:
    """What a step of its own wrote to disk, its workers' shares included."""
    kilobytes = 0
    for one in (found, *found.get("Workers", ())):
        if one.get("Sort Space Type") == "Disk":
            kilobytes += one.get("Sort Space Used", 0)
        kilobytes += one.get("Disk Usage", 0)
    if int(found.get("Hash Batches", 1)) > 1:
        kilobytes += found.get("Peak Memory Usage", 0) * (found["Hash Batches"] - 1)  # each but one waits on disk
    return int(kilobytes) * 1024


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _divisor(workers: int) -> float:
    """What the planner has divided a parallel step's rows by: the main process helps, the less the more workers."""
    return workers + max(0.0, 1 - 0.3 * workers)
