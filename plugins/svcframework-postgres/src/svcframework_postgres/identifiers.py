"""Identifier: the one way a name gets into the text of a statement."""

from __future__ import annotations

_MAX_BYTES = 63  # NAMEDATALEN - 1; PostgreSQL cuts longer names silently, so two could become one


class Identifier:
    """A quoted SQL name, safe in any statement whatever it holds. Immutable.

    Values are bound as `$1`; names of tables, columns and channels can't be, so they are quoted here:

    >>> f"SELECT * FROM {Identifier('app', 'user data')}"
    'SELECT * FROM "app"."user data"'
    >>> str(Identifier('x"; DROP TABLE y; --'))
    '"x""; DROP TABLE y; --"'

    Args:
        parts: The name, after the names that qualify it.

    Raises:
        ValueError: A part is empty, too long for PostgreSQL, or holds a NUL.
    """

    __slots__ = ("parts",)
    parts: tuple[str, ...]

    def __init__(self, *parts: str) -> None:
        if not parts:
            raise ValueError("An identifier needs a name, such as Identifier('users')")
        for part in parts:
            if not part or "\0" in part or len(part.encode()) > _MAX_BYTES:
                raise ValueError(f"{part[:70]!r} can't be an identifier: 1 to {_MAX_BYTES} bytes without NUL are")
        object.__setattr__(self, "parts", parts)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Identifier can't be changed: {name}")

    def __str__(self) -> str:
        return ".".join('"' + part.replace('"', '""') + '"' for part in self.parts)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"Identifier({', '.join(map(repr, self.parts))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identifier) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)
