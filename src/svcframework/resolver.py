"""The resolver: one host's instances, as attributes for compiled callers and by key for everyone else.

The hot path is an attribute or a dict item and knows nothing of what follows. Whatever is special (not built yet,
overridden, scoped, unknown) is simply not there, so that reading falls into `__getattr__` or `__missing__`.
"""

from __future__ import annotations

import inspect
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

from svcframework._signatures import Lazy, Want
from svcframework._types import Lifetime
from svcframework.compiler import compile_bundle, compile_factory, compile_maker
from svcframework.errors import (
    AmbiguousServiceError,
    ForkError,
    OverrideError,
    ScopeError,
    ServiceNotFoundError,
    ServiceUnavailableError,
    did_you_mean,
)
from svcframework.namespaces import Namespace, Table, Unresolved
from svcframework.problems import listed
from svcframework.registry import NOTHING, Make
from svcframework.scopes import Level, ambient
from svcframework.service import BaseService
from svcframework.wiring import Graph, Node, Ref, Refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from svcframework.scopes import Answer, Answers, Maker, Scope

T = TypeVar("T")

_OVERRIDES: ContextVar[Mapping[tuple[int, str], Any] | None] = ContextVar("svcframework.overrides", default=None)


class Resolver:
    """Builds and hands out the instances of one graph. Lives as long as its host; any thread may ask."""

    def __init__(
        self, wire: Callable[[], Graph], *, host: Any, attach: Callable[[BaseService[Any], str], None]
    ) -> None:
        self._wire, self._attach = wire, attach
        self.host = host
        self.lock = threading.RLock()
        self.space = Namespace(self)
        self.table = Table(self)
        self.instances: dict[str, Any] = {}
        self.generators: dict[str, Any] = {}
        self.substitutes: dict[str, Any] = {}
        self.is_started = self.is_forked = False
        self.generation = 0
        self._levels: dict[str, Level] = {}
        self._graph: Graph | None = None
        self._wants: dict[str, tuple[Want, str]] = {}
        self._makers: dict[str, Maker | None] = {}
        self._factories: dict[str, Callable[[], Any]] = {}
        self._names: dict[Any, str] = {}
        self._plans: dict[tuple[Any, ...], Any] = {}
        self._plan_attributes: dict[str, Callable[[], Any]] = {}
        self._overridden: dict[str, int] = {}

    # --- the graph ------------------------------------------------------------------------------------

    @property
    def graph(self) -> Graph:
        """The wired services; wired again when something was registered since."""
        if self._graph is None:
            with self.lock:
                if self._graph is None:
                    self._graph = self._wire()
        return self._graph

    def invalidate(self) -> None:
        """The declarations have changed: wire again on the next question. Instances whose service is unchanged stay."""
        with self.lock:
            old, self._graph = self._graph, None
            self.flush()
            self._names.clear()
            if old is None or not self.instances:
                return
            new = self.graph.nodes
            for name in list(self.instances):
                if name not in new or new[name].descriptor is not old.nodes[name].descriptor:
                    self.instances.pop(name, None)

    def flush(self) -> None:
        """Forget everything compiled and installed; instances stay."""
        with self.lock:
            self.generation += 1
            for attribute in [each for each in vars(self.space) if each != "_resolver"]:
                delattr(self.space, attribute)
            self.table.clear()
            self.table.factories.clear()
            for level in self._levels.values():
                level.clear()
            self._makers.clear()
            self._factories.clear()
            self._plans.clear()

    def forget(self, names: Iterable[str]) -> None:
        """Drop instances, so that they are built anew."""
        with self.lock:
            for name in names:
                self.instances.pop(name, None)
            self.flush()

    def node(self, name: str) -> Node:
        """The wired service of that name.

        Raises:
            ServiceNotFoundError: There is none.
        """
        try:
            return self.graph.nodes[name]
        except KeyError:
            raise ServiceNotFoundError(name, known=self.graph.nodes) from None

    def level_of(self, name: str) -> str:
        """The scope level a service lives in; empty for what lives in none."""
        return self.node(name).descriptor.scope

    def name_for(self, wanted: str | type | Want) -> str:
        """The name of the service that answers to a name or type.

        Raises:
            ServiceNotFoundError: None does.
            AmbiguousServiceError: Several do.
        """
        known = self._names.get(wanted)
        if known is not None:
            return known
        want = wanted if isinstance(wanted, Want) else Want(wanted)
        found = self.graph.resolve(want)
        if not isinstance(found, Ref):
            names = self.graph.candidates(want.key)
            if len(names) > 1:
                raise AmbiguousServiceError(cast("type", want.key), names)
            raise ServiceNotFoundError(want.key, known=self.graph.nodes)
        self._names[wanted] = found.name
        return found.name

    # --- asking ---------------------------------------------------------------------------------------

    def lookup(self, key: Any) -> Any:
        """What a key stands for, the slow way: a singleton (remembered), a transient (made), or a list of a type."""
        self._refuse_in_fork()
        name = self.name_for(key)
        node = self.node(name)
        if node.is_singleton:
            return self._install(self.table, key, [name], lambda: self.get(name))
        if node.descriptor.lifetime is Lifetime.TRANSIENT and not self._overridden and not self.innermost([name]):
            with suppress(ScopeError):  # it is opened or awaited, so a scope makes it
                self.table.factories[key] = self.factory(name)
        return self.unshared(node)

    def factory(self, name: str) -> Callable[[], Any]:
        """A function that makes a transient; it stays right when overrides come and go.

        Raises:
            ScopeError: It holds something that only a scope has.
        """
        factory = self._factories.get(name)
        if factory is None:
            factory = compile_factory(self, name)
            if self._overridden:  # what was compiled holds what this context sees, and others see something else
                return lambda: self.any_of(name)
            self._factories[name] = factory
        return factory

    def level(self, name: str) -> Level:
        """What all scopes of that level share."""
        found = self._levels.get(name)
        if found is None:
            found = self._levels[name] = Level(self, name)
        return found

    def answer(self, wanted: Any, answers: Answers, /) -> Answer:
        """How a scope answers one question; remembered among the answers unless an override is about."""
        names = [self.name_for(each) for each in (wanted if isinstance(wanted, tuple) else (wanted,))]
        with self.lock:
            if isinstance(wanted, tuple) and (len(wanted) != 1 or not answers.is_awaited):  # `get` asks with a tuple
                found = compile_bundle(self, names, answers.level, is_awaited=answers.is_awaited)
            else:
                found = self._answer(names[0], answers)
            if not self._overridden:
                answers[wanted] = found
            return found

    def _answer(self, name: str, answers: Answers) -> Answer:
        maker = self.maker(name)
        is_own = maker is not None and self.level_of(name) in {answers.level, ""}
        if maker is None or not is_own or maker.is_async is not answers.is_awaited:
            return _obtained(name) if answers.is_awaited else _obtained_now(name)
        return maker

    def unshared(self, node: Node) -> Any:
        """A transient, or a scoped service of the scope that is open here."""
        replaced = self.override_of(node.name)
        if replaced is not None:
            return replaced[0]
        scope = ambient()
        if scope is not None and scope.belongs_to(self):
            return scope[node.name]
        if node.descriptor.lifetime is Lifetime.SCOPED:
            raise ScopeError(
                f"{node.name!r} is scoped and no scope is open: "
                f"enter `async with host.scope({node.descriptor.scope!r}):`, "
                "or inject it into a function, which opens one for the call."
            )
        return compile_factory(self, node.name)() if self._overridden else self.factory(node.name)()

    def get(self, wanted: str | type) -> Any:
        """A singleton of that exact name (or type), built now if need be; what this context overrides it with.

        Raises:
            WiringError: Something is wrong with it or with what it needs.
            ServiceUnavailableError: It is opened by the start, which has not come that far.
        """
        name = wanted if isinstance(wanted, str) else self.name_for(wanted)
        if self._overridden or self.substitutes:
            replaced = self.override_of(name)
            if replaced is not None:
                return replaced[0]
        try:
            return self.instances[name]
        except KeyError:
            return self.build(name)

    def value(self, found: Ref | Refs | None) -> Any:
        """What a resolved wish stands for, singletons only."""
        if found is None:
            return None
        if isinstance(found, Refs):
            values = [self.any_of(name) for name in found.names]
            return dict(zip(found.names, values, strict=True)) if found.by_name else values
        return self.handle(found.name) if found.lazy else self.any_of(found.name)

    def any_of(self, name: str) -> Any:
        """A service of any lifetime by its exact name."""
        node = self.node(name)
        return self.get(name) if node.is_singleton else self.unshared(node)

    async def value_in(self, scope: Scope, found: Ref | Refs | None) -> Any:
        """What a resolved wish stands for in an open scope; singletons as ever."""
        if isinstance(found, Refs):
            values = [await scope.obtain(name) for name in found.names]
            return dict(zip(found.names, values, strict=True)) if found.by_name else values
        if found is None or found.lazy:
            return self.value(found)
        return await scope.obtain(found.name)

    def innermost(self, names: Iterable[str]) -> str:
        """The shortest-lived scope level among services and the transients they hold; empty without any."""
        nodes, deepest, queue, seen = self.graph.nodes, "", list(names), set[str]()
        for name in queue:
            if name in seen or name in self.overrides_here():
                continue
            seen.add(name)
            node = nodes[name]
            if node.is_singleton:
                continue
            level = node.descriptor.scope
            if level and (not deepest or self.graph.depth(level) > self.graph.depth(deepest)):
                deepest = level
            queue.extend(node.uses)
        return deepest

    def handle(self, name: str) -> Lazy[Any]:
        """A lazy handle on a service of any lifetime."""
        return Lazy(lambda: self.any_of(name))

    # --- building -------------------------------------------------------------------------------------

    def is_deferred(self, name: str) -> bool:
        """It can't be built before the start: it is opened by it, or holds what is."""
        return name in self.deferred

    @property
    def deferred(self) -> set[str]:
        """Singletons that are generators or coroutines, and all singletons that hold one."""
        found: set[str] = set()
        for name, node in self.graph.nodes.items():
            if name in self.substitutes:
                continue
            opens = node.is_singleton and (node.is_async or _opens(node))
            if opens or any(used in found for used in node.uses):
                found.add(name)
        return found

    def build(self, name: str) -> Any:
        """Build a singleton and what it needs, once, whichever thread asks first."""
        with self.lock:
            if name in self.instances:
                return self.instances[name]
            self.node(name)
            self.graph.check([name], without=self.substitutes)
            nodes = self.graph.nodes
            token = _OVERRIDES.set(None)  # it will be everybody's, and stay: it must not hold this context's fakes
            try:
                for each in self._needed(name):
                    if nodes[each].is_singleton and each not in self.instances:
                        self.build_one(nodes[each])
            finally:
                _OVERRIDES.reset(token)
            return self.instances[name]

    def _needed(self, name: str) -> list[str]:
        """What has to be built for a singleton, dependencies first, itself last; iterative, for long chains."""
        nodes, done, order = self.graph.nodes, set[str](), list[str]()
        stack = [(name, iter(nodes[name].uses))]
        while stack:
            current, uses = stack[-1]
            for used in uses:
                if used not in done and used not in self.instances and used not in self.substitutes:
                    done.add(used)
                    stack.append((used, iter(nodes[used].uses)))
                    break
            else:
                order.append(current)
                stack.pop()
        return order

    def build_all(self, names: Iterable[str]) -> None:
        """Build singletons whose order is known to be right."""
        with self.lock:
            nodes = self.graph.nodes
            for name in names:
                if name not in self.instances:
                    self.build_one(nodes[name])

    def build_one(self, node: Node) -> Any:
        """Build one singleton whose dependencies are built."""
        name, descriptor = node.name, node.descriptor
        if name in self.substitutes:
            self.instances[name] = self.substitutes[name]
        elif descriptor.instance is not NOTHING:
            self.instances[name] = descriptor.instance
        elif node.is_async or _opens(node):
            raise ServiceUnavailableError(name, "it is opened when the host starts, and the host has not started it")
        else:
            try:
                self.instances[name] = self.construct(node)
            except Exception as error:
                place = f", declared at {descriptor.at}" if descriptor.at else ""
                error.add_note(f"while {descriptor.label} was built{place}")
                raise
        return self.instances[name]

    def construct(self, node: Node) -> Any:
        """Call a node's factory with its arguments."""
        args = [self.evaluate(value) for value in node.args]
        kwargs = {key: self.evaluate(value) for key, value in node.kwargs.items()}
        factory = cast("Any", node.descriptor.factory)
        if isinstance(factory, type) and issubclass(factory, BaseService):
            return self._construct_service(factory, node, args, kwargs)
        made = factory(*args, **kwargs)
        if isinstance(made, BaseService):
            self._attach(made, node.name)
        return made

    def _construct_service(self, cls: Any, node: Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """A service knows its name, host and settings before its `__init__` runs."""
        made = cls.__new__(cls, *args, **kwargs)
        self._attach(made, node.name)
        if node.config is not None:
            made.config = node.config
        made.__init__(*args, **kwargs)
        return made

    def callee(self, node: Node) -> Callable[..., Any]:
        """What compiled code calls to make one: the factory itself, but a service learns who it is first."""
        factory = node.descriptor.factory
        if isinstance(factory, type) and issubclass(factory, BaseService):
            return lambda *args, **kwargs: self._construct_service(factory, node, list(args), kwargs)
        return cast("Callable[..., Any]", factory)

    def evaluate(self, value: Any) -> Any:
        """An argument's value."""
        if isinstance(value, (Ref, Refs)):
            return self.value(value)
        if isinstance(value, Make):
            return value.factory(
                *map(self.evaluate, value.args), **{key: self.evaluate(part) for key, part in value.kwargs.items()}
            )
        return value

    def fork(self) -> None:
        """This is the child of a process in which the host runs: nothing may be had from it any more."""
        self.lock = threading.RLock()  # a thread that no longer exists may hold the old one
        self.is_forked = True
        self.flush()

    def _refuse_in_fork(self) -> None:
        if self.is_forked:
            raise ForkError(
                "This host runs in the parent process, and this is its fork: connections can't be shared. "
                "Make a host of its own in the child, or start the child before the host."
            )

    # --- compiled callers -----------------------------------------------------------------------------

    def maker(self, name: str) -> Maker | None:
        """How a scoped or transient service is made in a scope; None for a singleton."""
        if self._overridden or self.substitutes:
            replaced = self.override_of(name)
            if replaced is not None:
                return None
            if _OVERRIDES.get():
                return None if self.node(name).is_singleton else compile_maker(self, name)
        try:
            return self._makers[name]
        except KeyError:
            with self.lock:
                maker = None if self.node(name).is_singleton else compile_maker(self, name)
                self._makers[name] = maker
                return maker

    def attribute(self, attribute: str) -> Any:
        """An attribute of the namespace that is not there.

        Raises:
            Unresolved: The caller has to take its own slow path.
            ForkError: The host runs in the parent process.
        """
        self._refuse_in_fork()
        plan = self._plan_attributes.get(attribute)
        if plan is not None:
            return self._plan(attribute, plan)
        known = self._wants.get(attribute)
        if known is None and attribute in self.graph.nodes:
            known = (Want(attribute), attribute)
        if known is None:
            raise Unresolved(f"no service is named {attribute!r}.{did_you_mean(attribute, self.graph.nodes)}")
        want, parameter = known
        found = self.graph.resolve(want, parameter=parameter)
        names = names_in(found)
        if (found is None and want.how != "optional") or not all(self.node(name).is_singleton for name in names):
            raise Unresolved(attribute)
        return self._install(self.space, attribute, names, lambda: self.value(found))

    def bind(self, attribute: str, want: Want, parameter: str) -> None:
        """Tell what an attribute stands for."""
        self._wants.setdefault(attribute, (want, parameter))

    def bind_plan(self, attribute: str, compile_it: Callable[[], Any]) -> None:
        """Tell how the plan behind an attribute is compiled."""
        self._plan_attributes.setdefault(attribute, compile_it)

    def _plan(self, attribute: str, compile_it: Callable[[], Any]) -> Any:
        mine = self.overrides_here()
        if mine:
            key = (attribute, *sorted((name, id(fake)) for name, fake in mine.items()))
            if key not in self._plans:
                self._plans[key] = compile_it()
            return self._plans[key]
        with self.lock:
            if self._overridden:
                key = (attribute,)
                if key not in self._plans:
                    self._plans[key] = compile_it()
                return self._plans[key]
            plan = compile_it()
            setattr(self.space, attribute, plan)
            return plan

    def _install(self, where: Table | Namespace, key: Any, names: Iterable[str], make: Callable[[], Any]) -> Any:
        """Remember a value under a key, unless an override is about: then it has to be asked for each time."""
        value = make()
        with self.lock:
            if not self._overridden or not any(name in self._overridden for name in names):
                if isinstance(where, Namespace):
                    setattr(where, key, value)
                else:
                    where[key] = value
        return value

    # --- overrides ------------------------------------------------------------------------------------

    def override_of(self, name: str) -> tuple[Any] | None:
        """The replacement that holds for a service in this context, in a tuple."""
        if name in self.substitutes:
            return (self.substitutes[name],)
        if not self._overridden or name not in self._overridden:
            return None
        mine = _OVERRIDES.get() or {}
        key = (id(self), name)
        return (mine[key],) if key in mine else None

    def overrides_here(self) -> dict[str, Any]:
        """All replacements that hold in this context."""
        if not self._overridden:
            return {}
        return {name: fake for (owner, name), fake in (_OVERRIDES.get() or {}).items() if owner == id(self)}

    @property
    def overridden(self) -> tuple[str, ...]:
        """The names that are overridden anywhere, in any context or for the whole host."""
        return (*self.substitutes, *self._overridden)

    @contextmanager
    def override(self, replacements: Mapping[str, Any]) -> Iterator[None]:
        """Replace services within a block: for the whole host before it starts, for this context once it runs.

        Raises:
            ServiceNotFoundError: There is no such service.
            OverrideError: A running service holds the one to be replaced.
        """
        for name in replacements:
            self.node(name)
        if not self.is_started:
            with self._substitute(replacements):
                yield
            return
        for name in replacements:
            self._refuse_if_held(name)
        with self._replace_here(replacements):
            yield

    @contextmanager
    def _substitute(self, replacements: Mapping[str, Any]) -> Iterator[None]:
        before = dict(self.substitutes)
        self.substitutes.update(replacements)
        self.forget(list(self.instances))
        try:
            yield
        finally:
            self.substitutes = before
            running = self.is_started
            self.forget(list(self.instances) if not running else ())
            if running:
                raise OverrideError(
                    f"The override of {listed(replacements)} ended while the host that was built with it still runs: "
                    "stop the host inside the block."
                )

    def end_overrides(self, names: Iterable[str]) -> None:
        """End overrides that were left behind, in every context; for test tools."""
        with self.lock:
            for name in names:
                self._overridden.pop(name, None)
                if self.substitutes.pop(name, self) is not self:
                    self.instances.pop(name, None)
            self.flush()

    def _refuse_if_held(self, name: str) -> None:
        holders = self.holders(name)
        if holders:
            raise OverrideError(
                f"{name!r} can't be replaced on a running host: {listed(holders)} "
                f"{'holds' if len(holders) == 1 else 'hold'} it from the constructor and would use the real one. "
                f"Override it before the start (`with host.override(…): async with host: …`), "
                f"or inject it per call with @inject_service({name!r})."
            )

    def holders(self, name: str) -> list[str]:
        """Built singletons that hold a service from their constructor, directly or through a transient."""
        through = {name}
        found = []
        for node in self.graph.nodes.values():
            if not through.isdisjoint(node.uses):
                if node.descriptor.lifetime is Lifetime.TRANSIENT:
                    through.add(node.name)
                elif node.is_singleton and node.name in self.instances:
                    found.append(node.name)
        return found

    @contextmanager
    def _replace_here(self, replacements: Mapping[str, Any]) -> Iterator[None]:
        with self.lock:
            for name in replacements:
                self._overridden[name] = self._overridden.get(name, 0) + 1
            self.flush()
        mine = {(id(self), name): fake for name, fake in replacements.items()}
        token = _OVERRIDES.set({**(_OVERRIDES.get() or {}), **mine})
        try:
            yield
        finally:
            _OVERRIDES.reset(token)
            with self.lock:
                for name in replacements:
                    left = self._overridden.pop(name, 1) - 1
                    if left:
                        self._overridden[name] = left
                self.flush()


def _obtained(name: str) -> Answer:
    return lambda scope: scope.obtain(name)


def _obtained_now(name: str) -> Answer:
    return lambda scope: scope.obtain_now(name)


def names_in(found: Ref | Refs | None) -> tuple[str, ...]:
    """The services a resolved wish names; a lazy handle names none, it asks when it is called."""
    if isinstance(found, Refs):
        return found.names
    return () if found is None or found.lazy else (found.name,)


def _opens(node: Node) -> bool:
    return inspect.isgeneratorfunction(node.descriptor.factory)
