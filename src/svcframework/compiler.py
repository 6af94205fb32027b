"""The compiler: from the wired graph to straight-line Python.

Three shapes are generated. A *maker* builds one scoped or transient service in an open scope. A *plan* is the body
of one injected function that asks for such services: it opens a scope of its own, builds just what the function
needs, calls it, and closes in reverse. A *factory* builds a transient without a scope. Names become closure variables
(faster than globals), and the source is kept: `svc explain` shows it and tracebacks quote it.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from svcframework import _closing, scopes
from svcframework._callables import Kind
from svcframework._signatures import Lazy, signature_of
from svcframework._types import Lifetime
from svcframework.errors import ScopeError
from svcframework.registry import Make
from svcframework.scopes import AMBIENT, How
from svcframework.wiring import Ref, Refs

if TYPE_CHECKING:
    from svcframework.scopes import Level, Maker, Scope
    from svcframework.wiring import Node


class Instances(Protocol):
    """What the compiler asks of the resolver."""

    generation: int
    """Grows with every change after which compiled code is no longer right."""

    def node(self, name: str) -> Node:
        """The wired service."""

    def level(self, name: str) -> Level:
        """What scopes of a level share."""

    def maker(self, name: str) -> Maker | None:
        """How a scoped or transient service is made in a scope; None for a singleton."""

    def get(self, wanted: str | type) -> Any:
        """A singleton, built if need be."""

    def override_of(self, name: str) -> tuple[Any] | None:
        """The replacement that holds in this context, in a tuple; None where there is none."""

    def handle(self, name: str) -> Lazy[Any]:
        """A lazy handle."""

    def level_of(self, name: str) -> str:
        """The scope level a service lives in."""

    def callee(self, node: Node) -> Callable[..., Any]:
        """What is called to make one."""


class Code:
    """Lines of a function to be, and the constants they name."""

    def __init__(self, instances: Instances) -> None:
        self.instances = instances
        self.constants: dict[str, Any] = {}
        self.lines: list[str] = []
        self.is_async = False
        self._by_id: dict[int, str] = {}

    def constant(self, value: Any) -> str:
        """The name under which the code reads a value."""
        known = self._by_id.get(id(value))
        if known is None:
            known = self._by_id[id(value)] = f"k{len(self.constants)}"
            self.constants[known] = value
        return known

    def argument(self, value: Any) -> str:
        """An expression for an argument."""
        if isinstance(value, Ref):
            return self.constant(self.instances.handle(value.name)) if value.lazy else self.service(value.name)
        if isinstance(value, Refs):
            parts = [self.service(name) for name in value.names]
            if value.by_name:
                return "{" + ", ".join(f"{n!r}: {p}" for n, p in zip(value.names, parts, strict=True)) + "}"
            return f"[{', '.join(parts)}]"
        if isinstance(value, Make):
            return f"{self.constant(value.factory)}({self.arguments(value.args, value.kwargs)})"
        return self.constant(value)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The inside of a call's parentheses."""
        parts = [self.argument(value) for value in args]
        parts += [f"{key}={self.argument(value)}" for key, value in kwargs.items()]
        return ", ".join(parts)

    def inside(self, node: Node) -> str:
        """The arguments of a node's factory, by position as far as they go: CPython calls that twice as fast."""
        args, kwargs = list(node.args), dict(node.kwargs)
        for parameter in signature_of(cast("Callable[..., Any]", node.descriptor.factory)).parameters[len(args) :]:
            if parameter.keyword_only or parameter.name not in kwargs:
                break
            args.append(kwargs.pop(parameter.name))
        return self.arguments(args, kwargs)

    def service(self, name: str) -> str:
        """An expression for a service, after the lines that build it."""
        replaced = self.instances.override_of(name)
        if replaced is not None:
            return self.constant(replaced[0])
        node = self.instances.node(name)
        if node.is_singleton:
            return self.constant(self.instances.get(name))
        return self.made(node)

    def made(self, node: Node) -> str:
        """An expression for a service that is made anew; each shape of code has its own way."""
        raise ScopeError(f"{node.name!r} needs a scope")

    def call(self, node: Node) -> str:
        """The call of a node's factory, awaited where need be."""
        factory = node.descriptor.factory
        made = f"{self.constant(self.instances.callee(node))}({self.inside(node)})"
        if inspect.iscoroutinefunction(factory):
            self.is_async = True
            return f"await {made}"
        return made


class FactoryCode(Code):
    """A transient that is made outside of any scope; its own transients are made with it."""

    def made(self, node: Node) -> str:
        """Inline; what has to be closed or awaited needs a scope."""
        if node.descriptor.lifetime is Lifetime.SCOPED or _is_generator(node) or node.is_async:
            raise ScopeError(
                f"{node.name!r} lives in a scope: enter `async with host.scope():`, or inject it into a function."
            )
        return self.call(node)


class MakerCode(Code):
    """One service of an open scope. What has to be awaited is asked of the scope, which makes it only once."""

    def __init__(self, instances: Instances, level: str) -> None:
        super().__init__(instances)
        self.level = level
        self.local: dict[str, str] = {}
        self._variables = itertools.count()

    def made(self, node: Node) -> str:
        """A local variable for what the scope keeps; a call for the rest."""
        name, descriptor = node.name, node.descriptor
        if name in self.local:
            return self.local[name]
        if descriptor.is_scope_value:
            return self.keep(name, f"scope.value({name!r}, {self.constant(descriptor.provides)})")
        if descriptor.lifetime is Lifetime.TRANSIENT:
            return self.opened(node) if _is_generator(node) else self.call(node)
        maker = cast("Maker", self.instances.maker(name))
        self.is_async = self.is_async or maker.is_async
        wait = "await " if maker.is_async else ""
        if descriptor.scope != self.level:
            return self.keep(name, f"{wait}scope.{'obtain' if maker.is_async else 'obtain_now'}({name!r})")
        return self.keep(name, f"values[{name!r}] if {name!r} in values else {wait}{self.constant(maker)}(scope)")

    def body(self, node: Node) -> list[str]:
        """The lines that give the node itself."""
        made = self.opened(node) if _is_generator(node) else self.call(node)
        if node.descriptor.lifetime is Lifetime.TRANSIENT:
            return ["values = scope.values", *self.lines, f"return {made}"]
        name = repr(node.name)
        known = ["values = scope.values", f"if {name} in values: return values[{name}]"]
        make = [*self.lines, f"made = values[{name}] = {made}", "return made"]
        if not self.is_async:
            return [*known, *make]
        return [*known, *_made_once(name, make, f"return await scope.made_by_another({name})")]

    def opened(self, node: Node) -> str:
        """Open a generator, remember to close it, and give what it yields."""
        generator, value = self.variable(), self.variable()
        factory = node.descriptor.factory
        is_async = inspect.isasyncgenfunction(factory)
        self.is_async = self.is_async or is_async
        self.lines += [
            f"{generator} = {self.constant(factory)}({self.inside(node)})",
            *_started(generator, value, is_async=is_async),
            f"scope.exits = ({generator}, {is_async}, scope.exits)",
        ]
        return value

    def keep(self, name: str, expression: str) -> str:
        """Put an expression's value into a local variable."""
        variable = self.variable()
        self.lines.append(f"{variable} = {expression}")
        self.local[name] = variable
        return variable

    def variable(self) -> str:
        """A name that no other line uses."""
        return f"v{next(self._variables)}"


class BundleCode(MakerCode):
    """Several services of an open scope at once: what takes no waiting is made in line."""

    def made(self, node: Node) -> str:
        """A local variable, filled from the scope or made here."""
        name, descriptor = node.name, node.descriptor
        is_plain = descriptor.lifetime is Lifetime.SCOPED and not descriptor.is_scope_value
        if name in self.local or not is_plain or descriptor.scope != self.level:
            return super().made(node)
        before, self.lines, known = self.lines, [], dict(self.local)
        made = self.opened(node) if _is_generator(node) else self.call(node)
        variable, word = self.variable(), repr(name)
        make, self.lines = [*self.lines, f"{variable} = values[{word}] = {made}"], before
        self.local = {**known, name: variable}
        if cast("Maker", self.instances.maker(name)).is_async:
            make = _made_once(word, make, f"{variable} = await scope.made_by_another({word})")
        self.lines += [f"if {word} in values: {variable} = values[{word}]", "else:", *(f" {line}" for line in make)]
        return variable


class PlanCode(Code):
    """All that one call of an injected function needs, in a scope of the call's own."""

    def __init__(self, instances: Instances) -> None:
        super().__init__(instances)
        self.local: dict[str, str] = {}
        self.exits: list[tuple[str, bool]] = []

    def made(self, node: Node) -> str:
        """One local variable per scoped service, in dependency order."""
        name = node.name
        if name in self.local:
            return self.local[name]
        if node.descriptor.is_scope_value:
            raise NeedsScope(name)
        if node.descriptor.lifetime is Lifetime.TRANSIENT and not _is_generator(node):
            return self.call(node)
        variable = f"v{len(self.local)}"
        if _is_generator(node):
            is_async = inspect.isasyncgenfunction(node.descriptor.factory)
            self.is_async = self.is_async or is_async
            call = self.call(node)
            variable = f"v{len(self.local)}"
            generator = f"g{len(self.exits)}"
            self.lines += [f"{generator} = {call}", *_started(generator, variable, is_async=is_async)]
            self.exits.append((generator, is_async))
        else:
            call = self.call(node)
            variable = f"v{len(self.local)}"
            self.lines.append(f"{variable} = {call}")
        key = name if node.descriptor.lifetime is Lifetime.SCOPED else f"{name} {len(self.local)}"
        self.local[key] = variable
        return variable

    def how(self, level: str) -> How:
        """Where nested calls find the services of this one's scope."""
        kept = {name: variable for name, variable in self.local.items() if " " not in name}
        return How(self.instances.level(level), kept)


class NeedsScope(Exception):  # noqa: N818 - a message between compiler and injection, never seen by a user
    """The function asks for something that only an open scope has."""


def compile_maker(instances: Instances, name: str) -> Maker:
    """The function that makes a scoped or transient service in a scope: `maker(scope)`."""
    node = instances.node(name)
    level = instances.level_of(name)
    if node.descriptor.is_scope_value:
        return _value_maker(name, node.descriptor.provides)
    code = MakerCode(instances, level)
    body = code.body(node)
    lines = [f"{'async def' if code.is_async else 'def'} maker(scope):", *(f" {line}" for line in body)]
    maker = build(lines, "maker", {**code.constants, "ends": _closing}, label=f"maker of {name}")
    maker.is_async = code.is_async
    return cast("Maker", maker)


def compile_bundle(
    instances: Instances, names: Sequence[str], level: str, *, is_awaited: bool
) -> Callable[[Scope], Any]:
    """The function that gives several services of a scope: `bundle(scope)`, a coroutine function if it is awaited.

    Raises:
        ScopeError: Something has to be awaited, and is not.
    """
    code = BundleCode(instances, level)
    values = "".join(f"{code.service(name)}, " for name in names)
    if code.is_async and not is_awaited:
        raise ScopeError(f"{', '.join(names)} can't all be made without waiting: use `await scope.get(…)`.")
    keyword = "async def" if is_awaited else "def"
    lines = [f"{keyword} bundle(scope):", " values = scope.values", *(f" {line}" for line in code.lines)]
    lines.append(f" return ({values})")
    label = f"bundle of {', '.join(names)}"
    return cast("Callable[[Scope], Any]", build(lines, "bundle", {**code.constants, "ends": _closing}, label=label))


def compile_factory(instances: Instances, name: str) -> Callable[[], Any]:
    """The function that makes a transient outside of any scope.

    Raises:
        ScopeError: It can only be made in a scope.
    """
    node = instances.node(name)
    code = FactoryCode(instances)
    made = code.made(node)
    lines = [
        "def factory():",
        " if source.generation != generation: return source.any_of(name)",
        *(f" {line}" for line in code.lines),
        f" return {made}",
    ]
    names = {**code.constants, "source": instances, "generation": instances.generation, "name": name}
    return cast("Callable[[], Any]", build(lines, "factory", names, label=f"factory of {name}"))


def compile_plan(
    instances: Instances,
    function: Callable[..., Any],
    injected: Mapping[str, Any],
    *,
    parameters: Sequence[str],
    passed: Callable[[Mapping[str, str]], str],
    level: str,
    around: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The body of an injected function that opens a scope of its own for each call.

    Args:
        instances: Where services come from.
        function: The user's function.
        injected: Parameter to resolved argument (`Ref`, `Refs` or a value).
        parameters: The user's function's own parameters, which the plan takes by position.
        passed: The arguments of the user's function as source, given the expressions of the injected ones.
        level: The scope level to open.
        around: Takes the call, with the plan's arguments in a tuple, when a scope is open already.

    Raises:
        NeedsScope: Only a scope that the caller opened can serve this function.
    """
    code = PlanCode(instances)
    own = {name: _free(name, parameters) for name in parameters}
    header = ", ".join(own.values())
    values = {**own, **{parameter: code.argument(argument) for parameter, argument in injected.items()}}
    kind = Kind.of(function).value
    if code.is_async and kind in {"sync", "generator"}:
        raise ScopeError(
            f"{function.__qualname__}() is not async, but it asks for services that have to be awaited: "
            "make it `async def`."
        )
    call = _handler_call(kind, passed(values))
    shares = bool(around is not None and code.local)
    body = _in_scope(code, kind, call, shares=shares) if code.local else [*code.lines, *call]
    if shares:
        body = [*_seated(_around_call(kind, header)), *body]
    keyword = "async def" if kind in {"async", "async generator"} else "def"
    how = code.how(level)
    names = {
        **code.constants,
        "function": function,
        "look": AMBIENT.get,
        "how": how,
        "scopes": scopes,
        "ends": _closing,
        "around": around,
    }
    lines = [f"{keyword} plan({header}):", *(f" {line}" for line in body)]
    plan = build(lines, "plan", names, label=f"plan of {function.__qualname__}")
    how.code = plan.__code__
    return cast("Callable[..., Any]", plan)


_WORDS = re.compile(
    r"[kvg]\d+|BaseException|_|around|closing|ends|error|function|held|how|item|items|look|outer|plan|result|scopes|seat"
)
"""The names that a plan has for itself."""


def _free(name: str, taken: Sequence[str]) -> str:
    """The name, or one beside it, so that no parameter hides a word of the plan's."""
    while _WORDS.fullmatch(name):
        name = f"{name}_"
        while name in taken:
            name = f"{name}_"
    return name


def _around_call(kind: str, header: str) -> list[str]:
    call = f"around(({header}{',' if header else ''}))"
    if kind == "async":
        return [f"return await {call}"]
    if kind == "async generator":
        return [*_iterated(call), "return"]
    return [f"return (yield from {call})"] if kind == "generator" else [f"return {call}"]


def _handler_call(kind: str, passed: str) -> list[str]:
    if kind == "async":
        return [f"return await function({passed})"]
    if kind == "async generator":
        return _iterated(f"function({passed})")
    if kind == "generator":
        return [f"return (yield from function({passed}))"]
    return [f"return function({passed})"]


def _iterated(call: str) -> list[str]:
    """Hand on the items of an async generator; it ends before what it was given does, also when it is left early."""
    return [f"items = {call}", "try:", " async for item in items: yield item", "finally: await items.aclose()"]


def _seated(around: list[str]) -> list[str]:
    """Find a free seat, or share the scope that is open."""
    return [
        "seat = look()",
        "if seat.how is not None:",
        " seat = scopes.vacant(seat)",
        " if seat is None:",
        *(f"  {line}" for line in around),
    ]


def _in_scope(code: PlanCode, kind: str, call: list[str], *, shares: bool) -> list[str]:
    """Open, build, publish for nested calls, call, close in reverse; errors are thrown into what is open."""
    is_async = kind in {"async", "async generator"}
    wait = "await " if is_async else ""
    publish = shares and kind in {"async", "sync"}  # a generator would leak its scope into its caller at each yield
    body = list(code.lines)
    call = [call[0].replace("return ", "result = ", 1), *call[1:]]
    if publish:
        body += [
            "if seat.how is not None: seat = scopes.take_seat()",  # by a task that has inherited it
            "seat.how = how",
            "try:",
            *(f" {line}" for line in call),
            "except BaseException:",
            " held = scopes.leave_seat(seat)",
            " raise",
            "seat.how = None",
            "if seat.scope is not None:",
            " held = scopes.leave_seat(seat)",
            f" {wait}held.{'close' if is_async else 'close_now'}()",
        ]
    else:
        body += call
    for generator, generator_is_async in reversed(code.exits):
        body += [
            f"closing, {generator} = {generator}, None",
            "async for _ in closing:" if generator_is_async else "for _ in closing:",
            " await closing.aclose()" if generator_is_async else " closing.close()",
            " ends.did_not_stop(closing)",
        ]
    if kind != "async generator":
        body.append("return result")
    exits = "".join(f"({generator}, {flag}), " for generator, flag in reversed(code.exits))
    if publish:
        exits = f"*(held.taken() if held is not None else ()), {exits}"
    opened = [*(["held"] if publish else []), *(generator for generator, _ in code.exits)]
    return [
        *([" = ".join([*opened, "None"])] if opened else []),
        "try:",
        *(f" {line}" for line in body),
        "except BaseException as error:",
        f" if not {wait}scopes.{'unwind' if is_async else 'unwind_now'}(({exits}), error): raise",
    ]


def build(lines: list[str], name: str, constants: Mapping[str, Any], *, label: str) -> Any:
    """Compile one function; constants become its closure. The source is kept as `__source__`."""
    source = "\n".join([f"def outer({', '.join(constants)}):", *(f" {line}" for line in lines), f" return {name}", ""])
    filename = f"<svcframework {label} #{next(_NUMBERS)}>"
    space: dict[str, Any] = {}
    exec(compile(source, filename, "exec"), space)  # noqa: S102 - the source is ours; values are never part of it
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    function = space["outer"](**constants)
    function.__source__ = "\n".join(lines)
    weakref.finalize(function, linecache.cache.pop, filename, None).atexit = False
    return function


_NUMBERS = itertools.count(1)


def _value_maker(name: str, wanted: type) -> Maker:
    def maker(scope: Scope) -> Any:
        return scope.value(name, wanted)

    maker.is_async = False  # type: ignore[attr-defined]  # what the Maker protocol asks for
    return cast("Maker", maker)


def _made_once(name: str, make: list[str], otherwise: str) -> list[str]:
    """Lines that make what has to be awaited, unless another task is at it."""
    return [
        f"if scope.making is not None and not scope._may_make({name}): {otherwise}",
        "else:",
        f" if scope.making is None: scope.making = {name}",
        " try:",
        *(f"  {line}" for line in make),
        " finally:",
        f"  if scope.making == {name}: scope.making = None",
        f"  else: scope._has_made({name})",
    ]


def _started(generator: str, variable: str, *, is_async: bool) -> list[str]:
    """Faster than next() and anext(): CPython goes on inside the generator without a call."""
    return [
        f"{'async for' if is_async else 'for'} {variable} in {generator}: break",
        f"else: ends.did_not_start({generator})",
    ]


def _is_generator(node: Node) -> bool:
    factory = node.descriptor.factory
    return inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory)
