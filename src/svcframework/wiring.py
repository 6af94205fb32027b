"""Wiring: the declared services become one validated graph, or one report of all that is wrong with it.

Nothing is built here. Every argument is resolved to the names of the services it needs; what can't be is a
`Problem`. Types are matched through an index, and every walk visits a service once: the work grows linearly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import FunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

from svcframework import diagnosis, validation
from svcframework._graph import closure, components, inverse
from svcframework._signatures import EMPTY, Parameter, Want, fits, is_generator, signature_of
from svcframework._types import Lifetime
from svcframework.config import ConfigManager, ServiceConfig, load_config
from svcframework.errors import ConfigurationError
from svcframework.matching import UNKNOWN, Index, Ref, Refs
from svcframework.problems import Problem, WiringError
from svcframework.registry import NOTHING, Make, ServiceDescriptor, ServiceRegistry
from svcframework.service import BaseService

if TYPE_CHECKING:
    from svcframework._signatures import Signature

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})  # shared by all nodes that have nothing to say
_PASSIVE_NEW: Final = vars(BaseService)["__new__"].__func__  # leaves the parameters to __init__


class Node:
    """One service with its arguments resolved.

    Attributes:
        descriptor: How it was declared.
        name: Its name.
        args: Positional arguments: values, `Ref`, `Refs`, or `Make` of such.
        kwargs: Keyword arguments, likewise.
        config: Its settings, where the constructor does not take them.
        uses: Names that must be built before it can be.
        requires: Names that must run before it starts.
        wants: Names that start before it if they start at all.
        late: Names its methods ask for when they are called.
    """

    __slots__ = ("args", "config", "descriptor", "kwargs", "late", "name", "requires", "uses", "wants")

    def __init__(self, descriptor: ServiceDescriptor) -> None:
        self.descriptor, self.name = descriptor, descriptor.name
        self.config: Any = None
        self.args: tuple[Any, ...] = ()
        self.kwargs: Mapping[str, Any] = _NONE
        self.uses: Mapping[str, None] = _NONE
        self.requires: Mapping[str, None] = _NONE
        self.wants: Mapping[str, None] = _NONE
        self.late: Mapping[str, None] = _NONE

    @property
    def is_singleton(self) -> bool:
        """It lives as long as the host."""
        return self.descriptor.lifetime is Lifetime.SINGLETON

    @property
    def is_async(self) -> bool:
        """Making one has to be awaited."""
        factory = self.descriptor.factory
        return inspect.isasyncgenfunction(factory) or inspect.iscoroutinefunction(factory)

    @property
    def is_opened(self) -> bool:
        """What makes one is a generator function, sync or async: it has to be closed."""
        factory = self.descriptor.factory
        return factory is not None and is_generator(factory)


class Graph:
    """The wired services, dependencies first, and what is wrong with them."""

    def __init__(self, wiring: _Wiring) -> None:
        self.nodes = wiring.nodes
        self.problems = tuple(wiring.problems)
        self.subject = wiring.subject
        self._wiring = wiring

    def check(self, names: Iterable[str] | None = None, *, without: Collection[str] = ()) -> None:
        """Raise if anything is wrong with these services and what they need; with all, without names.

        Args:
            names: Which services; None for all.
            without: Services that are replaced by others: what is wrong with them alone does not matter.

        Raises:
            WiringError: Holds every problem that concerns them.
        """
        problems = self.problems
        if problems and names is not None:
            edges = {name: [*node.uses, *node.requires] for name, node in self.nodes.items()}
            concerned = closure(names, edges)
            problems = tuple(p for p in problems if concerned.intersection(p.services))
        if problems and without:
            problems = tuple(p for p in problems if not p.services or not set(p.services).issubset(without))
        if problems:
            raise WiringError(problems, subject=self.subject)

    def resolve(self, want: Want, *, parameter: str = "") -> Ref | Refs | None:
        """What answers a wish from outside the graph, say of an injected function.

        Returns:
            None where nothing does, or where several would and nothing says which: see `candidates`.
        """
        return self._wiring.index.resolve(want, parameter)

    def wire_one(self, descriptor: ServiceDescriptor) -> tuple[Node, list[Problem]]:
        """Wire something that is not registered; its problems are its own."""
        return self._wiring.one(descriptor)

    def depth(self, level: str) -> int:
        """How deep a scope level lies: 1 is the longest-lived."""
        return self._wiring.scopes[level]

    def candidates(self, wanted: str | type) -> list[str]:
        """The names of all services that answer to a name or type."""
        return self._wiring.index.candidates(wanted)

    def edges(self) -> dict[str, list[str]]:
        """Each service with all that it needs, in any way: what a drawing shows."""
        return {
            name: list({**node.uses, **node.requires, **node.wants, **node.late}) for name, node in self.nodes.items()
        }


def wire(
    registry: ServiceRegistry,
    *,
    scopes: Sequence[str] = ("request",),
    manager: ConfigManager | None = None,
    hint: Callable[[str | type], str | None] = lambda _: None,
    subject: str = "the host",
) -> Graph:
    """Wire the services of a registry. Problems are collected in the graph and not raised.

    Args:
        registry: The declared services.
        scopes: Scope levels, the longest-lived first.
        manager: Where settings come from.
        hint: What else could provide a missing name or type: a sentence, or None.
        subject: What the report calls the whole.
    """
    wiring = _Wiring(registry, scopes=scopes, manager=manager, hint=hint, subject=subject)
    wiring.run()
    return Graph(wiring)


class _Wiring:
    """One run over all descriptors."""

    def __init__(
        self,
        registry: ServiceRegistry,
        *,
        scopes: Sequence[str],
        manager: ConfigManager | None,
        hint: Callable[[str | type], str | None],
        subject: str,
    ) -> None:
        self.registry, self.manager, self.hint, self.subject = registry, manager, hint, subject
        self.scopes = {name: depth for depth, name in enumerate(scopes, 1)}
        self.index = Index(registry)
        self.descriptors = self.index.descriptors
        self.late_wants: dict[type, Sequence[validation.LateWant]] = {}
        self.late_by_base: dict[type, Mapping[str, Sequence[validation.LateWant]]] = {}
        self.signatures: dict[FunctionType, Signature] = {}
        self.nodes: dict[str, Node] = {}
        self.problems: list[Problem] = []
        self.open: dict[str, Problem] = {}  # by name: what callers of a factory have to give

    def run(self) -> None:
        """Fill `nodes` (in start order) and `problems`."""
        for descriptor in self.descriptors.values():
            self.nodes[descriptor.name] = self.node(descriptor)
        self.problems += validation.check_names(self.registry)
        self.problems += validation.check_open(self.nodes, self.open)
        self.order()
        self.problems += validation.check_lifetimes(self.nodes, self.scopes)
        self.problems += validation.check_methods(self.nodes, self.index.resolve, self.late)

    def one(self, descriptor: ServiceDescriptor) -> tuple[Node, list[Problem]]:
        """A node beside the graph."""
        before, self.problems = self.problems, []
        try:
            return self.node(descriptor), self.problems
        finally:
            self.problems = before

    def node(self, descriptor: ServiceDescriptor) -> Node:
        """Resolve one service; what can't be resolved is noted as a problem."""
        node = Node(descriptor)
        if descriptor.instance is not NOTHING or descriptor.is_scope_value:
            return node
        self.problems += validation.check_declaration(descriptor, self.scopes)
        draft = _Draft(self, node)
        draft.configure()
        draft.arguments()
        draft.order_only()
        for name, parameter, want, function in self.late(descriptor.provides):
            draft.method(name, parameter, want, function)
        draft.finish()
        return node

    def late(self, cls: type) -> Sequence[validation.LateWant]:
        """What the injected methods of a class ask for."""
        known = self.late_wants.get(cls)
        if known is None:
            known = self.late_wants[cls] = validation.late_wants(cls, self.late_by_base)
        return known

    def signature(self, factory: Callable[..., Any]) -> Signature:
        """What a factory takes; services that inherit their constructor share one signature, read once."""
        init = getattr(factory, "__init__", None)
        if getattr(factory, "__new__", None) is not _PASSIVE_NEW or not isinstance(init, FunctionType):
            return signature_of(factory)
        if hasattr(init, "__wrapped__") or hasattr(factory, "__signature__"):
            return signature_of(factory)
        known = self.signatures.get(init)
        if known is None:
            known = self.signatures[init] = signature_of(factory)
        return known

    # --- the order ------------------------------------------------------------------------------------

    def order(self) -> None:
        """Sort the nodes, dependencies first; late edges order too where they close no ring."""
        firm = {name: _merged(node.uses, node.requires, node.wants) for name, node in self.nodes.items()}
        full = self.with_late(firm)
        ordered: dict[str, Node] = {}
        for component in components(full):
            if len(component) > 1 or component[0] in full[component[0]]:
                self.problems += validation.check_rings(component, full, self.descriptors)
            for name in component:
                ordered[name] = self.nodes[name]
        self.nodes = ordered

    def with_late(self, firm: dict[str, Mapping[str, None]]) -> dict[str, Mapping[str, None]]:
        """The edges that order the start; what a method asks for late starts first, unless that closes a ring."""
        lazy = [node for node in self.nodes.values() if node.late]
        if not lazy:
            return firm
        everything = {name: {**targets, **self.nodes[name].late} for name, targets in firm.items()}
        rings = {name: number for number, ring in enumerate(components(everything)) for name in ring}
        full = dict(firm)
        for node in lazy:
            more = [target for target in node.late if target in rings and rings[target] != rings[node.name]]
            full[node.name] = {**firm[node.name], **dict.fromkeys(more)}
            node.wants = {**node.wants, **{target: None for target in more if target not in node.requires}}
        return full


class _Draft:
    """One node while it is wired."""

    def __init__(self, wiring: _Wiring, node: Node) -> None:
        self.wiring, self.node, self.descriptor = wiring, node, node.descriptor
        self.index = wiring.index
        self.signature: Signature = wiring.signature(cast("Callable[..., Any]", self.descriptor.factory))
        self.kwargs: dict[str, Any] = {}
        self.uses: dict[str, None] = {}
        self.requires: dict[str, None] = {}
        self.wants: dict[str, None] = {}
        self.late: dict[str, None] = {}

    def problem(self, problem: Problem) -> None:
        self.wiring.problems.append(problem)

    def finish(self) -> None:
        """Hand over to the node; what is empty or equal is shared."""
        node = self.node
        node.kwargs = self.kwargs or _NONE
        node.uses = self.uses or _NONE
        node.requires = node.uses if self.requires == self.uses else self.requires or _NONE
        node.wants, node.late = self.wants or _NONE, self.late or _NONE

    # --- settings -------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Load the settings now, so that a bad one is in the report and not in the start."""
        descriptor = self.descriptor
        given, cls = descriptor.config, descriptor.provides
        model = getattr(cls, "config_type", None)
        is_service = issubclass(cls, BaseService)
        if given is None and not is_service:
            return
        try:
            values = self.plain(given)
            if isinstance(model, type) and issubclass(model, ServiceConfig) and (
                values is None or isinstance(values, Mapping)
            ):  # fmt: skip
                values = load_config(model, name=descriptor.name, values=values, manager=self.wiring.manager)
            self.node.config = values
        except ConfigurationError as error:
            self.problem(diagnosis.misconfigured(descriptor, error.problems))
        except _KnownTooLateError as error:
            self.problem(diagnosis.unawaitable_setting(descriptor, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a settings factory of the user's raises belongs in the report
            self.problem(diagnosis.unreadable_setting(descriptor, "config=", error))
        if isinstance(self.node.config, ServiceConfig) and is_service:
            self.wiring.problems += validation.check_restart(descriptor, self.node.config.restart)

    def plain(self, value: Any) -> Any:
        """A given config may be made by a call, such as an option of a Configuration, or a part of the settings."""
        if isinstance(value, Make):
            return value.factory(*map(self.plain, value.args), **{k: self.plain(v) for k, v in value.kwargs.items()})
        if not isinstance(value, Want):
            return value
        found = self.wiring.descriptors.get(str(value.key))
        if found is not None and found.instance is not NOTHING:
            return found.instance
        if found is not None and found.args and isinstance(found.args[0], Make) and found.args[0].setting:
            return self.plain(found.args[0])
        raise _KnownTooLateError(str(value.key))

    # --- arguments ------------------------------------------------------------------------------------

    def arguments(self) -> None:
        """Resolve the given arguments, then wire the parameters that the declaration leaves open."""
        descriptor, signature = self.descriptor, self.signature
        positional = [parameter for parameter in signature.parameters if not parameter.keyword_only]
        self.check_arguments(positional)
        padded = [*positional, *[None] * len(descriptor.args)]
        args = [self.argument(value, p) for value, p in zip(descriptor.args, padded, strict=False)]
        for name, value in descriptor.kwargs.items():
            self.kwargs[name] = self.argument(value, signature.get(name))
        taken = {parameter.name for parameter in positional[: len(args)]}
        for parameter in signature.parameters:
            if parameter.name not in taken and parameter.name not in self.kwargs:
                self.fill(parameter)
        self.place_config()
        self.node.args = (*args, *self.by_position(positional[len(args) :]))

    def argument(self, value: Any, parameter: Parameter | None) -> Any:
        """A given argument with its wishes resolved; notes what the node uses."""
        if isinstance(value, Make):
            self.try_setting(value)
            args = tuple(self.argument(part, None) for part in value.args)
            kwargs = {key: self.argument(part, None) for key, part in value.kwargs.items()}
            return Make(value.factory, args, kwargs, value.setting)
        if not isinstance(value, Want):
            return value
        want, name = value, parameter.name if parameter else ""
        if parameter is not None and parameter.want is not None and parameter.want.how == "optional":
            want = Want(value.key, "optional") if value.how == "one" else value
        found = self.resolve(want, name)
        if found is None:
            if want.how != "optional":
                self.problem(self.missing(want, name))
            return None
        self.note(found, want, parameter)
        return found

    def try_setting(self, made: Make) -> None:
        """A setting that can't be read belongs in the report."""
        if not made.setting:
            return
        try:
            self.plain(made)
        except ConfigurationError as error:
            self.problem(diagnosis.misconfigured(self.descriptor, error.problems))
        except Exception as error:  # noqa: BLE001 - a boundary: a converter of the user's may raise what it likes
            self.problem(diagnosis.unreadable_setting(self.descriptor, made.setting, error))

    def note(self, found: Ref | Refs, want: Want, parameter: Parameter | None) -> None:
        """Remember what the node now depends on, and how firmly."""
        if isinstance(found, Refs):
            self.uses.update(dict.fromkeys(found.names))
            self.wants.update(dict.fromkeys(found.names))
        elif found.lazy:
            self.late[found.name] = None
        else:
            self.uses[found.name] = None
            target = self.wiring.descriptors[found.name]
            if want.how == "optional" and target.optional:
                self.wants[found.name] = None
                return
            self.requires[found.name] = None
            if target.optional and parameter is not None:
                self.check_optional(target, parameter.name)
        if parameter is not None:
            self.check_type(found, parameter)

    def fill(self, parameter: Parameter) -> None:
        """Wire one parameter that was left open."""
        descriptor, want = self.descriptor, parameter.want
        if parameter.name == "config" and self.node.config is not None:
            return
        if want is None:
            if self.has_named(parameter.name) and (parameter.annotation is EMPTY or parameter.is_required):
                want = Want(parameter.name)
            elif not parameter.is_required:
                return
            else:
                is_text = isinstance(parameter.annotation, str)
                self.left_open((diagnosis.unresolved if is_text else diagnosis.no_service)(descriptor, parameter))
                return
        if isinstance(want.key, type) and issubclass(want.key, ServiceConfig):
            self.fill_settings(parameter, want.key)
            return
        found = self.resolve(want, parameter.name)
        if found is not None:
            self.kwargs[parameter.name] = found
            self.note(found, want, parameter)
        elif parameter.is_required:
            if want.how == "optional":
                self.kwargs[parameter.name] = None
            else:
                self.left_open(self.missing(want, parameter.name))

    def left_open(self, problem: Problem) -> None:
        """A required parameter that nothing answers: a mistake, unless callers may give it."""
        if self.descriptor.is_partial:
            self.wiring.open.setdefault(self.descriptor.name, problem)
        else:
            self.problem(problem)

    def fill_settings(self, parameter: Parameter, model: type[ServiceConfig]) -> None:
        """A parameter that takes settings: those given to the declaration, or else its section."""
        if isinstance(self.node.config, model):
            self.kwargs[parameter.name] = self.node.config
            return
        try:
            settings = load_config(model, name=self.descriptor.name, manager=self.wiring.manager)
        except ConfigurationError as error:
            self.problem(diagnosis.misconfigured(self.descriptor, error.problems))
        else:
            self.kwargs[parameter.name] = settings

    def place_config(self) -> None:
        """The settings go to the constructor if it takes them; a service is given them before it, otherwise."""
        config, node = self.node.config, self.node
        if config is None:
            return
        takes = self.signature.get("config") is not None
        is_service = issubclass(self.descriptor.provides, BaseService)
        if "config" in self.kwargs or any(value is config for value in self.kwargs.values()):
            node.config = None
        elif takes or (self.signature.takes_any_keyword and not is_service):
            self.kwargs["config"], node.config = config, None
        elif not is_service:
            self.problem(diagnosis.unused_config(self.descriptor))

    def by_position(self, rest: Sequence[Parameter]) -> list[Any]:
        """Values of the parameters that can't be passed by name."""
        only = [parameter for parameter in rest if parameter.positional_only]
        while only and only[-1].name not in self.kwargs:
            only.pop()
        return [self.kwargs.pop(parameter.name, parameter.default) for parameter in only]

    def has_named(self, name: str) -> bool:
        """Another service bears that name."""
        return name in self.wiring.descriptors and name != self.descriptor.name

    def check_arguments(self, positional: Sequence[Parameter]) -> None:
        """What the declaration gives must be what the constructor takes."""
        descriptor, signature = self.descriptor, self.signature
        given = len(descriptor.args)
        for name in descriptor.kwargs:
            parameter = signature.get(name)
            if parameter is None and not signature.takes_any_keyword:
                self.problem(diagnosis.unknown_argument(descriptor, name, signature.parameters))
            elif parameter is not None and parameter in positional[:given]:
                self.problem(diagnosis.given_twice(descriptor, name))
        if given > len(positional) and not signature.takes_any_position:
            self.problem(diagnosis.too_many_arguments(descriptor, given, positional))

    def check_optional(self, target: ServiceDescriptor, parameter: str) -> None:
        """A service that has to run can't need one that need not."""
        own = self.descriptor
        if own.lifetime is Lifetime.SINGLETON and not own.optional:
            self.problem(diagnosis.maybe_missing(own, target, parameter))

    def check_type(self, given: Ref | Refs, parameter: Parameter) -> None:
        """The service that an argument names must be of the type that the parameter says."""
        want = parameter.want
        if not isinstance(given, Ref) or want is None or isinstance(want.key, str) or given.lazy:
            return
        target = self.wiring.descriptors[given.name]
        if target.provides is want.key or target.provides is UNKNOWN or fits(target.provides, want.key):
            return
        if want.how in {"list", "dict"} and target.lifetime is Lifetime.TRANSIENT:
            return  # an expression or a factory of lists, whose items are its own matter
        others = [name for name in self.index.candidates(want.key) if name != given.name]
        self.problem(diagnosis.mistyped(self.descriptor, parameter, target, others))

    # --- the rest -------------------------------------------------------------------------------------

    def order_only(self) -> None:
        """Dependencies that are named and only decide the order."""
        descriptor, known = self.descriptor, self.wiring.descriptors
        config = self.node.config or self.kwargs.get("config")
        required, wanted = descriptor.dependencies, descriptor.optional_dependencies
        if isinstance(config, ServiceConfig):
            required, wanted = (*required, *config.dependencies), (*wanted, *config.optional_dependencies)
        for name in dict.fromkeys(required):
            if name not in known:
                self.problem(diagnosis.missing_by_order(descriptor, name, known, hint=self.wiring.hint(name)))
                continue
            if known[name].optional and name not in self.uses:
                self.check_optional(known[name], "")
            self.requires[name] = None
        for name in wanted:
            if name in known:
                self.wants[name] = None

    def method(self, name: str, parameter: Parameter | None, want: Want, function: Any) -> None:
        """What one injected method will ask for."""
        found = self.resolve(want, name)
        if found is not None:
            self.late.update(dict.fromkeys(found.names if isinstance(found, Refs) else (found.name,)))
        elif want.how != "optional" and validation.must_be_injected(parameter):
            self.problem(self.missing(want, name, function))

    def missing(self, want: Want, parameter: str, function: Any = None) -> Problem:
        known = self.wiring.descriptors
        hint = self.wiring.hint(want.key)
        return diagnosis.missing(self.descriptor, want, parameter, known=known, hint=hint, function=function)

    def resolve(self, want: Want, parameter: str) -> Ref | Refs | None:
        """What answers the node's wish: never itself, and its parameter's name helps."""
        index, own, key = self.index, self.descriptor.name, want.key
        if isinstance(key, str) or want.how in {"list", "dict"}:
            found = index.resolve(want, parameter)
            if isinstance(found, Refs) and own in found.names:
                return Refs(tuple(name for name in found.names if name != own), found.by_name)
            return found
        lazy = want.how == "lazy"
        names = index.candidates(key)
        if own in names and not lazy:
            names = [name for name in names if name != own]
        if len(names) > 1:
            names = index.narrow(names, key, parameter)
            if len(names) > 1:
                self.problem(diagnosis.ambiguous(self.descriptor, want, parameter, names))
        if names:
            return index.ref(names[0], lazy=lazy)
        # One of another type, or of an unknown one: check_type says which.
        return index.ref(parameter, lazy=lazy) if self.has_named(parameter) else None


class _KnownTooLateError(Exception):
    """Settings would come from a service that is not built yet."""


def _merged(first: Mapping[str, None], second: Mapping[str, None], third: Mapping[str, None]) -> Mapping[str, None]:
    if not third:
        return first if first is second or not second else {**first, **second}
    return {**first, **second, **third}


__all__ = ["Graph", "Node", "Ref", "Refs", "inverse", "is_generator", "wire"]
