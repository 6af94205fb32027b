"""Settings in words: validation errors without their values, and the reference table of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from svcframework._modelfields import (
    kinds,
    leaves,
    model_in,
    root_names,
    shown,
    spellings,
    type_words,
    variable_name,
)
from svcframework._sources import MISSING, descend
from svcframework.errors import did_you_mean, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

    from svcframework._sources import Steps

_SHORTEST_SCRUBBED = 3
"""Characters of the shortest value that is looked for in a validator's own message; shorter ones are too common."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What was validated: the model, its values, its section, and who knows where a value came from.

    Args:
        model: The model.
        values: The values, by field name.
        section: The dotted path of the section; empty at the root.
        origin: Steps below the section to the place of the value, None where no source has one.
    """

    model: type[BaseModel]
    values: Mapping[str, Any]
    section: Steps
    origin: Callable[[Steps], str | None]


# --- problems -------------------------------------------------------------------------------------------


def problems(subject: Subject, errors: Iterable[ErrorDetails]) -> list[str]:
    """One line for each setting that is wrong: its name, its variable, what is wrong and where it came from."""
    found: dict[Steps, list[str]] = {}
    for error in errors:
        steps = _setting(subject, error)
        words = _words(subject, error)
        if words not in found.setdefault(steps, []):
            found[steps].append(words)
    return [_line(subject, steps, words) for steps, words in found.items()]


def _setting(subject: Subject, error: ErrorDetails) -> Steps:
    """The path of the setting, without the names that pydantic adds for the members of a union."""
    names = spellings(subject.model)
    loc = [str(part) for part in error["loc"]]
    if not loc:
        return ()
    steps = [names.get(loc[0], loc[0])]
    for part in loc[1:]:
        if descend(subject.values, (*steps, part)) is not MISSING:
            steps.append(part)
    if error["type"] == "missing" and len(loc) > 1 and steps[-1] != loc[-1]:
        steps.append(loc[-1])
    return tuple(steps)


def _line(subject: Subject, steps: Steps, words: list[str]) -> str:
    path = ".".join((*subject.section, *steps))
    said = " or ".join(words)
    if not path:
        return said
    variable = _preferred_variable(subject, steps)
    origin = subject.origin(steps) if steps else None
    if said.startswith("is required"):
        return f"{path} ({variable}) {said}: set {variable}, or {path} in settings.toml"
    # A variable that says the same as the origin needn't be told twice.
    name = path if origin is not None and variable in origin else f"{path} ({variable})"
    source = f"; it comes from: {origin}" if origin else ""
    suggestion = _suggestion(subject, steps) if said == _UNKNOWN else ""
    return f"{name} {said}{source}{'.' if suggestion else ''}{suggestion}"


def _preferred_variable(subject: Subject, steps: Steps) -> str:
    info = subject.model.model_fields.get(steps[0]) if len(steps) == 1 else None
    names = [] if info is None else [name for name in root_names(info) if isinstance(name, str)]
    if names and not subject.section:
        return names[0].upper()
    prefix = str(subject.model.model_config.get("env_prefix", ""))  # a pydantic-settings model may have one
    return prefix.upper() + variable_name((*subject.section, *steps))


_UNKNOWN = "is not a setting"
_WORDS = {
    "extra_forbidden": _UNKNOWN,
    "missing": "is required and not set",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "dataclass_type": "must be a table",
    "none_required": "must be none",
}


def _words(subject: Subject, error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in _WORDS:
        return _WORDS[kind]
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub(r"^(Input|Value|String|List|Tuple|URL|Data) should ", "must ", message)
    if not message.startswith("must "):
        message = f"is not valid: {message}"
    return message if kind in _CONSTRAINTS else _scrubbed(message, subject, error)


_CONSTRAINTS = {
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "finite_number"),
    *("too_short", "too_long", "string_too_short", "string_too_long", "string_pattern_mismatch"),
    *("literal_error", "enum", "url_scheme"),
}
"""Kinds whose message has the rule and nothing of the value. All others, a validator's own above all, may quote it."""


def _scrubbed(message: str, subject: Subject, error: ErrorDetails) -> str:
    given = set(leaves(error.get("input"))) | set(leaves(subject.values))
    for text in sorted(given, key=len, reverse=True):
        if len(text) >= _SHORTEST_SCRUBBED:
            message = message.replace(text, "***")
    return message


def _suggestion(subject: Subject, steps: Steps) -> str:
    model: type[BaseModel] | None = subject.model
    for step in steps[:-1]:
        info = None if model is None else model.model_fields.get(step)
        model = None if info is None else model_in(info.annotation)
    known = () if model is None else tuple(spellings(model))
    return did_you_mean(steps[-1], known) if nearest(steps[-1], known) else ""


# --- the reference table --------------------------------------------------------------------------------


def reference(model: type[BaseModel], *, section: Steps, common: type[BaseModel]) -> str:
    """The Markdown of a model's settings: its own first, then those that every service has."""
    shared = [name for name in common.model_fields if not _is_redefined(model, common, name)]
    own = [name for name in model.model_fields if name not in shared]
    parts = []
    if own:
        parts.append("\n".join([*_HEAD, *_rows(model, section, own)]))
    if shared and issubclass(model, common):
        parts.append("Every service has these as well:")
        parts.append(
            "\n".join([*_HEAD, *_rows(model, section, [name for name in model.model_fields if name in shared])])
        )
    return "\n\n".join(parts) + "\n"


_HEAD = (
    "| Setting | Environment variable | Type | Default | Description |",
    "|---|---|---|---|---|",
)


def _is_redefined(model: type[BaseModel], common: type[BaseModel], name: str) -> bool:
    ours, theirs = model.model_fields.get(name), common.model_fields[name]
    return ours is None or repr(ours) != repr(theirs)


def _rows(model: type[BaseModel], section: Steps, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        info = model.model_fields[name]
        steps = (*section, name)
        inner = model_in(info.annotation)
        if inner is not None and len(list(kinds(info.annotation))) == 1:
            yield from _rows(inner, steps, inner.model_fields)
            continue
        variables = [variable_name(steps), *(n.upper() for n in root_names(info) if isinstance(n, str))]
        cells = [
            f"`{'.'.join(steps)}`",
            ", ".join(f"`{variable}`" for variable in dict.fromkeys(variables)),
            f"`{type_words(info)}`",
            _default(name, info),
            " ".join((info.description or "").split()),
        ]
        yield f"| {' | '.join(cell.replace('|', '&#124;' if '`' not in cell else chr(92) + '|') for cell in cells)} |"


def _default(name: str, info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default is PydanticUndefined or info.default is None:
        return "computed" if info.default_factory is not None else "none"
    default = shown(name, info.default)
    if isinstance(default, (list, tuple, set, frozenset, dict)) and not default:
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{getattr(default, 'value', default)}`"
