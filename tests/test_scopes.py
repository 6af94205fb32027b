"""Scopes: what lives in them, how they end, and what they cost."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest

from svcframework import INJECTED, ServiceContainer, ServiceHost, inject_service, providers
from svcframework.errors import ScopeError, ServiceNotFoundError
from svcframework.scopes import ambient

EVENTS: list[str] = []


class HandlerError(Exception):
    """What a handler raises."""


class Shared:
    """A singleton."""


class Tenant:
    def __init__(self, name: str) -> None:
        self.name = name


class Token(str):
    """A scope value that is asked for by its type."""

    __slots__ = ()


class Pool:
    """Lives as long as a tenant's scope."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant


class Unit:
    """Holds all that is below."""

    def __init__(self, first: First, second: Second, shared: Shared) -> None:
        self.first, self.second, self.shared = first, second, shared


class First: ...


class Second:
    def __init__(self, first: First) -> None:
        self.first = first


class Draft:
    """A transient that holds something scoped."""

    def __init__(self, first: First) -> None:
        self.first = first


class Opened:
    """A transient that is opened and closed."""


def _opening(name: str) -> None:
    EVENTS.append(f"open {name}")


def open_first() -> Iterator[First]:
    _opening("first")
    try:
        yield First()
    except HandlerError:
        EVENTS.append("first saw it")
        raise
    finally:
        EVENTS.append("close first")


async def open_second(first: First) -> AsyncIterator[Second]:
    await anyio.lowlevel.checkpoint()
    _opening("second")
    try:
        yield Second(first)
    except HandlerError:
        EVENTS.append("second saw it")
        raise
    finally:
        EVENTS.append("close second")


def open_transient() -> Iterator[Opened]:
    _opening("transient")
    yield Opened()
    EVENTS.append("close transient")


class Container(ServiceContainer):
    """Two levels, and each kind of factory."""

    shared = providers.Service(Shared)
    tenant = providers.ScopeValue(Tenant, scope="tenant")
    token = providers.ScopeValue(Token)
    pool = providers.Scoped(Pool, scope="tenant")
    first = providers.Scoped(open_first)
    second = providers.Scoped(open_second)
    unit = providers.Scoped(Unit)
    draft = providers.Transient(Draft)
    opened = providers.Transient(open_transient)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(Container, scopes=("tenant", "request"), log_events=False)


def host_of(**declared: Any) -> ServiceHost:
    """A host of a container with these providers."""
    return ServiceHost(type("Made", (ServiceContainer,), declared), log_events=False)


@inject_service
async def handle(*, unit: Unit = INJECTED, second: Second = INJECTED) -> Unit:
    assert unit.second is second
    assert unit.first is second.first
    EVENTS.append("handle")
    return unit


@inject_service
async def fail(*, unit: Unit = INJECTED) -> None:
    raise HandlerError


# --- what lives in a scope ------------------------------------------------------------------------------


async def test_scope_keeps_one_of_each_until_it_ends(host: ServiceHost) -> None:
    """One instance per scope, by name and by type, closed in reverse order; singletons are the host's."""
    async with host:
        async with host.scope() as scope:
            unit = await scope.get(Unit)
            assert unit is await scope.get("unit") is scope[Unit]
            assert unit.first is await scope.get(First) is unit.second.first
            assert unit.shared is host[Shared] is await scope.get(Shared) is scope["shared"]
            assert ["open first", "open second"] == EVENTS
        assert ["close second", "close first"] == EVENTS[2:]
        async with host.scope() as other:
            assert unit is not await other.get(Unit)


async def test_transients_of_a_scope_share_what_it_keeps(host: ServiceHost) -> None:
    """A transient is new each time, what it holds is the scope's; one that is opened is closed with the scope."""
    async with host:
        async with host.scope() as scope:
            one, two = await scope.get(Draft), scope[Draft]
            assert one is not two
            assert one.first is two.first is await scope.get(First)
            assert host[Draft].first is one.first
            assert await scope.get(Opened) is not await scope.get(Opened)
        assert ["open first", "open transient", "open transient"] == EVENTS[:3]
        assert ["close transient", "close transient", "close first"] == EVENTS[3:]


async def test_levels_nest(host: ServiceHost) -> None:
    """A request's scope reaches the tenant's around it; what lives there outlives the request."""
    async with host, host.scope("tenant", tenant=Tenant("acme")) as tenant:
        pool = None
        for _ in range(2):
            async with host.scope("request") as request:
                assert pool is None or pool is await request.get(Pool)
                pool = await request.get(Pool)
        assert pool is await tenant.get(Pool)
        assert "acme" == pool.tenant.name
        with pytest.raises(ScopeError, match=r"'first' lives in scope 'request'.*this is 'tenant'"):
            await tenant.get(First)


async def test_service_of_a_level_that_is_not_open(host: ServiceHost) -> None:
    """The error names the level to enter."""
    async with host, host.scope() as scope:
        with pytest.raises(ScopeError, match=r"(?s)'pool' lives in scope 'tenant'.*host.scope\('tenant'\)"):
            await scope.get(Pool)
        with pytest.raises(ServiceNotFoundError, match=r"Did you mean .first"):
            await scope.get("frist")


async def test_scope_without_waiting(host: ServiceHost) -> None:
    """`with host.scope()` serves plain functions; what has to be awaited says so."""
    async with host:
        with host.scope() as scope:
            assert scope[First] is host[First]
            with pytest.raises(ScopeError, match=r"'second' is made by an async factory: use `await scope.get"):
                scope[Second]
        assert ["open first", "close first"] == EVENTS
        EVENTS.clear()
        with pytest.raises(HandlerError), host.scope() as scope:
            scope[First]
            raise HandlerError
        assert ["open first", "first saw it", "close first"] == EVENTS


async def test_closed_scope_refuses(host: ServiceHost) -> None:
    """Nothing is made in a scope that nobody closes any more, and no scope is entered twice."""
    async with host:
        async with host.scope() as scope:
            await scope.get(First)
        for ask in (lambda: scope.get(First), lambda: scope.get(Unit), lambda: scope.obtain("second")):
            with pytest.raises(ScopeError, match="request scope is closed"):
                await ask()
        with pytest.raises(ScopeError, match="request scope is closed"):
            scope[First]
        with pytest.raises(ScopeError, match="entered already"):
            async with scope:
                pytest.fail("entered")
    assert ["open first", "close first"] == EVENTS


# --- scope values ---------------------------------------------------------------------------------------


async def test_values_are_passed_by_name_and_by_type(host: ServiceHost) -> None:
    """Whoever opens the scope says them; functions and services get them."""

    @inject_service
    async def read(*, token: Token = INJECTED, tenant: Tenant = INJECTED) -> tuple[Any, ...]:
        return token, tenant.name

    @inject_service("token")
    def read_now(token: Any) -> Any:
        return token

    async with host:
        async with host.scope("tenant", {Tenant: Tenant("acme")}), host.scope(values={"token": Token("t")}) as scope:
            assert ("t", "acme") == await read()
            assert "t" == read_now()
            assert "t" == await scope.get(Token) == scope["token"]
            assert "acme" == (await scope.get(Tenant)).name


async def test_wrong_values_are_refused(host: ServiceHost) -> None:
    """Undeclared names, wrong types and unknown levels fail before the scope is open; a missing value when asked."""

    @inject_service("token")
    async def read(token: Any) -> Any:
        return token

    async with host:
        with pytest.raises(ScopeError, match=r"No scope value is 'tokn'.*tenant, token"):
            host.scope(tokn="x")
        with pytest.raises(ScopeError, match="'token' must be a Token, not a str"):
            host.scope(token="x")
        with pytest.raises(ScopeError, match=r"no scope level 'reqest'.*tenant, request"):
            host.scope("reqest")
        async with host.scope():
            with pytest.raises(ScopeError, match=r"'token' \(Token\) was not passed.*token=…"):
                await read()
        with pytest.raises(Exception, match=r"(?s)read\(\).*'token'.*none is open.*token=…"):
            await read()


# --- one call -------------------------------------------------------------------------------------------


async def test_call_has_a_scope_of_its_own(host: ServiceHost) -> None:
    """Without an open scope each call builds, uses and closes its graph."""
    async with host:
        assert await handle() is not await handle()
    once = ["open first", "open second", "handle", "close second", "close first"]
    assert once * 2 == EVENTS


async def test_call_inside_a_scope_shares_it(host: ServiceHost) -> None:
    """Then the services are the scope's, and it closes them."""
    async with host:
        async with host.scope() as scope:
            assert await handle() is await handle() is await scope.get(Unit)
            assert ["open first", "open second", "handle", "handle"] == EVENTS
    assert ["close second", "close first"] == EVENTS[4:]


async def test_nested_calls_share_the_outermost_calls_scope(host: ServiceHost) -> None:
    """Injected functions, lookups on the host and new services below a call all see the call's scope."""

    @inject_service
    async def outer(*, first: First = INJECTED) -> None:
        unit = await handle()
        assert first is unit.first is host[First] is host[Draft].first
        assert unit is await handle()
        opened = host[Opened]
        assert isinstance(opened, Opened)
        EVENTS.append("outer ends")

    async with host:
        await outer()
        assert ambient() is None
    assert "outer ends" in EVENTS
    rest = EVENTS[EVENTS.index("outer ends") + 1 :]
    assert ["close transient", "close second", "close first"] == rest


async def test_tasks_of_a_scope_share_it_and_others_do_not(host: ServiceHost) -> None:
    """A task inherits the scope it was started in; one started outside has none."""
    found: list[Any] = []

    async def look() -> None:
        found.append(ambient())

    async with host, anyio.create_task_group() as outside:
        async with host.scope() as scope, anyio.create_task_group() as inside:
            inside.start_soon(look)
        outside.start_soon(look)
    assert [scope, None] == found


async def test_tasks_of_a_call_have_scopes_of_their_own(host: ServiceHost) -> None:
    """What a call awaits shares its scope; tasks and threads that it starts don't, since they may outlive it."""
    found: list[Any] = []

    @inject_service
    async def helper(*, first: First = INJECTED) -> First:
        await anyio.lowlevel.checkpoint()
        return first

    @inject_service("first")
    def in_thread(first: Any) -> Any:
        return first

    async def task() -> None:
        found.append(await helper())

    @inject_service
    async def outer(*, first: First = INJECTED) -> None:
        assert first is await helper()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(task)
            found.append(await anyio.to_thread.run_sync(in_thread))
        assert first is await helper()
        found.append(first)

    async with host:
        await outer()
        assert 5 == len({id(each) for each in found})
        assert ambient() is None
    assert EVENTS.count("open first") == EVENTS.count("close first") == 5


async def test_calls_that_inherit_a_context_do_not_meet(host: ServiceHost) -> None:
    """Calls of tasks with one and the same inherited context keep apart, however they interleave."""
    seen: dict[int, Any] = {}

    @inject_service
    async def inner(*, first: First = INJECTED) -> First:
        return first

    @inject_service
    async def outer(number: int, *, first: First = INJECTED) -> None:
        for _ in range(number % 3 + 1):
            await anyio.lowlevel.checkpoint()
        assert first is await inner()
        seen[number] = first

    async with host:
        await outer(100)  # from now on this context has a seat, which the tasks inherit
        for _ in range(3):
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(outer, number)
            assert 13 == len({id(each) for each in seen.values()})
        await outer(100)
        assert ambient() is None


async def test_private_scope_is_seen_by_its_holder_only(host: ServiceHost) -> None:
    """Calls in its block don't join it; what it opened is closed with it, or told the error."""
    async with host:
        async with host.private_scope() as scope:
            unit = await scope.get(Unit)
            assert ambient() is None
            assert await handle() is not unit
            with pytest.raises(ScopeError, match="no scope is open"):
                host[First]
        assert ["close second", "close first"] == EVENTS[-2:]
        with pytest.raises(ScopeError, match="closed"):
            await scope.get(Unit)
        EVENTS.clear()
        with pytest.raises(HandlerError):
            async with host.scope() as around, host.private_scope() as scope:
                assert await scope.get(First) is not await around.get(First)
                raise HandlerError
        assert 2 == EVENTS.count("first saw it")
        with host.private_scope() as scope:
            assert scope[First] is scope[First]
        async with host.scope(), host.private_scope() as scope:
            assert (None, False, "request") == (scope.parent, scope.is_entered, scope.level)
            assert (await scope.get(),) == ((),)
            assert (await scope.get(First),) == scope[First,]


async def test_empty_scopes_end_side_by_side(host: ServiceHost) -> None:
    """They share what is awaited at their end, in any number of tasks."""
    closed: list[Any] = []

    async def use(opened: Any) -> None:
        async with opened as scope:
            await anyio.lowlevel.checkpoint()
        closed.append(scope)

    async with host:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(use, host.private_scope())
                group.start_soon(use, host.scope())
        assert 10 == len(closed)
        for scope in closed:
            with pytest.raises(ScopeError, match="closed"):
                await scope.get(First)


async def test_several_services_are_asked_for_at_once(host: ServiceHost) -> None:
    """`get` and `[]` take several, make each once in the right order, and share them with every other question."""
    async with host:
        async with host.scope() as scope:
            unit, second, first, shared = await scope.get(Unit, Second, "first", Shared)
            assert (unit.second, unit.first, host[Shared]) == (second, first, shared)
            assert (first, shared) == scope[First, Shared]
            assert await scope.get(Unit, Draft) != await scope.get(Unit, Draft)
            assert unit is await scope.get(Unit)
        assert ["open first", "open second", "close second", "close first"] == EVENTS
        async with host.scope() as scope:
            with pytest.raises(ScopeError, match="can't all be made without waiting"):
                scope[Shared, Unit]
            with pytest.raises(ServiceNotFoundError):
                await scope.get(Unit, int)
        async with host.scope() as scope:
            fake = Second(First())
            with host.override(second=fake):
                assert [fake, fake] == [(await scope.get(First, Second))[1], (await scope.get(Unit, Second))[0].second]


async def test_arguments_of_a_call_with_a_scope_are_checked_as_any(host: ServiceHost) -> None:
    """Once its plan is compiled, passed services win and wrong calls fail as Python has them fail."""

    @inject_service("first", "second")
    async def by_position(key: int, first: Any, second: Any) -> tuple[Any, ...]:
        return key, first, second

    @inject_service
    async def by_keyword(key: int, mode: str = "a", *, first: First = INJECTED) -> tuple[Any, ...]:
        return key, mode, first

    async with host:
        for _ in range(2):
            assert 1 == (await by_position(1))[0]
            assert (1, "a") == (await by_keyword(1))[:2]
            assert (1, "x") == (await by_position(1, "x"))[:2]
            assert (1, "y") == (await by_position(1, second="y"))[::2]
            assert (1, "x", "y") == await by_position(1, "x", "y")
            assert (2, "b", "z") == await by_keyword(key=2, mode="b", first="z")  # type: ignore[arg-type]
            for call in (by_position, by_keyword):
                with pytest.raises(TypeError, match="missing 1 required positional argument: 'key'"):
                    await call()
                with pytest.raises(TypeError, match="unexpected keyword argument 'third'"):
                    await call(1, third=3)
            with pytest.raises(TypeError, match="positional argument"):
                await by_position(1, 2, 3, 4)


async def test_factory_that_yields_nothing_is_an_error() -> None:
    """It is named, in a call as in a scope."""

    def nothing() -> Iterator[First]:
        yield from ()

    host = host_of(first=providers.Scoped(nothing))
    first = inject_service("first")(lambda first: first)
    async with host, host.scope() as scope:
        with pytest.raises(ScopeError, match="nothing ended without a value"):
            scope["first"]
    async with host:
        with pytest.raises(ScopeError, match="nothing ended without a value"):
            first()


async def test_concurrent_askers_get_the_same_instance(host: ServiceHost) -> None:
    """Tasks that ask at the same time for what takes its time to make wait for one making."""
    made: list[Any] = []

    async with host, host.scope() as scope:

        async def ask(wanted: Any) -> None:
            made.append(await scope.get(wanted))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask, Second)
    assert 1 == len({id(one) for one in made})
    assert ["open first", "open second", "close second", "close first"] == EVENTS


async def test_failed_making_is_tried_again_by_the_next(host: ServiceHost) -> None:
    """An error while making is the asker's; nobody waits for ever, and nothing half-made is kept."""
    attempts: list[int] = []

    async def open_flaky() -> AsyncIterator[Shared]:
        attempts.append(1)
        await anyio.lowlevel.checkpoint()
        if len(attempts) == 1:
            raise HandlerError
        yield Shared()

    made: list[Any] = []
    errors: list[Exception] = []
    flaky = host_of(flaky=providers.Scoped(open_flaky))
    async with flaky, flaky.scope() as scope:

        async def ask() -> None:
            try:
                made.append(await scope.get("flaky"))
            except HandlerError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
    assert (1, 1, 2) == (len(errors), len({id(one) for one in made}), len(attempts))


@pytest.mark.parametrize("together", [False, True])
async def test_different_services_are_made_at_the_same_time(*, together: bool) -> None:
    """Nobody waits for what others ask for, each is made once, and who asks for the same waits for it."""
    order: list[str] = []
    gates = {name: anyio.Event() for name in "ab"}

    def opening(name: str) -> Any:
        async def open_one() -> AsyncIterator[Shared]:
            order.append(f"begin {name}")
            await gates[name].wait()
            order.append(f"made {name}")
            yield Shared()
            order.append(f"close {name}")

        return open_one

    made: dict[str, set[int]] = {"a": set(), "b": set(), "plain": set()}
    host = host_of(a=providers.Scoped(opening("a")), b=providers.Scoped(opening("b")), plain=providers.Scoped(Shared))
    async with host, host.private_scope() as scope:

        async def ask(name: str) -> None:
            one = (await scope.get(name, "plain"))[0] if together else await scope.get(name)
            made[name].add(id(one))

        async with anyio.create_task_group() as group:
            for name in "abab":
                group.start_soon(ask, name)
            await anyio.wait_all_tasks_blocked()
            assert ["begin a", "begin b"] == sorted(order)
            gates["b"].set()
            await anyio.wait_all_tasks_blocked()
            assert (0, 1) == (len(made["a"]), len(made["b"]))
            gates["a"].set()
        assert 1 == len(made["a"])
        assert await scope.get("a", "b") == (await scope.get("a"), await scope.get("b"))
    assert ["made b", "made a", "close a", "close b"] == order[2:]


async def test_cancelled_making_is_tried_again() -> None:
    """Whoever asks next makes it, also when somebody waits for it already."""
    attempts: list[int] = []

    async def open_slow() -> AsyncIterator[Shared]:
        attempts.append(1)
        if len(attempts) == 1:
            await anyio.sleep_forever()
        yield Shared()

    made: list[Any] = []
    host = host_of(slow=providers.Scoped(open_slow))
    async with host, host.private_scope() as scope:

        async def ask() -> None:
            made.append(await scope.get("slow"))

        with anyio.CancelScope() as cancelled:
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel()
        assert (1, []) == (len(attempts), made)
        await ask()
        await ask()
        assert (2, True) == (len(attempts), made[0] is made[1])


# --- the end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
async def test_error_is_thrown_into_what_is_open(host: ServiceHost, compiled: bool) -> None:
    """Every generator factory sees the handler's error at its yield, the newest first."""
    async with host:
        with pytest.raises(HandlerError):
            if compiled:
                await fail()
            else:
                async with host.scope() as scope:
                    await scope.get(Unit)
                    raise HandlerError
    assert ["second saw it", "close second", "first saw it", "close first"] == EVENTS[2:]


@pytest.mark.parametrize("compiled", [True, False])
async def test_factory_may_swallow_the_error(compiled: bool) -> None:
    """As with `contextlib`: those that were opened before see a normal end."""

    async def open_swallowing(first: First) -> AsyncIterator[Shared]:
        try:
            yield Shared()
        except HandlerError:
            EVENTS.append("swallowed")

    host = host_of(first=providers.Scoped(open_first), last=providers.Scoped(open_swallowing))

    @inject_service("last")
    async def raising(last: Any) -> str:
        raise HandlerError

    async with host:
        if compiled:
            assert await raising() is None
        else:
            async with host.scope() as scope:
                await scope.get("last")
                raise HandlerError
    assert ["open first", "swallowed", "close first"] == EVENTS


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
async def test_factory_that_yields_twice_is_an_error(compiled: bool, is_async: bool) -> None:
    """One value, then the end: what comes after is refused, and everything is closed all the same."""

    def twice_now(first: First) -> Iterator[Shared]:
        yield Shared()
        yield Shared()

    async def twice(first: First) -> AsyncIterator[Shared]:
        try:
            yield Shared()
            yield Shared()
        finally:
            EVENTS.append("twice ends")

    host = host_of(first=providers.Scoped(open_first), last=providers.Scoped(twice if is_async else twice_now))

    @inject_service("last")
    async def use(last: Any) -> None: ...

    async with host:
        with pytest.raises(ScopeError, match="yielded more than once"):
            if compiled:
                await use()
            else:
                async with host.scope() as scope:
                    await scope.get("last")
    assert "close first" == EVENTS[-1]
    assert not is_async or "twice ends" in EVENTS


@pytest.mark.parametrize("compiled", [True, False])
async def test_failing_teardowns_are_all_reported(compiled: bool) -> None:
    """One failure is raised as it is; with the handler's error or a second one they come as a group."""

    async def open_bad() -> AsyncIterator[Shared]:
        try:
            yield Shared()
        finally:
            EVENTS.append("bad ends")
            raise KeyError("bad")

    def open_worse(bad: Any) -> Iterator[Tenant]:
        try:
            yield Tenant("worse")
        finally:
            EVENTS.append("worse ends")
            raise OSError("worse")

    host = host_of(
        first=providers.Scoped(open_first), bad=providers.Scoped(open_bad), worse=providers.Scoped(open_worse)
    )

    @inject_service("first", "bad")
    async def one(error: bool, first: Any, bad: Any) -> None:
        if error:
            raise HandlerError

    @inject_service("worse")
    async def two(worse: Any) -> None: ...

    async def asked(*names: str, error: bool = False) -> None:
        async with host.scope() as scope:
            for name in names:
                await scope.get(name)
            if error:
                raise HandlerError

    async with host:
        with pytest.raises(KeyError, match="bad"):
            await (one(False) if compiled else asked("first", "bad"))
        assert ["open first", "bad ends", "close first"] == [e for e in EVENTS if "saw" not in e]
        with pytest.raises(BaseExceptionGroup) as caught:
            await (two() if compiled else asked("worse"))
        assert {KeyError, OSError} <= _types(caught.value)
        with pytest.raises(BaseExceptionGroup) as caught:
            await (one(True) if compiled else asked("first", "bad", error=True))
        assert KeyError in _types(caught.value)
        assert isinstance(caught.value.__cause__, HandlerError)


def _types(error: BaseException) -> set[type]:
    """The types of all errors in a group, and of what it was raised from."""
    cause = set() if error.__cause__ is None else _types(error.__cause__)
    if isinstance(error, BaseExceptionGroup):
        return cause.union(*map(_types, error.exceptions))
    return {type(error), *cause}


@pytest.mark.parametrize("compiled", [True, False])
async def test_cancelled_at_each_await_closes_what_was_open(compiled: bool) -> None:
    """Whenever a call is cancelled, what it had opened is closed, once, and the cancellation is not lost."""

    async def open_slow(first: First) -> AsyncIterator[Second]:
        await anyio.lowlevel.checkpoint()
        EVENTS.append("open slow")
        try:
            yield Second(first)
        finally:
            EVENTS.append("close slow")
            await anyio.lowlevel.checkpoint()

    host = host_of(first=providers.Scoped(open_first), slow=providers.Scoped(open_slow))

    @inject_service("slow")
    async def use(slow: Any) -> None:
        await anyio.lowlevel.checkpoint()

    async def asked() -> None:
        async with host.scope() as scope:
            await scope.get("slow")
            await anyio.lowlevel.checkpoint()

    async with host:
        for step in range(12):
            EVENTS.clear()
            with anyio.CancelScope() as cancelled:
                async with anyio.create_task_group() as group:

                    async def call(group: Any = group) -> None:
                        await (use() if compiled else asked())

                    group.start_soon(call)
                    for _ in range(step):
                        await anyio.lowlevel.checkpoint()
                    cancelled.cancel()
            opened = [event.removeprefix("open ") for event in EVENTS if event.startswith("open")]
            closed = [event.removeprefix("close ") for event in EVENTS if event.startswith("close")]
            assert (step, opened[::-1]) == (step, closed)


# --- what it costs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_scoped_calls_leave_no_garbage(host: ServiceHost, anyio_backend: str) -> None:
    """A call's graph dies with the call by counting references: the collector finds nothing."""

    async def asked() -> None:
        async with host.scope() as scope:
            await scope.get(Unit)

    @inject_service("first")
    def now(first: Any) -> None: ...

    async with host:
        for call in (handle, asked):
            await call()
        now()
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await handle()
                await asked()
                now()
            assert 0 == gc.collect()
        finally:
            gc.enable()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_thousand_scopes_take_no_memory(host: ServiceHost, anyio_backend: str) -> None:
    """Scopes and calls that have ended leave nothing behind."""

    async def calls(count: int) -> None:
        for _ in range(count):
            EVENTS.clear()
            await handle()
            async with host.scope() as scope:
                await scope.get(Unit)

    async with host:
        await calls(20)
        gc.collect()
        before = sys.getallocatedblocks()
        await calls(1_000)
        gc.collect()
        assert sys.getallocatedblocks() - before < 500
