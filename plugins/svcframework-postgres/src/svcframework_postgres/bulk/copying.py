"""What COPY in and out have in common: options, places, and whose error it was.

What limits a COPY is the time without progress, since nobody can say how long a whole one takes: each chunk must get
through within `timeout`, and so must the server's last word. The caller's deadline holds for all of it.
"""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from svcframework_postgres.identifiers import Identifier
from svcframework_postgres.statements import PostgresStatements

CopyFormat = Literal["text", "csv", "binary"]

FOREVER = 30 * 86_400.0
"""Seconds; the driver's own limit is of the whole, ours is of each step."""


class CopyOptions(TypedDict, total=False):
    """What COPY's text and csv formats can be told; PostgreSQL's defaults where one isn't given."""

    header: bool | Literal["match"]
    delimiter: str
    null: str
    quote: str
    escape: str
    encoding: str
    force_null: Sequence[str]
    force_not_null: Sequence[str]
    force_quote: bool | Sequence[str]


class SourceError(Exception):
    """Carries what the caller's own source or sink raised past what is made of the driver's errors."""

    def __init__(self, error: Exception) -> None:
        self.error = error


async def run_copy(
    target: PostgresStatements, operation: str, query: str, work: Any, *, timeout: float | None, args: Any = ()
) -> int:
    """Run a COPY; what the caller's own part of it raised is raised as it was."""
    try:
        status: str = await target.run(operation, query, work, args, timeout)
    except SourceError as failed:
        error = failed.error
    else:
        return int(status.rpartition(" ")[2])
    raise error


def place_of(table: Identifier | str, columns: Sequence[str] | None) -> dict[str, Any]:
    """A table and its columns as the driver takes them.

    Raises:
        ValueError: One of them can't be a name.
    """
    parts = (table if isinstance(table, Identifier) else Identifier(table)).parts
    if len(parts) > 2:  # noqa: PLR2004 - schema and table
        raise ValueError(f"{table!r} has too many parts; give Identifier('schema', 'table')")
    for column in columns or ():
        Identifier(column)
    return {
        "table_name": parts[-1],
        "schema_name": parts[0] if len(parts) > 1 else None,
        "columns": None if columns is None else list(columns),
    }


def shown(table: Identifier | str) -> Identifier:
    """A table as it stands in a statement."""
    return table if isinstance(table, Identifier) else Identifier(table)


def checked(options: CopyOptions) -> dict[str, Any]:
    """The options; the driver puts `header` into the statement as it is, so nothing else than these may be it."""
    header: object = options.get("header", False)
    if not isinstance(header, bool) and header != "match":
        raise ValueError(f"header={header!r}: give True, False or 'match'")
    unknown = set(options) - set(CopyOptions.__annotations__)
    if unknown:
        raise TypeError(
            f"COPY knows no {', '.join(sorted(unknown))}; there are {', '.join(CopyOptions.__annotations__)}"
        )
    return dict(options)
