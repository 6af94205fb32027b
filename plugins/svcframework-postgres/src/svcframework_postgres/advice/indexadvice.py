"""Rules that turn the catalogues into findings about indexes. They know tables and limits; they ask no server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from svcframework_postgres.advice.bloat import Bloat
from svcframework_postgres.advice.catalogue import Catalogue, ForeignKey, Index, Table
from svcframework_postgres.advice.config import OptimizationConfig
from svcframework_postgres.advice.findings import Finding, FindingKind, Severity
from svcframework_postgres.advice.proposals import CreateIndex, DropIndex, Proposal, RebuildIndex

_LEFT_OVER = ("_ccnew", "_ccold")  # how the halves of a failed REINDEX CONCURRENTLY are called


def missing_for_foreign_keys(found: Catalogue, config: OptimizationConfig) -> Iterator[Finding]:
    """Foreign keys of big tables whose columns no index begins with: each delete of what they refer to reads it all."""
    for key in found.foreign_keys:
        table = found.tables.get((key.schema, key.table))
        if table is None or table.rows < config.big_table_rows or _serves_any(table.indexes, key):
            continue
        referenced = found.tables.get((key.referenced_schema, key.referenced_table))
        columns = ", ".join(key.columns)
        yield Finding(
            FindingKind.MISSING_FOREIGN_KEY_INDEX,
            Severity.WARNING,
            table.full_name,
            f"foreign key {key.name} ({columns}) has no index: each delete in "
            f"{key.referenced_schema}.{key.referenced_table} reads all of {table.full_name}",
            {
                "table_rows": table.rows,
                "columns": columns,
                "changes_of_referenced": referenced.changes if referenced else 0,
            },
            f"Index {columns}: deletes, and joins along the key, then look up what they need.",
            CreateIndex(table.schema, table.name, key.columns),
        )


def unused(found: Catalogue, config: OptimizationConfig) -> Iterator[Finding]:
    """Indexes that no statement has used since statistics began, and that nothing stands on.

    What `duplicates` wants to drop is not among them, nor what shall then take its place: all proposals of a report
    can be followed together.
    """
    for table in found.tables.values():
        replaced = _replaced(table)
        kept = {other.name for other in replaced.values()}
        gone = {index.name for index in replaced}
        for index in table.indexes:
            if not _is_droppable(index) or index.scans or index.last_scan or index.bytes < config.index_bytes:
                continue
            if index.name in kept or index.name in gone or _is_only_one_for_a_key(found, table, index, gone):
                continue
            gone.add(index.name)
            since = max(found.since, index.created_at or found.since)
            yield _unused(index, since, found.now, config)


def _unused(index: Index, since: datetime, now: datetime, config: OptimizationConfig) -> Finding:
    watched = now - since
    is_long = watched >= timedelta(seconds=config.unused_after)
    seen: dict[str, int | float | str] = {"bytes": index.bytes, "scans": 0}
    seen |= {"since": since.isoformat(timespec="seconds"), "watched_seconds": int(watched.total_seconds())}
    advice = "Drop it, unless a replica uses it or it is for something rare: each write pays for it."
    return Finding(
        FindingKind.UNUSED_INDEX,
        Severity.WARNING if is_long else Severity.INFO,
        index.full_name,
        f"has not been used since {since:%Y-%m-%d %H:%M} UTC or longer and takes {_megabytes(index.bytes)}",
        seen,
        advice if is_long else f"{advice} The statistics are young: look again later.",
        DropIndex(index.schema, index.table, index.name, index.definition),
    )


def duplicates(found: Catalogue) -> Iterator[Finding]:
    """Indexes that another one makes needless: with the same keys, or with more after the same ones."""
    for table in found.tables.values():
        for index, other in _replaced(table).items():
            is_same = len(other.keys) == len(index.keys)
            yield Finding(
                FindingKind.DUPLICATE_INDEX if is_same else FindingKind.REDUNDANT_INDEX,
                Severity.WARNING,
                index.full_name,
                f"is the same as {other.name}" if is_same else f"is the beginning of {other.name}",
                {"bytes": index.bytes, "other": other.name, "other_bytes": other.bytes, "scans": index.scans},
                f"Drop it: {other.name} answers the same questions, and each write pays for both.",
                DropIndex(index.schema, index.table, index.name, index.definition),
            )


def invalid(found: Catalogue) -> Iterator[Finding]:
    """Indexes that a failed build has left behind: writes pay for them, reads can't use them."""
    for table in found.tables.values():
        for index in table.indexes:
            if index.is_valid or index.is_being_built:
                continue
            proposal: Proposal = RebuildIndex(index.schema, index.table, index.name)
            if index.name.rstrip("0123456789").endswith(_LEFT_OVER):
                proposal = DropIndex(index.schema, index.table, index.name)
            yield Finding(
                FindingKind.INVALID_INDEX,
                Severity.CRITICAL,
                index.full_name,
                f"is invalid: a build of it on {table.full_name} has failed, and no statement can use it",
                {"bytes": index.bytes, "table_rows": table.rows},
                "Drop what is left." if isinstance(proposal, DropIndex) else "Build it again, or drop it.",
                proposal,
            )


def bloated(found: Catalogue, sizes: dict[int, Bloat], config: OptimizationConfig) -> Iterator[Finding]:
    """Indexes much bigger than what is in them."""
    for table in found.tables.values():
        for index in table.indexes:
            bloat = sizes.get(index.oid)
            if bloat is None or not index.is_valid:
                continue
            if bloat.wasted_bytes < config.bloat_bytes or bloat.share < config.bloat_share:
                continue
            yield Finding(
                FindingKind.BLOATED_INDEX,
                Severity.WARNING,
                index.full_name,
                f"takes {_megabytes(bloat.bytes)}, of which {bloat.share:.0%} are waste",
                {"bytes": bloat.bytes, "wasted_bytes": bloat.wasted_bytes, "share": round(bloat.share, 2)}
                | {"source": "measured" if bloat.is_measured else "estimated"},
                "Build it anew: it gets small, and what is read of it fits into memory.",
                RebuildIndex(index.schema, index.table, index.name),
            )


# --- what they share ------------------------------------------------------------------------------------


def _is_droppable(index: Index) -> bool:
    return index.is_valid and not index.is_unique and not index.is_needed and not index.is_being_built


def _serves_any(indexes: tuple[Index, ...], key: ForeignKey) -> bool:
    return any(index.begins_with(key.columns) for index in indexes)


def _is_only_one_for_a_key(found: Catalogue, table: Table, index: Index, gone: set[str]) -> bool:
    """Whether a foreign key would be without an index if this one were dropped after those that are gone."""
    others = tuple(one for one in table.indexes if one is not index and one.name not in gone)
    return any(
        index.begins_with(key.columns) and not _serves_any(others, key)
        for key in found.foreign_keys
        if (key.schema, key.table) == (table.schema, table.name)
    )


def _replaced(table: Table) -> dict[Index, Index]:
    """Each index that another one makes needless, with that one, which stays."""
    found: dict[Index, Index] = {}
    # Of equal ones the newest goes first, and one that nothing stands on before one that a constraint needs.
    for index in sorted(table.indexes, key=lambda one: (one.is_needed, one.is_unique, -one.oid)):
        others = [one for one in table.indexes if one not in found and _replaces(one, index)]
        if others:
            found[index] = min(others, key=lambda one: (len(one.keys), one.oid))  # the one that is most like it
    return found


def _replaces(other: Index, index: Index) -> bool:
    """Whether `other` does all that `index` does."""
    if other is index or not other.is_valid or other.is_being_built or not index.is_valid or index.is_needed:
        return False
    if index.is_unique and not (other.is_unique and len(other.keys) == len(index.keys)):
        return False
    length = len(index.keys)
    if other.method != index.method or (length < len(other.keys) and index.method != "btree"):
        return False
    same = other.keys[:length] == index.keys and other.shape[:length] == index.shape
    # Expressions stand in their own list, so that one with expressions is compared as a whole.
    if None in (*index.keys, *other.keys):
        same = same and other.expressions == index.expressions and len(other.keys) == length
    carried = set(index.columns[index.key_count :]) <= set(other.columns)
    return same and carried and other.predicate == index.predicate


def _megabytes(count: int) -> str:
    return f"{count / 1_000_000:,.1f} MB"
