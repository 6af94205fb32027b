"""What the server's catalogues say about tables, indexes and foreign keys, as values. Reads; judges nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MARK = "/* svcframework advice */"
"""Stands in each statement of ours, so that advice isn't about itself."""
CREATED = "svcframework: created "
"""How the comment on an index that we built begins; a time follows."""

Ask = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a statement with its arguments and returns its rows."""

_OURS = "n.nspname !~ '^pg_(catalog|toast|temp)' AND n.nspname <> 'information_schema'"

_TABLES = f"""
SELECT {MARK} n.nspname AS schema, c.relname AS name, greatest(c.reltuples, s.n_live_tup, 0)::bigint AS rows,
    pg_relation_size(c.oid) AS bytes, coalesce(s.n_mod_since_analyze, 0) AS changed_rows,
    c.reltuples < 0 AS never_analyzed,
    coalesce(s.n_tup_del, 0) + coalesce(s.n_tup_upd, 0) AS changes,
    (SELECT json_object_agg(a.attname, json_build_array(format_type(a.atttypid, NULL), EXISTS (
            SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod
            WHERE m.amname = 'btree' AND o.opcdefault AND (
                o.opcintype = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
                OR (t.typcategory = 'S' AND o.opcintype = 'text'::regtype)
                OR (t.typtype = 'e' AND o.opcintype = 'anyenum'::regtype)
                OR (t.typtype = 'r' AND o.opcintype = 'anyrange'::regtype)))))
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'm') AND {_OURS}
"""  # noqa: S608 - constants of this module

# to_jsonb: last_idx_scan came with PostgreSQL 16
_INDEXES = f"""
SELECT {MARK} n.nspname AS schema, t.relname AS "table", i.relname AS name, x.indexrelid AS oid,
    x.indisvalid AND x.indisready AND x.indislive AS is_valid, x.indisunique AS is_unique,
    x.indisprimary OR x.indisexclusion OR x.indisreplident OR i.relispartition OR EXISTS (
        SELECT FROM pg_constraint c WHERE c.conindid = x.indexrelid) AS is_needed,
    x.indnkeyatts AS key_count, m.amname AS method,
    ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
        LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number AND k.number <> 0
        ORDER BY k.place) AS columns,
    string_to_array(x.indclass::text, ' ') AS classes, string_to_array(x.indcollation::text, ' ') AS collations,
    string_to_array(x.indoption::text, ' ') AS options,
    pg_get_expr(x.indexprs, x.indrelid) AS expressions, pg_get_expr(x.indpred, x.indrelid) AS predicate,
    pg_get_indexdef(x.indexrelid) AS definition, coalesce(pg_relation_size(x.indexrelid), 0) AS bytes,
    coalesce(s.idx_scan, 0) AS scans, (to_jsonb(s) ->> 'last_idx_scan')::timestamptz AS last_scan,
    obj_description(x.indexrelid, 'pg_class') AS comment,
    EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = x.indexrelid) AS is_being_built
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
    JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am m ON m.oid = i.relam
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = x.indexrelid
WHERE i.relkind = 'i' AND {_OURS}
ORDER BY x.indexrelid
"""  # noqa: S608 - constants of this module

_FOREIGN_KEYS = f"""
SELECT {MARK} n.nspname AS schema, t.relname AS "table", c.conname AS name,
    ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number ORDER BY k.place) AS columns,
    rn.nspname AS referenced_schema, r.relname AS referenced_table
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    JOIN pg_class r ON r.oid = c.confrelid JOIN pg_namespace rn ON rn.oid = r.relnamespace
WHERE c.contype = 'f' AND t.relkind = 'r' AND {_OURS}
"""  # noqa: S608 - constants of this module

# Never reset, they are as old as the database, whose age nobody tells: the server's start is the least they go back to.
_SINCE = f"""
SELECT {MARK} coalesce(stats_reset, pg_postmaster_start_time()) AS since, now() AS now
FROM pg_stat_database WHERE datname = current_database()
"""  # noqa: S608 - a constant of this module


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its type's name, and whether a plain index can hold it."""

    type: str
    is_indexable: bool


@dataclass(frozen=True, slots=True)
class Index:
    """An index.

    Args:
        schema: Its schema, and its table's.
        table: The table.
        name: Its own name.
        oid: The server's number for it; the older, the smaller.
        columns: Its columns; None for an expression. Key columns first.
        key_count: How many of them are keys; the others are only carried along (INCLUDE).
        is_valid: Whether statements may use it.
        is_unique: Whether it forbids duplicates.
        is_needed: A constraint, a partitioned index or replication stands on it.
        is_being_built: Somebody builds it now.
        method: `btree`, `gin`, …
        shape: How each key column is compared: operator class, collation, order.
        expressions: Its expressions, in the server's own text.
        predicate: Its condition, for a partial index.
        definition: The statement that builds it.
        bytes: Its size.
        scans: How often it was used since statistics began.
        last_scan: When last, if the server keeps that.
        created_at: When it was built, if we built it.
    """

    schema: str
    table: str
    name: str
    oid: int
    columns: tuple[str | None, ...]
    key_count: int
    is_valid: bool
    is_unique: bool
    is_needed: bool
    is_being_built: bool
    method: str
    shape: tuple[tuple[str, str, str], ...]
    expressions: str | None
    predicate: str | None
    definition: str
    bytes: int
    scans: int
    last_scan: datetime | None
    created_at: datetime | None

    @property
    def keys(self) -> tuple[str | None, ...]:
        """Its key columns."""
        return self.columns[: self.key_count]

    @property
    def full_name(self) -> str:
        """`schema.name`."""
        return f"{self.schema}.{self.name}"

    def begins_with(self, columns: Sequence[str]) -> bool:
        """Whether it finds rows by these columns, in whatever order; a partial one doesn't find all."""
        first = self.keys[: len(columns)]
        return self.is_valid and self.predicate is None and self.method == "btree" and set(first) == set(columns)


@dataclass(frozen=True, slots=True)
class Table:
    """A table: rows as last counted, and what has changed since.

    Args:
        schema: Its schema.
        name: Its name.
        rows: Rows, as the server last counted or estimated them.
        bytes: Its size, without indexes.
        changed_rows: Rows changed since its values were last counted (`ANALYZE`).
        never_analyzed: They never were.
        changes: Updates and deletes since statistics began.
        columns: Its columns by name.
        indexes: Its indexes, the oldest first.
    """

    schema: str
    name: str
    rows: int
    bytes: int
    changed_rows: int = 0
    never_analyzed: bool = False
    changes: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    indexes: tuple[Index, ...] = ()

    @property
    def full_name(self) -> str:
        """`schema.name`."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key: `columns` of a table refer to another table."""

    schema: str
    table: str
    name: str
    columns: tuple[str, ...]
    referenced_schema: str
    referenced_table: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Tables, indexes and foreign keys of one database at one moment.

    Args:
        tables: By schema and name.
        foreign_keys: All of them.
        since: When the statistics of use begin, at the latest.
        now: The server's time.
    """

    tables: dict[tuple[str, str], Table]
    foreign_keys: tuple[ForeignKey, ...]
    since: datetime
    now: datetime


async def read_catalogue(ask: Ask) -> Catalogue:
    """What there is, without the server's own tables."""
    indexes = await read_indexes(ask)
    by_table: dict[tuple[str, str], list[Index]] = {}
    for index in indexes:
        by_table.setdefault((index.schema, index.table), []).append(index)
    tables = {}
    for row in await ask(_TABLES):
        key = (row["schema"], row["name"])
        columns = {name: Column(*found) for name, found in (row["columns"] or {}).items()}
        known = {name: row[name] for name in ("rows", "bytes", "changed_rows", "never_analyzed", "changes")}
        tables[key] = Table(*key, **known, columns=columns, indexes=tuple(by_table.get(key, ())))
    keys = tuple(ForeignKey(**{**dict(row), "columns": tuple(row["columns"])}) for row in await ask(_FOREIGN_KEYS))
    now, since = await read_moment(ask)
    return Catalogue(tables, keys, since, now)


async def read_moment(ask: Ask) -> tuple[datetime, datetime]:
    """The server's time, and since when it counts uses, at the latest."""
    [row] = await ask(_SINCE)
    return row["now"], row["since"]


async def read_indexes(ask: Ask) -> tuple[Index, ...]:
    """Every index, the oldest first."""
    return tuple(_index(row) for row in await ask(_INDEXES))


def _index(row: Any) -> Index:
    found = dict(row)
    count = found["key_count"]
    shape = zip(
        found.pop("classes")[:count], found.pop("collations")[:count], found.pop("options")[:count], strict=True
    )
    created_at = _created(found.pop("comment"))
    return Index(**{**found, "columns": tuple(found["columns"])}, shape=tuple(shape), created_at=created_at)


def _created(comment: str | None) -> datetime | None:
    match = re.match(re.escape(CREATED) + r"(\S+)", comment or "")
    try:
        return datetime.fromisoformat(match[1]) if match else None
    except ValueError:  # somebody has edited the comment
        return None
