"""Codecs: how values of a type travel. JSON and pgvector are here; users add their own with `Codec`."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import msgspec
from pydantic import BaseModel

from svcframework.errors import ConfigurationError

if TYPE_CHECKING:
    from svcframework_postgres.connections import Connection

_JSONB_VERSION = b"\x01"  # the first byte of the binary format of jsonb
_EXTENSION_TYPES = """
SELECT t.typname AS type, n.nspname AS schema FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE t.typname = ANY($1::name[]) AND t.typtype = 'b'
"""


@dataclass(frozen=True, slots=True)
class Codec:
    """How values of one type are written and read; given to `PostgresService(codecs=[…])`.

    Args:
        type: The type's name in the database.
        encoder: Makes of a Python value what is sent: `str` for the text format, `bytes` for the binary one.
        decoder: Makes a Python value of what came.
        schema: Where the type is; `pg_catalog` for built-in ones.
        format: What the server is to send and take.
        required: Whether a database without the type is an error; such a codec is left out otherwise.
    """

    type: str
    encoder: Callable[[Any], str | bytes]
    decoder: Callable[[Any], Any]
    schema: str = "public"
    format: Literal["text", "binary"] = "text"
    required: bool = True


async def set_codecs(connection: Connection, codecs: Sequence[Codec], *, address: str) -> None:
    """Set the built-in codecs, those of the extensions that the database has, and the user's, which win.

    Raises:
        ConfigurationError: The database hasn't a type that a codec requires.
    """
    # Known types by known ids: neither call asks the server.
    for codec in _JSON:
        await _set(connection, codec, codec.schema)
    for row in await connection.fetch(_EXTENSION_TYPES, ["hstore", *_VECTORS]):
        if row["type"] == "hstore":
            await connection.set_builtin_type_codec("hstore", schema=row["schema"], codec_name="pg_contrib.hstore")
        else:
            await _set(connection, _VECTORS[row["type"]], row["schema"])
    for codec in codecs:
        try:
            await _set(connection, codec, codec.schema)
        except ValueError:  # the driver's word for a type that isn't there
            if codec.required:
                raise ConfigurationError(
                    f"{address} can't use its codecs",
                    [f"type {codec.schema}.{codec.type} isn't in the database; create it, or set required=False"],
                ) from None


async def _set(connection: Connection, codec: Codec, schema: str) -> None:
    await connection.set_type_codec(
        codec.type, schema=schema, encoder=codec.encoder, decoder=codec.decoder, format=codec.format
    )


# --- JSON -----------------------------------------------------------------------------------------------


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, UUID):  # the driver's subclass
        return str(value)
    raise TypeError(f"{type(value).__qualname__} has no form in JSON; convert it first")


_encoder = msgspec.json.Encoder(enc_hook=_plain)


def _to_jsonb(value: object) -> bytes:
    return _JSONB_VERSION + _encoder.encode(value)


def _from_jsonb(data: bytes) -> Any:
    return msgspec.json.decode(data[1:])


_JSON = (
    Codec("jsonb", _to_jsonb, _from_jsonb, schema="pg_catalog", format="binary"),
    Codec("json", _encoder.encode, msgspec.json.decode, schema="pg_catalog", format="binary"),
)


# --- pgvector: two 16-bit numbers (how many, 0), then the components, all big-endian --------------------


def _to_vector(values: Sequence[float]) -> bytes:
    floats = array("f", values)
    if sys.byteorder == "little":
        floats.byteswap()
    return struct.pack(">HH", len(floats), 0) + floats.tobytes()


def _from_vector(data: bytes) -> list[float]:
    floats = array("f", data[4:])
    if sys.byteorder == "little":
        floats.byteswap()
    return floats.tolist()


def _to_halfvec(values: Sequence[float]) -> bytes:
    return struct.pack(f">HH{len(values)}e", len(values), 0, *values)


def _from_halfvec(data: bytes) -> list[float]:
    return list(struct.unpack(f">{len(data) // 2 - 2}e", data[4:]))


_VECTORS = {
    "vector": Codec("vector", _to_vector, _from_vector, format="binary"),
    "halfvec": Codec("halfvec", _to_halfvec, _from_halfvec, format="binary"),
}
