"""Takes what looks like a secret out of a text; knows no field, no type and no other module."""

from __future__ import annotations

import re

MASK = "***"
"""Stands where a secret was."""

_TEXT_WORDS = (
    r"passw(?:or)?d|pwd|passphrase|passcode|secret|token|jwt|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"authorization|credentials?|cookie|signature"
)
_TEXT_VALUE = (
    r"\"(?:\\.|[^\"\\])*\"?"  # in quotes, with escaped ones inside; a text that was cut off may lack the last
    r"|'(?:\\.|[^'\\])*'?"
    r"|\\+[\"'][^\"'\\]*"  # in quotes that are escaped themselves: JSON within JSON
    r"|(?!\*\*\*|bearer |basic )[^\s\"',;&)}\]]+"
)
_PATTERNS = (  # repetitions are bounded: the time for a hostile text stays proportional to its length
    # scheme://user:password@host, also with an @ in the password; a port (":80/") is none
    (re.compile(r"(://[^\s:/@\"'<>]{0,256}):(?!\d{1,5}[/?#])[^\s\"'<>]{1,2048}@"), rf"\1:{MASK}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s{1,8}[\w.~+/=-]{6,}"), rf"\1 {MASK}"),
    # password=…, "token": "…", X-Api-Key: …
    (
        re.compile(
            rf"(?i)((?:{_TEXT_WORDS})\w{{0,64}}[\\\"']{{0,4}}\s{{0,8}}(?:=|:|%3d)\s{{0,8}})(?:{_TEXT_VALUE})",
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"\beyJ[\w-]{8,4096}\.[\w-]{4,4096}(?:\.[\w-]{0,4096})?"), MASK),  # a JSON Web Token
)
_SUSPECT = re.compile(r"[:=]|eyJ|%3[dD]|(?i:bearer|basic)\s")


def redact_text(text: str) -> str:
    """`text` with what looks like a secret masked."""
    if _SUSPECT.search(text) is not None:
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    return text
