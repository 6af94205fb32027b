"""The classes, factories and handlers that every adapter wires; knows no library.

`workloads.fresh_graph` runs this file once per adapter: libraries leave marks on classes, and CPython specialises
code per class, so no two adapters may share either. Annotations stay real objects here (no `__future__` import),
because the libraries read them.
"""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

# --- what a run leaves behind for the checks ------------------------------------------------------------


class HandlerError(Exception):
    """What the handler raises when it is told to fail."""


class Probe:
    """What happened in the last calls: one per graph."""

    def __init__(self) -> None:
        self.fail = False
        self.seen: tuple[Any, ...] = ()
        self.events: deque[str] = deque(maxlen=64)


probe = Probe()
log = probe.events.append


# --- singletons -----------------------------------------------------------------------------------------


class A:
    """A singleton without dependencies."""


class B:
    """A singleton that needs another one."""

    def __init__(self, a: A) -> None:
        self.a = a


# --- one graph per scope --------------------------------------------------------------------------------


class C:
    """The root of the scoped graph."""


class D:
    """Needs one."""

    def __init__(self, c: C) -> None:
        self.c = c


class E:
    """Needs two."""

    def __init__(self, c: C, d: D) -> None:
        self.c = c
        self.d = d


class F:
    """Needs three."""

    def __init__(self, c: C, d: D, e: E) -> None:
        self.c = c
        self.d = d
        self.e = e


class G:
    """Needs four."""

    def __init__(self, c: C, d: D, e: E, f: F) -> None:
        self.c = c
        self.d = d
        self.e = e
        self.f = f


class H:
    """Opened and closed by a generator."""

    def __init__(self, c: C, d: D) -> None:
        self.c = c
        self.d = d


class I:  # noqa: E742 - the graph's names are one letter each
    """Opened and closed by an async generator."""

    def __init__(self, e: E, f: F) -> None:
        self.e = e
        self.f = f


def open_h(c: C, d: D) -> Iterator[H]:
    """H, closed with its scope; tells whether it saw the handler's error."""
    try:
        yield H(c, d)
    except HandlerError:
        log("h saw the error")
        raise
    finally:
        log("close h")


async def open_i(e: E, f: F) -> AsyncIterator[I]:
    """I, closed with its scope; tells whether it saw the handler's error."""
    try:
        yield I(e, f)
    except HandlerError:
        log("i saw the error")
        raise
    finally:
        log("close i")


# --- a chain that is new each time ----------------------------------------------------------------------


class T1:
    """The end of the chain."""


class T2:
    """Second of the chain."""

    def __init__(self, inner: T1) -> None:
        self.inner = inner


class T3:
    """Third of the chain."""

    def __init__(self, inner: T2) -> None:
        self.inner = inner


class T4:
    """Fourth of the chain."""

    def __init__(self, inner: T3) -> None:
        self.inner = inner


class T5:
    """What is asked for."""

    def __init__(self, inner: T4) -> None:
        self.inner = inner


# --- handlers; each library marks parameters in its own way ---------------------------------------------

Mark = Callable[[type], Any]
SCOPED_PARAMETERS = {"c1": C, "c2": C, "c3": C, "d1": D, "d2": D, "e": E, "f": F, "g": G, "h": H, "i": I}
SCOPED_CLASSES = (C, D, E, F, G)


def marked(function: Any, parameters: dict[str, type], annotate: Mark | None, default: Mark | None) -> Any:
    """The function with its last parameters annotated, and defaulted, as a library wants them."""
    note = annotate or (lambda kind: kind)
    function.__annotations__ = {name: note(kind) for name, kind in parameters.items()}
    if default is not None:
        function.__defaults__ = tuple(default(kind) for kind in parameters.values())
    return function


def async_function(annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """An async function with one argument of its own and two injected."""

    async def use(number, a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return number, a, b

    return marked(use, {"a": A, "b": B}, annotate, default)


def sync_function(annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """A sync function with one argument of its own and two injected."""

    def use(number, a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return number, a, b

    return marked(use, {"a": A, "b": B}, annotate, default)


def method(annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """An async method, still a function, with one argument of its own and one injected."""

    async def read(self, number, a):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return self, number, a

    return marked(read, {"a": A}, annotate, default)


def consumer(read: Any) -> Any:
    """An instance of a class that has the function as its method."""
    return type("Consumer", (), {"read": read})()


def scoped_handler(annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """An async function that takes the whole scoped graph."""

    async def handle(c1, c2, c3, d1, d2, e, f, g, h, i):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917
        if probe.fail:
            raise HandlerError
        return c1, c2, c3, d1, d2, e, f, g, h, i

    return marked(handle, SCOPED_PARAMETERS, annotate, default)


def singleton_endpoint(response: Any, annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """A web endpoint with two singletons; answers with one and the same response."""

    async def endpoint(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        probe.seen = (a, b)
        return response

    return marked(endpoint, {"a": A, "b": B}, annotate, default)


def scoped_endpoint(response: Any, annotate: Mark | None = None, default: Mark | None = None) -> Any:
    """A web endpoint that takes the whole scoped graph."""

    async def endpoint(c1, c2, c3, d1, d2, e, f, g, h, i):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, PLR0917
        if probe.fail:
            raise HandlerError
        probe.seen = (c1, c2, c3, d1, d2, e, f, g, h, i)
        return response

    return marked(endpoint, SCOPED_PARAMETERS, annotate, default)


# --- what decorators are put on -------------------------------------------------------------------------


async def work(self: Any) -> Any:
    """A method that does nothing but return its instance."""
    return self


def worker(method: Any, base: type = object) -> Any:
    """An instance of a class that has the function as its method."""
    return type("Worker", (base,), {"work": method})()
