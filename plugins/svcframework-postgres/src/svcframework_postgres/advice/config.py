"""OptimizationConfig: from which size on something is a finding, and how long advice and changes may take."""

from __future__ import annotations

from pydantic import Field

from svcframework.config import ServiceConfig


class OptimizationConfig(ServiceConfig, prefix="optimization"):
    """Settings of an `OptimizationService`, a `QueryOptimizer` and an `IndexingStrategy`. Frozen."""

    big_table_rows: int = Field(default=10_000, ge=1, description="Rows from which a table counts as big.")
    selective_share: float = Field(
        default=0.1, gt=0, le=1, description="Share of a table's rows up to which an index beats reading all of it."
    )
    estimate_factor: float = Field(
        default=10.0, gt=1, description="How many times too high or low an estimate of rows may be."
    )
    removed_rows: int = Field(default=10_000, ge=1, description="Rows that a filter may throw away in one run.")
    loop_rows: int = Field(default=1_000_000, ge=1, description="Rows that a nested loop may go through.")
    slow_seconds: float = Field(default=0.1, gt=0, description="Mean seconds from which a statement is slow.")
    n_plus_one_calls: int = Field(default=1000, ge=2, description="Calls from which small reads are suspicious.")
    n_plus_one_rows: float = Field(default=2.0, gt=0, description="Rows per call up to which a read is small.")
    n_plus_one_share: float = Field(
        default=0.1, gt=0, le=1, description="Share of all reading calls from which one statement is suspicious."
    )
    recorded_repeats: int = Field(default=10, ge=2, description="Repeats in a recorded scope that are suspicious.")
    statements: int = Field(default=20, ge=1, description="Statements of the most total time that a report looks at.")
    unused_after: float = Field(
        default=604_800.0, ge=0, description="Seconds of statistics until an index without use is called unused."
    )
    index_bytes: int = Field(default=1_000_000, ge=0, description="Bytes below which nobody minds an index.")
    bloat_bytes: int = Field(default=10_000_000, ge=0, description="Bytes of waste below which nobody minds bloat.")
    bloat_share: float = Field(default=0.5, gt=0, lt=1, description="Share of an index that may be waste.")
    query_timeout: float = Field(
        default=5.0, gt=0, description="Seconds for one look into the catalogues, or for one plan."
    )
    lock_timeout: float = Field(default=5.0, gt=0, description="Seconds a change may wait for a lock.")
    silence_timeout: float = Field(
        default=10.0, gt=0, description="Seconds without any answer of the server after which a change is given up."
    )
    build_timeout: float = Field(default=3600.0, gt=0, description="Seconds one change may take.")
