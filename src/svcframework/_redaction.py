"""Takes secrets out of values before they are shown: by the name of a field, by type, by what a text looks like."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
from pydantic import BaseModel, SecretBytes, SecretStr

from svcframework._secrettext import MASK, redact_text

_DEPTH = 8  # levels of nesting; deeper (or a cycle) reads "…"

# fmt: off
_SECRET_WORDS = frozenset({
    "apikey", "authorization", "bearer", "cookie", "cookies", "credential", "credentials", "jwt", "passcode",
    "passphrase", "passwd", "password", "passwords", "pwd", "secret", "secrets", "token", "tokens",
})
_SECRET_ENDS = frozenset({"auth", "pin"})  # "basic_auth" holds one, "auth_service" and "pin_memory" don't
_SECRET_PAIRS = frozenset({
    ("access", "key"), ("api", "key"), ("api", "keys"), ("encryption", "key"), ("master", "key"), ("pass", "word"),
    ("private", "key"), ("secret", "key"), ("session", "id"), ("session", "key"), ("signing", "key"),
})
# "token_count" and "password_length" tell nothing; "max_tokens" is a number and passes for that.
_HARMLESS_ENDS = frozenset({
    "algorithm", "at", "budget", "count", "enabled", "expires", "expiry", "header", "in", "length", "limit", "name",
    "policy", "provider", "service", "status", "store", "ttl", "type", "url", "usage",
})
# fmt: on


def redact(value: Any) -> Any:
    """A copy of `value` without secrets, made of plain values that print on one line as JSON.

    A secret is what has a secret's name (`password`, `api_key`, `Authorization`, …), is a `SecretStr`, or looks like
    one within a text: the password of a URL, `password=…`, a bearer token. Mappings, sequences, dataclasses and
    models are gone through; other objects become the redacted text of their `repr()`.

    Example:
        >>> redact({"url": "redis://:hunter2@cache/0", "api_key": "k-1", "tries": 3})
        {'url': 'redis://:***@cache/0', 'api_key': '***', 'tries': 3}
    """
    return _redact(value, _DEPTH)


def redact_field(key: str, value: Any) -> Any:
    """`value` as it may be shown under the name `key`."""
    kind = type(value)
    if kind is int or kind is float or kind is bool or value is None:
        # a number under the name of a token is a count; under that of a password it is one
        return MASK if value is not None and _names_secret(key) and not _counts_tokens(key) else value
    if _names_secret(key):
        return MASK
    return redact_text(value) if kind is str else _redact(value, _DEPTH)


@lru_cache(maxsize=4096)
def _names_secret(key: str) -> bool:
    words = _words(key)
    if not words or words[-1] in _HARMLESS_ENDS:
        return False
    if words[-1] in _SECRET_ENDS or not _SECRET_WORDS.isdisjoint(words):
        return True
    return not _SECRET_PAIRS.isdisjoint(pairwise(words))


@lru_cache(maxsize=4096)
def _counts_tokens(key: str) -> bool:
    return not {"token", "tokens"}.isdisjoint(_words(key))


def _words(key: str) -> list[str]:
    """`clientSecret`, `CLIENT_SECRET` and `client-secret` as their words in lower case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", key).lower().split()


def _redact(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return redact_text(str(value)) if isinstance(value, str) else value
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if depth == 0:
        return "…"
    fields = _fields_of(value)
    if fields is not None:
        return {key: _redact_below(key, item, depth - 1) for key, item in fields.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redact(item, depth - 1) for item in value]
    return _described(value)


def _redact_below(key: str, value: Any, depth: int) -> Any:
    return redact_field(key, value) if _names_secret(key) else _redact(value, depth)


def _fields_of(value: Any) -> dict[str, Any] | None:
    """The named parts of a mapping, model or dataclass; None for anything else."""
    if isinstance(value, Mapping):
        return {_key(key): item for key, item in value.items()}
    if isinstance(value, BaseModel):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {name: getattr(value, name, None) for name in value.__struct_fields__}
    return None


def _key(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return key if type(key) is str else _described(key)


def _described(value: object) -> str:
    """The redacted text of an object; a repr that raises must not lose the event."""
    try:
        text = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else _text_of(value)
    except Exception as error:  # noqa: BLE001 - a boundary: anybody's __repr__ runs here
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return redact_text(text)


def _text_of(value: object) -> str:
    """How values with one obvious text read (dates, ids, paths, URLs); the repr of all others."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(bytes(value))} bytes>"
    return repr(value) if type(value).__str__ is object.__str__ else str(value)
