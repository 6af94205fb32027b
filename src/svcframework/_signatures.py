"""What a callable asks for: its parameters and what their annotations mean to injection. Pure."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

T = TypeVar("T")

How = Literal["one", "optional", "lazy", "list", "dict"]
EMPTY: Final = inspect.Parameter.empty


class Lazy(Generic[T]):
    """A handle on a service that is only looked up when it is called: `mailer().send(...)`.

    Ask for `Lazy[Mailer]` to break a cycle or to put off building something expensive. A handle lives as long as
    its holder; what it gives is always what the host has now.
    """

    __slots__ = ("_get",)

    def __init__(self, get: Callable[[], T]) -> None:
        self._get = get

    def __call__(self) -> T:
        """The service itself."""
        return self._get()


@dataclass(frozen=True, slots=True)
class Want:
    """A service somebody asks for: by name or by type, and in which form.

    Args:
        key: The service's name, or the type it must have.
        how: `one`, `optional` (None where there is none), `lazy` (a handle), `list` or `dict` (all of the type).
    """

    key: str | type
    how: How = "one"

    def __str__(self) -> str:
        word = self.key if isinstance(self.key, str) else getattr(self.key, "__qualname__", str(self.key))
        forms = {"one": "{}", "optional": "{} | None", "lazy": "Lazy[{}]", "list": "list[{}]", "dict": "dict[str, {}]"}
        return forms[self.how].format(word)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a callable."""

    name: str
    annotation: Any
    default: Any
    keyword_only: bool

    @property
    def is_required(self) -> bool:
        """There is no default."""
        return self.default is EMPTY

    @property
    def want(self) -> Want | None:
        """What the annotation asks for; None when it says nothing that could be a service."""
        return want_of(self.annotation)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters a caller can name, and whether any others are taken too."""

    parameters: tuple[Parameter, ...]
    takes_any_keyword: bool = False

    def get(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def signature_of(target: Callable[..., Any]) -> Signature:
    """The signature of a class's constructor or of a function; empty for what has none (many C types)."""
    function = _function_of(target)
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        return _inspected(target)
    return _read(function, skip=function is not target or isinstance(target, types.MethodType))


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations with strings evaluated; one that can't be evaluated stays a string."""
    annotations = dict(getattr(function, "__annotations__", None) or {})
    if not any(isinstance(value, str) for value in annotations.values()):
        return annotations
    space = getattr(inspect.unwrap(function), "__globals__", {})
    return {name: _evaluate(value, space) for name, value in annotations.items()}


def want_of(annotation: Any) -> Want | None:  # noqa: PLR0911 - one return per form of annotation
    """What an annotation asks for; None for builtins, Any and what can't be a service."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *notes = get_args(annotation)
        name = next((note for note in notes if isinstance(note, str)), None)
        found = want_of(inner)
        return found if name is None else Want(name, found.how if found else "one")
    if origin in {Union, types.UnionType}:
        options = [option for option in get_args(annotation) if option is not types.NoneType]
        inner_want = want_of(options[0]) if len(options) == 1 else None
        return Want(inner_want.key, "optional") if inner_want and inner_want.how == "one" else inner_want
    if origin is Lazy:
        return _form(get_args(annotation)[0], "lazy")
    if origin in {list, Sequence, Iterable}:
        return _form(get_args(annotation)[0], "list")
    if origin in {dict, Mapping} and get_args(annotation)[0] is str:
        return _form(get_args(annotation)[1], "dict")
    if isinstance(origin, type):
        annotation = origin  # BaseService[Config] asks for BaseService
    if isinstance(annotation, type) and annotation.__module__ not in {"builtins", "typing"}:
        return Want(annotation)
    return None


def provided_by(factory: Callable[..., Any]) -> type:
    """The type of what a class, function or generator function makes; `object` when it does not say."""
    if isinstance(factory, type):
        return factory
    annotation = hints_of(factory).get("return")
    origin = get_origin(annotation)
    if origin is not None and (is_generator(factory) or getattr(origin, "__module__", "") == "collections.abc"):
        annotation = (get_args(annotation) or (None,))[0]
        origin = get_origin(annotation)
    found = origin if isinstance(origin, type) else annotation
    return found if isinstance(found, type) else object


def is_generator(factory: Callable[..., Any]) -> bool:
    """A generator or async generator function: what it yields is torn down later."""
    return inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory)


def fits(provided: type, wanted: type) -> bool:
    """Whether an instance of `provided` serves where `wanted` is asked for, structurally for a Protocol."""
    if getattr(wanted, "_is_protocol", False):
        members = getattr(wanted, "__protocol_attrs__", None) or _protocol_members(wanted)
        annotated = {name for base in provided.__mro__ for name in vars(base).get("__annotations__", {})}
        return provided is not object and all(hasattr(provided, name) or name in annotated for name in members)
    try:
        return issubclass(provided, wanted)
    except TypeError:
        return False


def _form(argument: Any, how: How) -> Want | None:
    found = want_of(argument)
    return None if found is None else Want(found.key, how)


def _function_of(target: Callable[..., Any]) -> Any:
    if isinstance(target, type):
        passive = target.__new__ is object.__new__ or _new_is_passive(target)
        return vars(target).get("__init__", getattr(target, "__init__", None)) if passive else None
    return target.__func__ if isinstance(target, types.MethodType) else target


def _new_is_passive(cls: type) -> bool:
    """A `__new__` that takes whatever comes and leaves the parameters to `__init__`."""
    code = getattr(cls.__new__, "__code__", None)
    return code is not None and code.co_argcount == 1 and bool(code.co_flags & inspect.CO_VARARGS)


def _read(function: types.FunctionType, *, skip: bool) -> Signature:
    """Straight from the code object: ten times faster than inspect.signature, which thousands of services feel."""
    code, hints = function.__code__, hints_of(function)
    positional = code.co_varnames[: code.co_argcount]
    keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    defaults = function.__defaults__ or ()
    first_default = len(positional) - len(defaults)
    kwdefaults = function.__kwdefaults__ or {}
    parameters = [
        Parameter(name, hints.get(name, EMPTY), defaults[n - first_default] if n >= first_default else EMPTY, False)  # noqa: FBT003 - a record
        for n, name in enumerate(positional)
        if n or not skip
    ]
    parameters += [
        Parameter(name, hints.get(name, EMPTY), kwdefaults.get(name, EMPTY), True)  # noqa: FBT003 - a record
        for name in keyword
    ]
    return Signature(tuple(parameters), bool(code.co_flags & inspect.CO_VARKEYWORDS))


def _inspected(target: Callable[..., Any]) -> Signature:
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):
        return Signature((), takes_any_keyword=True)
    hints = hints_of(getattr(target, "__init__", target) if isinstance(target, type) else target)
    kinds = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    found = tuple(
        Parameter(p.name, hints.get(p.name, p.annotation), p.default, p.kind is p.KEYWORD_ONLY)
        for p in signature.parameters.values()
        if p.kind in kinds
    )
    return Signature(found, any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()))


def _evaluate(annotation: Any, space: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    found = space.get(annotation)
    if found is not None:
        return found
    try:
        return eval(annotation, space)  # noqa: S307 - the author's own annotation, as typing.get_type_hints does
    except Exception:  # noqa: BLE001 - a name that exists for type checkers only
        return annotation


def _protocol_members(protocol: type) -> set[str]:
    ignored = {"__init__", "__subclasshook__"} | set(vars(typing.Protocol)) | set(vars(object))
    members = {name for base in protocol.__mro__[:-2] for name in vars(base) if name not in ignored}
    annotated = {name for base in protocol.__mro__[:-2] for name in vars(base).get("__annotations__", {})}
    return cast("set[str]", {name for name in members | annotated if not name.startswith(("_abc", "__"))})
