"""What is compared: the rows, and the check that every adapter passes before it is timed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any

Once = Callable[[], Awaitable[Any]]
Check = Callable[[ModuleType, Once], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is timed, as source text, so that no call of ours is timed with it.

    Args:
        code: An expression, or with `is_statement` a statement; may await.
        names: What the code refers to; they become local variables of the timed loop.
        graph: The graph whose probe the check reads.
        is_statement: The code has no value.
    """

    code: str
    names: Mapping[str, Any]
    graph: ModuleType
    is_statement: bool = False


Prepare = Callable[[], AbstractAsyncContextManager[Operation]]
Built = tuple[object, list[Any]]  # what keeps the services, and the last layer
Build = Callable[["Services"], Built]


@dataclass(frozen=True, slots=True)
class Started:
    """How long a start took, in seconds of the clock and of the CPU."""

    clock: float
    cpu: float


Start = Callable[[int, float], Awaitable[Started]]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One library's way to do the rows it supports.

    Args:
        name: As shown.
        distribution: Whose version is shown; None for code of ours.
        rows: Row key to an async context manager that yields the operation, ready to run.
        build: Declares, validates and compiles the services given, and resolves the last layer.
        imports: The statements whose time is the import time, by what they are for.
        start: Starts and stops a number of services whose start takes some seconds; says how long the start took.
        notes: Row key to what a reader should know.
    """

    name: str
    distribution: str | None
    rows: Mapping[str, Prepare] = field(default_factory=dict)
    build: Build | None = None
    imports: Mapping[str, str] = field(default_factory=dict)
    start: Start | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


class WrongResultError(AssertionError):
    """An adapter doesn't do what its row says; it is not timed."""


def require(condition: object, what: str) -> None:
    """Raise unless the claim holds; unlike assert, also under -O."""
    if not condition:
        raise WrongResultError(what)


MEMORY_SERVICES = 300  # few, because some libraries take minutes for a thousand under tracemalloc

# --- graphs ---------------------------------------------------------------------------------------------


def fresh_graph(name: str) -> ModuleType:
    """The classes of `graph.py`, made anew for one adapter and row."""
    full_name = f"benchmarks.graph_{name}"
    spec = importlib.util.spec_from_file_location(full_name, Path(__file__).with_name("graph.py"))
    if spec is None or spec.loader is None:
        raise ImportError(full_name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module  # typing.get_type_hints looks there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Services:
    """Many classes in layers; each but those of the first layer needs three of the layer before.

    Args:
        classes: In dependency order.
        needs: For each, the indexes of what it needs.
        last: The last layer: resolving it builds all.
    """

    classes: list[type]
    needs: list[tuple[int, ...]]
    last: list[type]


def many_services(count: int, *, width: int = 100) -> Services:
    """New classes, `width` per layer, so that no library's recursion is deep."""
    classes: list[type] = []
    needs: list[tuple[int, ...]] = []
    for index in range(count):
        layer, place = divmod(index, width)
        before = [(layer - 1) * width + (place + step) % width for step in range(3)] if layer else []
        needs.append(tuple(before))
        classes.append(_service_class(f"S{index}", [classes[i] for i in before]))
    return Services(classes, needs, classes[-width:])


def _service_class(name: str, needs: list[type]) -> type:
    def with_three(self, first, second, third):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        self.first, self.second, self.third = first, second, third

    def without(self) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        self.first = self.second = self.third = None

    init = with_three if needs else without
    init.__name__, init.__qualname__ = "__init__", f"{name}.__init__"
    init.__annotations__ = {**dict(zip(("first", "second", "third"), needs, strict=False)), "return": None}
    return type(name, (), {"__init__": init, "__module__": __name__})


def check_built(services: Services, built: list[Any]) -> None:
    """The last layer is there, each instance holds the right ones, and everything exists once."""
    require(len(built) == len(services.last), "the last layer is incomplete")
    seen: dict[type, object] = {}
    stack = list(built)
    while stack:
        one = stack.pop()
        known = seen.setdefault(type(one), one)
        require(known is one, f"two instances of {type(one).__name__}")
        index = int(type(one).__name__[1:])
        held = [one.first, one.second, one.third] if services.needs[index] else []
        require([type(x) for x in held] == [services.classes[i] for i in services.needs[index]], "wrong wiring")
        stack += [x for x in held if type(x) not in seen]
        require(all(seen.get(type(x), x) is x for x in held), "an instance is not shared")
    require(len(seen) == len(services.classes), f"{len(seen)} of {len(services.classes)} services were built")


# --- checks: they raise when the row is not done, and return what is done differently --------------------


async def check_resolve(graph: ModuleType, once: Once) -> list[str]:
    """A singleton: one instance, always the same."""
    first, second = await once(), await once()
    require(type(first) is graph.B, "not the service that was asked for")
    require(first is second, "two instances of a singleton")
    require(type(first.a) is graph.A, "not wired")
    return []


async def check_call(graph: ModuleType, once: Once) -> list[str]:
    """A function gets its own argument and two singletons."""
    (number, a, b), again = await once(), await once()
    require(number == 1, "the caller's argument is lost")
    require(type(a) is graph.A and type(b) is graph.B and b.a is a, "wrong services")
    require(again[1] is a and again[2] is b, "two instances of a singleton")
    return []


async def check_method(graph: ModuleType, once: Once) -> list[str]:
    """A method gets its instance, its own argument and a singleton."""
    (self, number, a), again = await once(), await once()
    require(type(self).__name__ == "Consumer" and number == 1, "the caller's arguments are lost")
    require(type(a) is graph.A and again[2] is a, "wrong service")
    return []


async def check_transient(graph: ModuleType, once: Once) -> list[str]:
    """Five instances, all new each time."""
    chains = []
    for one in (await once(), await once()):
        chain = [one]
        while hasattr(chain[-1], "inner"):
            chain.append(chain[-1].inner)
        require([type(x) for x in chain] == [graph.T5, graph.T4, graph.T3, graph.T2, graph.T1], "wrong chain")
        chains += chain
    require(len({id(x) for x in chains}) == len(chains), "an instance is shared")
    return []


async def check_runs(_graph: ModuleType, once: Once) -> list[str]:
    """There is nothing to see but that it runs."""
    await once()
    await once()
    return []


async def check_worker(_graph: ModuleType, once: Once) -> list[str]:
    """The decorated method returns what it returned undecorated: its instance."""
    require(type(await once()).__name__ == "Worker", "the method's value is lost")
    return []


async def check_scoped(graph: ModuleType, once: Once) -> list[str]:
    """One graph per call, shared within it, torn down after it, also when the handler fails."""
    return await _check_scoped(graph, once, lambda value: value)


async def check_web_scoped(graph: ModuleType, once: Once) -> list[str]:
    """As `check_scoped`; the endpoint keeps what it got in the probe."""
    return await _check_scoped(graph, once, lambda _: graph.probe.seen)


async def check_web_singleton(graph: ModuleType, once: Once) -> list[str]:
    """The endpoint gets the singletons, and the client its answer."""
    require(await once() == HTTPStatus.NO_CONTENT, "wrong status")
    a, b = graph.probe.seen
    require(type(a) is graph.A and type(b) is graph.B and b.a is a, "wrong services")
    await once()
    require(graph.probe.seen[0] is a and graph.probe.seen[1] is b, "two instances of a singleton")
    return []


async def _check_scoped(graph: ModuleType, once: Once, value_of: Callable[[Any], tuple[Any, ...]]) -> list[str]:
    probe, notes, calls = graph.probe, [], []
    for _ in range(2):
        probe.events.clear()
        calls.append(value_of(await once()))
        closed = [event for event in probe.events if event.startswith("close")]
        require(sorted(closed) == ["close h", "close i"], f"teardown ran {len(closed)} times, not 2: {closed}")
        if closed != ["close i", "close h"]:
            notes.append("teardown is not in reverse order")
        _check_sharing(graph, calls[-1])
    require(not {id(x) for x in calls[0]} & {id(x) for x in calls[1]}, "two scopes share an instance")
    probe.events.clear()
    probe.fail = True
    try:
        await once()
    except graph.HandlerError:
        pass
    except BaseExceptionGroup as group:
        require(group.subgroup(graph.HandlerError), "the handler's error is lost")
        notes.append("the handler's error arrives in a group")
    else:
        raise WrongResultError("the handler's error is lost")
    finally:
        probe.fail = False
    closed = [event for event in probe.events if event.startswith("close")]
    require(sorted(closed) == ["close h", "close i"], f"teardown after an error ran {len(closed)} times, not 2")
    if sum(event.endswith("saw the error") for event in probe.events) != 2:  # noqa: PLR2004 - h and i
        notes.append("generator factories aren't thrown the handler's error")
    return sorted(set(notes))


def _check_sharing(graph: ModuleType, call: tuple[Any, ...]) -> None:
    c, c2, c3, d, d2, e, f, g, h, i = call
    kinds = (graph.C, graph.D, graph.E, graph.F, graph.G, graph.H, graph.I)
    require(tuple(type(x) for x in (c, d, e, f, g, h, i)) == kinds, "wrong services")
    require(c is c2 is c3 is d.c is e.c is f.c is g.c is h.c, "several C in one scope")
    require(d is d2 is e.d is f.d is g.d is h.d, "several D in one scope")
    require(e is f.e is g.e is i.e and f is g.f is i.f, "several E or F in one scope")


# --- rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Args:
        key: As given to --rows.
        title: The column's head.
        check: Run on every adapter before it is timed.
        baseline: The adapter whose time is 1.
        over_baseline: Shown is the time beyond the baseline, not the ratio.
        percent: Shown is throughput in percent of the baseline.
    """

    key: str
    title: str
    check: Check
    baseline: str = "hand"
    over_baseline: bool = False
    percent: bool = False


ROWS = [
    Row("resolve", "resolve a singleton", check_resolve),
    Row("async", "async function, 2 injected", check_call),
    Row("sync", "sync function, 2 injected", check_call),
    Row("method", "async method, 1 injected", check_method),
    Row("scoped", "scoped graph, injected", check_scoped),
    Row("scoped-dynamic", "scoped graph, asked for", check_scoped),
    Row("transient", "transient chain of 5", check_transient),
    Row("scope", "empty async scope", check_runs),
    Row("fastapi-singleton", "FastAPI endpoint, 2 singletons", check_web_singleton, percent=True),
    Row("fastapi-scoped", "FastAPI endpoint, scoped graph", check_web_scoped, percent=True),
    Row("service-method", "`@service_method` with metrics", check_worker, over_baseline=True),
    Row("retry", "retry decorator, success at once", check_worker, over_baseline=True),
    Row("log", "log event, filtered out", check_runs, over_baseline=True),
]
