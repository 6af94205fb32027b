"""Names of channels, and patterns of them: the same on every backend. Knows no server."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from svcframework_pubsub.errors import ChannelNameError

MAX_NAME_BYTES = 255
"""A channel's name has at most so many bytes in UTF-8."""


class Topic(NamedTuple):
    """What a subscriber asks for: a channel, or all channels that fit a pattern."""

    name: str
    is_pattern: bool = False

    def __str__(self) -> str:
        return f"pattern {self.name!r}" if self.is_pattern else repr(self.name)


@lru_cache(maxsize=4096)
def checked(name: str) -> str:
    """The name, if every backend can carry it.

    Raises:
        ChannelNameError: It is empty, too long, no text, or has control characters.
    """
    if not isinstance(name, str) or not name:
        raise ChannelNameError(name, "a text of at least one character is expected")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        raise ChannelNameError(name, "it has control characters")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ChannelNameError(ascii(name), "it has no form in UTF-8") from None
    if size > MAX_NAME_BYTES:
        raise ChannelNameError(name, f"it has {size} bytes, more than {MAX_NAME_BYTES}")
    return name


@lru_cache(maxsize=1024)
def matcher(pattern: str) -> re.Pattern[str]:
    r"""A pattern as a regular expression for whole names.

    `*` stands for any characters, none included; `?` for one; `[abc]`, `[a-z]` and `[^a]` for one of, or one not of,
    a set; a backslash takes the meaning from what follows. A bracket that isn't closed stands for itself.

    >>> bool(matcher("runs.*").fullmatch("runs.7.done")), bool(matcher("runs.?").fullmatch("runs.10"))
    (True, False)
    """
    text, parts, at = checked(pattern), [], 0
    while at < len(text):
        character = text[at]
        at += 1
        if character == "*":
            parts.append(".*")
        elif character == "?":
            parts.append(".")
        elif character == "[" and (found := _bracket(text, at)) is not None:
            part, at = found
            parts.append(part)
        elif character == "\\" and at < len(text):
            parts.append(re.escape(text[at]))
            at += 1
        else:
            parts.append(re.escape(character))
    return re.compile("".join(parts), re.DOTALL)


def superset(pattern: str) -> str:
    r"""A pattern of only `*` and literal characters that fits at least what `pattern` fits.

    Servers read `?` and sets byte by byte, or not at all: they get this one, and we look closer.

    >>> superset("runs.[ab]?.*"), superset(r"a\*b")
    ('runs.*', 'a\\*b')
    """
    parts, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character in "*?":
            parts.append("*")
        elif character == "[" and (found := _bracket(pattern, at)) is not None:
            parts.append("*")
            at = found[1]
        elif character == "\\" and at < len(pattern):
            parts.append(_literal(pattern[at]))
            at += 1
        else:
            parts.append(_literal(character))
    return re.sub(r"(?<!\\)\*(?:\*)+", "*", "".join(parts)) if "**" in "".join(parts) else "".join(parts)


def _literal(character: str) -> str:
    return f"\\{character}" if character in "*?[]\\^" else character


def _bracket(text: str, at: int) -> tuple[str, int] | None:
    """The set that begins at `at`, behind its bracket, as a regular expression, and where it ends."""
    negated = text[at : at + 1] in {"^", "!"}
    at += negated
    members: list[str] = []
    while at < len(text) and (text[at] != "]" or not members):
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        first = text[at]
        if text[at + 1 : at + 2] == "-" and text[at + 2 : at + 3] not in {"", "]"}:
            low, high = sorted((first, text[at + 2]))
            members.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            members.append(re.escape(first))
            at += 1
    if at >= len(text):
        return None
    return f"[{'^' if negated else ''}{''.join(members)}]", at + 1
