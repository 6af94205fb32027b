"""The words of a container: dependency-injector's own providers and ours beside them.

With `containers.py` the only file that imports dependency_injector. Ours are ordinary providers too, so a container
that uses them still works with dependency-injector alone; a host reads them and does the wiring.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from typing import Any, TypeVar

from dependency_injector import providers as stock
from dependency_injector.providers import *  # noqa: F403 - every stock provider is one of ours

from svcframework._types import Location
from svcframework.registry import as_names

ServiceT = TypeVar("ServiceT")


@dataclass(slots=True)
class Declaration:
    """What our providers know beyond dependency-injector's."""

    at: Location | None = None
    groups: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    optional_dependencies: tuple[str, ...] = ()
    optional: bool = False
    scope: str = "request"


class _Declared:
    """Carries a `Declaration` through dependency-injector's deep copies."""

    declaration: Declaration = Declaration()

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Any:
        copied = super().__deepcopy__(memo)  # type: ignore[misc]  # every base after this one is a provider
        copied.declaration = self.declaration
        return copied


class Service(_Declared, stock.ThreadSafeSingleton[ServiceT]):
    """One instance for the host's life, started and stopped with it.

    Args:
        provides: The class, function or generator function that makes it.
        args: Positional arguments: values or providers.
        config: Its settings: a `ServiceConfig`, a mapping, or an option of a Configuration.
        groups: Groups it belongs to.
        dependencies: Names of services that must run first, beyond those in its arguments.
        optional_dependencies: Names of services that start first if they exist.
        optional: The host may run without it; it is then retried in the background.
        kwargs: Keyword arguments. Those left out are wired by type or by name.
    """

    def __init__(
        self,
        provides: abc.Callable[..., ServiceT] | type[ServiceT] | str | None = None,
        *args: Any,
        config: Any = None,
        groups: abc.Iterable[str] | str = (),
        dependencies: abc.Iterable[str] | str = (),
        optional_dependencies: abc.Iterable[str] | str = (),
        optional: bool = False,
        **kwargs: Any,
    ) -> None:
        if config is not None:
            kwargs["config"] = config
        super().__init__(provides, *args, **kwargs)
        if provides is not None:  # dependency-injector copies with an empty call
            self.declaration = Declaration(
                Location.of_caller(),
                as_names(groups),
                as_names(dependencies),
                as_names(optional_dependencies),
                optional,
            )


class Scoped(_Declared, stock.Factory[ServiceT]):
    """One instance per scope, closed with it: a request, a job, a tenant.

    Args:
        provides: A class, a function, or a generator function whose code after `yield` closes it.
        args: Positional arguments: values or providers.
        scope: The scope level it lives in.
        kwargs: Keyword arguments. Those left out are wired by type or by name.
    """

    def __init__(
        self,
        provides: abc.Callable[..., ServiceT] | type[ServiceT] | str | None = None,
        *args: Any,
        scope: str = "request",
        **kwargs: Any,
    ) -> None:
        super().__init__(provides, *args, **kwargs)
        if provides is not None:
            self.declaration = Declaration(Location.of_caller(), scope=scope)


class Transient(_Declared, stock.Factory[ServiceT]):
    """A new instance for each one who asks.

    Args:
        provides: The class or function that makes one.
        args: Positional arguments: values or providers.
        kwargs: Keyword arguments. Those left out are wired by type or by name.
    """

    def __init__(
        self, provides: abc.Callable[..., ServiceT] | type[ServiceT] | str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(provides, *args, **kwargs)
        if provides is not None:
            self.declaration = Declaration(Location.of_caller())


class ScopeValue(_Declared, stock.Dependency[ServiceT]):
    """A value that is passed in when a scope is opened: the request, the tenant.

    Args:
        provides: The type the value must have.
        scope: The scope level it comes with.
    """

    def __init__(self, provides: type[ServiceT] = object, *, scope: str = "request", **kwargs: Any) -> None:  # type: ignore[assignment]  # object is every type's base
        super().__init__(kwargs.pop("instance_of", provides), **kwargs)
        self.declaration = Declaration(Location.of_caller(), scope=scope)


class Group(_Declared, stock.List):
    """Several services as one list; each is a singleton of its own, and they form a group of the declared name.

    Args:
        members: Classes or providers.
    """

    def __init__(self, *members: Any) -> None:
        made = [member if isinstance(member, stock.Provider) else Service(member) for member in members]
        super().__init__(*made)
        if members:
            self.declaration = Declaration(Location.of_caller())
            for member in made:
                if isinstance(member, Service):
                    member.declaration.at = self.declaration.at


class Settings(_Declared, stock.ThreadSafeSingleton[ServiceT]):
    """Application settings: a pydantic model, read from the configuration's sources and validated at build.

    Args:
        provides: The model class.
        kwargs: Values that win over every source.
    """

    def __init__(self, provides: type[ServiceT] | None = None, **kwargs: Any) -> None:
        super().__init__(provides, **kwargs)
        if provides is not None:
            self.declaration = Declaration(Location.of_caller())
