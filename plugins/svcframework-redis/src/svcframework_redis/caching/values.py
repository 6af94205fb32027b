"""Codec: values as bytes and back, as JSON or msgpack, never pickled; and which of them may be shared."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from typing import Any, Literal

import msgspec
from pydantic import BaseModel

from svcframework.errors import type_name
from svcframework_redis.caching.refusals import UncacheableValueError

MISSING: Any = object()
"""There is no value; None is a value like any other."""

_ATOMS = frozenset(
    {str, int, float, bool, type(None), bytes, complex, decimal.Decimal, uuid.UUID}
    | {dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone}
)


class Codec:
    """Writes and reads values; lives as long as its cache.

    Args:
        form: `json`, or `msgpack`, which keeps bytes apart from text and is smaller.
    """

    def __init__(self, form: Literal["json", "msgpack"]) -> None:
        self._format: Any = msgspec.json if form == "json" else msgspec.msgpack
        self._encoder = self._format.Encoder(enc_hook=_written)
        self._decoders: dict[Any, Any] = {}

    def encode(self, value: Any) -> bytes:
        """A value as bytes.

        Raises:
            UncacheableValueError: The format has no form for it.
        """
        try:
            data: bytes = self._encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UncacheableValueError(f"A {type_name(type(value))}", _reason(error)) from error
        return data

    def decode(self, data: bytes | memoryview, kind: Any) -> Any:
        """A value as `kind`; `MISSING` if it doesn't fit, as one that an older version wrote.

        Raises:
            UncacheableValueError: Nothing can be read as that type.
        """
        try:
            return self._decoder(kind).decode(data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return MISSING
        except NotImplementedError as error:
            raise UncacheableValueError(f"The type {type_name(kind)}", _reason(error)) from error

    def _decoder(self, kind: Any) -> Any:
        try:
            return self._decoders[kind]
        except (KeyError, TypeError):  # the latter: it can't be hashed
            pass
        try:
            decoder = self._format.Decoder(kind, dec_hook=_read)
        except TypeError as error:
            raise UncacheableValueError(f"The type {type_name(kind)}", _reason(error)) from error
        with contextlib.suppress(TypeError):
            self._decoders[kind] = decoder
        return decoder


def is_immutable(value: Any) -> bool:
    """Whether callers may share the value, because none of them can change it."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, enum.Enum):
        return True
    if isinstance(value, (tuple, frozenset)):
        return all(map(is_immutable, value))
    if isinstance(value, msgspec.Struct):
        frozen, fields = value.__struct_config__.frozen, value.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        frozen, fields = vars(kind)["__dataclass_params__"].frozen, tuple(vars(kind)["__dataclass_fields__"])
    else:
        return False
    return frozen and all(is_immutable(getattr(value, field)) for field in fields)


def _written(value: Any) -> Any:
    """What msgspec is to write for a type that it doesn't know."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"nothing says how to write a {type_name(type(value))}")


def _read(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate(value)
    raise NotImplementedError(
        f"nothing says how to read a {type_name(kind)}"
    )  # no ValueError: the data is not to blame


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
