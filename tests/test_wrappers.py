"""Wrappers that take what the wrapped function takes: called alike, named alike, and compiled once per shape."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from svcframework import retry_on_failure, service_method
from svcframework._wrappers import _compiled, written_for

TEMPLATE = """
def noted({parameters}):
    seen.append(({args}, {kwargs}, {args} and {first}))
    return run({call})
"""
MISSING: Any = object()


def plain() -> Any:
    return ()


def positional(a: Any, b: Any = MISSING, /, c: Any = 3) -> Any:
    return a, b, c


def by_name(run: Any, *, seen: Any = None, p0: Any) -> Any:
    return run, seen, p0


def everything(args: Any, *kwargs: Any, k0: Any = MISSING, **call: Any) -> Any:
    return args, kwargs, k0, call


def anything(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (plain, (), {}),
    (positional, (1,), {}),
    (positional, (1, 2), {"c": 4}),
    (positional, (1, 2, 3), {}),
    (by_name, (1,), {"p0": 2}),
    (by_name, (), {"run": 1, "seen": 2, "p0": 3}),
    (everything, (1,), {}),
    (everything, (1, 2, 3), {"k0": 4, "x": 5, "run": 6}),
    (anything, (), {}),
    (anything, (1, 2), {"self": 3}),
]


def wrapped(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[Any]]:
    """A function with a wrapper that notes each call."""
    seen: list[Any] = []
    return written_for(function, TEMPLATE, {"seen": seen, "run": function}), seen


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_arguments_arrive_as_they_were_given(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Positions, names, defaults and the rest, also where the template has a name of its own like that."""
    wrapper, seen = wrapped(function)

    assert function(*args, **kwargs) == wrapper(*args, **kwargs)
    ((given, named, first),) = seen
    assert function(*args, **kwargs) == function(*given, **named)
    assert first == (given and given[0])


@pytest.mark.parametrize("function", [plain, positional, by_name])
def test_wrong_calls_are_refused_in_the_function_s_name(function: Any) -> None:
    """The error is the one that the function itself would raise, and nothing was called."""
    wrapper, seen = wrapped(function)
    for args, kwargs in [((1, 2, 3, 4, 5), {}), ((), {"nobody": 1}), ((1,), {"a": 2, "args": 2, "run": 2})]:
        with pytest.raises(TypeError) as expected:
            function(*args, **kwargs)
        with pytest.raises(TypeError) as found:
            wrapper(*args, **kwargs)
        assert str(expected.value) == str(found.value)
    assert [] == seen


def test_what_is_no_function_is_wrapped_too() -> None:
    """Partial functions, bound methods and builtins take whatever comes, and decide themselves."""
    assert (1, 2, 5) == wrapped(functools.partial(positional, 1, c=5))[0](2)
    assert [2, 1] == wrapped([1, 2].__class__)[0]((2, 1))
    assert 3 == wrapped(len)[0]("abc")


def test_a_template_is_compiled_once_per_shape() -> None:
    """A thousand methods of one shape cost one compilation, and each keeps its own names and defaults."""
    before = _compiled.cache_info().misses

    def make(default: int) -> Callable[..., Any]:
        def function(self: Any, x: int, y: int = default, *, z: int) -> tuple[int, int, int]:
            return x, y, z

        return wrapped(function)[0]

    wrappers = [make(number) for number in range(1000)]
    assert [(1, number, 2) for number in range(1000)] == [wrapper(None, 1, z=2) for wrapper in wrappers]
    assert before + 1 >= _compiled.cache_info().misses


def test_the_wrapper_looks_like_the_function() -> None:
    """Its signature, name and code names; a traceback quotes each wrapper's own line."""

    class Service:
        @service_method
        @retry_on_failure(exceptions=KeyError)
        def find(self, key: str, *, limit: int = 10) -> str:
            raise LookupError(key)

    assert "(self, key: str, *, limit: int = 10) -> str" == str(inspect.signature(Service.find)).replace("'", "")
    assert ("self", "key", "limit") == Service.find.__code__.co_varnames[:3]
    with pytest.raises(LookupError) as caught:
        Service().find("a")
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename[0] == "<"]
    assert [("<svcframework wrapper: measured(p0, p1, limit=k0)>", "find"),
            ("<svcframework wrapper: retrying(p0, p1, limit=k0)>", "find")] == [
        (frame.filename, frame.name) for frame in frames
    ]  # fmt: skip
    assert {"return run(p0, p1, limit=k0)"} == {frame.line for frame in frames}
