"""Proposals: changes of a schema as data. Their names become text through `Identifier` only."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from svcframework_postgres.identifiers import Identifier

_MAX_BYTES = 63
_HASH = 8  # characters of a hash that keep a shortened name apart from its siblings


@dataclass(frozen=True, slots=True)
class Proposal(ABC):
    """A change that somebody may choose; immutable, comparable, and nothing is done by making one.

    Args:
        schema: The schema of the table.
        table: The table.
    """

    schema: str
    table: str

    @property
    @abstractmethod
    def key(self) -> str:
        """What chooses it: the same for the same change, in every report."""

    @property
    @abstractmethod
    def statements(self) -> tuple[str, ...]:
        """The statements that do it, in order, each outside a transaction."""

    @property
    def undo(self) -> tuple[str, ...]:
        """The statements that undo it; none where there is nothing to undo."""
        return ()

    @property
    def ddl(self) -> str:
        """The statements as one text."""
        return "\n".join(f"{statement};" for statement in self.statements)

    @property
    def on(self) -> Identifier:
        """The table, quoted."""
        return Identifier(self.schema, self.table)


@dataclass(frozen=True, slots=True)
class CreateIndex(Proposal):
    """Build an index, while the table stays in use.

    Args:
        schema: The schema of the table.
        table: The table.
        columns: What to index, in order.
        name: The index's name; made from table and columns when not given, as PostgreSQL does.
    """

    columns: tuple[str, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"An index on {self.schema}.{self.table} needs a column")
        if not self.name:
            object.__setattr__(self, "name", name_for(self.table, self.columns, "idx"))

    @property
    def key(self) -> str:
        """`create index public.orders_customer_id_idx`."""
        return f"create index {self.schema}.{self.name}"

    @property
    def index(self) -> Identifier:
        """The index, quoted."""
        return Identifier(self.schema, self.name)

    @property
    def statements(self) -> tuple[str, ...]:
        """`CREATE INDEX CONCURRENTLY`."""
        columns = ", ".join(str(Identifier(column)) for column in self.columns)
        return (f"CREATE INDEX CONCURRENTLY {Identifier(self.name)} ON {self.on} ({columns})",)

    @property
    def undo(self) -> tuple[str, ...]:
        """`DROP INDEX CONCURRENTLY`."""
        return (f"DROP INDEX CONCURRENTLY {self.index}",)


@dataclass(frozen=True, slots=True)
class DropIndex(Proposal):
    """Drop an index, while the table stays in use.

    Args:
        schema: The schema of the table and index.
        table: The table.
        name: The index.
        definition: The server's own text of it, to build it again.
    """

    name: str
    definition: str = ""

    @property
    def key(self) -> str:
        """`drop index public.orders_customer_id_idx`."""
        return f"drop index {self.schema}.{self.name}"

    @property
    def index(self) -> Identifier:
        """The index, quoted."""
        return Identifier(self.schema, self.name)

    @property
    def statements(self) -> tuple[str, ...]:
        """`DROP INDEX CONCURRENTLY`."""
        return (f"DROP INDEX CONCURRENTLY {self.index}",)

    @property
    def undo(self) -> tuple[str, ...]:
        """The index's definition."""
        return (self.definition,) if self.definition else ()


@dataclass(frozen=True, slots=True)
class RebuildIndex(Proposal):
    """Build an index anew in its place, while the table stays in use.

    Args:
        schema: The schema of the table and index.
        table: The table.
        name: The index.
    """

    name: str

    @property
    def key(self) -> str:
        """`rebuild index public.orders_customer_id_idx`."""
        return f"rebuild index {self.schema}.{self.name}"

    @property
    def index(self) -> Identifier:
        """The index, quoted."""
        return Identifier(self.schema, self.name)

    @property
    def statements(self) -> tuple[str, ...]:
        """`REINDEX INDEX CONCURRENTLY`."""
        return (f"REINDEX INDEX CONCURRENTLY {self.index}",)


@dataclass(frozen=True, slots=True)
class AnalyzeTable(Proposal):
    """Have the server count a table's values anew."""

    @property
    def key(self) -> str:
        """`analyze public.orders`."""
        return f"analyze {self.schema}.{self.table}"

    @property
    def statements(self) -> tuple[str, ...]:
        """`ANALYZE`."""
        return (f"ANALYZE {self.on}",)


@dataclass(frozen=True, slots=True)
class CreateStatistics(Proposal):
    """Tell the planner that columns depend on each other.

    Args:
        schema: The schema of the table.
        table: The table.
        columns: Two columns or more, of one table.
    """

    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.columns) < 2:  # noqa: PLR2004 - what depends on each other are at least two
            raise ValueError(f"Statistics on {self.schema}.{self.table} need two columns")

    @property
    def name(self) -> str:
        """The name of the statistics object, from table and columns."""
        return name_for(self.table, self.columns, "stat")

    @property
    def key(self) -> str:
        """`create statistics public.orders_city_zip_stat`."""
        return f"create statistics {self.schema}.{self.name}"

    @property
    def statements(self) -> tuple[str, ...]:
        """`CREATE STATISTICS` and the `ANALYZE` that fills it."""
        columns = ", ".join(str(Identifier(column)) for column in self.columns)
        name = Identifier(self.schema, self.name)
        return f"CREATE STATISTICS IF NOT EXISTS {name} ON {columns} FROM {self.on}", f"ANALYZE {self.on}"

    @property
    def undo(self) -> tuple[str, ...]:
        """`DROP STATISTICS`."""
        return (f"DROP STATISTICS {Identifier(self.schema, self.name)}",)


def name_for(table: str, columns: Sequence[str], ending: str) -> str:
    """A name from table and columns that fits; what must be cut gets a hash.

    >>> name_for("orders", ["customer_id"], "idx")
    'orders_customer_id_idx'
    """
    full = "_".join([table, *columns, ending])
    if len(full.encode()) <= _MAX_BYTES:
        return full
    tail = f"_{hashlib.sha256(full.encode()).hexdigest()[:_HASH]}_{ending}"
    return full.encode()[: _MAX_BYTES - len(tail)].decode(errors="ignore") + tail
