"""Message: what a subscriber gets, and the envelope that it travels in. Reads lazily; knows no server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Generic, cast

import msgspec
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypeVar  # typing's own has no default before Python 3.13
from uuid_utils import uuid7

from svcframework.log import context_fields
from svcframework_pubsub.errors import MalformedMessageError, MessageEncodingError, MessageTooLargeError

PayloadT = TypeVar("PayloadT", default=Any)

_MARK = b'{"svc":1,"id":"'  # every envelope of ours begins like this, with the id at a fixed place
_MARK_TEXT = _MARK.decode()
_ID = slice(len(_MARK), len(_MARK) + 36)
_UNREAD: Any = object()


class _Envelope(msgspec.Struct):
    """The envelope as it is read; an unknown field is none of our business."""

    svc: int
    id: str = ""
    time: float = 0.0
    trace: str | None = None
    version: int = 1
    data: msgspec.Raw = msgspec.Raw(b"null")


_FOREIGN = _Envelope(svc=0)
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_plain = msgspec.json.Decoder().decode


class Message(Generic[PayloadT]):
    """One message; lives as long as someone holds it. Nothing of it is read before it is asked for.

    A message that has no envelope, such as a `PUBLISH` from redis-cli, is foreign: its payload is its JSON, its text if
    it is no JSON, or its bytes if it is no text, and it has neither id nor time.
    """

    __slots__ = ("_envelope", "_payload", "channel", "raw")

    def __init__(self, channel: str, raw: bytes | str) -> None:
        self.channel = channel
        """The channel it was published on, also for who subscribed by a pattern."""
        self.raw = raw
        """What came over the wire."""
        self._envelope: _Envelope | None = None
        self._payload: Any = _UNREAD

    @property
    def payload(self) -> PayloadT:
        """What was published: JSON values, or the model of a typed channel."""
        if self._payload is _UNREAD:
            envelope = self._opened()
            self._payload = _plain(self.raw) if envelope is _FOREIGN else _decode_plain(envelope.data)
        return cast("PayloadT", self._payload)

    @property
    def id(self) -> str:
        """A UUID of version 7, the same in each copy of the message; empty when it is foreign."""
        return self._opened().id

    @property
    def time(self) -> float:
        """When it was published, in seconds since 1970; 0 when it is foreign."""
        return self._opened().time

    @property
    def trace_id(self) -> str | None:
        """The correlation id of who published it, by `service_context`."""
        return self._opened().trace

    @property
    def schema_version(self) -> int:
        """The version that the publisher's typed channel gave; 1 without one."""
        return self._opened().version

    @property
    def is_foreign(self) -> bool:
        """It was not published by svcframework."""
        return self._opened() is _FOREIGN

    @property
    def body(self) -> bytes:
        """The payload as it was written."""
        envelope = self._opened()
        if envelope is not _FOREIGN:
            return bytes(envelope.data)
        return self.raw.encode() if isinstance(self.raw, str) else self.raw

    def _opened(self) -> _Envelope:
        envelope = self._envelope
        if envelope is None:
            envelope = self._envelope = _open(self.raw)
        return envelope

    def __repr__(self) -> str:
        return f"<Message on {self.channel!r} id={self.id or 'none'}>"


def id_of(raw: bytes | str) -> str | bytes | None:
    """The id of an envelope without reading it; None for what is foreign."""
    if isinstance(raw, bytes):
        return raw[_ID] if raw.startswith(_MARK) else None
    return raw[_ID] if raw.startswith(_MARK_TEXT) else None


def typed(message: Message[Any], decode: Callable[[bytes], Any], model: str) -> Message[Any]:
    """The message with its payload read by a model.

    Raises:
        MalformedMessageError: It does not fit.
    """
    found: Message[Any] = Message(message.channel, message.raw)
    found._envelope = message._opened()  # noqa: SLF001 - of this module
    try:
        found._payload = decode(message.body)  # noqa: SLF001 - of this module
    except (msgspec.MsgspecError, ValueError) as error:  # pydantic's is a ValueError, and quotes what it was given
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else f"{type(error).__name__}"
        hint = f" (its schema version is {message.schema_version})" if message.schema_version != 1 else ""
        raise MalformedMessageError(message.channel, model, reason + hint) from None
    return found


def decoder_of(model: Any) -> Callable[[bytes], Any]:
    """What reads the payload of a typed channel: pydantic for its models, msgspec for every other type."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return TypeAdapter(model).validate_json
    return msgspec.json.Decoder(model).decode


# --- writing --------------------------------------------------------------------------------------------


def pack(channel: str, payload: Any, *, version: int = 1, limit: int | None = None) -> bytes:
    """A message in its envelope.

    Args:
        channel: Where it goes, for errors.
        payload: Anything that msgspec can write as JSON, or a pydantic model.
        version: The schema version.
        limit: Bytes it may have.

    Raises:
        MessageEncodingError: It has no form in JSON.
        MessageTooLargeError: It is too long.
    """
    data = b'%b%b","time":%b%b,"data":%b}' % (
        _MARK,
        str(uuid7()).encode(),
        repr(time.time()).encode(),
        _more(context_fields().get("correlation_id"), version),
        _written(channel, payload),
    )
    if limit is not None and len(data) > limit:
        raise MessageTooLargeError(channel, len(data), limit)
    return data


def pack_many(channel: str, payloads: Iterable[Any], *, version: int = 1, limit: int | None = None) -> list[bytes]:
    """Many messages for one channel: they share a time, and their ids count up from one that is new."""
    first = str(uuid7())
    head, tail = _MARK + first[:24].encode(), int(first[24:], 16)
    middle = b'","time":%b%b,"data":' % (repr(time.time()).encode(), _more(context_fields().get("correlation_id"), version))
    packed = [
        b"%b%012x%b%b}" % (head, (tail + number) & 0xFFFFFFFFFFFF, middle, _written(channel, payload))
        for number, payload in enumerate(payloads)
    ]
    if limit is not None:
        for data in packed:
            if len(data) > limit:
                raise MessageTooLargeError(channel, len(data), limit)
    return packed


def _written(channel: str, payload: Any) -> bytes:
    try:
        return _encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise MessageEncodingError(channel, str(error) or type(error).__name__) from None


def _model(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} has no form in JSON")


_encode = msgspec.json.Encoder(enc_hook=_model).encode


@lru_cache(maxsize=256)
def _more(trace: object, version: int) -> bytes:
    """The fields of an envelope that most messages don't have."""
    written = b"" if trace is None else b',"trace":' + _encode(str(trace))
    return written if version == 1 else written + b',"version":%d' % version


# --- reading --------------------------------------------------------------------------------------------


def _open(raw: bytes | str) -> _Envelope:
    """The envelope, also of a writer that orders its fields otherwise."""
    is_ours = raw.startswith(_MARK if isinstance(raw, bytes) else _MARK_TEXT)  # type: ignore[arg-type]  # of one type
    if is_ours or (b'"svc":' in raw if isinstance(raw, bytes) else '"svc":' in raw):
        try:
            found = _decode_envelope(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _FOREIGN
        return found if found.svc >= 1 and found.id else _FOREIGN
    return _FOREIGN


def _plain(raw: bytes | str) -> Any:
    """A foreign message: JSON, else text, else bytes."""
    try:
        return _decode_plain(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
