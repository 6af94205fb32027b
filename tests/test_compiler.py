"""The code that is generated for scoped and transient services: what it builds, and how it reads."""

from __future__ import annotations

import gc
import linecache
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import pytest

from svcframework import (
    INJECTED,
    BaseService,
    Lazy,
    ServiceConfig,
    ServiceContainer,
    ServiceHost,
    inject_service,
    providers,
)
from svcframework.compiler import build, compile_factory, compile_maker
from svcframework.errors import ScopeError
from svcframework.injection import explain

EVENTS: list[str] = []


class Leaf:
    """Scoped, held by all others."""


class Plugin:
    """Two are declared."""


class Red(Plugin): ...


class Blue(Plugin): ...


class Everything:
    """Has one parameter of each form."""

    def __init__(
        self, first: Leaf, /, second: Leaf, number: int, *, plugins: list[Plugin], named: dict[str, Plugin],
        later: Lazy[Leaf], absent: Missing | None, label: str = "default", chosen: Annotated[Plugin, "blue"],
    ) -> None:  # fmt: skip
        self.found = (first, second, number, plugins, named, later, absent, label, chosen)


class Missing:
    """Nobody provides it."""


class Settings(ServiceConfig):
    size: int = 3


class Buffer(BaseService[Settings]):
    """A service that lives as long as a scope."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


def host_of(**declared: Any) -> ServiceHost:
    """A host of a container with these providers."""
    return ServiceHost(type("Made", (ServiceContainer,), declared), log_events=False)


def numbered(name: str, *needs: str) -> Any:
    """A generator factory that tells when it opens and closes."""
    parameters = ", ".join(needs)
    space: dict[str, Any] = {"EVENTS": EVENTS}
    exec(
        f"def {name}({parameters}):\n EVENTS.append('open {name}')\n yield ({', '.join([repr(name), *needs])},)\n"
        f" EVENTS.append('close {name}')\n",
        space,
    )
    return space[name]


# --- what is built --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", [providers.Scoped, providers.Transient])
async def test_every_form_of_argument_is_passed(lifetime: Any) -> None:
    """Positional-only and keyword-only parameters, lists, dicts, handles, options, values and defaults."""
    host = host_of(
        leaf=providers.Scoped(Leaf), red=providers.Service(Red), blue=providers.Service(Blue),
        everything=lifetime(Everything, number=7),
    )  # fmt: skip

    @inject_service
    async def use(*, everything: Everything = INJECTED, leaf: Leaf = INJECTED) -> None:
        red, blue = host["red"], host["blue"]
        first, second, number, plugins, named, later, absent, label, chosen = everything.found
        assert first is second is leaf is later()
        assert (7, [red, blue], {"red": red, "blue": blue}) == (number, plugins, named)
        assert (None, "default", blue) == (absent, label, chosen)

    async with host:
        await use()
        await use()
        async with host.scope() as scope:
            await use()
            assert (await scope.get(Everything)).found[0] is await scope.get(Leaf)


async def test_given_arguments_are_constants_or_calls() -> None:
    """Values are passed as they are; factories inside a declaration are called for each instance."""
    marker = object()
    host = host_of(
        plain=providers.Scoped(lambda a, b: (a, b), marker, b=providers.Factory(list, [1])),
        choice=providers.Scoped(dict, value=providers.Object("fixed")),
    )
    async with host, host.scope() as scope:
        first, second = await scope.get("plain")
        assert (marker, [1]) == (first, second)
        assert {"value": "fixed"} == await scope.get("choice")
        async with host.scope() as other:
            assert second is not (await other.get("plain"))[1]


async def test_scoped_service_classes_know_name_and_host() -> None:
    """A BaseService that is scoped is a full service too: named, configured, attached to its host."""
    host = host_of(scratch=providers.Scoped(Buffer, config={"size": 5}), spare=providers.Transient(Buffer))

    @inject_service("scratch", "spare")
    async def use(scratch: Any, spare: Any) -> list[Any]:
        return [scratch, spare]

    async with host, host.scope() as scope:
        made = [await scope.get("scratch"), host["spare"]]
    async with host:
        for scratch, spare in (made, await use(), await use()):
            assert ("scratch", 5, host) == (scratch.name, scratch.config.size, scratch.host)
            assert ("spare", 3, host) == (spare.name, spare.config.size, spare.host)


async def test_coroutine_factories_are_awaited() -> None:
    """Scoped and transient factories may be coroutine functions, wherever they stand in the graph."""

    async def leaf() -> Leaf:
        await anyio.lowlevel.checkpoint()
        return Leaf()

    class Holder:
        def __init__(self, leaf: Leaf) -> None:
            self.leaf = leaf

    async def draft(holder: Any, leaf: Any) -> tuple[Any, ...]:
        return holder, leaf

    host = host_of(leaf=providers.Scoped(leaf), holder=providers.Scoped(Holder), draft=providers.Transient(draft))

    @inject_service("leaf", made="draft")
    async def use(leaf: Any, made: Any) -> None:
        assert made[0].leaf is made[1] is leaf

    async with host:
        await use()
        async with host.scope() as scope:
            await use()
            holder, same = await scope.get("draft")
            assert holder.leaf is same is await scope.get("leaf")


async def test_diamond_is_built_once_and_closed_in_reverse() -> None:
    """Whatever is shared is made once per call; what was opened last is closed first."""
    host = host_of(
        base=providers.Scoped(numbered("base")),
        left=providers.Scoped(numbered("left", "base")),
        right=providers.Scoped(numbered("right", "base")),
        top=providers.Scoped(numbered("top", "left", "right")),
    )

    @inject_service("top")
    def use(top: Any) -> Any:
        return top

    async with host:
        expected = ("top", ("left", ("base",)), ("right", ("base",)))
        assert expected == use()
        names = ["base", "left", "right", "top"]
        assert [*(f"open {n}" for n in names), *(f"close {n}" for n in reversed(names))] == EVENTS
        EVENTS.clear()
        with host.scope() as scope:
            assert expected == scope["top"]
        assert [*(f"open {n}" for n in names), *(f"close {n}" for n in reversed(names))] == EVENTS


async def test_opened_transients_are_closed_one_by_one() -> None:
    """Each instance of a transient generator is its own, and closed with the call."""

    def open_part() -> Iterator[Leaf]:
        EVENTS.append("open part")
        yield Leaf()
        EVENTS.append("close part")

    host = host_of(part=providers.Transient(open_part))

    @inject_service("part", other="part")
    def use(part: Any, other: Any) -> bool:
        return part is other

    async with host:
        assert not use()
        assert ["open part", "open part", "close part", "close part"] == EVENTS


@pytest.mark.parametrize("count", [30, 120])
async def test_long_chains_and_wide_graphs_compile(count: int) -> None:
    """A scoped chain and one service that holds many."""
    names = [f"s{number}" for number in range(count)]
    chain = {name: providers.Scoped(numbered(name, *names[max(0, n - 1) : n])) for n, name in enumerate(names)}
    host = host_of(**chain, wide=providers.Scoped(numbered("wide", *names)))

    @inject_service("wide")
    async def use(wide: Any) -> Any:
        return wide

    async with host:
        assert count + 1 == len(await use())
        assert [f"close {n}" for n in ["wide", *reversed(names)]] == EVENTS[count + 1 :]
        async with host.scope() as scope:
            assert count + 1 == len(await scope.get("wide"))


# --- the code itself ------------------------------------------------------------------------------------


async def test_plan_is_straight_line_code() -> None:
    """Names in dependency order, no lookups: just what one would write by hand."""
    host = host_of(
        base=providers.Scoped(numbered("base")), left=providers.Scoped(numbered("left", "base")),
        shared=providers.Service(Leaf),
    )  # fmt: skip

    @inject_service("left", "shared")
    async def use(key: int, left: Any, shared: Any) -> None: ...

    async with host:
        await use(1)
        text = explain(use)
    for line in (
        "for v0 in g0: break",
        "for v1 in g1: break",
        "result = await function(key, v1, ",
        "did_not_stop(closing)",
    ):
        assert line in text
    assert text.index("for v0 in g0") < text.index("for v1 in g1")


def test_constants_are_closure_variables() -> None:
    """Values never become source text, so their repr can do no harm; the source is kept for tracebacks."""

    class Hostile:
        def __repr__(self) -> str:
            return "__import__('os').abort()"

    value = Hostile()
    function = build(["def made():", " return value"], "made", {"value": value}, label="test")
    assert value is function()
    assert "def made():\n return value" == function.__source__
    filename = function.__code__.co_filename
    assert "  return value\n" in linecache.getlines(filename)
    del function
    gc.collect()
    assert filename not in linecache.cache


def test_factory_refuses_what_only_a_scope_has() -> None:
    """A transient that holds something scoped, opened or awaited can't be made outside of one."""

    class Holder:
        def __init__(self, leaf: Leaf) -> None: ...

    async def later() -> Leaf:
        return Leaf()

    host = host_of(
        leaf=providers.Scoped(Leaf), holder=providers.Transient(Holder), opened=providers.Transient(numbered("opened")),
        awaited=providers.Transient(later),
    )  # fmt: skip
    for name in ("holder", "opened", "awaited"):
        with pytest.raises(ScopeError, match="lives in a scope"):
            compile_factory(host.resolver, name)
    with pytest.raises(ScopeError):
        host.factory(Holder)


def test_maker_says_whether_it_has_to_be_awaited() -> None:
    """A maker of what is async, or holds what is, is async itself."""

    async def open_later() -> AsyncIterator[Leaf]:
        yield Leaf()

    class Holder:
        def __init__(self, leaf: Leaf) -> None: ...

    def open_now() -> Iterator[Plugin]:
        yield Plugin()

    host = host_of(leaf=providers.Scoped(open_later), holder=providers.Scoped(Holder), now=providers.Scoped(open_now))
    found = {name: compile_maker(host.resolver, name).is_async for name in ("leaf", "holder", "now")}
    assert {"leaf": True, "holder": True, "now": False} == found
