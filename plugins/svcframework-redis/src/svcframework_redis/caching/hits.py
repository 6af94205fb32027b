"""The way of a cached call to a value that this process keeps, compiled for the function's own signature.

Python itself then sorts out positions, keywords and defaults, and what is left costs less than a microsecond. Whatever
is special (nothing kept, no host, an argument that can't be compared) falls into the slow way.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from svcframework.service import BaseService

_P = inspect.Parameter
_ARGUMENTS = {_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD, _P.KEYWORD_ONLY}

# `known` tells what equal arguments of equal types led to before: 1, True and 1.0 are equal, but not the same.
_SOURCE = """
async def call({declared}):
    try:
{lookup}
        if _place.cache is _current:
            _found = _place.entries[_place.name]
            if _found.kind is _place.kind and _found.deadline > _place.clock():
                _found.used = True
                _place.counts.local_hits += 1
                return _found.value
    except (AttributeError, LookupError, TypeError):
        pass
    return await _slow({passed})
"""
_OF_FUNCTION = """
        _place = _known[({rest})]
        _current = {find}
"""
_OF_METHOD = """
        if isinstance({first}, _Service):
            _place = _known[({owner}, {first}.name, {rest})]
            _current = {host}
        else:
            _place = _known[({owner}, None, {rest})]
            _current = {find}
"""


def compile_call(
    function: Callable[..., Any],
    slow: Callable[..., Awaitable[Any]],
    known: dict[Any, Any],
    *,
    is_method: bool,
    is_quick: bool,
    cache: Any,
    find: Callable[[], Any],
) -> Callable[..., Awaitable[Any]]:
    """An async function with the parameters of `function`.

    Args:
        function: What is cached.
        slow: Called with the same arguments when no value is found in this process.
        known: What identities of arguments lead to; filled by `slow`.
        is_method: Whether the first parameter is what the function belongs to.
        is_quick: Whether the key follows from the arguments alone.
        cache: The cache, or the name or type that a host knows it by.
        find: The cache where the host isn't that of a service.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not is_quick or any(p.kind not in _ARGUMENTS or p.name.startswith("_") for p in parameters):

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await slow(*args, **kwargs)

        return call
    names = [p.name for p in parameters]
    is_fixed = not isinstance(cache, (str, type))
    scope: dict[str, Any] = {"_known": known, "_slow": slow, "_cache": cache, "_find": find, "_Service": BaseService}
    scope.update({f"_default_{p.name}": p.default for p in parameters if p.default is not p.empty})
    source = _SOURCE.format(
        declared=_declared(parameters),
        lookup=_lookup(names, is_method=is_method, is_fixed=is_fixed),
        passed=", ".join(f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in parameters),
    )
    exec(compile(source, f"<cached {function.__qualname__}>", "exec"), scope)  # noqa: S102 - made of names only
    compiled: Callable[..., Awaitable[Any]] = scope["call"]
    return compiled


def identity_of(names: list[str], values: dict[str, Any], *, is_method: bool) -> tuple[Any, ...]:
    """What the compiled function looks up for these arguments."""
    found: list[Any] = []
    rest = list(names)
    if is_method:
        name = rest.pop(0)
        first = values[name]
        found.append(first if name == "cls" else first.__class__)
        found.append(first.name if isinstance(first, BaseService) else None)
    for name in rest:
        found += [values[name].__class__, values[name]]
    return tuple(found)


def _lookup(names: list[str], *, is_method: bool, is_fixed: bool) -> str:
    """The same as source text, and what finds the cache."""
    find = "_cache" if is_fixed else "_find()"
    rest = "".join(f"{name}.__class__, {name}, " for name in names[is_method:])
    if not is_method:
        return _OF_FUNCTION.format(rest=rest, find=find)
    first = names[0]
    owner = first if first == "cls" else f"{first}.__class__"
    host = "_cache" if is_fixed else f"{first}.host.get(_cache)"
    return _OF_METHOD.format(first=first, owner=owner, rest=rest, find=find, host=host)


def _declared(parameters: list[inspect.Parameter]) -> str:
    """The parameters as source text, without annotations."""
    plain = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else _Word(f"_default_{p.name}"))
        for p in parameters
    ]
    return str(inspect.Signature(plain))[1:-1]


class _Word:
    """A default that is shown as a name."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word
