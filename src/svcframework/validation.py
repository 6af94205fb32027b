"""Validation: the rules that concern several services at once, or a declaration by itself. Pure; builds nothing.

Each rule looks at the wired services and gives `Problem`s; `wiring` collects them, `diagnosis` words them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from svcframework import diagnosis
from svcframework._graph import components, ring_in
from svcframework._signatures import Parameter, Want, signature_of
from svcframework._types import Lifetime, Restart
from svcframework.service import BaseService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from svcframework.problems import Problem
    from svcframework.registry import ServiceDescriptor, ServiceRegistry
    from svcframework.wiring import Node, Ref, Refs

LateWant: TypeAlias = "tuple[str, Parameter | None, Want, Callable[..., Any]]"
"""Of an injected method: the parameter's name, the parameter, what it asks for, and the method."""

_RINGS_SHOWN = 5  # of one knot; mending these mends the rest, or shows it next time


# --- a declaration by itself ----------------------------------------------------------------------------


def check_declaration(descriptor: ServiceDescriptor, scopes: Mapping[str, int]) -> Iterator[Problem]:
    """A scope level that exists, a class that can be made, a restart policy that is one."""
    if descriptor.lifetime is Lifetime.SCOPED and descriptor.scope not in scopes:
        yield diagnosis.unknown_scope(descriptor, scopes)
    missing = getattr(descriptor.factory, "__abstractmethods__", None)
    if missing:
        yield diagnosis.abstract(descriptor, sorted(missing))
    if issubclass(descriptor.provides, BaseService):
        yield from check_restart(descriptor, descriptor.provides.restart)


def check_restart(descriptor: ServiceDescriptor, restart: object) -> Iterator[Problem]:
    """A policy whose numbers mean something."""
    if restart is None:
        return
    if not isinstance(restart, Restart):
        fix = "Use Restart.permanent(), Restart.transient() or Restart.temporary()."
        yield diagnosis.misdeclared_restart(descriptor, f"{restart!r} is no restart policy. {fix}")
        return
    rules = {
        f"max_restarts={restart.max_restarts} is negative": restart.max_restarts < 0,
        f"within={restart.within:g} must be more than 0 seconds": restart.within <= 0,
        f"delay={restart.delay:g} is negative": restart.delay < 0,
        f"max_delay={restart.max_delay:g} is less than delay={restart.delay:g}": restart.max_delay < restart.delay,
        f"jitter={restart.jitter:g} must be from 0 to 1": not 0 <= restart.jitter <= 1,
    }
    for problem, is_broken in rules.items():
        if is_broken:
            yield diagnosis.misdeclared_restart(descriptor, f"{problem}.")


# --- names and order ------------------------------------------------------------------------------------


def check_names(registry: ServiceRegistry) -> Iterator[Problem]:
    """No name twice, and no group of unknown members."""
    for first, second in registry.duplicates:
        yield diagnosis.duplicate(first, second)
    for group, members in registry.groups.items():
        for name in members:
            if name not in registry:
                yield diagnosis.unknown_member(group, name, registry, at=registry.groups_at.get(group))


def check_open(nodes: Mapping[str, Node], open_ones: Mapping[str, Problem]) -> Iterator[Problem]:
    """A factory whose callers give some arguments can't be used by a service, which gives none."""
    used = {name for node in nodes.values() for name in node.uses} if open_ones else set()
    for name, problem in open_ones.items():
        if name in used:
            yield problem


def check_rings(
    component: Sequence[str], edges: Mapping[str, Mapping[str, None]], descriptors: Mapping[str, ServiceDescriptor]
) -> Iterator[Problem]:
    """The rings of one knot of services: a shortest one, then what is left when that is cut, and so on."""
    inside = set(component)
    order = {name: number for number, name in enumerate(descriptors)}
    left = {name: [t for t in edges[name] if t in inside] for name in sorted(component, key=order.__getitem__)}
    for _ in range(_RINGS_SHOWN):
        knot = next((k for k in components(left) if len(k) > 1 or k[0] in left[k[0]]), None)
        if knot is None:
            return
        ring = ring_in(sorted(knot, key=order.__getitem__), left)
        yield diagnosis.cycle([descriptors[name] for name in ring], component)
        left[ring[-2]].remove(ring[0])


# --- lifetimes ------------------------------------------------------------------------------------------


def check_lifetimes(nodes: Mapping[str, Node], scopes: Mapping[str, int]) -> Iterator[Problem]:
    """No service may hold one that dies before it, or one that its maker can't wait for."""
    if all(node.is_singleton for node in nodes.values()):
        return
    awaited = awaited_services(nodes)
    for node in nodes.values():
        if node.descriptor.lifetime is Lifetime.TRANSIENT:
            continue
        held = _depth(node, scopes)
        for path in _through_transients(node, nodes):
            target = nodes[path[-1]]
            if target.descriptor.lifetime is Lifetime.SCOPED:
                if _depth(target, scopes) > held:
                    is_awaited = target.name in awaited
                    yield diagnosis.captive(node.descriptor, target.descriptor, path, awaited=is_awaited)
            elif node.is_singleton and target.is_opened:
                yield diagnosis.captive(node.descriptor, target.descriptor, path, awaited=target.name in awaited)
            elif node.is_singleton and target.is_async:
                yield diagnosis.awaited_by_singleton(node.descriptor, target.descriptor, path)


def awaited_services(nodes: Mapping[str, Node]) -> set[str]:
    """The scoped and transient services whose making has to be awaited, their own or that of what they use."""
    found: set[str] = set()
    for name, node in nodes.items():  # dependencies first
        if not node.is_singleton and (node.is_async or not found.isdisjoint(node.uses)):
            found.add(name)
    return found


def _depth(node: Node, scopes: Mapping[str, int]) -> int:
    return scopes.get(node.descriptor.scope, 1) if node.descriptor.lifetime is Lifetime.SCOPED else 0


def _through_transients(node: Node, nodes: Mapping[str, Node]) -> Iterator[list[str]]:
    """Paths to the scoped and transient services that a node holds, itself left out."""
    queue = [[name] for name in node.uses]
    seen: set[str] = set()
    for path in queue:
        target = nodes.get(path[-1])
        if target is None or target.is_singleton or target.name in seen:
            continue
        seen.add(target.name)
        yield path
        if target.descriptor.lifetime is Lifetime.TRANSIENT:
            queue.extend([*path, name] for name in target.uses)


# --- injected methods -----------------------------------------------------------------------------------


def check_methods(
    nodes: Mapping[str, Node],
    resolve: Callable[[Want, str], Ref | Refs | None],
    late: Callable[[type], Sequence[LateWant]],
) -> Iterator[Problem]:
    """A method that is not async can't ask for what has to be awaited."""
    awaited = awaited_services(nodes)
    if not awaited:
        return
    for node in nodes.values():
        for parameter, _, want, function in late(node.descriptor.provides) if node.late else ():
            if want.how == "lazy" or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                continue
            found = resolve(want, parameter)
            for name in getattr(found, "names", None) or ([getattr(found, "name", "")] if found else []):
                if name in awaited:
                    path = _path_to_awaited(name, nodes, awaited)
                    yield diagnosis.awaited_by_function(node.descriptor, function, parameter, path)


def _path_to_awaited(name: str, nodes: Mapping[str, Node], awaited: set[str]) -> list[str]:
    """From a service down to the one that is itself made by an async function."""
    path = [name]
    while not nodes[path[-1]].is_async:
        path.append(next(used for used in nodes[path[-1]].uses if used in awaited))
    return path


def late_wants(cls: type, known: dict[type, Mapping[str, Sequence[LateWant]]]) -> Sequence[LateWant]:
    """What the injected methods of a class and its bases ask for.

    Args:
        cls: The class of a service.
        known: What each base's own methods ask for; filled as they are read, for most services share theirs.
    """
    found: list[LateWant] = []
    bases = cls.__mro__[:-1]
    for number, base in enumerate(bases):
        own = known.get(base)
        if own is None:
            own = known[base] = _own_wants(base)
        for name, wants in own.items():
            if not any(name in vars(derived) for derived in bases[:number]):
                found.extend(wants)
    return found


def _own_wants(base: type) -> Mapping[str, Sequence[LateWant]]:
    """By method, those of one class without its bases."""
    members = ((name, _injected(member)) for name, member in vars(base).items())
    return {name: list(_wants_of(function)) for name, function in members if function is not None}


def _injected(member: Any) -> Any:
    """The injected function behind a member, under whatever other decorators."""
    if not callable(member) and not hasattr(member, "__func__"):
        return None
    member = getattr(member, "__func__", member)
    while member is not None and not hasattr(member, "__injections__"):
        member = getattr(member, "__wrapped__", None) if hasattr(member, "__code__") else None
    return member


def _wants_of(function: Any) -> Iterable[LateWant]:
    signature = signature_of(function.__wrapped__)
    for name, want in cast("Mapping[str, Want]", function.__injections__).items():
        yield name, signature.get(name), want, inspect.unwrap(function)


def must_be_injected(parameter: Parameter | None) -> bool:
    """The parameter has no default of its own to fall back on; INJECTED is none."""
    return parameter is None or parameter.is_required or repr(parameter.default) == "INJECTED"
