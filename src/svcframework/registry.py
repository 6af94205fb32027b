"""ServiceRegistry: what is declared, by name, with its groups. It describes; it builds and starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from svcframework._signatures import fits, provided_by
from svcframework._types import Lifetime, Location
from svcframework.errors import RegistrationError, ServiceNotFoundError, type_name
from svcframework.service import snake_case

NOTHING: Final = type("Nothing", (), {"__repr__": lambda _: "<nothing>"})()
"""Marks a descriptor that has a factory and no ready instance."""
_NO_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({})  # shared by all who are given none


def _no_arguments() -> Mapping[str, Any]:
    return _NO_ARGUMENTS  # not a plain default: Python 3.11 takes it for a mutable one


@dataclass(frozen=True, slots=True)
class Make:
    """An argument that is made by a call, anew for each use. Its own arguments may be services again.

    Args:
        factory: What is called.
        args: Positional arguments: values, `Want`s or `Make`s.
        kwargs: Keyword arguments, likewise.
        setting: What it reads, when it reads a setting: that is tried when the graph is wired.
    """

    factory: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=_no_arguments)
    setting: str = ""


@dataclass(frozen=True, slots=True)
class ServiceDescriptor:
    """How one service is declared.

    Args:
        name: What it is asked for by.
        provides: The type its instances have.
        factory: The class, function or generator function that makes one; None with `instance`.
        instance: A ready instance, kept by whoever registered it: never started or stopped.
        lifetime: How long an instance lives.
        scope: The scope level of a scoped one.
        args: Positional arguments: values, `Want`s or `Make`s.
        kwargs: Keyword arguments, likewise. What is not given is wired by type or by name.
        config: The settings: a `ServiceConfig`, a mapping, a settings object or a `Make` of one.
        dependencies: Names of services that must run first.
        optional_dependencies: Names of services that start first if they exist.
        groups: Groups it belongs to.
        optional: The host may run without it; it is then retried in the background.
        is_scope_value: It is not made but passed in when its scope is opened.
        is_partial: Callers may give the arguments that are left open: then nothing in the graph may use it.
        is_anonymous: It was declared in another's arguments: no type finds it.
        declared_in: Who declared it: a container's name or a function.
        at: Where that is written.
    """

    name: str
    provides: type
    factory: Callable[..., Any] | None = None
    instance: Any = NOTHING
    lifetime: Lifetime = Lifetime.SINGLETON
    scope: str = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=_no_arguments)
    config: Any = None
    dependencies: tuple[str, ...] = ()
    optional_dependencies: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    optional: bool = False
    is_scope_value: bool = False
    is_partial: bool = False
    is_anonymous: bool = False
    declared_in: str = ""
    at: Location | None = None

    @property
    def label(self) -> str:
        """`database_service (PostgresService)`."""
        return f"{self.name} ({type_name(self.provides)})"

    @classmethod
    def describe(
        cls,
        target: Any,
        *,
        name: str | None = None,
        lifetime: Lifetime = Lifetime.SINGLETON,
        **fields: Any,
    ) -> ServiceDescriptor:
        """The descriptor of a class or factory.

        Args:
            target: A class, function or generator function.
            name: Its name; from the class or function in snake case when not given.
            lifetime: How long an instance lives.
            fields: The descriptor's other fields.

        Raises:
            RegistrationError: The target can't be called, or the name is no use.
        """
        at = fields.get("at")
        if not callable(target):
            raise RegistrationError(
                f"{target!r} can't make a service{_at(at)}: give a class or a function, or use register_instance()."
            )
        name = name or getattr(target, "service_name", None) or snake_case(getattr(target, "__name__", ""))
        _check_name(name, target, at)
        return cls(name=name, provides=provided_by(target), factory=target, lifetime=lifetime, **fields)


class ServiceRegistry:
    """The declared services of one host, by name and by type, and their groups."""

    def __init__(self) -> None:
        self.version = 0
        self.duplicates: list[tuple[ServiceDescriptor, ServiceDescriptor]] = []
        self.groups: dict[str, dict[str, None]] = {}
        self.groups_at: dict[str, Location] = {}
        """Where a group was named, for those that were named by themselves."""
        self._descriptors: dict[str, ServiceDescriptor] = {}

    def add(self, descriptor: ServiceDescriptor) -> ServiceDescriptor:
        """Declare a service. A second one of the same name is kept for the validation's report."""
        known = self._descriptors.get(descriptor.name)
        if known is not None:
            self.duplicates.append((known, descriptor))
            return known
        self._descriptors[descriptor.name] = descriptor
        for group in descriptor.groups:
            self.groups.setdefault(group, {})[descriptor.name] = None
        self.version += 1
        return descriptor

    def register(self, descriptor: ServiceDescriptor) -> ServiceDescriptor:
        """Declare a service, or refuse at once when the name is taken.

        Raises:
            RegistrationError: The name is taken; names both places.
        """
        known = self._descriptors.get(descriptor.name)
        if known is not None:
            raise RegistrationError(
                f"{descriptor.name!r} is registered already{_at(known.at)}, now again{_at(descriptor.at)}: "
                f"give one another name, or unregister({descriptor.name!r}) first."
            )
        return self.add(descriptor)

    def unregister(self, name: str) -> None:
        """Forget a service.

        Raises:
            ServiceNotFoundError: There is none of that name.
        """
        if name not in self._descriptors:
            raise ServiceNotFoundError(name, known=self._descriptors)
        del self._descriptors[name]
        for members in self.groups.values():
            members.pop(name, None)
        self.version += 1

    def replace(self, name: str, **changes: Any) -> None:
        """Change fields of a declared service."""
        self._descriptors[name] = replace(self._descriptors[name], **changes)
        self.version += 1

    def register_group(self, name: str, members: Sequence[str], *, at: Location | None = None) -> None:
        """Name a set of services; the members may be registered later, but before the start."""
        self.groups.setdefault(name, {}).update(dict.fromkeys(members))
        if at is not None:
            self.groups_at[name] = at
        self.version += 1

    def group(self, name: str) -> tuple[str, ...]:
        """The names of a group's members, in the order they joined.

        Raises:
            ServiceNotFoundError: There is no such group.
        """
        if name not in self.groups:
            raise ServiceNotFoundError(name, known=self.groups, needed_by="a group of services")
        return tuple(self.groups[name])

    def of_type(self, wanted: type) -> list[str]:
        """The names of the services that are of a type, in the order of declaration."""
        return [name for name, descriptor in self._descriptors.items() if fits(descriptor.provides, wanted)]

    @property
    def descriptors(self) -> Mapping[str, ServiceDescriptor]:
        """All of them, in the order of declaration."""
        return self._descriptors

    def __getitem__(self, name: str) -> ServiceDescriptor:
        try:
            return self._descriptors[name]
        except KeyError:
            raise ServiceNotFoundError(name, known=self._descriptors) from None

    def __contains__(self, name: object) -> bool:
        return name in self._descriptors

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptors)

    def __len__(self) -> int:
        return len(self._descriptors)


def as_names(names: Iterable[str] | str) -> tuple[str, ...]:
    """Names given as a list or as one word."""
    return (names,) if isinstance(names, str) else tuple(names)


def _check_name(name: str, target: object, at: Location | None) -> None:
    if not name or name == "<lambda>":
        raise RegistrationError(f"{target!r} has no name of its own{_at(at)}: pass name=.")
    if not all(part.isidentifier() for part in name.split(".")):
        raise RegistrationError(
            f"{name!r} can't be a service's name{_at(at)}: use letters, digits and underscores, "
            f"as in {snake_case('MyService')!r}."
        )


def _at(location: Location | None) -> str:
    return f" ({location})" if location else ""
