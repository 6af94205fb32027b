"""What a pydantic model says about its settings: their names, types and secrets. Reads no source."""

from __future__ import annotations

import dataclasses
import enum
import re
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, Secret, SecretBytes, SecretStr, ValidationError

from svcframework._redaction import redact_field
from svcframework._sources import MISSING, Text, parsed_json

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from svcframework._sources import Steps

ModelT = TypeVar("ModelT", bound=BaseModel)

HIDDEN = "**********"
_SECRET_WORDS = re.compile(r"(^|_)(passw(or)?d|passphrase|secret|token|api_?key|private_key|credentials?)(_|$|s$)")
_CREDENTIALS = re.compile(r"(?<=://)\S*@")
_LISTS = (list, tuple, set, frozenset)


# --- names ----------------------------------------------------------------------------------------------


def spellings(model: type[BaseModel]) -> dict[str, str]:
    """Every word that a table may use for a setting, to the field's name."""
    found: dict[str, str] = {}
    for name, info in model.model_fields.items():
        for alias in (info.alias, *_choices(info)):
            if isinstance(alias, str):
                found.setdefault(alias, name)
    return found | {name: name for name in model.model_fields}


def root_names(info: FieldInfo) -> list[str | Steps]:
    """The names that a setting has outside its section: its explicit validation aliases, as written."""
    if info.validation_alias is None or info.validation_alias == info.alias:
        return []
    return [choice if isinstance(choice, str) else tuple(map(str, choice.path)) for choice in _choices(info)]


def steps_of(name: str | Steps) -> Steps:
    """Where a root name is found in a source's tree."""
    return tuple(name.lower().split("__")) if isinstance(name, str) else name


def variable_name(steps: Steps) -> str:
    """The environment variable of a setting."""
    return "__".join(steps).upper()


def _choices(info: FieldInfo) -> list[str | AliasPath]:
    alias = info.validation_alias
    if alias is None:
        return []
    return list(alias.choices) if isinstance(alias, AliasChoices) else [alias]


# --- types ----------------------------------------------------------------------------------------------


def kinds(annotation: Any) -> Iterator[Any]:
    """The members of a union, `Annotated` and named aliases taken off."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            break
    if get_origin(annotation) in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from kinds(member)
    else:
        yield annotation


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The nested model that a setting is a table of, if it is."""
    for kind in kinds(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def decoded(annotation: Any, value: Any) -> Any:
    """The value, text from a text-only source parsed where the type is a list or table.

    A list is JSON or words between commas, a table is JSON, and `none`, `null` or nothing is None where None is
    allowed and text is not. All else pydantic reads from text by itself.
    """
    if isinstance(value, Mapping):
        return _decoded_table(annotation, value)
    if not isinstance(value, Text):
        return value
    members = list(kinds(annotation))
    if not any(_takes_text(kind) for kind in members):
        return _decoded_text(members, str(value))
    return str(value)


def _decoded_text(members: list[Any], text: str) -> Any:
    if type(None) in members and text.strip().lower() in {"", "none", "null"}:
        return None
    if text.lstrip()[:1] in {"[", "{"} and any(_is_composite(kind) for kind in members):
        parsed = parsed_json(text)
        return text if parsed is MISSING else parsed
    if all(kind is type(None) or _is_list(kind) for kind in members):
        return [word.strip() for word in text.split(",") if word.strip()]
    return text


def _decoded_table(annotation: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    model = model_in(annotation)
    if model is not None:
        names = spellings(model)
        return {
            key: decoded(model.model_fields[names[key]].annotation if key in names else Any, value)
            for key, value in table.items()
        }
    members = [get_args(kind) for kind in kinds(annotation) if get_origin(kind) in {dict, Mapping}]
    inner = members[0][1] if members else Any
    return {key: decoded(inner, value) for key, value in table.items()}


def _takes_text(kind: Any) -> bool:
    if kind is Any or get_origin(kind) is Literal:
        return True
    return isinstance(kind, type) and issubclass(kind, (str, bytes, SecretStr, SecretBytes, enum.Enum))


def _is_list(kind: Any) -> bool:
    return kind in _LISTS or get_origin(kind) in _LISTS or "Sequence" in str(get_origin(kind) or "")


def _is_composite(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return (
        _is_list(kind)
        or origin in {dict, Mapping}
        or (isinstance(origin, type) and (issubclass(origin, BaseModel) or dataclasses.is_dataclass(origin)))
    )


def type_words(info: FieldInfo) -> str:
    """A setting's type as a reader of the docs wants it: `int > 0`."""
    words = " | ".join(_type_word(kind) for kind in kinds(info.annotation))
    bounds = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
    for limit in info.metadata:
        words += "".join(
            f" {sign} {getattr(limit, name):g}"
            for name, sign in bounds.items()
            if isinstance(getattr(limit, name, None), (int, float))
        )
    return words


def _type_word(kind: Any) -> str:
    if kind is type(None):
        return "None"
    if get_origin(kind) is Literal:
        return " | ".join(repr(word) for word in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " | ".join(repr(member.value) for member in kind)
    arguments = get_args(kind)
    name = str(getattr(get_origin(kind) or kind, "__name__", kind))
    if not arguments:
        return name
    inner = ("…" if part is ... else " | ".join(map(_type_word, kinds(part))) for part in arguments)
    return f"{name}[{', '.join(inner)}]"


# --- defaults ------------------------------------------------------------------------------------------


def shared_default(model: type[ModelT]) -> ModelT | None:
    """The one instance of a model that no source says anything about; None where it can't be shared or built."""
    if "__svc_default__" not in vars(model):
        try:
            config: ModelT | None = model()
            hash(config)  # what can't be hashed may be changed, and is not shared
        except (ValidationError, TypeError):
            config = None
        if any(info.default_factory is not None for info in model.model_fields.values()):
            config = None
        type.__setattr__(model, "__svc_default__", config)
    return cast("ModelT | None", vars(model)["__svc_default__"])


# --- secrets --------------------------------------------------------------------------------------------


def is_secret(name: str, annotation: Any = None) -> bool:
    """Whether a setting holds a secret, by its type or by its name."""
    if _SECRET_WORDS.search(name.lower()):
        return True
    for kind in kinds(annotation):
        origin = get_origin(kind) or kind
        if isinstance(origin, type) and issubclass(origin, (SecretStr, SecretBytes, Secret)):
            return True
    return False


class Shown(str):
    """Text that prints as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shown(name: str, value: Any) -> Any:
    """The value as anyone may see it: no secret, no credentials in an address, tables included."""
    if isinstance(value, Mapping):
        return {key: shown(str(key), item) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(shown(name, item) for item in value)
    if isinstance(value, BaseModel):
        inner = ", ".join(f"{key}={shown(key, getattr(value, key))!r}" for key in type(value).model_fields)
        return Shown(f"{type(value).__name__}({inner})")
    if isinstance(redacted := getattr(value, "redacted", None), str):
        return redacted
    return value if value is None or isinstance(value, (bool, enum.Enum)) else _shown_leaf(name, value)


def _shown_leaf(name: str, value: Any) -> Any:
    if is_secret(name, type(value)):
        return HIDDEN
    text = str(value)
    if "://" in text:
        return without_credentials(text)
    # what logs hide as well: a header of a secret's name, `password=…` within a text
    return redact_field(name, value) if isinstance(value, str) else value


def without_credentials(url: str) -> str:
    """An address without its user, password and query, fit for a log line."""
    # Up to the last @, and the whole query: a password may hold unescaped signs, a query a token.
    return _CREDENTIALS.sub(f"{HIDDEN}@", url).partition("?")[0]


def leaves(tree: Any) -> Iterator[str]:
    """The text of every value in a tree."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (list, tuple, set, frozenset)):
        for value in tree:
            yield from leaves(value)
    elif isinstance(tree, (SecretStr, SecretBytes, Secret)):
        yield str(tree.get_secret_value())
    else:
        yield str(tree)
