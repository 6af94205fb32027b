"""What a decorator was given: an async function, a generator, a method. Knows nothing of services."""

from __future__ import annotations

import asyncio
import inspect
import sys
from contextlib import aclosing
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

# Without inspect.markcoroutinefunction (3.11) a plain function that returns a coroutine carries asyncio's mark.
_ASYNCIO_MARK = getattr(asyncio.coroutines, "_is_coroutine", None)


class Kind(Enum):
    """How a function's result is had."""

    SYNC = "sync"
    ASYNC = "async"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Kind:
        """The kind of `function`, also of one that another decorator has wrapped and marked."""
        injection = getattr(function, "__injection__", None)
        if injection is not None and injection.wrapper is function:  # a plain function that returns what the other does
            function = injection.function
        if inspect.isasyncgenfunction(function):
            return cls.ASYNC_GENERATOR
        if inspect.iscoroutinefunction(function) or _is_marked(function):
            return cls.ASYNC
        return cls.GENERATOR if inspect.isgeneratorfunction(function) else cls.SYNC


def _is_marked(function: Callable[..., Any]) -> bool:
    return _ASYNCIO_MARK is not None and getattr(function, "_is_coroutine", None) is _ASYNCIO_MARK


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the positional parameters, `self` included; none for what has no signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD})


def is_method(function: Callable[..., Any]) -> bool:
    """Whether `function` was written as a method: its first parameter is `self`."""
    return parameter_names(function)[:1] == ("self",)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a function's own parameters, by their names; none for what isn't a function."""
    code, positional = getattr(function, "__code__", None), getattr(function, "__defaults__", None) or ()
    if code is None:
        return {}
    names = code.co_varnames[code.co_argcount - len(positional) : code.co_argcount]
    return dict(zip(names, positional, strict=True)) | (getattr(function, "__kwdefaults__", None) or {})


def argument_names(
    names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """The names, never the values, of the arguments of one call; without `self` and what is its default anyway."""
    skipped = {} if defaults is None else defaults

    def told(given: Iterable[tuple[str, Any]]) -> list[str]:
        return [name for name, value in given if name != "self" and (name not in skipped or value is not skipped[name])]

    further = [f"*{place}" for place in range(len(names), len(args))]
    return (*told(zip(names, args, strict=False)), *further, *told(kwargs.items()))


def mark_coroutine(function: F) -> F:
    """Make a plain function that returns a coroutine count as a coroutine function."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = _ASYNCIO_MARK  # type: ignore[attr-defined]  # noqa: SLF001 - what 3.11 looks at
    return function


def forwarding(target: Any, call: Any) -> Any:
    """A function of the same kind as what is called in the end."""

    async def forward_async(*args: Any, **kwargs: Any) -> Any:
        return await target(*args, **kwargs)

    async def forward_items(*args: Any, **kwargs: Any) -> Any:
        async with aclosing(target(*args, **kwargs)) as items:
            async for item in items:
                yield item

    def forward_lines(*args: Any, **kwargs: Any) -> Any:
        return (yield from target(*args, **kwargs))

    def forward_now(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    forwards = {
        Kind.ASYNC: forward_async,
        Kind.ASYNC_GENERATOR: forward_items,
        Kind.GENERATOR: forward_lines,
        Kind.SYNC: forward_now,
    }
    return forwards[Kind.of(call)]
