"""Packer: puts messages into their envelopes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import repeat
from typing import Any, Final

import msgspec
from pydantic import BaseModel
from uuid_utils import uuid7

from svcframework.log import context_fields
from svcframework_pubsub.errors import MessageEncodingError, MessageTooLargeError
from svcframework_pubsub.message import MARK

_BLOCK: Final = 4096  # ids with the same beginning
_ENDINGS: Final = [b"%03x" % number for number in range(_BLOCK)]
_FRESH: Final = 0.001  # seconds for which ids may count up from one: they have its millisecond in them
_ENVELOPE: Final = 100  # bytes around a payload, but for the trace and the version, at most
_PLAIN: Final = b'","data":'
_PLAIN_ENDINGS: Final = [ending + _PLAIN for ending in _ENDINGS]


class Packer:
    """Writes envelopes; lives as long as its service.

    Ids are UUIDs of version 7. A new one is drawn for each millisecond, and its last three digits are counted up within
    it: the library changes a counter before them with each one that is drawn, so no two are equal, and they sort.

    Args:
        limit: Bytes that an envelope may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._head = b""
        self._at = 0.0
        self._number = len(_ENDINGS)

    def one(self, channel: str, payload: Any, *, version: int = 1) -> bytes:
        """A message in its envelope.

        Args:
            channel: Where it goes, for errors.
            payload: Anything that msgspec can write as JSON, or a pydantic model.
            version: The schema version.

        Raises:
            MessageEncodingError: It has no form in JSON.
            MessageTooLargeError: It is too long.
        """
        try:
            body = _encode(payload)
        except _UNWRITABLE as error:
            raise MessageEncodingError(channel, str(error) or type(error).__name__) from None
        now = time.monotonic()
        if self._number >= _BLOCK or now - self._at >= _FRESH:
            self._draw(now)
        ending = _ENDINGS[self._number]
        self._number += 1
        data = b"%b%b%b%b}" % (self._head, ending, _middle(version), body)
        if len(data) > self._limit:
            raise MessageTooLargeError(channel, len(data), self._limit)
        return data

    def many(self, channel: str, payloads: Iterable[Any], *, version: int = 1) -> list[bytes]:
        """Messages in their envelopes. Arguments and errors as `one`."""
        values = list(payloads)
        try:
            lines = _encode_lines(values)
        except _UNWRITABLE as error:
            raise MessageEncodingError(channel, str(error) or type(error).__name__) from None
        bodies = lines.replace(b"\n", b"}\n").split(b"\n")
        bodies.pop()  # what is behind the last line's end
        if len(bodies) != len(values):  # msgspec.Raw may have line ends in it
            return [self.one(channel, value, version=version) for value in values]
        middle, packed = _middle(version), list[bytes]()
        endings = _PLAIN_ENDINGS if middle is _PLAIN else [ending + middle for ending in _ENDINGS[: len(bodies)]]
        for start in range(0, len(bodies), _BLOCK):
            self._draw(time.monotonic())
            packed += map(b"".join, zip(repeat(self._head), endings, bodies[start : start + _BLOCK], strict=False))
        self._number = _BLOCK
        if len(lines) + _ENVELOPE + len(middle) > self._limit:  # else none of them can be too long
            longest = max(map(len, packed), default=0)
            if longest > self._limit:
                raise MessageTooLargeError(channel, longest, self._limit)
        return packed

    def _draw(self, now: float) -> None:
        self._head = MARK + str(uuid7())[:-3].encode()
        self._at, self._number = now, 0


_UNWRITABLE = (TypeError, ValueError, OverflowError, RecursionError)


def _model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} has no form in JSON")


_encoder = msgspec.json.Encoder(enc_hook=_model)
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


def _middle(version: int) -> bytes:
    """What stands between id and payload: mostly nothing."""
    trace = context_fields().get("correlation_id")
    return _PLAIN if trace is None and version == 1 else _fields(trace, version)


@lru_cache(maxsize=256)
def _fields(trace: object, version: int) -> bytes:
    written = b'"' if trace is None else b'","trace":' + _encode(str(trace))
    return b'%b%b,"data":' % (written, b"" if version == 1 else b',"version":%d' % version)
