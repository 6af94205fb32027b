"""The signatures of all public names, as a golden file: whoever changes one sees it in the review.

`SNAPSHOT_UPDATE=1` rewrites it. It reads the same on every Python.
"""

from __future__ import annotations

import enum
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_overloads

from pydantic import BaseModel

import svcframework
from svcframework.default import _OfCurrentHost

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "snapshots" / "public" / "api.txt"
REFERENCE = HERE.parent / "docs" / "reference"
PUBLIC = {id(value) for name in svcframework.__all__ if isinstance(value := getattr(svcframework, name), type)}


def test_signatures_are_as_they_were_agreed() -> None:
    """Every name of `svcframework.__all__`, with all that is public of it."""
    found = "\n".join(line for name in svcframework.__all__ for line in described(name, getattr(svcframework, name)))
    if os.environ.get("SNAPSHOT_UPDATE"):
        GOLDEN.write_text(f"{found}\n", encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == f"{found}\n"


def test_the_golden_file_tells_of_every_name() -> None:
    """None is missing, and none is left over."""
    named = re.findall(r"^(?:async def|def|class|value|module) (\w+)", GOLDEN.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(svcframework.__all__) == sorted(set(named))


def described(name: str, value: Any) -> Iterator[str]:
    """One public name: a line, and the lines of its members below it."""
    if isinstance(value, ModuleType):
        yield f"module {name}"
        for member, inner in sorted(vars(value).items()):
            if not member.startswith("_") and getattr(inner, "__module__", None) == value.__name__:
                yield from (f"    {line}" for line in described(member, inner))
    elif isinstance(value, type):
        yield from of_class(name, value)
    elif isinstance(value, _OfCurrentHost) or not callable(value):
        yield f"value {name}: {type(value).__name__}"
    else:
        yield from of_function(name, value)


def of_class(name: str, cls: type) -> Iterator[str]:
    """A class: what makes one, then its public members, but for those that a public base tells of."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if not base.__name__.startswith("_"))
    yield f"class {name}({bases})"
    if issubclass(cls, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in cls)
    elif "__init__" in vars(cls) and not issubclass(cls, BaseModel):
        yield from (f"    {line}" for line in of_function("__init__", cls.__init__))
    for member, inner in sorted(members(cls).items()):
        if isinstance(inner, (staticmethod, classmethod)):
            kind = type(inner).__name__
            yield from (f"    @{kind} {line}" for line in of_function(member, inner.__func__))
        elif isinstance(inner, property) or hasattr(inner, "func"):
            getter = inner.fget if isinstance(inner, property) else inner.func
            yield f"    property {member}: {annotation(inspect.signature(getter).return_annotation)}"
        elif inspect.isfunction(inner):
            yield from (f"    {line}" for line in of_function(member, inner))
        elif isinstance(inner, str):
            yield f"    {member}: {inner}"


def members(cls: type) -> dict[str, Any]:
    """The public members that a class has of its own or from private bases; fields as their annotations."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("svcframework") or (base is not cls and id(base) in PUBLIC):
            continue
        own = {key: annotation(kind) for key, kind in inspect.get_annotations(base).items()}
        own |= {key: inner for key, inner in vars(base).items() if key not in own}
        found |= {key: inner for key, inner in own.items() if key in HOOKS or not key.startswith("_")}
    if issubclass(cls, enum.Enum):
        found = {key: inner for key, inner in found.items() if key not in cls.__members__}
    return found


HOOKS = ("__aenter__", "__contains__", "__getitem__", "_service_health_check")
"""What users write or call though it has an underscore."""


def of_function(name: str, function: Any) -> Iterator[str]:
    """A function; its overloads instead, where it has any."""
    word = "async def" if inspect.iscoroutinefunction(function) else "def"
    for each in get_overloads(function) or [function]:
        signature = inspect.signature(each)
        yield f"{word} {name}({parameters(signature)}) -> {annotation(signature.return_annotation)}"


def parameters(signature: inspect.Signature) -> str:
    """The parameters, with `/` and `*` where they are."""
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    words = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))[1:-1].split(", ")
    return ", ".join(word if word in {"/", "*", ""} else parameter(signature, word) for word in words)


def parameter(signature: inspect.Signature, word: str) -> str:
    """One parameter with its annotation and default."""
    one = signature.parameters[word.lstrip("*")]
    kind = "" if one.annotation is one.empty else f": {annotation(one.annotation)}"
    default = "" if one.default is one.empty else f" = {shown(one.default)}"
    return f"{word}{kind}{default}"


def shown(default: Any) -> str:
    """A default, without an address."""
    return default.__qualname__ if callable(default) else re.sub(r" at 0x[0-9a-f]+", "", repr(default))


def annotation(given: Any) -> str:
    """An annotation as it was written, on every Python."""
    if given is inspect.Signature.empty:
        return "?"
    return given if isinstance(given, str) else inspect.formatannotation(given)


def test_every_public_name_has_a_place_in_the_reference() -> None:
    """Names of functions and classes are listed, and modules have a page or a section of their own."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    missing = [
        name
        for name in svcframework.__all__
        if not re.search(rf"^ +- {name}$|^::: svcframework\.{name}$", pages, re.MULTILINE)
    ]
    assert [] == missing
