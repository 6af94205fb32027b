"""How a message becomes a NOTIFY: channel names, texts and the one statement. Pure; knows no connection."""

# ruff: noqa: S608 - the statements are made of constants of this module; names and texts are bound
from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import Final

from svcframework_pubsub.message import id_of

ANY: Final = "svc:any"
"""Listened to by who subscribes to patterns: each message once more, after its channel's name and a line's end."""
OUTBOX: Final = "svc:outbox"
"""Rings when a transaction has put something into the outbox."""

_LONG: Final = "svc:~"
_RESERVED: Final = "svc:"
_MAX_CHANNEL: Final = 63  # bytes, NAMEDATALEN - 1
MAX_TEXT: Final = 7999
"""Bytes that fit into one notification."""
SAFE_SIZE: Final = MAX_TEXT - 256
"""Bytes of a message that fits whatever its channel is called."""

# Held in shared mode by who listens to patterns. Publishers try to take it: if they can't, somebody does.
PATTERNS_LOCK: Final = int.from_bytes(hashlib.sha256(b"svcframework pubsub patterns").digest()[:8], signed=True)

_UNHEARD = f"CASE WHEN pg_try_advisory_lock({PATTERNS_LOCK}) THEN pg_advisory_unlock({PATTERNS_LOCK}) ELSE false END"
_TEXTS = "unnest($2::text[]) AS t(x)"
_PAIRS = "unnest($1::text[], $2::text[]) AS t(c, x)"

PUBLISH_ONE: Final = f"SELECT {_UNHEARD} FROM pg_notify($1::text, $2::text)"
"""Takes a channel and a text. Answers true when nobody listens to patterns; four fifths of the next one's cost."""

PUBLISH_TO_ONE: Final = f"SELECT count(pg_notify($1::text, x)) > 0 AND {_UNHEARD} FROM {_TEXTS}"
"""Takes one channel and texts. One row comes back whatever the number: true when nobody listens to patterns."""

PUBLISH: Final = f"SELECT count(pg_notify(c, x)) > 0 AND {_UNHEARD} FROM {_PAIRS}"
"""The same for texts of one channel each."""

PUBLISH_TO_PATTERNS: Final = f"""
    SELECT count(pg_notify('{ANY}', CASE WHEN starts_with(c, '{_LONG}') THEN x ELSE c || E'\\n' || x END))
    FROM {_PAIRS}"""
"""Takes channels and texts as well: what is to be done when somebody listens."""

PUBLISH_IN_TRANSACTION: Final = f"""
    SELECT count(pg_notify(c, x)),
           count(pg_notify('{ANY}', CASE WHEN starts_with(c, '{_LONG}') THEN x ELSE c || E'\\n' || x END))
    FROM {_PAIRS}"""
"""Both at once, for a transaction: who subscribes to a pattern between the statement and the commit hears it too."""


@lru_cache(maxsize=4096)
def pg_channel(name: str) -> str:
    """What PostgreSQL calls a channel: its name, or a digest of one that is too long or looks like ours.

    >>> pg_channel("runs"), len(pg_channel("r" * 64))
    ('runs', 57)
    """
    if len(name.encode()) <= _MAX_CHANNEL and not name.startswith(_RESERVED):
        return name
    return _LONG + base64.b32encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=").lower()


def notification(name: str, data: bytes) -> tuple[str, str]:
    """The channel and text of a message; a channel whose name is lost in a digest stands in the text."""
    channel = pg_channel(name)
    text = data.decode()
    return channel, text if channel == name else f"{name}\n{text}"


def fits(name: str, data: bytes) -> bool:
    """Whether a message fits into a notification, also into that for patterns."""
    return len(data) <= SAFE_SIZE or len(name.encode()) + 1 + len(data) <= MAX_TEXT


def split(text: str) -> tuple[str, str]:
    """Name and message of a text that begins with its channel's name."""
    name, _, data = text.partition("\n")
    return name, data


# --- what is kept in a table ----------------------------------------------------------------------------

_REFERENCE = b'{"svc":1,"id":"%b","stored":true}'
REFERENCE_SIZE: Final = len(_REFERENCE) - 2 + 36
_REFERENCE_END = '","stored":true}'


def reference(data: bytes) -> bytes:
    """What is sent in place of a message that is kept in a table."""
    found = id_of(data)
    if not isinstance(found, bytes):
        raise TypeError("only an envelope has an id to be found by")
    return _REFERENCE % found


def stored_id(text: str) -> str | None:
    """The id that a text refers to, None if it is a message itself."""
    if len(text) != REFERENCE_SIZE or not text.endswith(_REFERENCE_END):
        return None
    found = id_of(text)
    return found if isinstance(found, str) else None
