"""Factories that stand for what dependency-injector's providers do beyond calling a class. Knows no provider."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, Final

from svcframework._signatures import Want, is_generator, provided_by, signature_of
from svcframework.registry import Make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from svcframework._signatures import Signature

ATTRIBUTES: Final = "attributes_set_afterwards"
"""The parameter in which `with_attributes` is given what it sets."""


# --- values ---------------------------------------------------------------------------------------------


def identity(value: Any) -> Any:
    """The value itself."""
    return value


def to_list(*values: Any) -> list[Any]:
    """The values as a list."""
    return list(values)


def to_dict(*pairs: Any) -> dict[Any, Any]:
    """Keys and values in turn as a dict."""
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def call(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The result of a call."""
    return function(*args, **kwargs)


def deferred(*, make: Any) -> Callable[[], Any]:
    """A function that gives a value."""
    return lambda: make


def read_settings(load: Callable[..., Any]) -> Callable[..., Any]:
    """Read a settings model; values that are given win over every source."""

    def read(model: Any, manager: Any, **given: Any) -> Any:
        if given and hasattr(model, "settings_customise_sources"):
            return model(**given)
        loaded = load(model, manager)
        return loaded.model_copy(update=given) if given else loaded

    return read


# --- providers that are passed on uncalled --------------------------------------------------------------


class Handle:
    """A factory with some of its arguments: `handle(more)` makes one. What it holds is made anew for each call."""

    def __init__(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._factory, self._args, self._kwargs = factory, args, kwargs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make one; what is given here comes after, and wins over, what was declared."""
        known = {name: _now(value) for name, value in self._kwargs.items() if name not in kwargs}
        return self._factory(*map(_now, self._args), *args, **known, **kwargs)


class Handles:
    """Handles by name: `handles("sms", number)`, `handles.sms(number)`."""

    def __init__(self, *pairs: Any) -> None:
        self.providers: dict[Any, Any] = to_dict(*pairs)

    def __call__(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Make what that name stands for."""
        return self._of(name)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._of(name)

    def _of(self, name: Any) -> Any:
        if name not in self.providers:
            raise AttributeError(f"there is no {name!r}: {', '.join(map(str, self.providers))}")
        return self.providers[name]


class _Now:
    """An argument of a handle that is looked up for each call."""

    def __init__(self, get: Callable[[], Any]) -> None:
        self.get = get


def _now(value: Any) -> Any:
    return value.get() if isinstance(value, _Now) else value


def later(argument: Any) -> Any:
    """An argument, put off until the handle that holds it is called."""
    if isinstance(argument, Want) and argument.how == "one":
        return Make(_Now, (Want(argument.key, "lazy"),))
    if isinstance(argument, Make) and argument.factory is not Handle:
        args, kwargs = map(later, argument.args), {key: later(value) for key, value in argument.kwargs.items()}
        return Make(_Now, (Make(Handle, (argument.factory, *args), kwargs),))
    return argument


# --- factories ------------------------------------------------------------------------------------------


def once_per_thread(made: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that makes one instance for each thread."""
    local = threading.local()

    def build(*args: Any, **kwargs: Any) -> Any:
        if not hasattr(local, "instance"):
            local.instance = made(*args, **kwargs)
        return local.instance

    return _disguised(build, made, signature_of(made))


def with_attributes(made: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that sets attributes on what it has made."""

    def build(*args: Any, **kwargs: Any) -> Any:
        attributes = kwargs.pop(ATTRIBUTES)
        instance = made(*args, **kwargs)
        for name, value in attributes.items():
            setattr(instance, name, value)
        return instance

    more = inspect.Parameter(ATTRIBUTES, inspect.Parameter.KEYWORD_ONLY, default=None)
    return _disguised(build, made, signature_of(made), more)


def opened(made: Any, *, may_wait: bool) -> Callable[..., Any]:
    """A resource as a generator function: what it gives is entered where it can be, and left afterwards.

    Args:
        made: A generator function, a class or a function.
        may_wait: Whoever opens it can await: it may then give an async context manager.
    """
    generator: Callable[..., Any] = inspect.unwrap(made)
    if is_generator(generator):  # dependency-injector has made a context manager of it
        return generator
    signature = _signature_of_resource(made)
    is_async = inspect.iscoroutinefunction(made) or (may_wait and not hasattr(made, "__enter__"))
    if is_async or hasattr(made, "__aenter__"):

        async def open_async(*args: Any, **kwargs: Any) -> Any:
            resource = made(*args, **kwargs)
            awaited = inspect.isawaitable(resource) and not hasattr(resource, "__aenter__")
            if awaited:
                resource = await resource
            if hasattr(resource, "__aenter__") and (awaited or not hasattr(resource, "__enter__")):
                async with resource as entered:
                    yield entered
            elif hasattr(resource, "__enter__"):
                with resource as entered:
                    yield entered
            else:
                yield resource

        return _disguised(open_async, made, signature)

    def open_sync(*args: Any, **kwargs: Any) -> Iterator[Any]:
        resource = made(*args, **kwargs)
        if hasattr(resource, "__enter__"):
            with resource as entered:
                yield entered
        else:
            yield resource

    return _disguised(open_sync, made, signature)


def provided_by_resource(made: Any) -> type:
    """The type of what a resource gives, as far as it says so."""
    function = inspect.unwrap(made)
    for enter in ("__aenter__", "__enter__"):
        if isinstance(function, type) and hasattr(function, enter):
            init = getattr(function, "init", getattr(function, enter))
            found = provided_by(init)
            return found if found is not object or hasattr(function, "init") else function
    return provided_by(function)


def _signature_of_resource(made: Any) -> Signature:
    """A Resource class of dependency-injector's passes its arguments on to `init`."""
    init = getattr(made, "init", None)
    if isinstance(made, type) and inspect.isfunction(init) and "__init__" not in vars(made):
        found = signature_of(init)
        return type(found)(found.parameters[1:], found.takes_any_keyword, found.takes_any_position)
    return signature_of(made)


def _disguised(
    build: Callable[..., Any], made: Any, signature: Signature, *more: inspect.Parameter
) -> Callable[..., Any]:
    """`build`, looking like what it stands for to reports and to the wiring."""
    kind = inspect.Parameter
    parameters = [
        kind(
            one.name,
            kind.KEYWORD_ONLY
            if one.keyword_only
            else kind.POSITIONAL_ONLY
            if one.positional_only
            else kind.POSITIONAL_OR_KEYWORD,
            default=one.default,
            annotation=one.annotation,
        )
        for one in signature.parameters
    ]
    if signature.takes_any_position:
        at = sum(one.kind is not kind.KEYWORD_ONLY for one in parameters)
        parameters.insert(at, kind("args", kind.VAR_POSITIONAL))
    parameters += more
    if signature.takes_any_keyword:
        parameters.append(kind("kwargs", kind.VAR_KEYWORD))
    disguised: Any = build
    disguised.__signature__ = inspect.Signature(parameters)
    disguised.__annotations__ = {}
    disguised.__name__ = getattr(made, "__name__", build.__name__)
    disguised.__qualname__ = getattr(made, "__qualname__", disguised.__name__)
    disguised.__wrapped__ = made
    return build
