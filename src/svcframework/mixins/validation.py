"""ValidationMixin: input checked against a model, with every problem at once and where it is."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

import msgspec
from pydantic import TypeAdapter, ValidationError

from svcframework import utils
from svcframework.errors import DataValidationError

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?$", re.DOTALL)


class ValidationMixin:
    """Adds `validate` to a service; works on any class."""

    def validate(self, model: type[T], data: object, *, strict: bool = False) -> T:
        """The data as an instance of the model.

        Args:
            model: A pydantic model, a msgspec Struct, a dataclass, or any other type that pydantic knows.
            data: A mapping, an instance of the model (returned as it is), or JSON as `bytes` or `str`.
            strict: Refuse to convert, e.g. `"1"` to a number.

        Raises:
            DataValidationError: Its `problems` has each field's path (`items[0].price`) and what is wrong with it,
                never the value.
        """
        kind: object = model  # list[Item] isn't a class, whatever its type says
        if inspect.isclass(kind) and isinstance(data, kind):
            return cast("T", data)
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            return _validate_struct(model, data, strict=strict)
        return _validate_pydantic(model, data, strict=strict)

    def validate_required_fields(
        self, data: Mapping[str, Any], fields: Iterable[str], *, subject: str = "Input"
    ) -> None:
        """Check that fields have a value: not None, not blank text.

        Args:
            data: A mapping, nested ones included.
            fields: Names or dotted paths.
            subject: What the data is, for the message.

        Raises:
            DataValidationError: Some are missing; `problems` has all of them.
        """
        utils.validate_required_fields(data, fields, subject=subject)


# --- pydantic and dataclasses ---------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def _validate_pydantic(model: type[T], data: object, *, strict: bool) -> T:
    adapter: TypeAdapter[T] = _adapter(cast("Any", model))
    try:
        if isinstance(data, str | bytes) and cast("object", model) not in (str, bytes):
            return adapter.validate_json(data, strict=strict)
        return adapter.validate_python(data, strict=strict)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    # raised outside the handler: pydantic's own error holds the input
    raise DataValidationError(_name_of(model), _joined((_path_of(one["loc"]), one["msg"]) for one in found))


def _path_of(steps: tuple[int | str, ...]) -> str:
    path = ""
    for step in steps:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


# --- msgspec --------------------------------------------------------------------------------------------


def _validate_struct(model: type[T], data: object, *, strict: bool) -> T:
    if isinstance(data, str | bytes):
        try:
            data = msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise DataValidationError(_name_of(model), {"(all)": f"is not JSON: {error}"}) from None
    try:
        return msgspec.convert(data, model, strict=strict)
    except msgspec.ValidationError as error:
        first = error
    # msgspec stops at the first problem: with one at hand, each field is tried on its own
    problems = _joined(_struct_problems(model, data, "", strict=strict))
    raise DataValidationError(_name_of(model), problems or _joined([_struct_problem(first, "")]))


def _struct_problems(model: Any, data: object, path: str, *, strict: bool) -> Iterable[tuple[str, str]]:
    if not isinstance(data, Mapping):
        yield path, f"must be an object, not {type(data).__name__}"
        return
    fields = msgspec.structs.fields(model)
    for field in fields:
        place = f"{path}.{field.encode_name}" if path else field.encode_name
        if field.encode_name not in data:
            if field.required:
                yield place, "is missing"
            continue
        value = data[field.encode_name]
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            if not isinstance(value, field.type):
                yield from _struct_problems(field.type, value, place, strict=strict)
            continue
        try:
            msgspec.convert(value, field.type, strict=strict)
        except msgspec.ValidationError as error:
            yield _struct_problem(error, place)
    if model.__struct_config__.forbid_unknown_fields:
        known = {field.encode_name for field in fields}
        yield from ((f"{path}.{name}" if path else str(name), "is unknown") for name in data if name not in known)


def _struct_problem(error: msgspec.ValidationError, path: str) -> tuple[str, str]:
    parts = _PLACE.match(str(error))
    if parts is None:  # can't be: every text matches
        return path, str(error)
    inner = parts["path"] or ""
    return f"{path}{inner}" if path else inner.removeprefix("."), parts["what"]


# --- both -----------------------------------------------------------------------------------------------


def _joined(problems: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By path; several problems of one field (the members of a union) are joined."""
    found: dict[str, str] = {}
    for path, what in problems:
        place = path or "(all)"
        found[place] = f"{found[place]}; {what}" if place in found else what
    return found


def _name_of(model: object) -> str:
    return str(getattr(model, "__name__", model))
