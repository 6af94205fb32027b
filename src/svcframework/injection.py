"""inject_service and its kin: parameters that the caller leaves out are filled in.

Each function is compiled once into a plain `def` with its own signature. Three bodies are made for it, and the wrapper
switches between them by exchanging its code object (they share their closure, so the exchange is safe):

- `main` reads services from the one running host, through a cell that all wrappers share;
- `owner` reads them from the host of the service instance that the method belongs to;
- `plan` hands the call to a plan compiled per host, for functions that ask for scoped or transient services.

Explicit arguments win, because they are ordinary arguments. What is not simply there takes the slow path, which finds
out why, and either mends it or raises an error that names function, parameter, service and the nearest names.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import aclosing, nullcontext
from types import CellType, CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from svcframework._callables import Kind, forwarding, mark_coroutine
from svcframework._closing import unwind_now
from svcframework._signatures import EMPTY, Layout, Want, hints_of, want_of
from svcframework._types import Location
from svcframework.compiler import NeedsScope, build, compile_plan
from svcframework.errors import (
    HostNotRunningError,
    InjectionError,
    RegistrationError,
    ServiceFrameworkError,
    ServiceNotFoundError,
    nearest,
)
from svcframework.namespaces import Namespace, attribute_of
from svcframework.resolver import Resolver, names_in
from svcframework.routing import MAIN, current_resolver
from svcframework.scopes import Scope, ambient
from svcframework.wiring import Ref, Refs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

P = ParamSpec("P")
R = TypeVar("R")


class _Injected:
    """The type of `INJECTED`: a default that stands for a service."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "INJECTED"

    def __reduce__(self) -> str:
        return "INJECTED"


INJECTED: Any = _Injected()
"""The default of a parameter that is to be injected: `*, cache: CacheService = INJECTED`. User code never sees it."""


# --- the decorator --------------------------------------------------------------------------------------


@overload
def inject_service(*services: str, **renamed: Any) -> Callable[[Callable[P, R]], Callable[..., R]]: ...
@overload
def inject_service(  # type: ignore[overload-overlap]  # a class is callable as well: as a service it comes first
    service: type, /, *services: str | type, **renamed: Any
) -> Callable[[Callable[P, R]], Callable[..., R]]: ...
@overload
def inject_service(function: Callable[P, R], /) -> Callable[P, R]: ...
def inject_service(*services: Any, **renamed: Any) -> Any:
    """Fill in the parameters that the caller leaves out.

    `@inject_service("database_service")` fills the parameter of that name; `@inject_service(db="database_service")`
    another one; a type instead of a name asks by type. Bare, it fills every parameter whose default is `INJECTED`, by
    its annotation. Functions, methods, static and class methods, async functions and generators can be injected.

    Args:
        services: Names of services, which are names of parameters too; or types, for the parameter annotated so.
        renamed: Parameter name to service name or type.

    Raises:
        RegistrationError: The function has no such parameter.
    """
    if len(services) == 1 and not renamed and _is_target(services[0]):
        return _inject(services[0], (), {})

    def decorate(target: Any) -> Any:
        return _inject(target, services, renamed)

    return decorate


def _is_target(value: Any) -> bool:
    return isinstance(value, (FunctionType, staticmethod, classmethod, functools.partial)) or (
        not isinstance(value, (str, type)) and callable(value)
    )


def _inject(target: Any, services: tuple[Any, ...], renamed: Mapping[str, Any]) -> Any:
    if isinstance(target, (staticmethod, classmethod)):
        return type(target)(_inject(target.__func__, services, renamed))
    if not isinstance(target, FunctionType):
        return _inject_callable(target, services, renamed)
    known: Injection | None = getattr(target, "__injection__", None)
    if known is None or known.wrapper is not target:  # other decorators copy the attributes of what they wrap
        return Injection(target, _wants(target, services, renamed)).wrapper
    return Injection(known.function, {**_wants(known.function, services, renamed), **known.injections}).wrapper


def _inject_callable(target: Any, services: tuple[Any, ...], renamed: Mapping[str, Any]) -> Any:
    """A callable object is injected through a function that calls it."""
    call = target
    while isinstance(call, functools.partial):
        call = call.func
    if not isinstance(call, (FunctionType, MethodType)):
        call = type(call).__call__
    forward = forwarding(target, call)
    forward.__name__ = forward.__qualname__ = getattr(target, "__name__", type(target).__name__)
    forward.__signature__ = inspect.signature(target)
    forward.__annotations__ = hints_of(call)
    return _inject(forward, services, renamed)


def _wants(function: FunctionType, services: tuple[Any, ...], renamed: Mapping[str, Any]) -> dict[str, Want]:
    """Parameter to wish, checked against the function's signature."""
    parameters = inspect.signature(function).parameters
    hints = hints_of(function)
    wants: dict[str, Want] = {}
    for service in services:
        parameter = service if isinstance(service, str) else _parameter_of_type(function, service, hints)
        wants[parameter] = as_want(service)
    wants.update({parameter: as_want(service) for parameter, service in renamed.items()})
    if not wants:
        wants = _marked(function, parameters, hints)
    for parameter in wants:
        if parameter not in parameters:
            close = nearest(parameter, parameters)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(parameters) or 'none'}."
            raise RegistrationError(
                f"{function.__qualname__}() ({Location.of(function)}) has no parameter {parameter!r} to inject: {hint}"
            )
        if parameters[parameter].kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            raise RegistrationError(
                f"{function.__qualname__}() ({Location.of(function)}): *{parameter} can't be injected."
            )
    return wants


def as_want(service: Any) -> Want:
    """A name, a type or an annotation such as `list[Mailer]` as a wish.

    Raises:
        RegistrationError: It is none of these.
    """
    if isinstance(service, Want):
        return service
    found = Want(service) if isinstance(service, str) else want_of(service)
    if found is None:
        raise RegistrationError(f"{service!r} names no service: give a service's name or its type.")
    return found


def _parameter_of_type(function: FunctionType, wanted: Any, hints: Mapping[str, Any]) -> str:
    found = [name for name, hint in hints.items() if hint == wanted and name != "return"]
    if len(found) == 1:
        return found[0]
    count = f"{len(found)} parameters" if found else "no parameter"
    raise RegistrationError(
        f"{function.__qualname__}() ({Location.of(function)}) has {count} annotated with {wanted!r}: "
        "name it, as in @inject_service(parameter=Type)."
    )


def _marked(
    function: FunctionType, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
) -> dict[str, Want]:
    wants: dict[str, Want] = {}
    for name, parameter in parameters.items():
        if parameter.default is INJECTED:
            wants[name] = want_of(hints.get(name, EMPTY)) or Want(name)
    if not wants:
        raise RegistrationError(
            f"{function.__qualname__}() ({Location.of(function)}) marks no parameter: give one the default INJECTED, "
            'or name the services, as in @inject_service("database_service").'
        )
    return wants


# --- one injected function ------------------------------------------------------------------------------


class Injection:
    """The compiled wrapper of one function, and its slow path. Lives as long as the function.

    Args:
        function: The user's function.
        injections: Parameter to the service it asks for.
    """

    def __init__(self, function: FunctionType, injections: Mapping[str, Want]) -> None:
        self.function, self.injections = function, dict(injections)
        self.signature = inspect.signature(function)
        self.attributes = {name: attribute_of(want) for name, want in injections.items()}
        self.plan_attribute = f"_plan_{id(self):x}"
        self.layout = Layout(self.signature, self.injections, INJECTED)
        self.words = {word: _beside(word, self.layout.names) for word in ("MAIN", "call", "function", "slow", "whole")}
        self.is_owned = False
        self.codes: dict[str, CodeType] = {}
        self._sources: list[Any] = []  # tracebacks quote a body as long as the function it was made as exists
        self.wrapper = self._compile()

    def _compile(self) -> Any:
        words = self.words
        values = {"function": self.function, "slow": self.slow, "MAIN": None, "whole": self.whole}
        constants = {words[word]: value for word, value in values.items()}
        bodies = {"main": self._body(words["MAIN"]), "plan": self._plan_body(words["MAIN"])}
        bodies["whole"] = [f"def wrapper({self.layout.header}):", f" return {words['slow']}(({self.layout.values}))"]
        first = self.layout.first
        if first is not None:
            bodies["owner"] = self._body(f"{first}._host_space")
            bodies["owner_plan"] = self._plan_body(f"{first}._host_space")
        for kind, body in bodies.items():
            made = build(
                [*body, f" {', '.join(constants)}"],
                "wrapper",
                constants,
                label=f"injection of {self.function.__qualname__}",
            )
            self.codes[kind] = _with_marker(made.__code__)
            self._sources.append(made)
        return self._finish(constants)

    def _body(self, space: str) -> list[str]:
        function, slow = self.words["function"], self.words["slow"]
        fill = [f"  if {name} is ...: {name} = {space}.{self.attributes[name]}" for name in self.injections]
        return [
            f"def wrapper({self.layout.header}):",
            " try:",
            *fill,
            f" except AttributeError: return {slow}(({self.layout.values}))",
            f" return {function}({self.layout.passed})",
        ]

    def _plan_body(self, space: str) -> list[str]:
        """Ask the host for the plan. To see at once that nothing was passed beats looking at each parameter."""
        call, whole, bare = self.words["call"], self.words["whole"], self.layout.bare
        if bare is None:
            passed = " or ".join(f"{name} is not ..." for name in self.injections)
            header, otherwise = self.layout.header, f"{self.words['slow']}(({self.layout.values}))"
        else:
            passed = " or ".join(["named", "rest", *(f"{name} is ..." for name in bare)])
            header = ", ".join([*bare, "*rest", "**named"])
            otherwise = f"{whole}(({''.join(f'{name}, ' for name in bare)}), rest, named)"
        return [
            f"def wrapper({header}):",
            f" if {passed}: return {otherwise}",
            f" try: {call} = {space}.{self.plan_attribute}",
            f" except AttributeError: return {otherwise}",
            f" return {call}({self.layout.rest})",
        ]

    def _finish(self, constants: Mapping[str, Any]) -> Any:
        cells = {**{name: CellType(value) for name, value in constants.items()}, self.words["MAIN"]: MAIN}
        code = self.codes["main"]
        closure = tuple(cells[name] for name in code.co_freevars)
        whole = FunctionType(self.codes["whole"], {"__builtins__": __builtins__}, self.function.__name__, None, closure)
        whole.__qualname__ = self.function.__qualname__  # in the message when the arguments don't fit
        whole.__defaults__, whole.__kwdefaults__ = self.layout.defaults, self.layout.kwdefaults
        self._whole = whole
        function = self.function
        wrapper: Any = FunctionType(code, {"__builtins__": __builtins__}, function.__name__, None, closure)
        wrapper.__defaults__, wrapper.__kwdefaults__ = self.layout.defaults, self.layout.kwdefaults
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__", "__dict__", "__type_params__"):
            if hasattr(function, attribute):
                value = getattr(function, attribute)
                setattr(wrapper, attribute, dict(value) if attribute == "__dict__" else value)
        annotations = getattr(function, "__annotations__", {})
        wrapper.__annotations__ = {name: hint for name, hint in annotations.items() if name not in self.injections}
        wrapper.__wrapped__ = function
        wrapper.__injections__ = self.injections
        wrapper.__injection__ = self
        wrapper.__inject_from_instance__ = self.bind_to_instance
        own = [p for p in self.signature.parameters.values() if p.name not in self.injections]
        wrapper.__signature__ = self.signature.replace(parameters=own)
        return mark_coroutine(wrapper) if Kind.of(function) is Kind.ASYNC else wrapper

    @property
    def source(self) -> str:
        """The generated wrapper, for `svc explain`."""
        body = [line.replace(" is ...:", " is INJECTED:") for line in self._body(self.words["MAIN"])[1:]]
        return "\n".join([f"def {self.function.__name__}({self.layout.header}):", *body])

    def bind_to_instance(self) -> None:
        """Read services from the host of the instance that the method belongs to."""
        if "owner" in self.codes and not self.is_owned:
            self.is_owned = True
            self.wrapper.__code__ = self.codes["owner"]

    # --- the slow path --------------------------------------------------------------------------------

    def whole(self, own: tuple[Any, ...], rest: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Call through the whole header, which says what is wrong with arguments that don't fit.

        Args:
            own: The function's own parameters; one that was not passed is the marker.
            rest: What else was passed by position.
            named: What else was passed by keyword.
        """
        given = {name: value for name, value in zip(self.layout.bare or (), own, strict=True) if value is not INJECTED}
        if len(given) < len(own):
            return self._whole(*rest, **given, **named)
        return self._whole(*own, *rest, **named)

    def slow(self, values: tuple[Any, ...]) -> Any:
        """Call the function all the same: resolve what is missing, compile a plan, or say why it can't be done."""
        given = dict(zip(self.layout.names, values, strict=True))
        missing = [name for name in self.injections if given[name] is INJECTED]
        if not missing:
            return self._call(given)
        resolver = self._resolver(given, missing)
        try:
            found = {name: self._find(resolver, name) for name in missing}
            if all(self._is_shared(resolver, ref) for ref in found.values()):
                given.update({name: self._shared(resolver, name, ref) for name, ref in found.items()})
                return self._call(given)
            return self._planned(resolver, given, found)
        except NeedsScope as needed:
            return self._in_ambient(resolver, given, found, needed)

    def _resolver(self, given: Mapping[str, Any], missing: list[str]) -> Resolver:
        owner = given.get(self.layout.first or "") if self.is_owned else None
        space = getattr(owner, "_host_space", None)
        if isinstance(space, Namespace):
            return cast("Resolver", space.__dict__["_resolver"])
        resolver = current_resolver()
        if resolver is None:
            name = missing[0]
            what = f"{self.function.__qualname__}() needs {name!r} ({self.injections[name]})"
            raise HostNotRunningError(what, fix=f"enter `async with host:`, register the service, or pass {name}=…")
        return resolver

    def _find(self, resolver: Resolver, name: str) -> Ref | Refs | None:
        want = self.injections[name]
        found = resolver.graph.resolve(want, parameter=name)
        if found is None and want.how != "optional":
            default = self.signature.parameters[name].default
            if default not in {EMPTY, INJECTED}:
                return None
            candidates = resolver.graph.candidates(want.key)
            if candidates:
                reason = f"{len(candidates)} services fit: {', '.join(candidates)}. Name the one you mean."
                raise InjectionError(self.function.__qualname__, name, str(want), reason)
            raise ServiceNotFoundError(
                want.key,
                known=resolver.graph.nodes,
                needed_by=f"{name!r} of {self.function.__qualname__}()",
                at=Location.of(self.function),
            )
        return found

    def _is_shared(self, resolver: Resolver, found: Ref | Refs | None) -> bool:
        return all(resolver.node(name).is_singleton for name in names_in(found))

    def _shared(self, resolver: Resolver, name: str, found: Ref | Refs | None) -> Any:
        if found is None and self.injections[name].how != "optional":
            return self.signature.parameters[name].default
        resolver.bind(self.attributes[name], self.injections[name], name)
        return resolver.value(found)

    def _planned(self, resolver: Resolver, given: dict[str, Any], found: Mapping[str, Ref | Refs | None]) -> Any:
        """Scoped or transient services: from the open scope, else by a compiled plan."""
        level = self._level(resolver, found)
        scope = _ambient(resolver, level)
        if scope is not None:
            return self._from_scope(resolver, scope, given, found)
        if len(found) < len(self.injections):
            return self._plan(resolver, found)(*self._rest(given, found))
        resolver.bind_plan(self.plan_attribute, lambda: self._plan(resolver, found))
        self.wrapper.__code__ = self.codes["owner_plan" if self.is_owned else "plan"]
        return getattr(resolver.space, self.plan_attribute)(*self._rest(given, found))

    def _level(self, resolver: Resolver, found: Mapping[str, Ref | Refs | None]) -> str:
        """The innermost scope level that the function needs."""
        return resolver.innermost(name for ref in found.values() for name in names_in(ref))

    def _plan(self, resolver: Resolver, found: Mapping[str, Ref | Refs | None]) -> Callable[..., Any]:
        level = self._level(resolver, found)  # each time: an override may be about, and what is overridden needs none
        names = [name for name in self.layout.names if name not in found]

        def around(values: tuple[Any, ...]) -> Any:
            given = {**dict(zip(names, values, strict=True)), **dict.fromkeys(found, INJECTED)}
            scope = _ambient(resolver, level) or Scope(resolver.level(level), None, ambient())
            return self._from_scope(resolver, scope, given, found)

        return compile_plan(
            resolver,
            self.function,
            found,
            parameters=names,
            passed=self.layout.passed_with,
            level=level or "call",
            around=around if level else None,
        )

    def _in_ambient(
        self, resolver: Resolver, given: dict[str, Any], found: Mapping[str, Ref | Refs | None], needed: NeedsScope
    ) -> Any:
        scope = ambient()
        if scope is None or not scope.belongs_to(resolver):
            name, parameter = str(needed), next(iter(found))
            level = resolver.level_of(name)
            raise InjectionError(
                self.function.__qualname__,
                parameter,
                str(self.injections[parameter]),
                f"{name!r} is passed in when a {level!r} scope is opened, and none is open: "
                f"call it inside `async with host.scope({level!r}, {name}=…):`.",
            ) from None
        return self._from_scope(resolver, scope, given, found)

    def _from_scope(
        self, resolver: Resolver, scope: Scope, given: dict[str, Any], found: Mapping[str, Ref | Refs | None]
    ) -> Any:
        """Take the services from an open scope."""
        is_own, kind = not scope.is_entered, Kind.of(self.function)
        if kind is Kind.ASYNC:

            async def call() -> Any:
                async with scope if is_own else nullcontext():
                    for name, ref in found.items():
                        given[name] = await resolver.value_in(scope, ref)
                    return await self._call(given)

            return call()
        if kind is Kind.ASYNC_GENERATOR:
            return self._iterate(resolver, scope, given, found)
        if kind is Kind.GENERATOR:
            return self._produce(resolver, scope, given, found)
        with scope if is_own else nullcontext():
            given.update({name: _value_now(resolver, scope, ref) for name, ref in found.items()})
            return self._call(given)

    async def _iterate(
        self, resolver: Resolver, scope: Scope, given: dict[str, Any], found: Mapping[str, Ref | Refs | None]
    ) -> Any:
        """An own scope is closed but never entered: at each yield it would leak into whoever iterates."""
        is_own = not scope.is_entered
        try:
            for name, ref in found.items():
                given[name] = await resolver.value_in(scope, ref)
            async with aclosing(self._call(given)) as items:
                async for item in items:
                    yield item
        except BaseException as error:
            if not (is_own and await scope.close(error)):
                raise
        else:
            if is_own:
                await scope.close()

    def _produce(
        self, resolver: Resolver, scope: Scope, given: dict[str, Any], found: Mapping[str, Ref | Refs | None]
    ) -> Any:
        is_own = not scope.is_entered
        result = None
        try:
            given.update({name: _value_now(resolver, scope, ref) for name, ref in found.items()})
            result = yield from self._call(given)
        except BaseException as error:
            if not (is_own and unwind_now(scope.taken(), error)):
                raise
        else:
            if is_own:
                scope.close_now()
        return result

    def _rest(self, given: Mapping[str, Any], found: Mapping[str, Any]) -> list[Any]:
        return [given[name] for name in self.layout.names if name not in found]

    def _call(self, given: Mapping[str, Any]) -> Any:
        args, kwargs = [], {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args.extend(given[name])
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs.update(given[name])
            elif parameter.kind is parameter.KEYWORD_ONLY:
                kwargs[name] = given[name]
            else:
                args.append(given[name])
        return self.function(*args, **kwargs)


def _beside(word: str, names: Sequence[str]) -> str:
    """The word, or one like it, that no parameter has."""
    while word in names:
        word = f"{word}_"
    return word


def _value_now(resolver: Resolver, scope: Scope, found: Ref | Refs | None) -> Any:
    """What a resolved wish stands for in an open scope, where nothing has to be awaited."""
    if isinstance(found, Refs):
        values = [scope[name] for name in found.names]
        return dict(zip(found.names, values, strict=True)) if found.by_name else values
    return resolver.value(found) if found is None or found.lazy else scope[found.name]


def _with_marker(code: CodeType) -> CodeType:
    """The code with its `...` turned into `INJECTED`: CPython compares with a constant faster than with a variable."""
    return code.replace(co_consts=tuple(INJECTED if each is ... else each for each in code.co_consts))


def _ambient(resolver: Resolver, level: str) -> Scope | None:
    """The innermost open scope of that host from which a level can be reached; any scope will do for none."""
    scope = ambient()
    while scope is not None and not scope.belongs_to(resolver):
        scope = scope.parent
    around = scope
    while around is not None and level and around.level != level:
        around = around.parent
    return scope if around is not None and level else None


def explain(function: Callable[..., Any]) -> str:
    """The code that was generated for an injected function.

    Raises:
        ServiceFrameworkError: The function is not injected.
    """
    member: Any = function
    while member is not None and not hasattr(member, "__injection__"):
        member = getattr(member, "__wrapped__", None) or getattr(member, "__func__", None)
    if member is None:
        raise ServiceFrameworkError(f"{getattr(function, '__qualname__', function)!r} is not injected.")
    injection: Injection = member.__injection__
    resolver = current_resolver()
    text = [injection.source]
    if resolver is not None:
        plan = resolver.space.__dict__.get(injection.plan_attribute)
        if plan is not None:
            closure = inspect.getclosurevars(plan).nonlocals
            text.append(getattr(closure.get("plan", plan), "__source__", ""))
    return "\n\n".join(text)
