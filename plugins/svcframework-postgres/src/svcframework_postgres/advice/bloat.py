"""How much of an index is waste: estimated from the widths of its columns, measured where pgstattuple is there.

The estimate: rows times the width of an entry, in pages filled as the index says. Entries that PostgreSQL has
merged (deduplication) make an index smaller than that, so that the estimate of waste is rather too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svcframework.errors import DatabaseError
from svcframework_postgres.advice.catalogue import MARK, Ask
from svcframework_postgres.identifiers import Identifier

_PAGE_OVERHEAD = 24 + 16  # bytes: a page's header, and a btree page's own at its end
_ENTRY_OVERHEAD = 8 + 4  # bytes: an entry's header, and the pointer to it
_ALIGNMENT = 8

_WIDTHS = f"""
SELECT {MARK} x.indexrelid AS oid, pg_relation_size(x.indexrelid) AS bytes, i.reltuples::float8 AS entries,
    current_setting('block_size')::int AS block,
    coalesce((SELECT split_part(o, '=', 2)::int FROM unnest(i.reloptions) o WHERE o LIKE 'fillfactor=%'), 90) AS fill,
    bool_and(s.avg_width IS NOT NULL) AS is_known, sum(s.avg_width * (1 - s.null_frac))::float8 AS width
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_am m ON m.oid = i.relam
    JOIN pg_attribute a ON a.attrelid = x.indexrelid
    LEFT JOIN pg_attribute c ON c.attrelid = x.indrelid AND c.attnum = x.indkey[a.attnum - 1] AND c.attnum <> 0
    LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND NOT s.inherited
        AND s.tablename = CASE WHEN c.attname IS NULL THEN i.relname ELSE t.relname END
        AND s.attname = coalesce(c.attname, a.attname)
WHERE m.amname = 'btree' AND i.relkind = 'i' AND i.reltuples >= 0 AND pg_relation_size(x.indexrelid) >= $1
    AND n.nspname !~ '^pg_(catalog|toast|temp)' AND n.nspname <> 'information_schema'
GROUP BY x.indexrelid, i.reltuples, i.reloptions
"""  # noqa: S608 - constants of this module

_EXTENSION = (
    f"SELECT {MARK} n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"  # noqa: S608
    " WHERE e.extname = 'pgstattuple'"
)


@dataclass(frozen=True, slots=True)
class Bloat:
    """What of an index is waste.

    Args:
        bytes: Its size.
        wasted_bytes: What it would lose if it were built anew.
        is_measured: Whether each page was looked at; otherwise the widths of its columns say so.
    """

    bytes: int
    wasted_bytes: int
    is_measured: bool = False

    @property
    def share(self) -> float:
        """Waste as a share of the size."""
        return self.wasted_bytes / self.bytes if self.bytes else 0.0


async def read_bloat(ask: Ask, *, at_least: int) -> dict[int, Bloat]:
    """The waste in indexes of `at_least` bytes, by the index's number.

    What looks like more than a quarter waste is measured, where the extension pgstattuple is installed.
    """
    found = {row["oid"]: _estimated(row) for row in await ask(_WIDTHS, at_least) if row["is_known"]}
    extension = await ask(_EXTENSION)
    if extension:
        function = Identifier(extension[0]["schema"], "pgstatindex")
        for oid in [oid for oid, bloat in found.items() if bloat.share > 0.25]:  # noqa: PLR2004 - as said above
            found[oid] = await _measured(ask, function, oid) or found[oid]
    return found


def _estimated(row: Any) -> Bloat:
    width = math.ceil(row["width"] / _ALIGNMENT) * _ALIGNMENT
    room = (row["block"] - _PAGE_OVERHEAD) * row["fill"] / 100
    pages = 1 + math.ceil(row["entries"] * (_ENTRY_OVERHEAD + width) / room)
    return Bloat(row["bytes"], max(0, row["bytes"] - pages * row["block"]))


async def _measured(ask: Ask, function: Identifier, oid: int) -> Bloat | None:
    query = (
        f"SELECT {MARK} index_size, leaf_pages, avg_leaf_density, current_setting('block_size')::int AS block"  # noqa: S608
        f" FROM {function}($1::oid::regclass)"
    )
    try:
        rows: Sequence[Any] = await ask(query, oid)
    except DatabaseError:  # not ours to read, or gone meanwhile
        return None
    [row] = rows
    density = 0.0 if math.isnan(row["avg_leaf_density"]) else row["avg_leaf_density"]
    needed = row["leaf_pages"] * row["block"] * density / 90  # a new one is filled to 90 %
    return Bloat(row["index_size"], max(0, int(row["index_size"] - needed)), is_measured=True)
