"""ArgumentKeys: keys from the arguments of a call. Different arguments never give the same key. No I/O here."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
from pydantic import BaseModel

from svcframework import INJECTED
from svcframework.errors import RegistrationError
from svcframework_redis.caching.refusals import UncacheableArgumentError

_SELF = {"self", "cls"}


class ArgumentKeys:
    """Turns the arguments of one function's calls into parts of keys; lives as long as the function.

    Args:
        function: The function. Of a method, what it belongs to is never among the parts.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._shown = getattr(function, "__qualname__", repr(function))
        self._signature = inspect.signature(function)
        names = list(self._signature.parameters)
        self.is_method = bool(names) and names[0] in _SELF
        """Whether the first argument is what the function belongs to."""

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults included, without `self`; what is injected is left out.

        Raises:
            TypeError: The function doesn't take such arguments.
        """
        found = {name: value for name, value in self.all_named(args, kwargs).items() if value is not INJECTED}
        if self.is_method:
            found.pop(next(iter(self._signature.parameters)), None)
        return found

    def all_named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The same with `self`."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)

    def parts(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, ...]:
        """Texts that are different for different arguments.

        Raises:
            UncacheableArgumentError: An argument has no text of that kind.
        """
        return tuple(f"{name}={self.text(name, value)}" for name, value in self.named(args, kwargs).items())

    def text(self, name: str, value: Any) -> str:
        """The text of one argument."""
        try:
            return text_of(value)
        except TypeError as error:
            raise UncacheableArgumentError(self._shown, name, value) from error

    def template(self, text: str, *, what: str) -> list[tuple[str, str | None]]:
        """A template such as `user:{user_id}`, taken apart: literal text, and the argument after it.

        Raises:
            RegistrationError: It names something that is no argument, or is no template.
        """
        try:
            pieces = [(literal, field) for literal, field, _, _ in string.Formatter().parse(text)]
        except ValueError as error:
            raise RegistrationError(f"@cached({what}={text!r}) on {self._shown}(): {error}.") from error
        known = [name for name in self._signature.parameters if name not in _SELF]
        for _, field in pieces:
            if field is not None and field not in known:
                raise RegistrationError(
                    f"@cached({what}={text!r}) on {self._shown}(): {{{field}}} is none of its arguments "
                    f"({', '.join(known) or 'it has none'})."
                )
        return pieces


def text_of(value: Any) -> str:
    """A text of a value, different for different values, also of different types.

    Raises:
        TypeError: There is no such text.
    """
    kind = type(value)
    write = _ATOMS.get(kind)
    if write is not None:
        return write(value)
    if isinstance(value, enum.Enum):
        return f"e{_named(kind)}.{value.name}"
    if isinstance(value, (tuple, list)):
        return f"{'(' if isinstance(value, tuple) else '['}{_named(kind)}{_joined(list(map(text_of, value)))}"
    if isinstance(value, AbstractSet):
        return "{" + _joined(sorted(map(text_of, value)))
    pairs = list(value.items()) if isinstance(value, Mapping) else None
    mark = "m" if pairs is not None else f"o{_named(kind)} "
    return mark + _joined(
        sorted(_joined([text_of(key), text_of(item)]) for key, item in (_fields(value) if pairs is None else pairs))
    )


_ATOMS: dict[type, Callable[[Any], str]] = {
    str: lambda value: f"s{value}",
    int: lambda value: f"i{value}",
    bool: lambda value: f"b{value:d}",
    type(None): lambda _: "n",
    float: lambda value: f"f{value!r}",
    bytes: lambda value: f"y{value.hex()}",
    uuid.UUID: lambda value: f"u{value.hex}",
    decimal.Decimal: lambda value: f"d{value}",
    dt.date: lambda value: f"D{value.isoformat()}",
    dt.datetime: lambda value: f"T{value.isoformat()}/{value.fold}/{value.tzinfo!r}",
    dt.time: lambda value: f"t{value.isoformat()}/{value.fold}/{value.tzinfo!r}",
    dt.timedelta: lambda value: f"p{value.days}/{value.seconds}/{value.microseconds}",
}


def _joined(texts: Sequence[str]) -> str:
    """Texts in one, so that it can be seen where each ends."""
    return "".join(f"{len(text)}:{text}" for text in texts)


def _fields(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, msgspec.Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, BaseModel):
        return list(value)
    raise TypeError(f"no key can be made of a {_named(type(value))}")


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
