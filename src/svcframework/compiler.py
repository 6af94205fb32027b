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

from svcframework._callables import Kind
from svcframework._signatures import Lazy, signature_of
from svcframework._types import Lifetime
from svcframework.errors import ScopeError
from svcframework.registry import Make
from svcframework.scopes import AMBIENT, did_not_stop, unwind, unwind_now
from svcframework.wiring import Ref, Refs

if TYPE_CHECKING:
    from svcframework.scopes import Maker, Recipes, Scope
    from svcframework.wiring import Node


class Instances(Protocol):
    """What the compiler asks of the resolver."""

    generation: int
    """Grows with every change after which compiled code is no longer right."""

    def node(self, name: str) -> Node:
        """The wired service."""

    def recipes(self, level: str) -> Recipes:
        """What scopes of a level share."""

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
        """A local variable for what this scope keeps; a call for the rest."""
        name, descriptor = node.name, node.descriptor
        if name in self.local:
            return self.local[name]
        if descriptor.is_scope_value:
            return self.keep(name, f"scope.value({name!r}, {self.constant(descriptor.provides)})")
        if descriptor.lifetime is Lifetime.TRANSIENT:
            return self.opened(node) if _is_generator(node) else self.call(node)
        if node.is_async or descriptor.scope != self.level:
            maker = compile_maker(self.instances, name)
            if maker.is_async:
                self.is_async = True
                return self.keep(name, f"await scope.obtain({name!r})")
            return self.keep(name, f"scope[{name!r}]")
        variable = self.variable()
        self.lines.append(f"{variable} = values.get({name!r}, k_missing)")
        self.lines.append(f"if {variable} is k_missing:")
        before, self.lines = self.lines, []
        known = dict(self.local)
        made = self.opened(node) if _is_generator(node) else self.call(node)
        inner, self.lines = self.lines, before
        self.local = {**known, name: variable}
        self.lines += [f" {line}" for line in [*inner, f"{variable} = values[{name!r}] = {made}"]]
        return variable

    def body(self, node: Node) -> None:
        """The lines that make the node itself, which the scope does not have yet."""
        made = self.opened(node) if _is_generator(node) else self.call(node)
        if node.descriptor.lifetime is Lifetime.TRANSIENT:
            self.lines.append(f"return {made}")
        else:
            self.lines += [f"made = values[{node.name!r}] = {made}", "return made"]

    def opened(self, node: Node) -> str:
        """Open a generator, remember to close it, and give what it yields."""
        generator = self.variable()
        factory = node.descriptor.factory
        is_async = inspect.isasyncgenfunction(factory)
        self.lines.append(f"{generator} = {self.constant(factory)}({self.inside(node)})")
        if is_async:
            self.is_async = True
        first = f"await {generator}.__anext__()" if is_async else f"next({generator})"
        value = self.variable()
        self.lines += [f"{value} = {first}", f"scope.opened({generator}, is_async={is_async})"]
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
            self.lines.append(f"{generator} = {call}")
            self.lines.append(
                f"{variable} = " + (f"await {generator}.__anext__()" if is_async else f"next({generator})")
            )
            self.exits.append((generator, is_async))
        else:
            call = self.call(node)
            variable = f"v{len(self.local)}"
            self.lines.append(f"{variable} = {call}")
        key = name if node.descriptor.lifetime is Lifetime.SCOPED else f"{name} {len(self.local)}"
        self.local[key] = variable
        return variable

    def published(self) -> tuple[tuple[str, ...], str]:
        """The names and variables of the scope's services, which nested calls may ask for."""
        kept = {name: variable for name, variable in self.local.items() if " " not in name}
        return tuple(kept), ", ".join(["how", "None", *kept.values()])


class NeedsScope(Exception):  # noqa: N818 - a message between compiler and injection, never seen by a user
    """The function asks for something that only an open scope has."""


def compile_maker(instances: Instances, name: str) -> Maker:
    """The function that makes a scoped or transient service in a scope: `maker(scope)`."""
    node = instances.node(name)
    level = instances.level_of(name)
    if node.descriptor.is_scope_value:
        return _value_maker(name, node.descriptor.provides)
    code = MakerCode(instances, level)
    code.body(node)
    keyword = "async def" if code.is_async else "def"
    lines = [f"{keyword} maker(scope):", " values = scope.values", *(f" {line}" for line in code.lines)]
    maker = build(lines, "maker", {**code.constants, "k_missing": _MISSING}, label=f"maker of {name}")
    maker.is_async = code.is_async
    return cast("Maker", maker)


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
    lines = [f"{'async def' if kind in {'async', 'async generator'} else 'def'} plan({header}):"]
    if around is not None and code.local:
        lines += [" if AMBIENT.get() is not None:", *(f"  {line}" for line in _around_call(kind, header))]
    body = _in_scope(code, kind, call) if code.local else [*code.lines, *call]
    lines += [f" {line}" for line in body]
    names = {
        **code.constants, "function": function, "AMBIENT": AMBIENT, "enter": AMBIENT.set, "leave": AMBIENT.reset,
        "how": (instances.recipes(level), code.published()[0]), "unwind": unwind, "unwind_now": unwind_now,
        "did_not_stop": did_not_stop, "around": around,
    }  # fmt: skip
    return cast("Callable[..., Any]", build(lines, "plan", names, label=f"plan of {function.__qualname__}"))


_WORDS = re.compile(
    r"[kvg]\d+|AMBIENT|BaseException|around|closing|did_not_stop|enter|error|function|held|how|item|items|leave|outer|plan"
    r"|result|token|unwind|unwind_now|_"
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


def _in_scope(code: PlanCode, kind: str, call: list[str]) -> list[str]:
    """Open, build, publish for nested calls, call, close in reverse; errors are thrown into what is open."""
    is_async = kind in {"async", "async generator"}
    publish = kind in {"async", "sync"}  # a generator would leak its scope into the caller's context at each yield
    call = [call[0].replace("return ", "result = ", 1), *call[1:]]
    body = list(code.lines)
    if publish:
        body += [f"held = [{code.published()[1]}]", "token = enter(held)", *call, "leave(token)", "token = None"]
        body += [
            f"if held[1] is not None: {'await ' if is_async else ''}held[1].{'close' if is_async else 'close_now'}()"
        ]
    else:
        body += call
    for generator, generator_is_async in reversed(code.exits):
        body += [
            f"closing, {generator} = {generator}, None",
            "async for _ in closing:" if generator_is_async else "for _ in closing:",
            " await closing.aclose()" if generator_is_async else " closing.close()",
            " did_not_stop(closing)",
        ]
    if kind != "async generator":
        body.append("return result")
    exits = "".join(f"({generator}, {flag}), " for generator, flag in reversed(code.exits))
    also = "*(held[1].taken() if held and held[1] else ()), " if publish else ""
    close = f"await unwind(({also}{exits}), error)" if is_async else f"unwind_now(({also}{exits}), error)"
    lines = [" = ".join(generator for generator, _ in code.exits) + " = None"] if code.exits else []
    if publish:
        lines.append("token = held = None")
    lines += ["try:", *(f" {line}" for line in body), "except BaseException as error:"]
    if publish:
        lines.append(" if token is not None: leave(token)")
    lines.append(f" if not {close}: raise")
    return lines


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
_MISSING = object()


def _value_maker(name: str, wanted: type) -> Maker:
    def maker(scope: Scope) -> Any:
        return scope.value(name, wanted)

    maker.is_async = False  # type: ignore[attr-defined]  # what the Maker protocol asks for
    return cast("Maker", maker)


def _is_generator(node: Node) -> bool:
    factory = node.descriptor.factory
    return inspect.isgeneratorfunction(factory) or inspect.isasyncgenfunction(factory)
