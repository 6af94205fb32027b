"""ServiceContainer, and how a container of dependency-injector's is read into descriptors.

With `providers.py` the only file that imports dependency_injector. Providers are read, never called on a hot path.
"""

from __future__ import annotations

import functools
import inspect
import operator
from typing import TYPE_CHECKING, Any, cast

from dependency_injector import containers, resources
from dependency_injector import providers as stock

from svcframework import providers as ours
from svcframework._signatures import Want, provided_by
from svcframework._types import Lifetime
from svcframework.config import load_settings
from svcframework.errors import type_name
from svcframework.problems import Problem
from svcframework.registry import Make, ServiceDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from svcframework.config import ConfigManager


class ServiceContainer(containers.DeclarativeContainer):
    """Declares how services are built. A drop-in for dependency-injector's DeclarativeContainer.

    The class is never instantiated by its user: `ServiceHost(AppContainer)` reads it. It inherits, nests and overrides
    as dependency-injector's containers do.
    """


Readable = "type[containers.DeclarativeContainer] | containers.Container"

SHARED = (stock.BaseSingleton,)
PER_SCOPE = (ours.Scoped, stock.ContextLocalSingleton, stock.ContextLocalResource)
DELEGATES = (stock.Delegate, stock.DependenciesContainer)
OPTIONS = (stock.ConfigurationOption, stock.TypedConfigurationOption, stock.Configuration)


def read_container(
    container: Any, *, manager: ConfigManager | None = None
) -> tuple[list[ServiceDescriptor], list[Problem]]:
    """The services that a container declares, in the order of declaration, and what can't be read.

    Args:
        container: A container class or instance.
        manager: Where `Settings` are read from.
    """
    reader = _Reader(container, manager)
    reader.read(container, prefix="")
    return reader.descriptors, reader.problems


def container_name(container: Any) -> str:
    """What reports call a container."""
    cls = container if isinstance(container, type) else getattr(container, "parent_name", None) or type(container)
    return type_name(getattr(container, "declarative_parent", None) or cls)


class _Reader:
    def __init__(self, container: Any, manager: ConfigManager | None) -> None:
        self.owner, self.manager = container_name(container), manager
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []  # keeps providers alive, so that no id in `names` is used twice
        self.descriptors: list[ServiceDescriptor] = []
        self.problems: list[Problem] = []
        self.anonymous = 0
        self.current = ""

    def read(self, container: Any, *, prefix: str) -> None:
        found = list(_declared(container))
        for name, provider in found:
            self.names.setdefault(id(_effective(provider)), prefix + name)
            self.kept.append(_effective(provider))
        for name, provider in found:
            self.current = prefix + name
            self.read_provider(prefix + name, _effective(provider))

    def read_provider(self, name: str, provider: Any) -> None:
        if isinstance(provider, stock.Container):
            self.read(provider.container, prefix=f"{name}.")
        elif isinstance(provider, stock.DependenciesContainer):
            self.read(provider, prefix=f"{name}.")
        elif isinstance(provider, stock.Dependency):
            self.read_dependency(name, provider)
        elif isinstance(provider, ours.Group):
            self.read_group(name, provider)
        else:
            self.descriptors.append(self.descriptor(name, provider))

    def read_dependency(self, name: str, provider: Any) -> None:
        declaration = _declaration(provider)
        if isinstance(provider, ours.ScopeValue):
            self.descriptors.append(
                ServiceDescriptor(
                    name,
                    provider.instance_of,
                    lifetime=Lifetime.SCOPED,
                    scope=declaration.scope,
                    is_scope_value=True,
                    declared_in=self.owner,
                    at=declaration.at,
                )  # fmt: skip
            )
        elif isinstance(provider.default, stock.Provider):
            self.descriptors.append(self.descriptor(name, provider.default))
        else:
            wanted = type_name(provider.instance_of)
            self.unmet(
                name,
                f"{name} (Dependency on {wanted}) is not provided",
                f"Pass it: {self.owner}({name}=…), or give it a default.",
            )

    def read_group(self, name: str, group: Any) -> None:
        members = []
        for member in group.args:
            known = self.names.get(id(_effective(member)))
            if known is None:
                known = f"{name}.{ServiceDescriptor.describe(_factory(member)).name}"
                self.names[id(member)] = known
                self.descriptors.append(self.descriptor(known, _effective(member), groups=(name,)))
            members.append(known)
        self.descriptors.append(
            self.expression(name, Make(_list, tuple(Want(member) for member in members)), provides=list)
        )

    def descriptor(self, name: str, provider: Any, *, groups: tuple[str, ...] = ()) -> ServiceDescriptor:
        if isinstance(provider, ours.Settings):
            return self.settings(name, provider)
        if isinstance(provider, stock.Object) and not isinstance(provider, OPTIONS):
            value = provider.provides
            return ServiceDescriptor(name, type(value), instance=value, declared_in=self.owner)
        if isinstance(provider, (stock.Factory, stock.BaseSingleton, stock.BaseResource, stock.Callable)):
            if isinstance(provider, stock.TypedConfigurationOption):
                return self.expression(name, Make(provider))
            return self.service(name, provider, groups)
        return self.expression(name, self.expression_of(provider, itself=True))

    def service(self, name: str, provider: Any, groups: tuple[str, ...]) -> ServiceDescriptor:
        declaration = _declaration(provider)
        factory, kwargs = _factory(provider), dict(provider.kwargs)
        config = kwargs.pop("config", None) if isinstance(provider, ours.Service) else None
        if factory is None:
            self.unmet(
                name,
                f"{name} ({type(provider).__name__}) has no implementation",
                f"Override it: {self.owner}({name}=…).",
            )
            factory = object
        if isinstance(provider, stock.ThreadLocalSingleton):
            factory, kwargs = provider, {}
        return ServiceDescriptor(
            name=name,
            provides=_provides(provider, factory),
            factory=factory,
            lifetime=_lifetime(provider),
            scope=declaration.scope if isinstance(provider, PER_SCOPE) else "",
            args=() if factory is provider else tuple(self.argument(value) for value in provider.args),
            kwargs={key: self.argument(value) for key, value in kwargs.items()},
            config=self.argument(config),
            dependencies=declaration.dependencies,
            optional_dependencies=declaration.optional_dependencies,
            groups=(*declaration.groups, *groups),
            optional=declaration.optional,
            declared_in=self.owner,
            at=declaration.at,
        )

    def settings(self, name: str, provider: Any) -> ServiceDescriptor:
        model = provider.provides
        load = Make(load_settings, (model,), {"manager": self.manager})
        return ServiceDescriptor(
            name, model, factory=_identity, args=(load,), declared_in=self.owner, at=_declaration(provider).at
        )

    def expression(self, name: str, value: Any, *, provides: type = object) -> ServiceDescriptor:
        return ServiceDescriptor(
            name, provides, factory=_identity, lifetime=Lifetime.TRANSIENT, args=(value,), declared_in=self.owner
        )

    def argument(self, value: Any) -> Any:
        return self.expression_of(value) if isinstance(value, stock.Provider) else value

    def expression_of(self, provider: Any, *, itself: bool = False) -> Any:
        """An argument's meaning: a named service, a call, or a value."""
        provider = _effective(provider)
        name = self.names.get(id(provider))
        if name is not None and not itself:
            return Want(name)
        for kinds, read in _EXPRESSIONS.items():
            if isinstance(provider, kinds):
                return read(self, provider)
        return Make(provider)

    def shared(self, provider: Any) -> Any:
        """A singleton without a name of its own gets one from the service it was declared in."""
        self.anonymous += 1
        factory = _factory(provider)
        name = f"{self.current.partition('.')[0]}.{ServiceDescriptor.describe(factory).name}_{self.anonymous}"
        self.names[id(provider)] = name
        self.kept.append(provider)
        self.descriptors.append(self.descriptor(name, provider))
        return Want(name)

    def call(self, provider: Any) -> Any:
        args = tuple(self.argument(value) for value in provider.args)
        return Make(_factory(provider), args, {key: self.argument(value) for key, value in provider.kwargs.items()})

    def delegate(self, provider: Any) -> Any:
        target = provider.provides
        name = self.names.get(id(_effective(target)))
        return target if name is None else Want(name, "lazy")

    def dependency(self, provider: Any) -> Any:
        return self.argument(provider.default) if provider.default is not None else Make(provider)

    def selected(self, provider: Any) -> Any:
        chosen = provider.selector() if provider.selector is not None else None
        if chosen not in provider.providers:
            known = ", ".join(map(repr, provider.providers))
            self.unmet(self.current, f"{self.current}: a Selector was told {chosen!r}", f"It knows: {known}.")
            return None
        return self.argument(provider.providers[chosen])

    def unmet(self, name: str, headline: str, fix: str) -> None:
        self.problems.append(Problem("unmet", headline, None, (f"declared in {self.owner}", fix), (name,)))


_EXPRESSIONS: Mapping[Any, Callable[[_Reader, Any], Any]] = {
    (stock.Delegate, stock.FactoryDelegate, stock.SingletonDelegate): _Reader.delegate,
    OPTIONS: lambda _, provider: Make(provider),
    (stock.Object,): lambda _, provider: provider.provides,
    (stock.ProvidedInstance,): lambda reader, provider: reader.argument(provider.provides),
    (stock.AttributeGetter,): lambda r, p: Make(getattr, (r.argument(p.provides), p.name)),
    (stock.ItemGetter,): lambda r, p: Make(operator.getitem, (r.argument(p.provides), p.name)),
    (stock.MethodCaller,): lambda r, p: Make(
        _call, (r.argument(p.provides), *map(r.argument, p.args)), {k: r.argument(v) for k, v in p.kwargs.items()}
    ),
    (stock.List,): lambda r, p: Make(_list, tuple(map(r.argument, p.args))),
    (stock.Dict,): lambda r, p: Make(_dict, tuple(r.argument(part) for pair in p.kwargs.items() for part in pair)),
    (stock.Selector,): _Reader.selected,
    (stock.Dependency,): _Reader.dependency,
    (stock.BaseSingleton, stock.BaseResource): _Reader.shared,
    (stock.Factory, stock.Callable): _Reader.call,
}


def _declared(container: Any) -> Iterator[tuple[str, Any]]:
    return iter(list(container.providers.items()))


def _effective(provider: Any) -> Any:
    while provider.overridden:
        provider = provider.last_overriding
    return provider


def _declaration(provider: Any) -> ours.Declaration:
    return cast("ours.Declaration", getattr(provider, "declaration", None) or ours.Declaration())


def _lifetime(provider: Any) -> Lifetime:
    if isinstance(provider, PER_SCOPE):
        return Lifetime.SCOPED
    if isinstance(provider, stock.ThreadLocalSingleton):
        return Lifetime.TRANSIENT
    return Lifetime.SINGLETON if isinstance(provider, (stock.BaseSingleton, stock.BaseResource)) else Lifetime.TRANSIENT


def _provides(provider: Any, factory: Any) -> type:
    return object if factory is provider else provided_by(factory)


def _factory(provider: Any) -> Any:
    """What a provider calls, without the wrappers that dependency-injector puts round it."""
    if not isinstance(provider, stock.Provider):
        return provider
    made = provider.provides
    if isinstance(made, stock.Provider):
        made = made.provides
    if isinstance(made, type) and issubclass(made, (resources.Resource, resources.AsyncResource)):
        return _from_resource_class(made)
    if isinstance(provider, stock.BaseResource) and hasattr(made, "__wrapped__"):
        made = inspect.unwrap(made)
    attributes = getattr(provider, "attributes", None)
    return _with_attributes(made, attributes) if attributes else made


def _from_resource_class(cls: Any) -> Callable[..., Any]:
    """A Resource class as the generator function it stands for."""
    if issubclass(cls, resources.AsyncResource):

        async def open_async(*args: Any, **kwargs: Any) -> Any:
            owner = cls(*args, **kwargs) if _takes_arguments(cls) else cls()
            resource = await owner.init(*args, **kwargs)
            yield resource
            await owner.shutdown(resource)

        return open_async

    def open_sync(*args: Any, **kwargs: Any) -> Any:
        owner = cls(*args, **kwargs) if _takes_arguments(cls) else cls()
        resource = owner.init(*args, **kwargs)
        yield resource
        owner.shutdown(resource)

    return open_sync


def _takes_arguments(cls: Any) -> bool:
    return "__init__" in vars(cls) or cls.__init__ is not object.__init__


def _with_attributes(made: Any, attributes: Mapping[str, Any]) -> Callable[..., Any]:
    @functools.wraps(made, updated=())
    def build(*args: Any, **kwargs: Any) -> Any:
        instance = made(*args, **kwargs)
        for name, value in attributes.items():
            setattr(instance, name, value() if isinstance(value, stock.Provider) else value)
        return instance

    return build


def _identity(value: Any) -> Any:
    return value


def _list(*values: Any) -> list[Any]:
    return list(values)


def _dict(*pairs: Any) -> dict[Any, Any]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
