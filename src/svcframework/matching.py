"""Matching: which declared services answer to a name, a type, a Protocol or a group. Looks up; wires nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from svcframework._signatures import Want, fits

if TYPE_CHECKING:
    from svcframework.registry import ServiceRegistry

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


class Index:
    """Who answers to a name or a type. Made of a registry as it is then; lives as long as the graph it serves."""

    def __init__(self, registry: ServiceRegistry) -> None:
        self.descriptors = dict(registry.descriptors)
        self.groups = registry.groups
        self.by_type: dict[type, list[str]] = {}
        self.protocols: dict[type, list[str]] = {}
        self.refs = {name: Ref(name) for name in self.descriptors}
        for name, descriptor in self.descriptors.items():
            for base in descriptor.provides.__mro__ if not descriptor.is_anonymous else ():
                known = self.by_type.get(base)
                if known is None:
                    self.by_type[base] = [name]
                else:
                    known.append(name)

    def ref(self, name: str, *, lazy: bool) -> Ref:
        """The reference to a service; all plain ones to the same service are one object."""
        return Ref(name, lazy=True) if lazy else self.refs[name]

    def resolve(self, want: Want, parameter: str = "") -> Ref | Refs | None:
        """The service or services that answer a wish."""
        key, lazy = want.key, want.how == "lazy"
        if want.how in {"list", "dict"}:
            names = self.candidates(key) if isinstance(key, type) else list(self.groups.get(key, ()))
            return Refs(tuple(names), by_name=want.how == "dict")
        if isinstance(key, str):
            return self.ref(key, lazy=lazy) if key in self.descriptors else None
        names = self.candidates(key)
        if len(names) > 1:
            names = self.narrow(names, key, parameter)
        return self.ref(names[0], lazy=lazy) if len(names) == 1 else None

    def candidates(self, wanted: str | type) -> list[str]:
        """The names of all services that answer to a name or type."""
        if isinstance(wanted, str):
            return [wanted] if wanted in self.descriptors else []
        if getattr(wanted, "_is_protocol", False):
            known = self.protocols.get(wanted)
            if known is None:
                known = self.protocols[wanted] = [
                    name
                    for name, descriptor in self.descriptors.items()
                    if not descriptor.is_anonymous
                    and descriptor.provides is not UNKNOWN
                    and fits(descriptor.provides, wanted)
                ]
            return known
        return self.by_type.get(wanted, [])

    def narrow(self, names: list[str], wanted: type, parameter: str) -> list[str]:
        """Of several, the one that bears the parameter's name, or else the only one of exactly that type."""
        if parameter in names:
            return [parameter]
        exact = [name for name in names if self.descriptors[name].provides is wanted]
        return exact if len(exact) == 1 else names
