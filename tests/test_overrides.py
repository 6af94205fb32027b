"""Overrides: seen by the context that made them, by nobody else, and gone after the block (L18)."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from svcframework import INJECTED, BaseService, ServiceContainer, ServiceHost, inject_service, providers
from svcframework.errors import OverrideError, ServiceNotFoundError


class Mailer(BaseService):
    """Is replaced."""


class Clock:
    """Is replaced as well; nobody holds it."""


class Holder:
    def __init__(self, held: Mailer) -> None:
        self.held = held


class Session:
    """Lives as long as a scope."""


class Unit:
    """Holds a scoped service and a singleton."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self.session, self.clock = session, clock


class Draft:
    """A transient that holds a singleton."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock


def open_session() -> Iterator[Session]:
    yield Session()


class Container(ServiceContainer):
    """One of each lifetime; `held` is held."""

    held = providers.Service(Mailer)
    holder = providers.Service(Holder)
    clock = providers.Service(Clock)
    session = providers.Scoped(open_session)
    unit = providers.Scoped(Unit)
    draft = providers.Transient(Draft)


def new_host() -> ServiceHost:
    return ServiceHost(Container, log_events=False)


@inject_service
def singleton(*, clock: Clock = INJECTED) -> Any:
    return clock


@inject_service
def planned(*, unit: Unit = INJECTED) -> Any:
    return unit.clock


@inject_service
def scoped(*, session: Session = INJECTED) -> Any:
    return session


@inject_service
def transient(*, draft: Draft = INJECTED) -> Any:
    return draft.clock


# --- before the start -----------------------------------------------------------------------------------


async def test_everything_is_built_with_a_fake_that_was_there_before_the_start() -> None:
    """Even what is held from a constructor; after the block the real one is back."""
    host = new_host()
    real = host[Mailer]
    fake: Any = object()
    with host.override(held=fake) as fakes:
        async with host:
            assert fake is host["held"] is host[Mailer] is host[Holder].held is fakes.held
    assert isinstance(host[Holder].held, Mailer)
    assert host[Mailer] is not fake
    assert isinstance(real, Mailer)


async def test_override_may_not_end_while_its_host_runs() -> None:
    """Everything was built with the fake, so the host must stop first; the error says so."""
    host = new_host()
    with pytest.raises(OverrideError, match=r"held ended while the host.*stop the host inside"):
        with host.override(held=object()):
            await host.start()
    await host.stop()


def test_unknown_names_are_refused() -> None:
    """A typing mistake must not make a test that tests nothing."""
    with pytest.raises(ServiceNotFoundError, match="'hled'"), new_host().override(hled=object()):
        pytest.fail("entered")


# --- on a running host ----------------------------------------------------------------------------------


async def test_compiled_callers_follow() -> None:
    """Singletons, scoped graphs, transients and factories, compiled before, inside and after the block."""
    host = new_host()
    fake: Any = object()
    async with host:
        make = host.factory(Draft)
        asks: list[Callable[[], Any]] = [
            singleton, planned, transient, lambda: make().clock, lambda: host.factory(Draft)().clock,
            lambda: host[Clock], lambda: host["clock"], lambda: host.get(Clock), lambda: host.services.clock,
            lambda: host[Draft].clock, lambda: host.all(Clock)[0], lambda: host.create(Draft).clock,
        ]  # fmt: skip
        real = host[Clock]
        for _ in range(2):
            assert [real] * len(asks) == [ask() for ask in asks]
            with host.override(clock=fake):
                assert [fake] * len(asks) == [ask() for ask in asks]
                assert [fake] * len(asks) == [ask() for ask in asks]
        assert [real] * len(asks) == [ask() for ask in asks]


async def test_scopes_follow() -> None:
    """What a scope makes inside the block holds the fake; a scoped service can be the fake itself."""
    host = new_host()
    fake: Any = object()
    async with host:
        async with host.scope() as scope:
            real = await scope.get(Session)
            with host.override(session=fake):
                assert [fake] * 4 == [await scope.get(Session), scope[Session], host[Session], scoped()]
            assert [real] * 3 == [await scope.get(Session), scope[Session], scoped()]
        with host.override({Clock: fake}):
            async with host.scope() as scope:
                assert fake is (await scope.get(Unit)).clock is planned()
                assert fake is (await scope.get(Clock))
        with host.override(session=fake):
            assert fake is scoped() is host[Session]
            async with host.scope() as scope:
                assert fake is (await scope.get(Unit)).session
        async with host.scope() as scope:
            assert isinstance((await scope.get(Unit)).session, Session)


async def test_blocks_nest() -> None:
    """The innermost block wins, and each end brings back what was before."""
    host = new_host()
    async with host:
        real = host[Clock]
        for outer, inner in (("a", "b"), ("b", "b")):
            with host.override(clock=outer):
                with host.override(clock=inner):
                    assert inner == singleton() == planned()
                assert outer == singleton() == planned()
            assert real is singleton() is planned()


async def test_held_service_is_refused_with_both_ways_out() -> None:
    """Its holder would go on using the real one: the error names holder and remedies, and changes nothing."""
    host = new_host()
    async with host:
        with pytest.raises(OverrideError, match=r"(?s)'held'.*holder holds it.*before the start.*inject_service"):
            with host.override(clock="fake", held=object()):
                pytest.fail("entered")
        assert isinstance(singleton(), Clock)


async def test_other_tasks_and_threads_see_the_real_one() -> None:
    """Tasks started before the block, threads without the context; those started inside inherit the fake."""
    host = new_host()
    seen: dict[str, Any] = {}
    inside, looked = anyio.Event(), anyio.Event()

    async def before() -> None:
        await inside.wait()
        seen["before"] = [singleton(), planned(), transient(), host.factory(Draft)().clock, host[Clock]]
        async with host.scope() as scope:
            seen["before scope"] = (await scope.get(Unit)).clock
        looked.set()

    async def started_inside() -> None:
        seen["inside"] = [singleton(), planned(), transient(), host.factory(Draft)().clock, host[Clock]]

    async with host, anyio.create_task_group() as group:
        real = host[Clock]
        group.start_soon(before)
        with host.override(clock="fake"):
            make = host.factory(Draft)
            assert "fake" == make().clock == host[Draft].clock == planned()
            inside.set()
            await looked.wait()
            async with anyio.create_task_group() as inner:
                inner.start_soon(started_inside)
            thread = threading.Thread(target=contextvars.Context().run, args=(lambda: seen.update(thread=planned()),))
            thread.start()
            thread.join()
            assert "fake" == await anyio.to_thread.run_sync(planned)
    assert [real] * 5 == seen["before"]
    assert ["fake"] * 5 == seen["inside"]
    assert [real, real] == [seen["thread"], seen["before scope"]]


async def test_singleton_built_inside_a_block_is_real_for_everybody() -> None:
    """What is first asked for under an override, and stays, must not keep the fake."""

    class Late:
        def __init__(self, clock: Clock) -> None:
            self.clock = clock

    host = new_host()
    async with host:
        host.register(Late, name="late")
        with host.override(clock="fake"):
            assert host[Clock] is host[Late].clock or isinstance(host[Late].clock, Clock)
        assert host[Clock] is host[Late].clock


async def test_two_hosts_keep_their_overrides_apart() -> None:
    """A name that is overridden in one host is real in another."""
    one, two = new_host(), new_host()
    async with one, two:
        with one.override(clock="one"):
            assert isinstance(two[Clock], Clock)
            with two.override(clock="two"):
                assert ("one", "two") == (one[Clock], two[Clock])
            assert "one" == one[Clock]


async def test_error_in_the_block_ends_the_override() -> None:
    """However the block is left, the fake is gone."""
    host = new_host()
    async with host:
        with pytest.raises(KeyError), host.override(clock="fake"):
            raise KeyError
        assert isinstance(singleton(), Clock)
        assert () == host.resolver.overridden


# --- any nesting, any contexts --------------------------------------------------------------------------

NAMES = ("clock", "session")
CONTEXTS = 3


class Overrides(RuleBasedStateMachine):
    """Random blocks in several contexts; each sees its own fakes and nothing else, in whatever way it asks."""

    @initialize()
    def start(self) -> None:
        self.host = new_host()
        resolver = self.host.resolver
        from svcframework.routing import activate

        self.host.validate()
        resolver.is_started = True  # the resolver's part of a running host; no services have anything to start
        activate(resolver)
        self.real = self.host[Clock]
        self.contexts = [contextvars.Context() for _ in range(CONTEXTS)]
        self.blocks: list[list[tuple[Any, dict[str, Any]]]] = [[] for _ in range(CONTEXTS)]
        self.make = self.host.factory(Draft)
        self.makers: list[Any] = []
        self.count = 0

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        from svcframework.routing import deactivate

        for context, blocks in zip(self.contexts, self.blocks, strict=True):
            for block, _ in reversed(blocks):
                context.run(block.__exit__, None, None, None)
        assert () == self.host.resolver.overridden
        deactivate(self.host.resolver)

    @rule(context=st.integers(0, CONTEXTS - 1), names=st.sets(st.sampled_from(NAMES), min_size=1))
    def enter(self, context: int, names: set[str]) -> None:
        self.count += 1
        fakes = {name: f"{name} {self.count}" for name in sorted(names)}
        block = self.host.override(fakes)
        self.contexts[context].run(block.__enter__)
        self.blocks[context].append((block, fakes))

    @precondition(lambda self: any(self.blocks))
    @rule(context=st.integers(0, CONTEXTS - 1))
    def leave(self, context: int) -> None:
        if self.blocks[context]:
            block, _ = self.blocks[context].pop()
            self.contexts[context].run(block.__exit__, None, None, None)

    @rule(context=st.integers(0, CONTEXTS - 1))
    def take_factory(self, context: int) -> None:
        self.makers.append(self.contexts[context].run(self.host.factory, Draft))

    @rule()
    def register(self) -> None:
        self.host.register(Clock, name=f"clock_{self.count}_{len(self.host.registry)}")

    @rule(context=st.integers(0, CONTEXTS - 1), way=st.integers(0, 9))
    def ask_in_a_thread(self, context: int, way: int) -> None:
        found: list[Any] = []
        copy = self.contexts[context].copy()
        thread = threading.Thread(target=lambda: found.append(copy.run(self.clocks()[way % 8])))
        thread.start()
        thread.join()
        assert [self.expected(context)["clock"]] == found

    def expected(self, context: int) -> dict[str, Any]:
        merged: dict[str, Any] = {"clock": self.real}
        for _, fakes in self.blocks[context]:
            merged.update(fakes)
        return merged

    def clocks(self) -> list[Callable[[], Any]]:
        made = [lambda make=make: make().clock for make in (self.make, *self.makers[-2:])]
        return [
            by_name, planned_by_name, lambda: self.host["clock"], lambda: self.host["draft"].clock,
            lambda: self.host.services.clock, *made, drafted, lambda: self.host.factory(Draft)().clock,
        ]  # fmt: skip

    def sessions(self) -> list[Any]:
        with self.host.scope() as scope:
            unit = scope["unit"]
            return [session_by_name(), scope["session"], unit.session, unit_by_name().session]

    @invariant()
    def each_context_sees_its_own(self) -> None:
        if not hasattr(self, "host"):
            return
        for number, context in enumerate(self.contexts):
            expected = self.expected(number)
            for ask in self.clocks():
                assert expected["clock"] is context.run(ask)
            sessions = context.run(self.sessions)
            if "session" in expected:
                assert [expected["session"]] * 4 == sessions
            else:
                assert [Session] * 4 == [type(session) for session in sessions]
                assert 1 == len(set(map(id, sessions)))


@inject_service("clock")
def by_name(clock: Any) -> Any:
    return clock


@inject_service("unit")
def planned_by_name(unit: Any) -> Any:
    return unit.clock


@inject_service("unit")
def unit_by_name(unit: Any) -> Any:
    return unit


@inject_service("session")
def session_by_name(session: Any) -> Any:
    return session


@inject_service("draft")
def drafted(draft: Any) -> Any:
    return draft.clock


TestOverrides = Overrides.TestCase
TestOverrides.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
