"""Wiring: the declared services become one validated graph, or one report of all that is wrong with it.

Nothing is built here. Every argument is resolved to the names of the services it needs; what can't be is a
`Problem`. Types are matched through an index, and every walk visits a service once: the work grows linearly.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from svcframework._graph import closure, components, draw_path, inverse, ring_in
from svcframework._signatures import EMPTY, Parameter, Want, fits, is_generator, signature_of
from svcframework._types import Lifetime, Location
from svcframework.config import ConfigManager, ServiceConfig, load_config
from svcframework.errors import ConfigurationError, nearest, type_name
from svcframework.problems import Kind, Problem, WiringError, listed, show
from svcframework.registry import NOTHING, Make, ServiceDescriptor, ServiceRegistry
from svcframework.service import BaseService

if TYPE_CHECKING:
    from svcframework._signatures import Signature

UNKNOWN = object  # what `provides` says of a factory without a return annotation


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is one service; `lazy` for a handle on it."""

    name: str
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Refs:
    """An argument that is several services: a list, or a dict by name."""

    names: tuple[str, ...]
    by_name: bool = False


@dataclass(slots=True)
class Node:
    """One service with its arguments resolved.

    Args:
        descriptor: How it was declared.
        args: Positional arguments: values, `Ref`, `Refs`, or `Make` of such.
        kwargs: Keyword arguments, likewise.
        config: Its settings, where the constructor does not take them.
        uses: Names that must be built before it can be.
        requires: Names that must run before it starts.
        wants: Names that start before it if they start at all.
        late: Names its methods ask for when they are called.
    """

    descriptor: ServiceDescriptor
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    config: Any = None
    uses: dict[str, None] = field(default_factory=dict)
    requires: dict[str, None] = field(default_factory=dict)
    wants: dict[str, None] = field(default_factory=dict)
    late: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The service's name."""
        return self.descriptor.name

    @property
    def is_singleton(self) -> bool:
        """It lives as long as the host."""
        return self.descriptor.lifetime is Lifetime.SINGLETON

    @property
    def is_async(self) -> bool:
        """Making one has to be awaited."""
        factory = self.descriptor.factory
        return inspect.isasyncgenfunction(factory) or inspect.iscoroutinefunction(factory)


class Graph:
    """The wired services, dependencies first, and what is wrong with them."""

    def __init__(self, wiring: _Wiring) -> None:
        self.nodes = wiring.nodes
        self.problems = tuple(wiring.problems)
        self.subject = wiring.subject
        self._wiring = wiring

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise if anything is wrong with these services and what they need; with all, without names.

        Raises:
            WiringError: Holds every problem that concerns them.
        """
        problems = self.problems
        if problems and names is not None:
            edges = {name: [*node.uses, *node.requires] for name, node in self.nodes.items()}
            concerned = closure(names, edges)
            problems = tuple(p for p in problems if concerned.intersection(p.services))
        if problems:
            raise WiringError(problems, subject=self.subject)

    def resolve(self, want: Want, *, parameter: str = "") -> Ref | Refs | None:
        """What answers a wish from outside the graph, say of an injected function; None where nothing does.

        Raises:
            AmbiguousServiceError: Several services would fit.
        """
        return self._wiring.resolve(want, parameter)

    def wire_one(self, descriptor: ServiceDescriptor) -> tuple[Node, list[Problem]]:
        """Wire something that is not registered; its problems are its own."""
        return self._wiring.one(descriptor)

    def depth(self, level: str) -> int:
        """How deep a scope level lies: 1 is the longest-lived."""
        return self._wiring.scopes[level]

    def candidates(self, wanted: str | type) -> list[str]:
        """The names of all services that answer to a name or type."""
        return self._wiring.candidates(wanted)

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
        self.descriptors = dict(registry.descriptors)
        self.by_type: dict[type, list[str]] = {}
        self.protocols: dict[type, list[str]] = {}
        self.signatures: dict[Any, Signature] = {}
        self.late_wants: dict[type, list[tuple[str, Parameter | None, Want, Any]]] = {}
        self.nodes: dict[str, Node] = {}
        self.problems: list[Problem] = []

    def run(self) -> None:
        """Fill `nodes` (in start order) and `problems`."""
        for name, descriptor in self.descriptors.items():
            for base in descriptor.provides.__mro__:
                self.by_type.setdefault(base, []).append(name)
        for descriptor in self.descriptors.values():
            self.nodes[descriptor.name] = self.node(descriptor)
        self.check_names()
        self.order()
        self.check_lifetimes()

    def one(self, descriptor: ServiceDescriptor) -> tuple[Node, list[Problem]]:
        """A node beside the graph."""
        before, self.problems = self.problems, []
        try:
            return self.node(descriptor), self.problems
        finally:
            self.problems = before

    # --- one service ----------------------------------------------------------------------------------

    def node(self, descriptor: ServiceDescriptor) -> Node:
        node = Node(descriptor)
        if descriptor.instance is not NOTHING or descriptor.is_scope_value:
            return node
        self.check_declaration(descriptor)
        self.configure(node)
        node.args = tuple(self.argument(value, node) for value in descriptor.args)
        node.kwargs = {key: self.argument(value, node) for key, value in descriptor.kwargs.items()}
        self.fill_in(node)
        self.order_only(node)
        self.methods(node)
        return node

    def check_declaration(self, descriptor: ServiceDescriptor) -> None:
        if descriptor.lifetime is Lifetime.SCOPED and descriptor.scope not in self.scopes:
            known = ", ".join(self.scopes)
            self.problem(
                "scope",
                f"{descriptor.label} lives in scope {descriptor.scope!r}",
                descriptor,
                f"The host knows these scopes, the longest-lived first: {known}.",
                f"Use one of them, or ServiceHost(…, scopes=({', '.join(map(repr, [*self.scopes, descriptor.scope]))})).",
            )
        missing = getattr(descriptor.factory, "__abstractmethods__", None)
        if missing:
            self.problem(
                "abstract",
                f"{descriptor.label} can't be made: {listed(sorted(missing))} missing",
                descriptor,
                f"{type_name(descriptor.provides)} is abstract. Declare a subclass that has {listed(sorted(missing))}.",
            )

    def configure(self, node: Node) -> None:
        """Load the settings now, so that a bad one is in the report and not in the start."""
        descriptor = node.descriptor
        given = descriptor.config
        model = getattr(descriptor.provides, "config_type", None)
        if not (isinstance(model, type) and issubclass(model, ServiceConfig)):
            node.config = self.plain(given)
            return
        try:
            values = self.plain(given)
            if values is None or isinstance(values, Mapping):
                if values is None and given is None and not issubclass(descriptor.provides, BaseService):
                    return
                values = load_config(model, name=descriptor.name, values=values, manager=self.manager)
            node.config = values
        except ConfigurationError as error:
            self.problem("misconfigured", f"{descriptor.label}: {error.title}", descriptor, *error.problems)
        except Exception as error:  # noqa: BLE001 - whatever a settings factory of the user's raises belongs in the report
            self.problem("misconfigured", f"{descriptor.label}: its settings raised {type(error).__name__}", descriptor)

    def plain(self, value: Any) -> Any:
        """A given config may be made by a call, such as an option of a Configuration provider."""
        if isinstance(value, Make):
            return value.factory(*map(self.plain, value.args), **{k: self.plain(v) for k, v in value.kwargs.items()})
        return value

    def argument(self, value: Any, node: Node, parameter: str = "") -> Any:
        """A given argument with its wishes resolved; notes what the node uses."""
        if isinstance(value, Make):
            args = tuple(self.argument(part, node) for part in value.args)
            kwargs = {key: self.argument(part, node) for key, part in value.kwargs.items()}
            return Make(value.factory, args, kwargs)
        if not isinstance(value, Want):
            return value
        found = self.resolve_for(node.descriptor, value, parameter)
        if found is None:
            if value.how != "optional":
                self.missing(node.descriptor, value, parameter, Location.of(node.descriptor.factory))
            return None
        self.note(node, found, value)
        return found

    def note(self, node: Node, found: Ref | Refs, want: Want) -> None:
        if isinstance(found, Refs):
            node.uses.update(dict.fromkeys(found.names))
            node.wants.update(dict.fromkeys(found.names))
        elif found.lazy:
            node.late[found.name] = None
        else:
            node.uses[found.name] = None
            target = self.descriptors[found.name]
            (node.wants if want.how == "optional" and target.optional else node.requires)[found.name] = None

    def fill_in(self, node: Node) -> None:
        """Wire the parameters that the declaration leaves open."""
        descriptor = node.descriptor
        signature = self.signature(descriptor.factory)
        known = {parameter.name for parameter in signature.parameters}
        positional = [p for p in signature.parameters if not p.keyword_only]
        taken = {p.name for p in positional[: len(node.args)]}
        self.check_arguments(node, signature, positional, known)
        for parameter in signature.parameters:
            if parameter.name in taken:
                continue
            if parameter.name in node.kwargs:
                self.check_type(node, parameter)
                continue
            if parameter.name == "config" and node.config is not None:
                node.kwargs["config"] = node.config
                continue
            self.fill_parameter(node, parameter)
        if "config" in node.kwargs or "config" in taken:
            node.config = None

    def fill_parameter(self, node: Node, parameter: Parameter) -> None:
        descriptor, want = node.descriptor, parameter.want
        if want is None:
            by_name = parameter.name in self.descriptors and parameter.name != descriptor.name
            if by_name and (parameter.annotation is EMPTY or parameter.is_required):
                want = Want(parameter.name)
            elif not parameter.is_required:
                return
            elif isinstance(parameter.annotation, str):
                self.unresolved_annotation(descriptor, parameter)
                return
            else:
                self.missing(
                    descriptor, Want(parameter.name), parameter.name, Location.of(descriptor.factory), parameter
                )
                return
        if isinstance(want.key, type) and issubclass(want.key, ServiceConfig):
            node.kwargs[parameter.name] = Make(
                load_config, (want.key,), {"name": descriptor.name, "manager": self.manager}
            )
            return
        found = self.resolve_for(descriptor, want, parameter.name)
        if found is not None:
            node.kwargs[parameter.name] = found
            self.note(node, found, want)
            self.check_type(node, parameter)
        elif want.how == "optional" or not parameter.is_required:
            if parameter.is_required:
                node.kwargs[parameter.name] = None
        else:
            self.missing(descriptor, want, parameter.name, Location.of(descriptor.factory), parameter)

    def check_arguments(self, node: Node, signature: Signature, positional: list[Parameter], known: set[str]) -> None:
        descriptor = node.descriptor
        if signature.takes_any_keyword:
            return
        for name in node.kwargs:
            if name not in known:
                close = nearest(name, known)
                hint = f"Did you mean {close[0]!r}?" if close else f"It takes: {', '.join(sorted(known)) or 'nothing'}."
                self.problem(
                    "argument", f"{descriptor.label} has no parameter {name!r}", descriptor, hint,
                    at=Location.of(descriptor.factory),
                )  # fmt: skip
        code = getattr(getattr(descriptor.factory, "__init__", descriptor.factory), "__code__", None)
        any_positional = code is not None and code.co_flags & inspect.CO_VARARGS
        if len(node.args) > len(positional) and not any_positional and code is not None:
            self.problem(
                "argument",
                f"{descriptor.label} takes {len(positional)} positional arguments, {len(node.args)} are given",
                descriptor,
                f"Its parameters: {', '.join(p.name for p in positional) or 'none'}.",
                at=Location.of(descriptor.factory),
            )

    def check_type(self, node: Node, parameter: Parameter) -> None:
        """The service that an argument names must be of the type that the parameter says."""
        given, want = node.kwargs[parameter.name], parameter.want
        if not isinstance(given, Ref) or want is None or isinstance(want.key, str) or given.lazy:
            return
        provides = self.descriptors[given.name].provides
        if provides is UNKNOWN or fits(provides, want.key):
            return
        descriptor = node.descriptor
        others = [name for name in self.candidates(want.key) if name != given.name]
        self.problem(
            "mistyped",
            f"{type_name(descriptor.provides)}({parameter.name}: {want})",
            descriptor,
            draw_path([descriptor.name, f"{parameter.name}: {want}", self.descriptors[given.name].label]),
            f"{given.name} is a {type_name(provides)}, not a {type_name(want.key)}."
            + (f" Did you mean {listed(others)}?" if others else ""),
            at=Location.of(descriptor.factory),
        )

    def order_only(self, node: Node) -> None:
        """Dependencies that are named and only decide the order."""
        descriptor, config = node.descriptor, node.config or node.kwargs.get("config")
        required = [*descriptor.dependencies, *getattr(config, "dependencies", ())]
        for name in dict.fromkeys(required):
            if name in self.descriptors:
                node.requires[name] = None
            else:
                self.missing(descriptor, Want(name), "dependencies", descriptor.at)
        for name in [*descriptor.optional_dependencies, *getattr(config, "optional_dependencies", ())]:
            if name in self.descriptors:
                node.wants[name] = None

    def methods(self, node: Node) -> None:
        """What the service's injected methods will ask for."""
        descriptor = node.descriptor
        for name, parameter, want, function in self.late(descriptor.provides):
            found = self.resolve_for(descriptor, want, name)
            if found is not None:
                node.late.update(dict.fromkeys(found.names if isinstance(found, Refs) else [found.name]))
            elif want.how != "optional" and (parameter is None or parameter.is_required or _is_marker(parameter)):
                label = (
                    f"{function.__qualname__}({name}: {want})"
                    if str(want) != name
                    else f"{function.__qualname__}({name})"
                )
                self.missing(descriptor, want, name, Location.of(function), headline=label)

    def late(self, cls: type) -> list[tuple[str, Parameter | None, Want, Any]]:
        known = self.late_wants.get(cls)
        if known is None:
            known = self.late_wants[cls] = list(_injected_methods(cls))
        return known

    # --- looking up -----------------------------------------------------------------------------------

    def resolve(self, want: Want, parameter: str = "") -> Ref | Refs | None:
        """The service or services that answer a wish."""
        if want.how in {"list", "dict"}:
            names = (
                self.candidates(want.key)
                if isinstance(want.key, type)
                else list(self.registry.groups.get(want.key, ()))
            )
            return Refs(tuple(names), by_name=want.how == "dict")
        lazy = want.how == "lazy"
        if isinstance(want.key, str):
            return Ref(want.key, lazy) if want.key in self.descriptors else None
        names = self.candidates(want.key)
        if len(names) > 1:
            names = self.narrow(names, want.key, parameter)
        return Ref(names[0], lazy) if len(names) == 1 else None

    def resolve_for(self, descriptor: ServiceDescriptor, want: Want, parameter: str) -> Ref | Refs | None:
        """As `resolve`, for a service: it never answers its own wish, and its parameter's name helps."""
        if isinstance(want.key, type) and want.how in {"one", "optional", "lazy"}:
            names = [name for name in self.candidates(want.key) if name != descriptor.name or want.how == "lazy"]
            if len(names) > 1:
                narrowed = self.narrow(names, want.key, parameter)
                if len(narrowed) > 1:
                    self.ambiguous(descriptor, want, parameter, narrowed)
                    return Ref(narrowed[0])
                names = narrowed
            if names:
                return Ref(names[0], want.how == "lazy")
            by_name = self.descriptors.get(parameter)
            if by_name is not None and parameter != descriptor.name:
                return Ref(parameter, want.how == "lazy")  # of another type, or of an unknown one: check_type says
            return None
        found = self.resolve(want, parameter)
        if isinstance(found, Refs):
            return Refs(tuple(name for name in found.names if name != descriptor.name), found.by_name)
        return found

    def candidates(self, wanted: str | type) -> list[str]:
        if isinstance(wanted, str):
            return [wanted] if wanted in self.descriptors else []
        if getattr(wanted, "_is_protocol", False):
            known = self.protocols.get(wanted)
            if known is None:
                known = [
                    n for n, d in self.descriptors.items() if d.provides is not UNKNOWN and fits(d.provides, wanted)
                ]
                self.protocols[wanted] = known
            return known
        return self.by_type.get(wanted, [])

    def narrow(self, names: list[str], wanted: type, parameter: str) -> list[str]:
        """Of several, the one that bears the parameter's name, or else the only one of exactly that type."""
        if parameter in names:
            return [parameter]
        exact = [name for name in names if self.descriptors[name].provides is wanted]
        return exact if len(exact) == 1 else names

    def signature(self, factory: Any) -> Signature:
        known = self.signatures.get(factory)
        if known is None:
            known = self.signatures[factory] = signature_of(factory)
        return known

    # --- the whole ------------------------------------------------------------------------------------

    def check_names(self) -> None:
        for first, second in self.registry.duplicates:
            self.problem(
                "duplicate",
                f"two services are named {first.name!r}",
                second,
                f"{first.label} and {second.label}, the first one at {show(first.at) or first.declared_in or 'an unknown place'}.",
                "Rename one, or replace the first on purpose with host.override() or a container that inherits.",
            )
        for group, members in self.registry.groups.items():
            for name in members:
                if name not in self.descriptors:
                    close = nearest(name, self.descriptors)
                    hint = f"Did you mean {close[0]!r}?" if close else "Register it, or take it out of the group."
                    self.problems.append(
                        Problem(
                            "group", f"group {group!r} names {name!r}, which nobody declares", None, (hint,), (name,)
                        )
                    )

    def order(self) -> None:
        """Sort the nodes, dependencies first; late edges order too where they close no ring."""
        late_rings = self.late_rings()
        firm = {name: list({**node.uses, **node.requires, **node.wants}) for name, node in self.nodes.items()}
        full = {name: [*targets, *self.firm_late(name, late_rings)] for name, targets in firm.items()}
        ordered: dict[str, Node] = {}
        for component in components(full):
            if len(component) > 1 or component[0] in firm[component[0]]:
                self.cycle(component, full)
            for name in component:
                ordered[name] = self.nodes[name]
        for name, node in ordered.items():
            for target in full[name]:
                if target not in node.requires and target not in node.wants:
                    node.wants[target] = None
        self.nodes = ordered

    def late_rings(self) -> dict[str, int]:
        """For each service, which ring of firm and late edges it is in."""
        edges = self_edges = {
            name: list({**node.uses, **node.requires, **node.wants, **node.late}) for name, node in self.nodes.items()
        }
        del self_edges
        return {name: number for number, ring in enumerate(components(edges)) for name in ring}

    def firm_late(self, name: str, rings: Mapping[str, int]) -> list[str]:
        return [target for target in self.nodes[name].late if target in rings and rings[target] != rings[name]]

    def check_lifetimes(self) -> None:
        """No service may hold one that dies before it."""
        for node in self.nodes.values():
            held = self.depth(node)
            if node.descriptor.lifetime is Lifetime.TRANSIENT:
                continue
            for path in self.shorter_lived(node, held):
                self.captive(node, path)

    def depth(self, node: Node) -> int:
        descriptor = node.descriptor
        return self.scopes.get(descriptor.scope, 1) if descriptor.lifetime is Lifetime.SCOPED else 0

    def shorter_lived(self, node: Node, held: int) -> list[list[str]]:
        """Paths from a node through transients to what lives shorter."""
        found: list[list[str]] = []
        queue = [[name] for name in node.uses]
        seen: set[str] = set()
        for path in queue:
            target = self.nodes.get(path[-1])
            if target is None or target.name in seen:
                continue
            seen.add(target.name)
            if target.descriptor.lifetime is Lifetime.SCOPED and self.depth(target) > held:
                found.append(path)
            elif target.descriptor.lifetime is Lifetime.TRANSIENT:
                queue.extend([*path, name] for name in target.uses)
        return found

    # --- saying so ------------------------------------------------------------------------------------

    def problem(
        self, kind: Kind, headline: str, descriptor: ServiceDescriptor, *lines: str, at: Location | None = None
    ) -> None:
        declared = ()
        if at is not None and descriptor.at is not None:
            declared = (f"declared at {show(descriptor.at, root=_cwd())} as {descriptor.name}",)
        self.problems.append(Problem(kind, headline, at or descriptor.at, (*declared, *lines), (descriptor.name,)))

    def missing(
        self,
        descriptor: ServiceDescriptor,
        want: Want,
        parameter: str,
        at: Location | None,
        known: Parameter | None = None,
        headline: str = "",
    ) -> None:
        word = str(want)
        plain = known is not None and known.want is None
        shown = parameter if plain or word == parameter else f"{parameter}: {word}"
        label = headline or f"{type_name(descriptor.factory or descriptor.provides)}({shown})"
        close = nearest(want.key, self.descriptors)
        suggestion = self.hint(want.key)
        if plain and known is not None and known.annotation is not EMPTY:
            fix = f"{type_name(known.annotation)} is no service: pass {parameter}=… in the declaration, or give it a default."
        else:
            what = f"named {want.key!r}" if isinstance(want.key, str) else type_name(want.key)
            fix = f"No service {'is' if isinstance(want.key, str) else 'provides'} {what}."
            if close:
                fix += f" Did you mean {listed([repr(name) for name in close])}?"
        declare = type_name(want.key) if isinstance(want.key, type) else "…"
        name = want.key if isinstance(want.key, str) else parameter or type_name(want.key).lower()
        lines = [draw_path([descriptor.name, shown, "?"]), fix]
        if suggestion:
            lines.append(suggestion)
        if not plain and not close:
            lines.append(f"{'or d' if suggestion else 'D'}eclare  {name} = providers.Service({declare})")
        self.problem("missing", label, descriptor, *lines, at=at)

    def ambiguous(self, descriptor: ServiceDescriptor, want: Want, parameter: str, names: list[str]) -> None:
        self.problem(
            "ambiguous",
            f"{type_name(descriptor.provides)}({parameter}: {want})",
            descriptor,
            f"{len(names)} services are a {want}: {listed(names)}.",
            f"Name the parameter like one of them, pass {parameter}={names[0]} in the declaration, or ask for list[{want}].",
            at=Location.of(descriptor.factory),
        )

    def unresolved_annotation(self, descriptor: ServiceDescriptor, parameter: Parameter) -> None:
        self.problem(
            "annotation",
            f"{type_name(descriptor.provides)}({parameter.name}: {parameter.annotation})",
            descriptor,
            f"{parameter.annotation!r} can't be looked up when the program runs: it is imported for type checkers only, or misspelt.",
            "Import it outside `if TYPE_CHECKING:`, or pass the argument in the declaration.",
            at=Location.of(descriptor.factory),
        )

    def cycle(self, component: list[str], edges: Mapping[str, Sequence[str]]) -> None:
        declared = [name for name in self.registry if name in set(component)]
        ring = ring_in(declared, edges)
        places = [
            f"{name}  {show(Location.of(self.nodes[name].descriptor.factory), root=_cwd())}" for name in ring[:-1]
        ]
        last = self.nodes[ring[-2]].descriptor
        target = type_name(self.nodes[ring[0]].descriptor.provides)
        self.problems.append(
            Problem(
                "cycle",
                draw_path(ring),
                last.at,
                (
                    "      ".join(places),
                    f"Break it: inject one of them per call with @inject_service, or as Lazy[{target}].",
                ),
                tuple(component),
            )
        )

    def captive(self, node: Node, path: list[str]) -> None:
        held = self.nodes[path[-1]].descriptor
        own = node.descriptor
        life = "singleton" if node.is_singleton else f"scoped to {own.scope}"
        self.problem(
            "captive",
            f"{own.name} ({life}) holds {held.name} (scoped{'' if held.scope == 'request' else f' to {held.scope}'})",
            own,
            draw_path([own.name, *path]),
            f"It would keep the first {held.scope}'s {held.name} for as long as it lives. "
            f"Make it Scoped, or inject Lazy[{type_name(held.provides)}].",
        )


def _injected_methods(cls: type) -> Iterable[tuple[str, Parameter | None, Want, Any]]:
    seen: set[str] = set()
    for base in cls.__mro__:
        for member_name, member in vars(base).items():
            if member_name in seen:
                continue
            seen.add(member_name)
            function = _injected(member)
            if function is None:
                continue
            signature = signature_of(function.__wrapped__)
            for name, want in cast("Mapping[str, Want]", function.__injections__).items():
                yield name, signature.get(name), want, inspect.unwrap(function)


def _injected(member: Any) -> Any:
    member = getattr(member, "__func__", member)
    while member is not None and not hasattr(member, "__injections__"):
        member = getattr(member, "__wrapped__", None) if hasattr(member, "__code__") else None
    return member


def _is_marker(parameter: Parameter) -> bool:
    return repr(parameter.default) == "INJECTED"


def _cwd() -> str:
    import os  # noqa: PLC0415 - for reports only

    return os.getcwd()  # noqa: PTH109


__all__ = ["Graph", "Node", "Ref", "Refs", "inverse", "is_generator", "wire"]
