"""Conditions: which columns a plan's filter compares, and how. Reads the server's own form, not a user's SQL.

The server writes conditions fully in brackets, names of columns after their table's alias, and constants quoted, so
that reading them needs no grammar of SQL. What isn't a comparison of one column is left out, and said to be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>[EBX]?'(?:[^'\\]|''|\\.)*')
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
      | (?P<number>\d[\w.]*)
      | (?P<parameter>\$\d+)
      | (?P<cast>::)
      | (?P<mark>[().,\[\]:])
      | (?P<operator>[-+*/<>=~!@\#%^&|`?]+)
    )""",
    re.VERBOSE,
)
_CONSTANT = re.compile(r"E?'(?:[^'\\]|''|\\.)*'")
_RANGES = frozenset({"<", ">", "<=", ">="})
_TEXTS = frozenset({"text", "bpchar", "character", "varchar"})


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a filter asks of the columns of one table.

    Args:
        equal: Columns compared with `=`, in the order of the filter.
        ranges: Columns compared with `<`, `>` and the like.
        other: Columns that are used in another way: in a function, a pattern, an `OR`.
        as_text: Those of `equal` and `ranges` that are read as text: harmless where they hold text already.
    """

    equal: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    as_text: frozenset[str] = frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys([*self.equal, *self.ranges, *self.other]))


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    value: str


def conditions_on(condition: str | None, alias: str) -> Conditions:
    """What a condition asks of the table called `alias`.

    >>> conditions_on("((o.customer_id = 5) AND (o.placed > $1) AND (lower(o.note) = 'x'::text))", "o")
    Conditions(equal=('customer_id',), ranges=('placed',), other=('note',), as_text=frozenset())
    """
    equal: list[str] = []
    ranges: list[str] = []
    other: list[str] = []
    as_text: set[str] = set()
    for part in _conjuncts(_stripped(_tokens(condition or ""))):
        column, operator, is_text = _comparison(part, alias)
        if column is None:
            other += _columns_in(part, alias)
            continue
        (equal if operator == "=" else ranges).append(column)
        if is_text:
            as_text.add(column)
    return Conditions(
        tuple(dict.fromkeys(equal)), tuple(dict.fromkeys(ranges)), tuple(dict.fromkeys(other)), frozenset(as_text)
    )


def without_constants(condition: str) -> str:
    """A condition as anyone may see it: its texts are arguments of somebody's.

    >>> without_constants("((o.email)::text = 'ada@example.org'::text)")
    "((o.email)::text = '…'::text)"
    """
    return _CONSTANT.sub("'…'", condition)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            if text[position:].strip():
                found.append(_Token("unknown", text[position]))
            position += 1
            continue
        value = match[match.lastgroup]
        kind = match.lastgroup
        if kind == "quoted":
            kind, value = "name", value[1:-1].replace('""', '"')
        found.append(_Token(kind, value))
        position = match.end()
    return found


def _stripped(tokens: list[_Token]) -> list[_Token]:
    """Without the brackets around all of it."""
    while len(tokens) > 1 and tokens[0].value == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: list[_Token], opening: int) -> int:
    depth = 0
    for place in range(opening, len(tokens)):
        if tokens[place].kind == "mark":
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(tokens[place].value, 0)
            if depth == 0:
                return place
    return -1


def _top_level(tokens: list[_Token]) -> list[int]:
    """The places of the tokens outside all brackets."""
    places, depth = [], 0
    for place, token in enumerate(tokens):
        if token.kind == "mark" and token.value in {")", "]"}:
            depth -= 1
        if depth == 0:
            places.append(place)
        if token.kind == "mark" and token.value in {"(", "["}:
            depth += 1
    return places


def _conjuncts(tokens: list[_Token]) -> list[list[_Token]]:
    """The parts that must all hold."""
    cuts = [place for place in _top_level(tokens) if tokens[place] == _Token("word", "AND")]
    starts, ends = [0, *(cut + 1 for cut in cuts)], [*cuts, len(tokens)]
    return [_stripped(tokens[start:end]) for start, end in zip(starts, ends, strict=True) if end > start]


def _comparison(tokens: list[_Token], alias: str) -> tuple[str | None, str, bool]:
    """The column that is compared with something else, the operator, and whether it is read as text."""
    operators = [place for place in _top_level(tokens) if tokens[place].kind == "operator"]
    if len(operators) != 1 or tokens[operators[0]].value not in {"=", *_RANGES}:
        return None, "", False
    cut, operator = operators[0], tokens[operators[0]].value
    left, right = tokens[:cut], tokens[cut + 1 :]
    if right and right[0].kind == "word" and right[0].value == "ALL":
        return None, "", False
    for side, against in ((left, right), (right, left)):
        column, is_text = _column(side, alias)
        if column is not None and not _columns_in(against, alias):
            return column, operator, is_text
    return None, "", False


def _column(tokens: list[_Token], alias: str) -> tuple[str | None, bool]:
    """The column that these tokens are, and whether they read it as text."""
    tokens = _stripped(tokens)
    casts = [place for place in _top_level(tokens) if tokens[place].kind == "cast"]
    is_text = False
    if casts:
        written = tokens[casts[0] + 1 :]
        if written[0].value not in _TEXTS or any(token.kind not in {"word", "number", "mark"} for token in written):
            return None, False
        tokens, is_text = _stripped(tokens[: casts[0]]), True
    found = _columns_in(tokens, alias)
    return (found[0], is_text) if len(tokens) == 3 and len(found) == 1 else (None, False)  # noqa: PLR2004 - alias . column


def _columns_in(tokens: list[_Token], alias: str) -> list[str]:
    """Every column of the table that is named."""
    return [
        after.value
        for before, dot, after in zip(tokens, tokens[1:], tokens[2:], strict=False)
        if before.value == alias
        and before.kind in {"word", "name"}
        and dot.value == "."
        and after.kind in {"word", "name"}
    ]
