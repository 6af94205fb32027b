"""What a callable asks for: its parameters and what their annotations mean to injection. Pure."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, ForwardRef, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

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
        key = self.key
        word = key if isinstance(key, str) else getattr(key, "__qualname__", str(key)).rpartition("<locals>.")[2]
        forms = {"one": "{}", "optional": "{} | None", "lazy": "Lazy[{}]", "list": "list[{}]", "dict": "dict[str, {}]"}
        return forms[self.how].format(word)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a callable.

    Args:
        name: Its name.
        annotation: Its annotation, evaluated; a string where that failed, `EMPTY` where there is none.
        default: Its default, or `EMPTY`.
        keyword_only: It can only be passed by name.
        positional_only: It can only be passed by position.
        want: What the annotation asks for; None when it says nothing that could be a service.
    """

    name: str
    annotation: Any = EMPTY
    default: Any = EMPTY
    keyword_only: bool = False
    positional_only: bool = False
    want: Want | None = None

    @property
    def is_required(self) -> bool:
        """There is no default."""
        return self.default is EMPTY


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a callable, those by position first, and whether any others are taken too."""

    parameters: tuple[Parameter, ...]
    takes_any_keyword: bool = False
    takes_any_position: bool = False

    def get(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def signature_of(target: Callable[..., Any]) -> Signature:
    """The signature of a class's constructor or of a function; empty for what has none (many C types)."""
    target = get_origin(target) or target  # Repository[User] is made by Repository
    if hasattr(target, "__signature__"):  # what an author states wins, a pydantic model's fields for one
        return _inspected(target)
    function = _function_of(target)
    if not isinstance(function, types.FunctionType) or hasattr(function, "__wrapped__"):
        return _inspected(target)
    return _read(function, skip=function is not target or isinstance(target, types.MethodType))


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations with strings evaluated; one that can't be evaluated stays a string."""
    annotations: dict[str, Any] = getattr(function, "__annotations__", None) or {}
    for value in annotations.values():
        if isinstance(value, str) or not (isinstance(value, type) or value is None):
            break
    else:
        return annotations
    space = getattr(inspect.unwrap(function), "__globals__", {})
    return {name: _evaluate(value, space) for name, value in annotations.items()}


def want_of(annotation: Any) -> Want | None:  # noqa: PLR0911 - one return per form of annotation
    """What an annotation asks for; None for builtins, Any and what can't be a service."""
    if type(annotation) is type:  # most are plain classes, and get_origin is slow
        return None if annotation.__module__ in _NO_SERVICES or annotation is EMPTY else Want(annotation)
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
    if isinstance(annotation, type) and annotation.__module__ not in _NO_SERVICES:
        return Want(annotation)
    return None


_NO_SERVICES: Final = frozenset({"builtins", "typing"})


def provided_by(factory: Callable[..., Any]) -> type:
    """The type of what a class, function or generator function makes; `object` when it does not say."""
    if isinstance(factory, functools.partial):
        return provided_by(factory.func)
    factory = get_origin(factory) or factory
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
        passive = cast("Any", target.__new__) is object.__new__ or _new_is_passive(target)
        return vars(target).get("__init__", getattr(target, "__init__", None)) if passive else None
    return target.__func__ if isinstance(target, types.MethodType) else target


def _new_is_passive(cls: type) -> bool:
    """A `__new__` that takes whatever comes and leaves the parameters to `__init__`."""
    code = getattr(cls.__new__, "__code__", None)
    return code is not None and code.co_argcount == 1 and bool(code.co_flags & inspect.CO_VARARGS)


def _read(function: types.FunctionType, *, skip: bool) -> Signature:
    """Straight from the code object: ten times faster than inspect.signature, which thousands of services feel."""
    code, hints = function.__code__, hints_of(function)
    count, only = code.co_argcount, code.co_posonlyargcount
    names = code.co_varnames[: count + code.co_kwonlyargcount]
    defaults = function.__defaults__ or ()
    first_default = count - len(defaults)
    kwdefaults = function.__kwdefaults__ or {}
    parameters = []
    for n in range(1 if skip else 0, len(names)):
        name = names[n]
        annotation = hints.get(name, EMPTY)
        if n >= count:
            default = kwdefaults.get(name, EMPTY)
        else:
            default = defaults[n - first_default] if n >= first_default else EMPTY
        parameters.append(Parameter(name, annotation, default, n >= count, n < only, want_of(annotation)))
    flags = code.co_flags
    return Signature(tuple(parameters), bool(flags & inspect.CO_VARKEYWORDS), bool(flags & inspect.CO_VARARGS))


def _inspected(target: Callable[..., Any]) -> Signature:
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):
        return Signature((), takes_any_keyword=True, takes_any_position=True)
    hints = hints_of(getattr(target, "__init__", target) if isinstance(target, type) else target)
    space = getattr(sys.modules.get(target.__module__), "__dict__", {})  # a named tuple has its names there
    found, kinds = [], set()
    for parameter in signature.parameters.values():
        kind, name = parameter.kind, parameter.name
        kinds.add(kind)
        if kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        annotation = hints[name] if name in hints else _evaluate(parameter.annotation, space)
        by_name, by_position = kind is parameter.KEYWORD_ONLY, kind is parameter.POSITIONAL_ONLY
        found.append(Parameter(name, annotation, parameter.default, by_name, by_position, want_of(annotation)))
    keyword, position = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    return Signature(tuple(found), keyword in kinds, position in kinds)


def _evaluate(annotation: Any, space: dict[str, Any]) -> Any:
    """The annotation, strings inside it evaluated too; as text when a name in it exists for type checkers only."""
    if isinstance(annotation, str):
        found = space.get(annotation)
        if found is not None:
            return found
    elif not _has_text(annotation):
        return annotation

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(holder, space, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - whatever the author's own annotation raises
        return annotation if isinstance(annotation, str) else str(annotation).replace("typing.", "")


def _has_text(annotation: Any) -> bool:
    """Whether there is a name in it that is still to be looked up, as in `list["Mailer"]`."""
    if isinstance(annotation, (str, ForwardRef)):
        return True
    origin = get_origin(annotation)
    if origin is None or origin is Literal:
        return False
    arguments = get_args(annotation)
    return any(_has_text(argument) for argument in (arguments[:1] if origin is Annotated else arguments))


def _protocol_members(protocol: type) -> set[str]:
    ignored = {"__init__", "__subclasshook__"} | set(vars(typing.Protocol)) | set(vars(object))
    members = {name for base in protocol.__mro__[:-2] for name in vars(base) if name not in ignored}
    annotated = {name for base in protocol.__mro__[:-2] for name in vars(base).get("__annotations__", {})}
    return cast("set[str]", {name for name in members | annotated if not name.startswith(("_abc", "__"))})


class Layout:
    """A signature as source: the header of a wrapper with the same parameters, and the calls that it makes.

    Args:
        signature: The wrapped function's.
        injections: The parameters that may be left out, whatever the signature says.
        marker: What they are then.
    """

    def __init__(self, signature: inspect.Signature, injections: Mapping[str, Want], marker: Any) -> None:
        parameters = list(signature.parameters.values())
        self.names = [p.name for p in parameters]
        self.first = parameters[0].name if parameters and parameters[0].name not in injections else None
        self.values = "".join(f"{name}, " for name in self.names)
        self.rest = ", ".join(name for name in self.names if name not in injections)
        self._parameters = parameters
        self.passed = self.passed_with({})
        self._header(parameters, injections, marker)
        self.bare = self._bare(parameters, injections)

    def passed_with(self, values: Mapping[str, str]) -> str:
        """The arguments of a call of the user's function, some of them replaced by other expressions."""
        return ", ".join(_passed(parameter, values) for parameter in self._parameters)

    def _bare(self, parameters: list[inspect.Parameter], injections: Mapping[str, Want]) -> list[str] | None:
        """The parameters of a wrapper that takes the injected ones as `*rest, **named`; None where that won't do.

        Defaults belong to the last positional parameters, and stay those of the wrapper's whole header. So with some of
        them injected, none of the others may have one; and an own one that is missing is seen as the marker.
        """
        own = [p for p in parameters if p.name not in injections]
        if any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in own) or {"rest", "named"} & set(self.names):
            return None
        if parameters[: len(own)] != own or any(p.kind is p.POSITIONAL_ONLY for p in parameters):
            return None
        by_position = len(self.defaults) - sum(p.default is not EMPTY for p in own)
        if by_position and len(self.defaults) > by_position:
            return None
        return [p.name for p in own]

    def _header(self, parameters: list[inspect.Parameter], injections: Mapping[str, Want], marker: Any) -> None:
        """An injected parameter in front of a required one can only be passed by keyword."""
        kinds = inspect.Parameter
        required = [n for n, p in enumerate(parameters) if p.default is EMPTY and p.name not in injections
                    and p.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}]  # fmt: skip
        last = max(required, default=-1)
        ordered, keyword, tail, star = [], [], [], ""
        defaults: list[Any] = []
        self.kwdefaults: dict[str, Any] = {}
        only = 0
        for number, p in enumerate(parameters):
            default = marker if p.name in injections else p.default
            if p.kind is kinds.VAR_POSITIONAL:
                star = f"*{p.name}"
            elif p.kind is kinds.VAR_KEYWORD:
                tail.append(f"**{p.name}")
            elif p.kind is kinds.KEYWORD_ONLY or (p.name in injections and number < last):
                keyword.append(p.name)
                if default is not EMPTY:
                    self.kwdefaults[p.name] = default
            else:
                ordered.append(p.name)
                only = len(ordered) if p.kind is kinds.POSITIONAL_ONLY else only
                if default is not EMPTY:
                    defaults.append(default)
        if only:
            ordered.insert(only, "/")
        self.defaults = tuple(defaults)
        self.header = ", ".join([*ordered, *([star or "*"] if star or keyword else []), *keyword, *tail])


def _passed(parameter: inspect.Parameter, values: Mapping[str, str]) -> str:
    name = parameter.name
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{values.get(name, name)}"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{values.get(name, name)}"
    value = values.get(name, name)
    return f"{name}={value}" if parameter.kind is parameter.KEYWORD_ONLY else value
