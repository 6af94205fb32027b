"""inject_service: what it fills in, from which host, and what it says when it can't."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import anyio
import pytest

from svcframework import INJECTED, BaseService, Lazy, ServiceContainer, ServiceHost, inject_service, providers
from svcframework.errors import (
    HostNotRunningError,
    InjectionError,
    RegistrationError,
    ScopeError,
    ServiceFrameworkError,
    ServiceNotFoundError,
)
from svcframework.injection import explain
from svcframework.routing import set_fallback

is_coroutine_function = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction


class Cache(BaseService):
    """A service."""


class Database:
    """A plain class; two of them are declared."""

    def __init__(self, label: str) -> None:
        self.label = label


class Mailer:
    """The base of several."""


class Smtp(Mailer): ...


class Slack(Mailer): ...


class Absent:
    """Nobody provides it."""


class Sends(Protocol):
    def send(self) -> str: ...


class Sender:
    def send(self) -> str:
        return "sent"


class Container(ServiceContainer):
    """What the functions below ask for."""

    cache = providers.Service(Cache)
    reports = providers.Service(Database, label="reports")
    orders = providers.Service(Database, label="orders")
    mailers = providers.Group(Smtp, Slack)
    sender = providers.Service(Sender)


@contextmanager
def fallback(host: ServiceHost | None) -> Iterator[None]:
    """Who answers while no host runs."""
    from svcframework import routing

    before = list(routing._FALLBACK)
    set_fallback(lambda: None if host is None else host.resolver)
    try:
        yield
    finally:
        routing._FALLBACK[:] = before


@pytest.fixture(autouse=True)
def _no_default_host() -> Iterator[None]:
    with fallback(None):
        yield


@pytest.fixture
def host() -> ServiceHost:
    return ServiceHost(Container, log_events=False)


# --- arguments ------------------------------------------------------------------------------------------


async def test_explicit_arguments_win_by_position_and_by_keyword(host: ServiceHost) -> None:
    """An injected parameter is an ordinary one: what the caller passes is what the function gets."""

    @inject_service("cache")
    async def use(key: int, cache: Any, extra: str = "x") -> tuple[Any, ...]:
        return key, cache, extra

    async with host:
        assert (1, host[Cache], "x") == await use(1)
        assert (1, "mine", "x") == await use(1, "mine")
        assert (1, "mine", "y") == await use(1, cache="mine", extra="y")
        assert (1, host[Cache], "y") == await use(1, extra="y")
        assert (1, None, "x") == await use(1, None)
        with pytest.raises(TypeError, match="key"):
            use()
        with pytest.raises(TypeError, match="unexpected"):
            use(1, other=2)


async def test_explicit_arguments_need_no_host() -> None:
    """A unit test passes fakes; nothing else is asked."""

    @inject_service
    async def use(key: int, *, cache: Cache = INJECTED) -> tuple[Any, ...]:
        return key, cache

    assert (1, "fake") == await use(1, cache="fake")


async def test_injected_parameter_may_come_before_required_ones(host: ServiceHost) -> None:
    """It is then passed by keyword or injected; the others keep their places."""

    @inject_service("cache", "reports")
    def use(cache: Any, key: int, reports: Any, other: int) -> tuple[Any, ...]:
        return cache, key, reports, other

    async with host:
        assert (host[Cache], 1, host["reports"], 2) == use(1, 2)
        assert ("mine", 1, host["reports"], 2) == use(1, 2, cache="mine")


async def test_every_kind_of_parameter_is_passed_through(host: ServiceHost) -> None:
    """Positional-only, starred, keyword-only and double-starred parameters reach the function as they were given."""

    @inject_service("cache", "reports")
    def use(first: int, /, second: int, *rest: int, cache: Any, flag: bool = False, reports: Any, **more: int) -> Any:
        return first, second, rest, cache, flag, reports, more

    @inject_service(database="reports")
    def only(key: int, database: Any, /, *, flag: int = 0) -> Any:
        return key, database, flag

    async with host:
        cache, reports = host["cache"], host["reports"]
        assert (1, 2, (3, 4), cache, True, reports, {"z": 5}) == use(1, 2, 3, 4, flag=True, z=5)
        assert (1, 2, (), "c", False, reports, {}) == use(1, second=2, cache="c")
        assert (1, reports, 0) == only(1)
        assert (1, "mine", 2) == only(1, "mine", flag=2)


async def test_default_is_used_where_no_such_service_is_declared(host: ServiceHost) -> None:
    """A parameter with a default of its own is injected if it can be."""

    @inject_service("cache", "unknown")
    def use(cache: Any = "none", unknown: Any = "default") -> tuple[Any, ...]:
        return cache, unknown

    async with host:
        assert (host["cache"], "default") == use()
        assert (host["cache"], "default") == use()


async def test_marker_never_reaches_the_function(host: ServiceHost) -> None:
    """INJECTED passed by hand, or left in place without a host, is not what user code gets."""
    seen = []

    @inject_service
    def use(cache: Cache = INJECTED) -> None:
        seen.append(cache)

    with pytest.raises(HostNotRunningError):
        use()
    async with host:
        use(INJECTED)
        use(cache=INJECTED)
        use()
    with pytest.raises(HostNotRunningError):
        use()
    assert [host["cache"]] * 3 == seen
    assert "INJECTED" == repr(INJECTED)


# --- forms ----------------------------------------------------------------------------------------------


async def test_services_are_asked_for_in_every_form(host: ServiceHost) -> None:
    """Name, type, protocol, Annotated, list, dict, group, lazy handle and option."""

    @inject_service
    def marked(
        *,
        cache: Cache = INJECTED,
        sender: Sends = INJECTED,
        named: Annotated[Database, "orders"] = INJECTED,
        reports: Database = INJECTED,
        many: list[Mailer] = INJECTED,
        by_name: dict[str, Database] = INJECTED,
        later: Lazy[Cache] = INJECTED,
        absent: Absent | None = INJECTED,
        present: Cache | None = INJECTED,
    ) -> list[Any]:
        names = [named.label, reports.label, [type(m) for m in many], list(by_name)]
        return [cache, sender.send(), *names, later(), absent, present]

    @inject_service("cache", Sender, store="orders", all_of=list[Mailer], members="mailers", handle=Lazy[Cache])
    def named(cache: Any, post: Sender, store: Any, all_of: Any, members: Any, handle: Any) -> list[Any]:
        return [cache, type(post), store.label, len(all_of), [type(m) for m in members], handle()]

    async with host:
        cache = host[Cache]
        expected = [cache, "sent", "orders", "reports", [Smtp, Slack], ["reports", "orders"], cache, None, cache]
        assert expected == marked()
        assert expected == marked()
        assert [cache, Sender, "orders", 2, [Smtp, Slack], cache] == named()
        assert [cache, Sender, "orders", 2, [Smtp, Slack], cache] == named()


async def test_transients_are_new_for_each_call() -> None:
    """A transient is made per call, and lives no longer."""

    class Drafts(ServiceContainer):
        draft = providers.Transient(Absent)

    @inject_service
    def use(*, draft: Absent = INJECTED) -> Absent:
        return draft

    async with ServiceHost(Drafts, log_events=False):
        assert use() is not use()


# --- which host -----------------------------------------------------------------------------------------


async def test_function_follows_the_host_through_its_lives(host: ServiceHost) -> None:
    """Before the start, while it runs, after the stop, and in the next life."""

    @inject_service("cache")
    def use(cache: Any) -> Any:
        return cache

    for _ in range(2):
        with pytest.raises(HostNotRunningError, match="use"):
            use()
        async with host:
            assert host["cache"] is use()


async def test_each_context_has_its_own_host(host: ServiceHost) -> None:
    """Of several running hosts, the one that the context has entered is meant; the innermost when they nest."""

    class Other(ServiceContainer):
        cache = providers.Service(Cache)

    @inject_service("cache")
    async def use(cache: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return cache

    inner = ServiceHost(Other, log_events=False)
    results: dict[str, bool] = {}
    both = anyio.Event()
    done = anyio.Event()

    async def alone() -> None:
        third = ServiceHost(Other, log_events=False)
        async with third:
            both.set()
            await done.wait()
            results["alone"] = await use() is third["cache"]

    async with anyio.create_task_group() as group:
        async with host:
            group.start_soon(alone)
            await both.wait()
            assert host["cache"] is await use()
            async with inner:
                assert inner["cache"] is await use()
                assert inner["cache"] is await use()
            assert host["cache"] is await use()
            done.set()
    assert {"alone": True} == results


async def test_thread_without_context_uses_the_first_host(host: ServiceHost) -> None:
    """A bare thread has entered no host; the first one that runs serves it."""

    @inject_service("cache")
    def use(cache: Any) -> Any:
        return cache

    found = []
    async with host:
        thread = threading.Thread(target=lambda: found.append(use()))
        thread.start()
        thread.join()
        assert [host["cache"]] == found
        assert host["cache"] is await anyio.to_thread.run_sync(use)


async def test_default_host_answers_while_none_runs(host: ServiceHost) -> None:
    """Services are built on first use, without a start."""

    @inject_service("cache")
    def use(cache: Any) -> Any:
        return cache

    with fallback(host):
        assert host["cache"] is use()


async def test_late_registration_is_found(host: ServiceHost) -> None:
    """What is registered on a running host is injected from then on."""

    @inject_service("late")
    def use(late: Any) -> Any:
        return late

    async with host:
        with pytest.raises(ServiceNotFoundError):
            use()
        host.register(Absent, name="late")
        assert isinstance(use(), Absent)
        assert use() is use()
        host.register_instance("ready", name="ready")
        assert "ready" == inject_service("ready")(lambda ready: ready)()


# --- errors ---------------------------------------------------------------------------------------------


async def test_errors_name_function_parameter_service_and_what_is_near(host: ServiceHost) -> None:
    """A call that can't be injected says all that is needed to mend it."""

    @inject_service(store="cahce")
    async def show(store: Any) -> None: ...

    @inject_service
    async def pick(*, some: Database = INJECTED) -> None: ...

    @inject_service
    async def typed(*, some: Absent = INJECTED) -> None: ...

    with pytest.raises(HostNotRunningError, match=r"show\(\) needs 'store' \(cahce\), but no host is running"):
        await show()
    async with host:
        with pytest.raises(ServiceNotFoundError, match=r"(?s)'cahce'.*'store' of .*show\(\).*test_injection.*'cache'"):
            await show()
        with pytest.raises(InjectionError, match=r"(?s)pick\(\).*'some'.*2 services fit: reports, orders"):
            await pick()
        with pytest.raises(ServiceNotFoundError, match=r"(?s)Absent.*'some' of .*typed\(\)"):
            await typed()


def _wrong_name() -> None:
    @inject_service("cahce")
    def use(cache: Any) -> None: ...


def _no_mark() -> None:
    @inject_service
    def use(cache: Any) -> None: ...


def _starred() -> None:
    @inject_service("cache")
    def use(*cache: Any) -> None: ...


def _no_type() -> None:
    @inject_service(Cache)
    def use(cache: Any) -> None: ...


def _two_of_a_type() -> None:
    @inject_service(Database)
    def use(one: Database, two: Database) -> None: ...


def _no_service() -> None:
    @inject_service(cache=3)
    def use(cache: Any) -> None: ...


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (_wrong_name, r"use\(\).*test_injection.*no parameter 'cahce' to inject: did you mean 'cache'"),
        (_no_mark, r"marks no parameter: give one the default INJECTED"),
        (_starred, r"\*cache can't be injected"),
        (_no_type, r"no parameter annotated with .*Cache"),
        (_two_of_a_type, r"2 parameters annotated with .*Database"),
        (_no_service, r"3 names no service"),
    ],
)
def test_wrong_use_is_refused_by_the_decorator(declare: Any, message: str) -> None:
    """What can't work is an error where it is written, not when it is called."""
    with pytest.raises(RegistrationError, match=message):
        declare()


async def test_scope_errors_say_what_to_do() -> None:
    """A plain function that needs something awaited says `async def`; a lookup outside a scope says enter one."""

    async def made() -> Absent:
        return Absent()

    class Scopes(ServiceContainer):
        made_later = providers.Scoped(made)

    @inject_service("made_later")
    def use(made_later: Any) -> None: ...

    async with ServiceHost(Scopes, log_events=False) as host:
        with pytest.raises(ScopeError, match=r"use\(\) is not async.*make it `async def`"):
            use()
        with pytest.raises(ScopeError, match="no scope is open"):
            host["made_later"]


# --- what is generated ----------------------------------------------------------------------------------


def test_wrapper_looks_like_the_function() -> None:
    """Name, docstring and attributes are the function's; injected parameters are gone from the signature."""

    @inject_service("cache")
    async def use(key: int, cache: Cache, flag: bool = False) -> str:
        """Use it."""
        return ""

    assert ("use", "Use it.", __name__) == (use.__name__, use.__doc__, use.__module__)
    assert ["key", "flag"] == list(inspect.signature(use).parameters)
    assert "(key: 'int', flag: 'bool' = False) -> 'str'" == str(inspect.signature(use))
    assert is_coroutine_function(use)
    assert {"key", "flag", "return"} == set(use.__annotations__)
    assert "use" == use.__wrapped__.__name__  # type: ignore[attr-defined]

    @inject_service("cache")
    def plain(cache: Cache) -> None: ...

    assert not is_coroutine_function(plain)


async def test_generated_source_can_be_read() -> None:
    """`explain` shows the wrapper, and the plan once there is one; what is not injected is refused."""

    class Scopes(ServiceContainer):
        session = providers.Scoped(Absent)

    @inject_service("session")
    async def use(key: int, session: Any) -> None: ...

    assert explain(use).startswith("def use(key, session):")
    assert "session is INJECTED" in explain(use)
    async with ServiceHost(Scopes, log_events=False):
        await use(1)
        assert "async def plan(key):" in explain(use)
        assert "await function(key, v0)" in explain(use)
    with pytest.raises(ServiceFrameworkError, match="not injected"):
        explain(lambda: None)


async def test_tracebacks_quote_generated_and_own_lines() -> None:
    """An error in an injected function shows its own line, and the generated ones that led to it."""

    class Scopes(ServiceContainer):
        session = providers.Scoped(Absent)

    @inject_service("session")
    async def use(session: Any) -> None:
        raise KeyError("mine")  # the line to be shown

    async with ServiceHost(Scopes, log_events=False):
        with pytest.raises(KeyError) as caught:
            await use()
    shown = "".join(traceback.format_exception(caught.value))
    assert 'raise KeyError("mine")  # the line to be shown' in shown
    assert "result = await function(v0)" in shown


def test_source_is_forgotten_with_its_function() -> None:
    """Functions that are made and dropped leave no source behind."""
    import gc

    def count() -> int:
        return sum(name.startswith("<svcframework injection") for name in linecache.cache)

    def declare() -> None:
        @inject_service("cache")
        def use(cache: Any) -> None: ...

    gc.collect()
    before = count()
    for _ in range(5):
        declare()
    gc.collect()
    assert before == count()


async def test_attributes_of_a_service_are_its_own() -> None:
    """What the host needs to inject into methods lies beside an attribute that the author calls `_space`."""

    class Keys(BaseService):
        def __init__(self) -> None:
            super().__init__()
            self._space = "mine"

        @inject_service
        async def look(self, *, cache: Cache = INJECTED) -> tuple[str, Cache]:
            return self._space, cache

    class Both(ServiceContainer):
        cache = providers.Service(Cache)
        keys = providers.Service(Keys)

    async with ServiceHost(Both) as host:
        assert ("mine", host[Cache]) == await host[Keys].look()
