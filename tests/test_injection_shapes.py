"""inject_service on every shape of function, and below and above the other decorators."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from itertools import permutations
from typing import Any

import pytest

from svcframework import (
    INJECTED,
    BaseService,
    ServiceContainer,
    ServiceHost,
    handle_errors,
    inject_service,
    providers,
    require_service,
    retry_on_failure,
    service_method,
)

EVENTS: list[str] = []
is_coroutine_function = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction


class Cache(BaseService):
    """A service that others ask for."""


class Session:
    """Lives as long as a call."""


async def open_session() -> AsyncIterator[Session]:
    EVENTS.append("open")
    try:
        yield Session()
    except BaseException as error:
        EVENTS.append(type(error).__name__)
        raise
    finally:
        EVENTS.append("close")


def open_sync_session() -> Iterator[Session]:
    EVENTS.append("open")
    try:
        yield Session()
    except BaseException as error:
        EVENTS.append(type(error).__name__)
        raise
    finally:
        EVENTS.append("close")


class Asking(BaseService):
    """A service whose methods are injected."""

    @inject_service("cache")
    async def method(self, key: int, cache: Any) -> Any:
        return key, cache

    @inject_service("cache")
    def plain(self, cache: Any) -> Any:
        return cache

    @inject_service("session")
    async def scoped(self, key: int, session: Any) -> Any:
        return key, type(session)

    @staticmethod
    @inject_service("cache")
    def static(key: int, cache: Any) -> Any:
        return key, cache

    @classmethod
    @inject_service("cache")
    def class_method(cls, cache: Any) -> Any:
        return cls, cache

    @inject_service("cache")
    @staticmethod
    def outside(cache: Any) -> Any:
        return cache

    @property
    @inject_service("cache")
    def current(self, cache: Any) -> Any:  # noqa: PLR0206 - it is injected
        return cache


class Plain:
    """Is no service and has injected methods all the same."""

    @inject_service("cache")
    async def method(self, key: int, cache: Any) -> Any:
        return key, cache

    @inject_service("cache")
    def __call__(self, key: int, cache: Any) -> Any:
        return key, cache


class Container(ServiceContainer):
    """One of each lifetime."""

    cache = providers.Service(Cache)
    asking = providers.Service(Asking)
    session = providers.Scoped(open_session)
    sync_session = providers.Scoped(open_sync_session)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(Container, log_events=False)


# --- methods --------------------------------------------------------------------------------------------


async def test_methods_of_every_kind_are_injected(host: ServiceHost) -> None:
    """Methods, static methods, class methods and properties, of services and of plain classes."""
    async with host:
        cache, asking = host["cache"], host[Asking]
        assert (1, cache) == await asking.method(1)
        assert cache is asking.plain()
        assert (1, Session) == await asking.scoped(1)
        assert (2, cache) == asking.static(2) == Asking.static(2)
        assert (Asking, cache) == asking.class_method() == Asking.class_method()
        assert cache is asking.outside()
        assert cache is asking.current
        assert (3, cache) == await Plain().method(3) == await Plain.method(Plain(), 3)
        assert (4, cache) == Plain()(4)
        assert (5, "mine") == await asking.method(5, "mine")


async def test_methods_of_a_service_use_its_own_host(host: ServiceHost) -> None:
    """Whichever host the context has entered, a service asks the one it belongs to."""
    other = ServiceHost(Container, log_events=False)
    async with host, other:
        for each in (host, other, host):
            assert (1, each["cache"]) == await each[Asking].method(1)
            assert each["cache"] is each[Asking].plain()
            assert (1, Session) == await each[Asking].scoped(1)
    assert ["open", "close"] * 3 == EVENTS


async def test_service_without_a_host_uses_the_current_one(host: ServiceHost) -> None:
    """An instance made by hand belongs to no host."""
    async with host:
        assert (1, host["cache"]) == await Asking().method(1)


# --- generators -----------------------------------------------------------------------------------------


async def test_generator_with_singletons_is_the_functions_own(host: ServiceHost) -> None:
    """send, throw and close reach the function's generator, for nothing is between."""

    @inject_service("cache")
    async def stream(cache: Any) -> AsyncIterator[Any]:
        try:
            got = yield cache
            yield got
        except KeyError:
            yield "caught"

    @inject_service("cache")
    def lines(cache: Any) -> Iterator[Any]:
        got = yield cache
        yield got

    async with host:
        items: Any = stream()
        assert host["cache"] is await items.__anext__()
        assert "sent" == await items.asend("sent")
        assert "caught" == await items.athrow(KeyError("x"))
        await items.aclose()
        plain: Any = lines()
        assert host["cache"] is next(plain)
        assert "sent" == plain.send("sent")


async def test_generator_with_scoped_services_closes_them_at_its_end(host: ServiceHost) -> None:
    """What a generator function holds lives until its last item."""

    @inject_service("session")
    async def stream(count: int, session: Any) -> AsyncIterator[int]:
        for item in range(count):
            EVENTS.append(str(item))
            yield item

    @inject_service("sync_session")
    def lines(count: int, sync_session: Any) -> Iterator[int]:
        for item in range(count):
            EVENTS.append(str(item))
            yield item
        return "end"

    async with host:
        assert [0, 1] == [item async for item in stream(2)]
        assert ["open", "0", "1", "close"] == EVENTS
        EVENTS.clear()
        assert [0, 1] == list(lines(2))
        assert ["open", "0", "1", "close"] == EVENTS


@pytest.mark.parametrize("inside", [False, True])
async def test_closed_generator_closes_function_before_services(host: ServiceHost, inside: bool) -> None:
    """Whoever stops iterating closes first the function's generator, then what it was given."""

    @inject_service("session")
    async def stream(session: Any) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            EVENTS.append("function ends")

    @inject_service("sync_session")
    def lines(sync_session: Any) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            EVENTS.append("function ends")

    async def iterate() -> None:
        async with aclosing(stream()) as items:
            async for _ in items:
                break
        assert ["open", "function ends"] == EVENTS[:2]
        if not inside:
            assert ["GeneratorExit", "close"] == EVENTS[2:]
        EVENTS.clear()
        plain: Any = lines()
        next(plain)
        plain.close()
        assert ["open", "function ends"] == EVENTS[:2]

    async with host:
        if inside:
            async with host.scope():
                await iterate()
            assert "close" == EVENTS[-1]
        else:
            await iterate()
            assert ["GeneratorExit", "close"] == EVENTS[2:]


async def test_error_of_a_generator_reaches_its_services(host: ServiceHost) -> None:
    """A generator function that raises has its session rolled back."""

    @inject_service("session")
    async def stream(session: Any) -> AsyncIterator[int]:
        yield 1
        raise KeyError

    @inject_service("sync_session")
    def lines(sync_session: Any) -> Iterator[int]:
        yield 1
        raise KeyError

    async with host:
        with pytest.raises(KeyError):
            _ = [item async for item in stream()]
        with pytest.raises(KeyError):
            list(lines())
    assert ["open", "KeyError", "close"] * 2 == EVENTS


async def test_generator_in_a_scope_of_another_level_opens_its_own() -> None:
    """Inside a tenant's scope, a generator function that needs a request's closes what it opened."""

    class Levels(ServiceContainer):
        session = providers.Scoped(open_session)
        sync_session = providers.Scoped(open_sync_session)

    @inject_service("session")
    async def stream(session: Any) -> AsyncIterator[int]:
        EVENTS.append("item")
        yield 1

    @inject_service("sync_session")
    def lines(sync_session: Any) -> Iterator[int]:
        EVENTS.append("item")
        yield 1

    async with ServiceHost(Levels, scopes=("tenant", "request"), log_events=False) as host:
        async with host.scope("tenant"):
            assert [1] == [item async for item in stream()]
            assert ["open", "item", "close"] == EVENTS
            assert [1] == list(lines())
            assert ["open", "item", "close"] * 2 == EVENTS


# --- callable objects -----------------------------------------------------------------------------------


class AsyncCallable:
    async def __call__(self, key: int, cache: Any = INJECTED) -> Any:
        return key, cache


class Callable_:
    def __call__(self, key: int, cache: Any) -> Any:
        return key, cache


class Bound:
    async def method(self, key: int, cache: Any) -> Any:
        return key, cache


async def function(key: int, other: int, cache: Any) -> Any:
    return key, cache


async def test_callable_objects_partials_and_bound_methods(host: ServiceHost) -> None:
    """Whatever can be called can be injected, and stays awaitable where it was."""
    marked = inject_service(AsyncCallable())
    plain = inject_service("cache")(Callable_())
    partial = inject_service("cache")(functools.partial(function, other=2))
    bound = inject_service("cache")(Bound().method)
    async with host:
        cache = host["cache"]
        assert (1, cache) == await marked(1)
        assert (1, cache) == plain(1)
        assert (1, cache) == await partial(1)
        assert (1, cache) == await bound(1)
        assert (1, "mine") == await bound(1, cache="mine")
    assert [True, False, True, True] == [is_coroutine_function(f) for f in (marked, plain, partial, bound)]


async def test_lambda_is_injected(host: ServiceHost) -> None:
    """A lambda is a function like any other."""
    use = inject_service("cache")(lambda key, cache: (key, cache))
    async with host:
        assert (1, host["cache"]) == use(1)


async def test_marked_lambda_needs_no_name(host: ServiceHost) -> None:
    """A parameter without annotation that is marked is asked for by its own name."""
    use = inject_service(lambda *, cache=INJECTED: cache)
    async with host:
        assert host["cache"] is use()


# --- stacked decorators ---------------------------------------------------------------------------------

DECORATORS: dict[str, Callable[[Any], Any]] = {
    "inject": inject_service("cache"),
    "method": service_method,
    "retry": retry_on_failure(max_retries=2, delay=0.0, jitter=False),
    "errors": handle_errors,
    "require": require_service("cache"),
}


def stacked(order: tuple[str, ...], target: Any) -> Any:
    for name in reversed(order):
        target = DECORATORS[name](target)
    return target


@pytest.mark.parametrize("order", list(permutations(DECORATORS)), ids="-".join)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_decorators_stack_in_any_order(order: tuple[str, ...], anyio_backend: str, host: ServiceHost) -> None:
    """Async and sync methods are injected, retried, measured and guarded, whichever decorator is outermost."""
    calls: list[int] = []

    async def later(self: Any, key: int, cache: Any) -> Any:
        calls.append(key)
        if len(calls) == 1:
            raise ConnectionError
        return key, cache

    def now(self: Any, key: int, cache: Any) -> Any:
        calls.append(key)
        if len(calls) == 1:
            raise ConnectionError
        return key, cache

    body = {"later": stacked(order, later), "now": stacked(order, now)}
    worker = type("Worker", (BaseService,), body)
    assert is_coroutine_function(worker.later)
    host.register(worker, name="worker")
    async with host:
        instance = host["worker"]
        assert (1, host["cache"]) == await instance.later(1)
        assert [1, 1] == calls
        calls.clear()
        assert (2, host["cache"]) == instance.now(2)
        assert [2, 2] == calls
        assert (3, "mine") == await instance.later(3, cache="mine")
        assert {"later", "now"} <= set(instance.metrics.snapshot()["operations"])


@pytest.mark.parametrize("order", list(permutations(["inject", "method", "errors"])), ids="-".join)
async def test_decorators_stack_on_generators(order: tuple[str, ...], host: ServiceHost) -> None:
    """An async generator method is measured to its end, in any order of decorators."""

    async def stream(self: Any, cache: Any) -> AsyncIterator[Any]:
        yield cache
        yield self

    worker = type("Worker", (BaseService,), {"stream": stacked(order, stream)})
    host.register(worker, name="worker")
    async with host:
        instance = host["worker"]
        assert [host["cache"], instance] == [item async for item in instance.stream()]
        assert 1 == instance.metrics.snapshot()["operations"]["stream"]["count"]


async def test_two_injections_may_have_another_decorator_between(host: ServiceHost) -> None:
    """Neither loses the other's parameters, nor what lies between."""
    seen = []

    def between(inner: Any) -> Any:
        @functools.wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append("between")
            return inner(*args, **kwargs)

        return call

    @inject_service("asking")
    @between
    @inject_service("cache")
    def use(key: int, asking: Any, cache: Any) -> Any:
        return key, asking, cache

    @inject_service("asking")
    @inject_service("cache")
    def twice(key: int, asking: Any, cache: Any) -> Any:
        return key, asking, cache

    async with host:
        assert (1, host["asking"], host["cache"]) == use(1)
        assert (1, host["asking"], host["cache"]) == twice(1)
    assert ["between"] == seen


async def test_traceback_of_a_plain_function_quotes_the_wrapper(host: ServiceHost) -> None:
    """The generated frame shows its line as any other frame does."""

    @inject_service("cache")
    def use(cache: Any) -> None:
        raise KeyError

    async with host:
        with pytest.raises(KeyError) as caught:
            use()
    assert "return function(cache)" in "".join(traceback.format_exception(caught.value))


async def test_parameters_may_have_any_name(host: ServiceHost) -> None:
    """No name of a parameter gets in the way of a name in the generated code."""

    @inject_service("cache")
    async def single(function: int, slow: int, INJECTED: int, MAIN: int, call: int, outer: int, cache: Any) -> Any:  # noqa: N803
        return function, slow, INJECTED, MAIN, call, outer, cache

    @inject_service("session")
    async def scoped(
        token: int, held: int, result: int, error: int, v0: int, g0: int, v0_: int, closing: int, function: int,
        slow: int, call: int, around: int, *items: int, session: Any, unwind: int = 9, **item: int,
    ) -> Any:  # fmt: skip
        return token, held, result, error, v0, g0, v0_, closing, function, slow, call, around, items, unwind, item

    @inject_service("sync_session")
    def lines(items: int, result: int, error: int, sync_session: Any) -> Iterator[Any]:
        yield items, result, error

    async with host:
        assert (1, 2, 3, 4, 5, 6, host["cache"]) == await single(1, 2, 3, 4, 5, 6)
        for _ in range(2):
            found = await scoped(*range(12), 20, 21, unwind=7, item=8)
            assert (*range(12), (20, 21), 7, {"item": 8}) == found
        assert [(1, 2, 3)] == list(lines(1, 2, 3)) == list(lines(1, error=3, result=2))


@pytest.mark.parametrize("order", [("errors", "inject"), ("inject", "errors")], ids="-".join)
async def test_error_handler_around_an_injected_generator_sees_its_errors(
    order: tuple[str, ...], host: ServiceHost
) -> None:
    """What is raised while iterating is the generator's error, not that of the call which made it."""
    decorators = {"errors": handle_errors(reraise=False), "inject": inject_service("cache")}

    async def stream(cache: Any) -> AsyncIterator[Any]:
        yield cache
        raise KeyError

    def lines(cache: Any) -> Iterator[Any]:
        yield cache
        raise KeyError

    wrapped: list[Any] = [stream, lines]
    for name in reversed(order):
        wrapped = [decorators[name](each) for each in wrapped]
    async with host:
        assert [host["cache"]] == [item async for item in wrapped[0]()]
        assert [host["cache"]] == list(wrapped[1]())
