"""Wrappers with the very parameters of what they wrap, written by a template. Knows nothing of services.

`*args, **kwargs` would cost every call a tuple, a dict and the way back: a fifth of what measuring a call costs beyond
the call itself. Python compiles a template once for each shape of a signature. What it has compiled is then given the
names and defaults of one function, so that a thousand decorated methods don't cost a thousand compilations.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import linecache
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Shape:
    """What tells two signatures apart, but for the names and defaults of positional parameters.

    Args:
        positional: How many parameters may be given by position.
        only: How many of them by position only.
        keywords: The names of those that are given by name only.
        has_args: Whether more may be given by position.
        has_kwargs: Whether any others may be given by name.
    """

    positional: int = 0
    only: int = 0
    keywords: tuple[str, ...] = ()
    has_args: bool = True
    has_kwargs: bool = True

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Shape:
        """That of a function; anything else takes whatever comes."""
        if not isinstance(function, FunctionType):
            return cls()
        code = function.__code__
        count = code.co_argcount
        keywords = code.co_varnames[count : count + code.co_kwonlyargcount]
        has_args, has_kwargs = (bool(code.co_flags & flag) for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS))
        return cls(count, code.co_posonlyargcount, keywords, has_args, has_kwargs)


def written_for(function: Callable[..., Any], template: str, names: Mapping[str, Any]) -> Any:
    """A wrapper of `function` that takes what it takes.

    Args:
        function: What is wrapped.
        template: One function definition as text. `{parameters}` is what it takes, `{call}` the same to pass on,
            `{args}` and `{kwargs}` as a tuple and a dict, and `{first}` the first argument: `None` where there can't be
            one, an `IndexError` where one may be given and wasn't.
        names: What the template refers to.
    """
    shape = Shape.of(function)
    code = _compiled(template, shape)
    space = {"__builtins__": builtins, "__name__": __name__, **names}
    if not isinstance(function, FunctionType):
        return functools.update_wrapper(FunctionType(code, space), function)
    theirs = function.__code__
    count = shape.positional + len(shape.keywords) + shape.has_args + shape.has_kwargs
    code = code.replace(
        co_varnames=theirs.co_varnames[:count] + code.co_varnames[count:],
        co_name=theirs.co_name,
        co_qualname=theirs.co_qualname,
    )
    wrapper = FunctionType(code, space, function.__name__, function.__defaults__)
    wrapper.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(wrapper, function)


@functools.lru_cache(maxsize=1024)
def _compiled(template: str, shape: Shape) -> CodeType:
    """The template's function. No parameter has a name that the template may use: `p1`, `k1`, `args`, `kwargs`."""
    positional = [f"p{place}" for place in range(shape.positional)]
    by_name = {name: f"k{place}" for place, name in enumerate(shape.keywords)}
    rest, named = ["*args"] * shape.has_args, ["**kwargs"] * shape.has_kwargs
    declared = [*positional[: shape.only], *["/"] * (shape.only > 0), *positional[shape.only :], *rest]
    declared += [*["*"] * bool(by_name and not rest), *by_name.values(), *named]
    given = [*positional, *rest]
    call = ", ".join([*given, *(f"{name}={local}" for name, local in by_name.items()), *named])
    source = template.format(
        parameters=", ".join(declared),
        call=call,
        args=f"({''.join(f'{one}, ' for one in given)})",
        kwargs="{" + ", ".join([*(f"{name!r}: {local}" for name, local in by_name.items()), *named]) + "}",
        first="p0" if positional else "args[0]" if rest else "None",
    )
    what = source.strip().partition("(")[0].replace("def ", "")
    filename = f"<svcframework wrapper: {what}({call})>"  # one per template and shape: tracebacks quote its lines
    space: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), space)  # noqa: S102 - the source is ours; values are never part of it
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    del space["__builtins__"]
    (function,) = space.values()
    code: CodeType = function.__code__
    return code
