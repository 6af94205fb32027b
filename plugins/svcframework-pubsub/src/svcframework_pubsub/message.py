"""Message: what a subscriber gets, and how its envelope is read. Reads lazily; knows no server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, cast

import msgspec
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypeVar  # typing's own has no default before Python 3.13

from svcframework_pubsub.errors import MalformedMessageError

PayloadT = TypeVar("PayloadT", default=Any)

MARK: Final = b'{"svc":1,"id":"'
"""Every envelope of ours begins like this, with the id at a fixed place behind it."""

_MARK_TEXT = MARK.decode()
_ID = slice(len(MARK), len(MARK) + 36)
_UNREAD: Any = object()


class _Envelope(msgspec.Struct):
    """The envelope as it is read; an unknown field is none of our business."""

    svc: int
    id: str = ""
    time: float | None = None
    trace: str | None = None
    version: int = 1
    data: msgspec.Raw = msgspec.Raw(b"null")


_FOREIGN = _Envelope(svc=0)
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_plain = msgspec.json.Decoder().decode


# A Struct and not a class with slots: it is made once per message, and made in half the time.
class Message(msgspec.Struct, Generic[PayloadT], eq=False):
    """One message; lives as long as someone holds it. Nothing of it is read before it is asked for.

    A message that has no envelope, such as a `PUBLISH` from redis-cli, is foreign: its payload is its JSON, its text if
    it is no JSON, or its bytes if it is no text, and it has neither id nor time.

    Args:
        channel: The channel it was published on, also for who subscribed by a pattern.
        raw: What came over the wire.
    """

    channel: str
    raw: bytes | str
    _envelope: _Envelope | None = None
    _payload: Any = _UNREAD

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
        """When it was published, in seconds since 1970, to the millisecond: it is in the id. 0 when it is foreign."""
        envelope = self._opened()
        return _time_in(envelope.id) if envelope.time is None else envelope.time

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
        return raw[_ID] if raw.startswith(MARK) else None
    return raw[_ID] if raw.startswith(_MARK_TEXT) else None


def typed(message: Message[Any], decode: Callable[[bytes], Any], model: str) -> Message[Any]:
    """The message with its payload read by a model.

    Raises:
        MalformedMessageError: It does not fit.
    """
    try:
        payload = decode(message.body)
    except (msgspec.MsgspecError, ValueError) as error:  # pydantic's is a ValueError, and quotes what it was given
        reason = str(error) if isinstance(error, msgspec.MsgspecError) else f"{type(error).__name__}"
        hint = f" (its schema version is {message.schema_version})" if message.schema_version != 1 else ""
        raise MalformedMessageError(message.channel, model, reason + hint) from None
    return Message(message.channel, message.raw, message._opened(), payload)  # noqa: SLF001 - of this module


def decoder_of(model: Any) -> Callable[[bytes], Any]:
    """What reads the payload of a typed channel: pydantic for its models, msgspec for every other type."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return TypeAdapter(model).validate_json
    return msgspec.json.Decoder(model).decode


# --- reading --------------------------------------------------------------------------------------------


def _open(raw: bytes | str) -> _Envelope:
    """The envelope, also of a writer that orders its fields otherwise."""
    is_ours = raw.startswith(MARK if isinstance(raw, bytes) else _MARK_TEXT)  # type: ignore[arg-type]  # of one type
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


def _time_in(name: str) -> float:
    """The time that a UUID of version 7 begins with."""
    try:
        return int(name[:8] + name[9:13], 16) / 1000
    except ValueError:  # another writer's id
        return 0.0
