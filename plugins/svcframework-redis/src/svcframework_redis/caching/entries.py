"""Entry: what one key holds in Redis: a value with its times and tags, or the lease of the one who makes it."""

from __future__ import annotations

import os
import struct
import types
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

# Kind, mark, when it ends, when it is to be refreshed (0 for never), and how many bytes of tags follow.
_HEADER = struct.Struct(">c8sddI")
EXPIRES_AT = struct.Struct(">d")
MARK = 9
"""Bytes at the beginning that no two entries share: whoever replaces an entry names the one that he means."""

_KINDS: dict[bytes, Literal["value", "none", "lease"]] = {b"v": "value", b"n": "none", b"l": "lease"}
_TAGS = msgspec.msgpack.Decoder(dict[Annotated[str, msgspec.Meta(min_length=1)], bytes])
_NO_TAGS: Mapping[str, bytes] = types.MappingProxyType({})
_NOTHING = memoryview(b"")


class Entry(msgspec.Struct, frozen=True):
    """One entry, as it was read; lives as long as the call."""

    kind: Literal["value", "none", "lease", "foreign"]
    """A value, the value None, a lease, or something that this cache has not written."""
    mark: bytes
    """Which entry it is; no other one has the same."""
    expires_at: float = 0.0
    """Seconds since 1970."""
    refresh_at: float = 0.0
    """Seconds since 1970 after which the value is to be made anew; 0 for never."""
    tags: Mapping[str, bytes] = _NO_TAGS
    """The version that each tag had before the value was made."""
    body: memoryview = _NOTHING
    """The value, as the codec wrote it."""


def pack_value(
    body: bytes | None, *, expires_at: float, refresh_at: float = 0.0, tags: Mapping[str, bytes] | None = None
) -> bytes:
    """An entry with a value; None for the value None."""
    shown = msgspec.msgpack.encode(tags) if tags else b""
    kind = b"n" if body is None else b"v"
    return _HEADER.pack(kind, os.urandom(8), expires_at, refresh_at, len(shown)) + shown + (body or b"")


def pack_lease() -> bytes:
    """The claim of one who makes the value; no two are equal."""
    return b"l" + os.urandom(8)


def unpack(data: bytes) -> Entry:
    """An entry from its bytes; whatever isn't one is `foreign`."""
    mark, kind = data[:MARK], _KINDS.get(data[:1])
    if kind == "lease" and len(data) == MARK:
        return Entry("lease", mark)
    if kind is None or len(data) < _HEADER.size:
        return Entry("foreign", mark)
    _, _, expires_at, refresh_at, size = _HEADER.unpack_from(data)
    tags = _NO_TAGS
    end = _HEADER.size + size
    if size:
        try:
            tags = _TAGS.decode(data[_HEADER.size : end])
        except msgspec.MsgspecError:
            return Entry("foreign", mark)
    return Entry(kind, mark, expires_at, refresh_at, tags, memoryview(data)[end:])


def body_of(data: bytes) -> memoryview:
    """The value in an entry, as the codec wrote it."""
    return unpack(data).body
