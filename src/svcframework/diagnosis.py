"""Diagnosis: each mistake in a wiring as a `Problem`, with what, who asked, the drawn path and the fix.

Pure: it is told what was found, and looks for nothing itself.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import TYPE_CHECKING, Any

from svcframework._graph import draw_path
from svcframework._signatures import EMPTY, Parameter, Want
from svcframework._types import Lifetime, Location
from svcframework.errors import nearest, type_name
from svcframework.problems import Kind, Problem, listed, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from svcframework.registry import ServiceDescriptor


def place(target: Any) -> Location | None:
    """Where a class's constructor or a function is written; the class itself where it has no constructor of its own."""
    if isinstance(target, type):
        constructor = next((vars(base)["__init__"] for base in target.__mro__ if "__init__" in vars(base)), None)
        code = getattr(constructor, "__code__", None)
        if code is None or code.co_filename.startswith((_HERE, "<")):
            return _place_of_class(target)
    return Location.of(inspect.unwrap(target) if callable(target) else target)


def _place_of_class(cls: type) -> Location | None:
    try:
        return Location(inspect.getsourcefile(cls) or inspect.getfile(cls), inspect.getsourcelines(cls)[1])
    except (OSError, TypeError):
        return None


def places_in(container: type) -> dict[str, Location]:
    """Where a container's class body, and those of its bases, assign each name; empty where no source can be seen."""
    places: dict[str, Location] = {}
    for base in reversed(container.__mro__):
        start = None if base.__module__.startswith(("builtins", "dependency_injector.")) else _place_of_class(base)
        if start is None:
            continue
        for number, line in enumerate(inspect.getsourcelines(base)[0], start.line):
            assigned = _ASSIGNMENT.match(line)
            if assigned:
                places[assigned[1]] = Location(start.file, number)
    return places


_ASSIGNMENT = re.compile(r"\s+(\w+)\s*(?::[^=]+)?=(?!=)")
_HERE = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - a string is what is compared


def short(wanted: object) -> str:
    """A type as its user would write it, without the function that it may be local to."""
    return type_name(wanted).rpartition("<locals>.")[2]


def _label(descriptor: ServiceDescriptor) -> str:
    return descriptor.name if descriptor.provides is object else f"{descriptor.name} ({short(descriptor.provides)})"


def _maker(descriptor: ServiceDescriptor) -> str:
    factory = descriptor.factory
    return short(inspect.unwrap(factory) if factory is not None else descriptor.provides)


def _shown(location: Location | None) -> str:
    return show(location, root=os.getcwd())  # noqa: PTH109 - a string is what is compared


def _problem(
    kind: Kind, headline: str, descriptor: ServiceDescriptor, lines: Iterable[str], *, at: Location | None = None
) -> Problem:
    """A problem of one service; when it shows at the use, a line tells the declaration."""
    declared = []
    if at is not None and descriptor.at is not None and at != descriptor.at:
        declared = [f"declared at {_shown(descriptor.at)} as {descriptor.name}"]
    elif descriptor.at is None and descriptor.declared_in:
        declared = [f"declared in {descriptor.declared_in} as {descriptor.name}"]
    return Problem(kind, headline, at or descriptor.at, (*declared, *lines), (descriptor.name,))


# --- what a parameter asks for --------------------------------------------------------------------------


def missing(
    descriptor: ServiceDescriptor,
    want: Want,
    parameter: str,
    *,
    known: Mapping[str, ServiceDescriptor],
    hint: str | None = None,
    function: Callable[..., Any] | None = None,
) -> Problem:
    """Nothing answers what a constructor or an injected method asks for.

    Args:
        descriptor: Whose constructor or method it is.
        want: What it asks for.
        parameter: The parameter's name.
        known: All declared services.
        hint: What else would provide it.
        function: The method, if it is one.
    """
    word = str(want)
    shown = parameter if word == parameter else f"{parameter}: {word}"
    maker = short(inspect.unwrap(function)) if function else _maker(descriptor)
    by_name = isinstance(want.key, str)
    fix = f"No service is named {want.key!r}." if by_name else f"No service provides {short(want.key)}."
    close = _close_names(want.key, known) if isinstance(want.key, str) else _close_types(want.key, known)
    if close:
        fix += f" Did you mean {_either(close)}?"
    lines = [draw_path([descriptor.name, shown, "?"]), *_sentences(fix, hint)]
    if not close:
        name = want.key if isinstance(want.key, str) else parameter
        made = "…" if by_name else short(want.key)
        lines.append(f"{'or d' if hint else 'D'}eclare  {name} = providers.Service({made})")
        if descriptor.lifetime is not Lifetime.SINGLETON or function is not None:
            lines.append(f"or, if each scope brings its own,  {name} = providers.ScopeValue({made})")
    lines += _unsaid(descriptor, want, known)
    return _problem("missing", f"{maker}({shown})", descriptor, lines, at=place(function or descriptor.factory))


def missing_by_order(
    descriptor: ServiceDescriptor, name: str, known: Mapping[str, ServiceDescriptor], *, hint: str | None = None
) -> Problem:
    """A name among the `dependencies` that nobody declares."""
    close = nearest(name, known)
    fix = f"No service is named {name!r}."
    if close:
        fix += f" Did you mean {_either(map(repr, close))}?"
    elif hint is None:
        fix += f" Declare it, or list it under optional_dependencies if {descriptor.name} can do without."
    lines = [draw_path([descriptor.name, "dependencies", "?"]), *_sentences(fix, hint)]
    return _problem("missing", f"{_label(descriptor)} depends on {name!r}", descriptor, lines)


def _either(words: Iterable[str]) -> str:
    return " or ".join(words)


def _sentences(first: str, second: str | None) -> list[str]:
    """Both on one line where they fit there."""
    if second is None:
        return [first]
    both = f"{first} {second}"
    return [both] if len(both) <= 104 else [first, second]  # noqa: PLR2004 - 120 columns less the indentation


def _close_names(name: str, known: Iterable[str]) -> list[str]:
    return [repr(close) for close in nearest(name, known)]


def _close_types(wanted: type, known: Mapping[str, ServiceDescriptor]) -> list[str]:
    """Services whose type has a similar name; one of the very same name comes from another module."""
    by_type: dict[str, ServiceDescriptor] = {}
    for descriptor in known.values():
        if descriptor.provides is not object:
            by_type.setdefault(short(descriptor.provides), descriptor)
    found = []
    for name in nearest(short(wanted), by_type):
        other = by_type[name]
        where = f" of {other.provides.__module__}" if name == short(wanted) else ""
        found.append(f"{name}{where} ({other.name})")
    return found


def _unsaid(descriptor: ServiceDescriptor, want: Want, known: Mapping[str, ServiceDescriptor]) -> list[str]:
    """Factories that don't say what they make may be what is missing."""
    if isinstance(want.key, str):
        return []
    unsaid = [
        other
        for other in known.values()
        if other.provides is object and other.at is not None and other is not descriptor and not other.is_scope_value
    ]
    return [
        f"{one.name} ({_shown(one.at)}) does not say what it makes; if that is it: "
        f"def {_maker(one)}(…) -> {short(want.key)}"
        for one in unsaid[:2]
    ]


def no_service(descriptor: ServiceDescriptor, parameter: Parameter) -> Problem:
    """A parameter that must be given, and is annotated with nothing that could be a service."""
    kind = parameter.annotation
    shown = parameter.name if kind is EMPTY else f"{parameter.name}: {_written(kind)}"
    if kind is EMPTY:
        fix = f"No service is named {parameter.name!r}: pass {parameter.name}=… in the declaration, or annotate it."
    else:
        fix = f"{_written(kind)} is no service: pass {parameter.name}=… in the declaration, or give it a default."
    lines = [draw_path([descriptor.name, shown, "?"]), fix]
    if descriptor.lifetime is not Lifetime.SINGLETON and isinstance(kind, type) and kind is not EMPTY:
        lines.append(f"If each scope brings its own: {parameter.name} = providers.ScopeValue({short(kind)})")
    return _problem("missing", f"{_maker(descriptor)}({shown})", descriptor, lines, at=place(descriptor.factory))


def _written(annotation: Any) -> str:
    return short(annotation) if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def ambiguous(descriptor: ServiceDescriptor, want: Want, parameter: str, names: Sequence[str]) -> Problem:
    """Several services are of the type that a parameter asks for."""
    kind = short(want.key)
    return _problem(
        "ambiguous",
        f"{_maker(descriptor)}({parameter}: {want})",
        descriptor,
        [
            f"{len(names)} services are a {kind}: {listed(names)}.",
            (
                f"Name the parameter like one of them, pass {parameter}={names[0]} in the declaration, "
                f"or ask for list[{kind}]."
            ),
        ],
        at=place(descriptor.factory),
    )


def mistyped(
    descriptor: ServiceDescriptor, parameter: Parameter, given: ServiceDescriptor, others: Sequence[str]
) -> Problem:
    """The service that is given, or that bears the parameter's name, is not of the parameter's type."""
    wanted = short(parameter.want.key) if parameter.want else str(parameter.annotation)
    fix = f"{given.name} is a {short(given.provides)}, not a {wanted}."
    other = f"Pass {parameter.name}=… that is a {wanted}, or change the annotation."
    fix += f" Did you mean {_either(others[:3])}?" if others else f" {other}"
    return _problem(
        "mistyped",
        f"{_maker(descriptor)}({parameter.name}: {parameter.want})",
        descriptor,
        [draw_path([descriptor.name, f"{parameter.name}: {parameter.want}", given.name]), fix],
        at=place(descriptor.factory),
    )


def unresolved(descriptor: ServiceDescriptor, parameter: Parameter) -> Problem:
    """An annotation that can't be evaluated."""
    return _problem(
        "annotation",
        f"{_maker(descriptor)}({parameter.name}: {parameter.annotation})",
        descriptor,
        [
            (
                f"{parameter.annotation} can't be looked up at run time: "
                "it is imported for type checkers only, or misspelt."
            ),
            "Import it outside `if TYPE_CHECKING:`, or pass the argument in the declaration.",
        ],
        at=place(descriptor.factory),
    )


def maybe_missing(descriptor: ServiceDescriptor, needed: ServiceDescriptor, parameter: str) -> Problem:
    """A service that has to run can't need one that need not."""
    if parameter:
        headline = f"{_maker(descriptor)}({parameter}: {short(needed.provides)})"
        fix = f"Take it as `{short(needed.provides)} | None`"
    else:
        headline = f"{_label(descriptor)} depends on {needed.name!r}"
        fix = "List it under optional_dependencies"
    return _problem(
        "optional",
        headline,
        descriptor,
        [
            (
                f"{descriptor.name} needs {needed.name}, which is optional "
                f"({_shown(needed.at) or needed.declared_in}) and may be missing."
            ),
            f"{fix}, or make {needed.name} required, or {descriptor.name} optional too.",
        ],
        at=place(descriptor.factory) if parameter else None,
    )


# --- what a declaration gives ---------------------------------------------------------------------------


def unknown_argument(descriptor: ServiceDescriptor, name: str, parameters: Sequence[Parameter]) -> Problem:
    """An argument that the constructor does not take."""
    names = [parameter.name for parameter in parameters]
    close = nearest(name, names)
    hint = f"Did you mean {close[0]!r}?" if close else f"It takes {listed(names) or 'no arguments'}."
    return _problem(
        "argument", f"{_maker(descriptor)}({name}=…)", descriptor,
        [f"{_maker(descriptor)} has no parameter {name!r}. {hint}"], at=place(descriptor.factory),
    )  # fmt: skip


def too_many_arguments(descriptor: ServiceDescriptor, given: int, positional: Sequence[Parameter]) -> Problem:
    """More positional arguments than there are parameters."""
    takes = f"{len(positional)} positional argument{'' if len(positional) == 1 else 's'}"
    names = ", ".join(parameter.name for parameter in positional)
    return _problem(
        "argument", f"{_maker(descriptor)}({names})", descriptor,
        [f"It takes {takes}, {given} are given in the declaration."], at=place(descriptor.factory),
    )  # fmt: skip


def given_twice(descriptor: ServiceDescriptor, name: str) -> Problem:
    """One parameter given by position and by name."""
    return _problem(
        "argument", f"{_maker(descriptor)}({name}=…)", descriptor,
        [f"{name} is given twice, by position and by name: take one out."], at=place(descriptor.factory),
    )  # fmt: skip


def unused_config(descriptor: ServiceDescriptor) -> Problem:
    """Settings for a class that has nowhere to put them."""
    return _problem(
        "argument", f"{_maker(descriptor)}(config=…)", descriptor,
        [f"{_maker(descriptor)} has no parameter 'config' and is no BaseService: its settings would be lost."],
        at=place(descriptor.factory),
    )  # fmt: skip


def abstract(descriptor: ServiceDescriptor, names: Sequence[str]) -> Problem:
    """A class that can't be instantiated."""
    lacks = listed(f"{name}()" for name in names)
    return _problem(
        "abstract",
        f"{_label(descriptor)} can't be made",
        descriptor,
        [f"{short(descriptor.provides)} is abstract: it lacks {lacks}. Declare a subclass that has it."],
        at=_place_of_class(descriptor.provides),
    )


def unknown_scope(descriptor: ServiceDescriptor, scopes: Iterable[str]) -> Problem:
    """A scope level that the host does not have."""
    known = list(scopes)
    close = nearest(descriptor.scope, known)
    proposal = ", ".join(map(repr, [*known, descriptor.scope]))
    return _problem(
        "scope",
        f"{_label(descriptor)} lives in scope {descriptor.scope!r}",
        descriptor,
        [
            f"The host knows these scopes, the longest-lived first: {', '.join(known)}.",
            f"Did you mean {close[0]!r}?" if close else f"Use one of them, or ServiceHost(…, scopes=({proposal})).",
        ],
    )


def misconfigured(descriptor: ServiceDescriptor, problems: Iterable[str]) -> Problem:
    """Settings that are missing or malformed. The lines come without values."""
    return _problem("misconfigured", _label(descriptor), descriptor, problems)


def unreadable_setting(descriptor: ServiceDescriptor, setting: str, error: Exception) -> Problem:
    """A setting whose reading raises. What it raises may quote the value, so only its type is shown."""
    return _problem(
        "misconfigured",
        f"{_label(descriptor)}: {setting} can't be read",
        descriptor,
        [f"Reading it raised {type(error).__name__}: is it set, and of the right type?"],
    )


def misdeclared_restart(descriptor: ServiceDescriptor, problem: str) -> Problem:
    """A restart policy that is none."""
    return _problem("misconfigured", f"{_label(descriptor)}: restart", descriptor, [problem])


def unawaitable_setting(descriptor: ServiceDescriptor, needed: str) -> Problem:
    """Settings that come from a service would be known too late."""
    return _problem(
        "misconfigured",
        f"{_label(descriptor)}: config= comes from {needed}",
        descriptor,
        ["Settings are checked before anything is built: take them from providers.Settings or a Configuration."],
    )


# --- the whole ------------------------------------------------------------------------------------------


def duplicate(first: ServiceDescriptor, second: ServiceDescriptor) -> Problem:
    """Two services of one name."""
    before = _shown(first.at) or first.declared_in or "an unknown place"
    return _problem(
        "duplicate",
        f"two services are named {first.name!r}",
        second,
        [
            f"a {short(first.provides)} at {before}, and a {short(second.provides)}"
            + (f" in {second.declared_in}" if second.declared_in != first.declared_in else ""),
            "Rename one, or replace the first on purpose: host.override(), or a container that inherits.",
        ],
    )


def unknown_member(group: str, name: str, known: Iterable[str], *, at: Location | None = None) -> Problem:
    """A group that names a service which nobody declares."""
    close = nearest(name, known)
    fix = f"Did you mean {_either(map(repr, close))}?" if close else "Register it, or take it out of the group."
    return Problem("group", f"group {group!r} names {name!r}", at, (f"Nobody declares {name!r}. {fix}",), (name,))


def cycle(ring: Sequence[ServiceDescriptor], services: Iterable[str]) -> Problem:
    """Services that wait for one another; the ring begins and ends with the same one."""
    names = [descriptor.name for descriptor in ring]
    if len(ring) == 2:  # noqa: PLR2004 - itself and itself
        fix = "It can't wait for itself: take it out of its own dependencies."
    else:
        target = short(ring[0].provides)
        fix = f"Break it: inject one of them per call with @inject_service, or as Lazy[{target}]."
    places = [f"{one.name}  {_shown(place(one.factory)) or one.declared_in}" for one in ring[:-1]]
    return Problem("cycle", draw_path(names), ring[-2].at, ("      ".join(places), fix), tuple(services))


def captive(own: ServiceDescriptor, held: ServiceDescriptor, path: Sequence[str], *, awaited: bool) -> Problem:
    """A service holds one that dies before it."""
    if held.lifetime is Lifetime.TRANSIENT:
        shorter = "closed with its scope"
        fix = [f"Nothing would ever close {held.name}. Make {held.name} a Service, or {own.name} Scoped."]
    else:
        shorter = "scoped" if held.scope == "request" else f"scoped to {held.scope}"
        span = "for ever" if own.lifetime is Lifetime.SINGLETON else f"for the whole {own.scope}"
        better = "Scoped" if own.lifetime is Lifetime.SINGLETON else f"scoped to {held.scope!r}"
        lazily = held.provides is not object and not awaited
        other = f"inject Lazy[{short(held.provides)}]" if lazily else "inject it per call with @inject_service"
        keeps = f"It would keep the first {held.scope}'s {held.name} {span}."
        fix = _sentences(keeps, f"Make {own.name} {better}, or {other}.")
    life = f"scoped to {own.scope}" if own.lifetime is Lifetime.SCOPED else own.lifetime.value
    headline = f"{own.name} ({life}) holds {held.name} ({shorter})"
    return _problem("captive", headline, own, [draw_path([own.name, *path]), *fix])


def awaited_by_singleton(own: ServiceDescriptor, held: ServiceDescriptor, path: Sequence[str]) -> Problem:
    """A singleton's constructor can't wait for a transient that is made by an async function."""
    return _problem(
        "async",
        f"{own.name} (singleton) holds {held.name} (async)",
        own,
        [
            draw_path([own.name, *path]),
            f"{held.name} is made by an async function, which a constructor can't wait for.",
            f"Make {held.name} a Service, which the start opens, or inject it per call with @inject_service.",
        ],
    )


def awaited_by_function(
    descriptor: ServiceDescriptor, function: Callable[..., Any], parameter: str, path: Sequence[str]
) -> Problem:
    """A method that is not async asks for something that has to be awaited."""
    name = short(inspect.unwrap(function))
    return _problem(
        "async",
        f"{name}({parameter}) is not async",
        descriptor,
        [
            draw_path([descriptor.name, *path]),
            f"{path[-1]} is made by an async function, which {name}() can't wait for. Make it `async def`.",
        ],
        at=place(function),
    )
