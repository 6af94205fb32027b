"""Opening connections: json codecs, the mark of a changed session, and the errors of connecting."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

import asyncpg
import msgspec
from pydantic import BaseModel

from svcframework_postgres import upgrade
from svcframework_postgres.errors import translated

upgrade.install()

_JSONB_VERSION = b"\x01"  # the first byte of the binary format of jsonb

# A statement that begins like this changes rows and no session …
_PLAIN = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|insert|update|delete|with|values|table|merge)\b",
    re.IGNORECASE | re.DOTALL,
)
# … unless it calls one of these.
_MARKS_SESSION = re.compile(r"set_config|advisory|\btemp|pg_temp|dblink|pg_stat_reset|setseed", re.IGNORECASE)


class Connection(asyncpg.Connection):
    """A driver connection that knows when it was last given back and whether its session may have changed."""

    __slots__ = ("is_changed", "used_at")

    is_changed: bool
    used_at: float


async def connect(arguments: dict[str, Any], *, address: str) -> Connection:
    """Open a connection with the json codecs set.

    Args:
        arguments: From `PostgresConfig.connect_arguments`.
        address: Where that is, for messages.

    Raises:
        ConnectionFailedError: The server can't be reached, or it is starting or stopping.
        AuthenticationFailedError: It refused the credentials.
        ServiceTimeoutError: It did not answer within `connect_timeout`.
        ConfigurationError: The settings make no sense to the driver.
    """
    with translated(f"connect to {address}", arguments["timeout"], connecting=True):
        connection = cast("Connection", await asyncpg.connect(connection_class=Connection, **arguments))
    connection.is_changed, connection.used_at = False, 0.0
    # Known types by known ids: neither call asks the server.
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_to_jsonb, decoder=_from_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=_to_json, decoder=msgspec.json.decode, format="binary"
    )
    return connection


@lru_cache(maxsize=4096)
def changes_session(query: str) -> bool:
    """Whether a statement may leave something behind in its session: a setting, a lock, a temporary table.

    >>> changes_session("SELECT 1"), changes_session("SET work_mem = '1GB'")
    (False, True)
    """
    return _PLAIN.match(query) is None or _MARKS_SESSION.search(query) is not None


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} has no form in JSON; convert it first")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
_to_json = _encoder.encode


def _to_jsonb(value: object) -> bytes:
    return _JSONB_VERSION + _encoder.encode(value)


def _from_jsonb(data: bytes) -> Any:
    return msgspec.json.decode(data[1:])
