"""ServiceContainer, and how a container of dependency-injector's is read into descriptors.

With `providers.py` the only file that imports dependency_injector. Providers are read, never called on a hot path.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, cast

from dependency_injector import containers
from dependency_injector import providers as stock

from svcframework import _factories as made
from svcframework import providers as ours
from svcframework._signatures import Want, provided_by
from svcframework._types import Lifetime, Location
from svcframework.config import load_settings
from svcframework.diagnosis import places_in
from svcframework.errors import type_name
from svcframework.problems import Problem
from svcframework.registry import Make, ServiceDescriptor
from svcframework.service import snake_case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from svcframework.config import ConfigManager


class ServiceContainer(containers.DeclarativeContainer):
    """Declares how services are built. A drop-in for dependency-injector's DeclarativeContainer.

    Its user need not make an instance: `ServiceHost(AppContainer)` reads the class. It inherits, nests and overrides as
    dependency-injector's containers do, and its instances work with dependency-injector alone.
    """


PER_SCOPE = (ours.Scoped, stock.ContextLocalSingleton, stock.ContextLocalResource)
SINGLETONS = (stock.BaseSingleton, stock.BaseResource)
FACTORIES = (stock.Factory, stock.Callable)  # a Coroutine is a Callable
ABSTRACT = (stock.AbstractFactory, stock.AbstractSingleton, stock.AbstractCallable, stock.AbstractCoroutine)
NESTED = (stock.Container, stock.DependenciesContainer)
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
    reader.load_configurations(container)
    reader.name(container, prefix="")
    reader.read(container, prefix="")
    return reader.descriptors, reader.problems


def container_name(container: Any) -> str:
    """What reports call a container."""
    return type_name(_class_of(container))


def _class_of(container: Any) -> type:
    cls = container if isinstance(container, type) else getattr(container, "declarative_parent", None)
    return cast("type", cls or type(container))


class _Reader:
    """One reading of a container: first every provider gets its name, then each becomes a descriptor."""

    def __init__(self, container: Any, manager: ConfigManager | None) -> None:
        self.container, self.owner, self.manager = _class_of(container), container_name(container), manager
        self.names: dict[int, str] = {}
        self.kept: list[Any] = []  # keeps providers alive, so that no id in `names` is used twice
        self.descriptors: list[ServiceDescriptor] = []
        self.problems: list[Problem] = []
        self.places: dict[str, Location] | None = None  # read when the first provider needs it
        self.anonymous = 0
        self.current = ""

    def load_configurations(self, container: Any) -> None:
        """Read a class's configuration files, as making an instance of it does."""
        if not (isinstance(container, type) and getattr(container, "auto_load_config", False)):
            return
        for name, provider in _declared(container):
            if isinstance(provider, stock.Configuration):
                try:
                    provider.load()
                except Exception as error:  # noqa: BLE001 - a boundary: files may be missing or malformed in any way
                    fix = "See the files that it names: the error may quote them, and so is not shown."
                    headline = f"{name} can't be loaded: {type(error).__name__}"
                    at = self.place(name)
                    self.problems.append(Problem("misconfigured", headline, at, (fix,), (name,)))

    def place(self, name: str) -> Location | None:
        """Where a name is assigned, for providers that don't remember it."""
        if self.places is None:
            self.places = places_in(self.container)
        return self.places.get(name.partition(".")[0])

    # --- names ----------------------------------------------------------------------------------------

    def name(self, container: Any, *, prefix: str) -> None:
        """Give every provider of a container, and of those nested in it, the name it is declared under."""
        for name, provider in _declared(container):
            effective = _effective(provider)
            if id(effective) not in self.names:
                self.names[id(effective)] = prefix + name
                self.kept.append(effective)
            if isinstance(effective, NESTED):
                self.name(_inner(effective), prefix=f"{prefix}{name}.")

    def read(self, container: Any, *, prefix: str) -> None:
        for name, provider in _declared(container):
            self.current = prefix + name
            self.read_provider(prefix + name, _effective(provider))

    def read_provider(self, name: str, provider: Any) -> None:
        if isinstance(provider, NESTED):
            self.read(_inner(provider), prefix=f"{name}.")
        elif self.names[id(provider)] != name:  # the same provider under a second name
            self.descriptors.append(self.expression(name, Want(self.names[id(provider)])))
        elif isinstance(provider, ours.ScopeValue):
            self.descriptors.append(self.scope_value(name, provider))
        elif isinstance(provider, stock.Dependency):
            self.read_dependency(name, provider)
        elif isinstance(provider, ours.Group):
            self.read_group(name, provider)
        else:
            self.descriptors.append(self.descriptor(name, provider))

    def read_dependency(self, name: str, provider: Any) -> None:
        """A dependency that was not overridden: its default, or a problem."""
        if provider.default is not None:
            self.names[id(_effective(provider.default))] = name
            self.descriptors.append(self.descriptor(name, _effective(provider.default)))
        else:
            wanted = type_name(provider.instance_of)
            self.unmet(
                name,
                f"{name} (Dependency on {wanted}) is not provided",
                f"Pass it: {self.owner}({name.partition('.')[0]}=…), or give it a default.",
            )
            self.descriptors.append(self.placeholder(name, provider.instance_of))

    def read_group(self, name: str, group: Any) -> None:
        members = []
        for member in map(_effective, group.args):
            known = self.names.get(id(member))
            if known is None:
                known = self.names[id(member)] = f"{name}.{_word(member)}"
                if any(known == one.name for one in self.descriptors):
                    self.anonymous += 1
                    known = self.names[id(member)] = f"{known}_{self.anonymous}"
                self.kept.append(member)
                self.descriptors.append(self.descriptor(known, member, groups=(name,)))
            members.append(known)
        parts = tuple(Want(member) for member in members)
        self.descriptors.append(self.expression(name, Make(made.to_list, parts), provides=list, at=_at(group)))

    # --- descriptors ----------------------------------------------------------------------------------

    def descriptor(self, name: str, provider: Any, *, groups: tuple[str, ...] = (), **more: Any) -> ServiceDescriptor:
        """What a provider declares under a name."""
        if isinstance(provider, ours.Settings):
            return self.settings(name, provider)
        if isinstance(provider, stock.Object) and not isinstance(provider, OPTIONS):
            value = provider.provides
            return ServiceDescriptor(name, type(value), instance=value, declared_in=self.owner)
        if isinstance(provider, (*FACTORIES, *SINGLETONS)) and not isinstance(provider, OPTIONS):
            return self.service(name, provider, groups, **more)
        return self.expression(name, self.expression_of(provider))

    def service(self, name: str, provider: Any, groups: tuple[str, ...], **more: Any) -> ServiceDescriptor:
        """Something that is made by a class or a function."""
        declaration = _declaration(provider)
        kwargs = dict(provider.kwargs)
        config = kwargs.pop("config", None) if isinstance(provider, ours.Service) else None
        factory = _product(provider)
        if factory is None or isinstance(provider, ABSTRACT):
            wanted = "" if factory is None else f" of {type_name(factory)}"
            headline = f"{name} ({type(provider).__name__}{wanted}) has no implementation"
            self.unmet(name, headline, f"Override it: {self.owner}.{name}.override(…), or {self.owner}({name}=…).")
            return self.placeholder(name, provided_by(factory or object))
        provides = made.provided_by_resource(factory) if isinstance(provider, stock.BaseResource) else None
        arguments = {key: self.argument(value) for key, value in kwargs.items()}
        attributes = getattr(provider, "attributes", None)
        if attributes:
            pairs = tuple(part for key, value in attributes.items() for part in (key, self.argument(value)))
            arguments[made.ATTRIBUTES] = Make(made.to_dict, pairs)
        return ServiceDescriptor(
            name=name,
            provides=provides or provided_by(factory),
            factory=_factory(provider, factory),
            lifetime=_lifetime(provider),
            scope=declaration.scope if isinstance(provider, PER_SCOPE) else "",
            args=tuple(self.argument(value) for value in provider.args),
            kwargs=arguments,
            config=self.argument(config),
            dependencies=declaration.dependencies,
            optional_dependencies=declaration.optional_dependencies,
            groups=(*declaration.groups, *groups),
            optional=declaration.optional,
            is_partial=isinstance(provider, FACTORIES) and not isinstance(provider, (ours.Scoped, ours.Transient)),
            declared_in=self.owner,
            at=declaration.at or self.place(name),
            **more,
        )

    def placeholder(self, name: str, provides: type) -> ServiceDescriptor:
        """Stands for what has been reported, so that those who use it are not reported too."""
        return ServiceDescriptor(name, provides, instance=None, declared_in=self.owner)

    def scope_value(self, name: str, provider: Any) -> ServiceDescriptor:
        declaration = _declaration(provider)
        return ServiceDescriptor(
            name,
            provider.instance_of,
            lifetime=Lifetime.SCOPED,
            scope=declaration.scope,
            is_scope_value=True,
            declared_in=self.owner,
            at=declaration.at,
        )

    def settings(self, name: str, provider: Any) -> ServiceDescriptor:
        model, given = provider.provides, {key: self.argument(value) for key, value in provider.kwargs.items()}
        read = Make(made.read_settings(load_settings), (model, self.manager), given, setting=type_name(model))
        return ServiceDescriptor(
            name, model, factory=made.identity, args=(read,), declared_in=self.owner, at=_at(provider)
        )

    def expression(self, name: str, value: Any, *, provides: type = object, at: Any = None) -> ServiceDescriptor:
        """A value that is computed from others each time it is asked for."""
        return ServiceDescriptor(
            name, provides, factory=made.identity, lifetime=Lifetime.TRANSIENT, args=(value,),
            declared_in=self.owner, at=at,
        )  # fmt: skip

    # --- arguments ------------------------------------------------------------------------------------

    def argument(self, value: Any) -> Any:
        """An argument's meaning: a named service, a call, or a value."""
        if not isinstance(value, stock.Provider):
            return value
        provider = _effective(value)
        if getattr(provider, "__IS_DELEGATED__", False) is True and not isinstance(provider, stock.Delegate):
            return self.handle(provider)
        name = self.names.get(id(provider))
        if name is not None and not isinstance(provider, (*NESTED, *OPTIONS)):
            return Want(name)
        return self.expression_of(provider)

    def expression_of(self, provider: Any) -> Any:
        """What a provider stands for where it has no name to be asked for by."""
        for kinds, read in _EXPRESSIONS.items():
            if isinstance(provider, kinds):
                return read(self, provider)
        return Make(provider)

    def inner(self, provider: Any) -> Any:
        """A service declared in another's arguments gets a name of its own, and is nobody else's."""
        self.anonymous += 1
        name = f"{self.current.partition('.')[0]}.{_word(provider)}_{self.anonymous}"
        self.names[id(provider)] = name
        self.kept.append(provider)
        self.descriptors.append(self.descriptor(name, provider, is_anonymous=True))
        return Want(name)

    def handle(self, provider: Any) -> Any:
        """A provider that is passed on uncalled: a function that makes, or gets, what it provides."""
        provider = _effective(provider)
        if isinstance(provider, stock.Aggregate):
            return self.aggregate(provider)
        if isinstance(provider, FACTORIES) and not isinstance(provider, PER_SCOPE):
            args = tuple(made.later(self.argument(value)) for value in provider.args)
            kwargs = {key: made.later(self.argument(value)) for key, value in provider.kwargs.items()}
            return Make(made.Handle, (_product(provider), *args), kwargs)
        found = self.argument(stock.Delegate(provider)) if id(provider) not in self.names else None
        return found or Want(self.names[id(provider)], "lazy")

    def delegate(self, provider: Any) -> Any:
        target = _effective(provider.provides)
        if id(target) not in self.names and isinstance(target, SINGLETONS):
            self.inner(target)
        known = id(target) in self.names or isinstance(target, (*FACTORIES, stock.Aggregate))
        return self.handle(target) if known else Make(made.deferred, (), {"make": self.argument(target)})

    def aggregate(self, provider: Any) -> Any:
        pairs = [(key, self.handle(value)) for key, value in provider.providers.items()]
        return Make(made.Handles, tuple(part for pair in pairs for part in pair))

    def dependency(self, provider: Any) -> Any:
        if provider.default is not None:
            return self.argument(provider.default)
        self.unmet(
            self.current,
            f"{self.current}: a Dependency on {type_name(provider.instance_of)} is not provided",
            "Override it, or give it a default.",
        )
        return None

    def selected(self, provider: Any) -> Any:
        try:
            chosen = provider.selector() if provider.selector is not None else None
        except Exception as error:  # noqa: BLE001 - a boundary: the selector is the user's
            self.unmet(
                self.current, f"{self.current}: its selector raised {type(error).__name__}", "Mend the selector."
            )
            return None
        if chosen not in provider.providers:
            known = ", ".join(map(repr, provider.providers))
            self.unmet(self.current, f"{self.current}: a Selector was told {chosen!r}", f"It knows: {known}.")
            return None
        return self.argument(provider.providers[chosen])

    def unmet(self, name: str, headline: str, fix: str) -> None:
        """Nothing stands behind a name."""
        self.problems.append(Problem("unmet", headline, self.place(name), (fix,), (name,)))


def _option(_: _Reader, provider: Any) -> Make:
    root = provider.option if isinstance(provider, stock.TypedConfigurationOption) else provider
    return Make(provider, setting=root.get_name())


_EXPRESSIONS: Mapping[Any, Callable[[_Reader, Any], Any]] = {
    (stock.Delegate,): _Reader.delegate,
    OPTIONS: _option,
    (stock.Object,): lambda _, p: p.provides,
    (stock.ProvidedInstance,): lambda r, p: r.argument(p.provides),
    (stock.AttributeGetter,): lambda r, p: Make(getattr, (r.argument(p.provides), p.name)),
    (stock.ItemGetter,): lambda r, p: Make(operator.getitem, (r.argument(p.provides), p.name)),
    (stock.MethodCaller,): lambda r, p: Make(
        made.call, (r.argument(p.provides), *map(r.argument, p.args)), {k: r.argument(v) for k, v in p.kwargs.items()}
    ),
    (stock.List,): lambda r, p: Make(made.to_list, tuple(map(r.argument, p.args))),
    (stock.Dict,): lambda r, p: Make(
        made.to_dict, tuple(r.argument(part) for pair in p.kwargs.items() for part in pair)
    ),
    (stock.Aggregate,): _Reader.aggregate,
    (stock.Selector,): _Reader.selected,
    (stock.Dependency,): _Reader.dependency,
    (*SINGLETONS, *FACTORIES): _Reader.inner,
}


def _declared(container: Any) -> Iterator[tuple[str, Any]]:
    return iter(list(container.providers.items()))


def _inner(provider: Any) -> Any:
    """What a provider of containers nests."""
    return provider.container if isinstance(provider, stock.Container) else provider


def _effective(provider: Any) -> Any:
    """The provider that answers: the last one that overrides it."""
    while provider.overridden and not isinstance(provider, NESTED):  # these hand it to their members
        provider = provider.last_overriding
    return provider


def _declaration(provider: Any) -> ours.Declaration:
    return cast("ours.Declaration", getattr(provider, "declaration", None) or ours.Declaration())


def _at(provider: Any) -> Any:
    return _declaration(provider).at


def _lifetime(provider: Any) -> Lifetime:
    if isinstance(provider, PER_SCOPE):
        return Lifetime.SCOPED
    if isinstance(provider, stock.ThreadLocalSingleton):
        return Lifetime.TRANSIENT
    return Lifetime.SINGLETON if isinstance(provider, SINGLETONS) else Lifetime.TRANSIENT


def _product(provider: Any) -> Any:
    """What a provider calls, without those that dependency-injector nests in it."""
    product = provider.provides
    while isinstance(product, stock.Provider):
        product = cast("Any", product).provides
    return product


def _factory(provider: Any, product: Any) -> Any:
    """The function that makes what a provider makes, in the provider's own way."""
    if isinstance(provider, stock.BaseResource):
        return made.opened(product, may_wait=not isinstance(provider, PER_SCOPE))
    if isinstance(provider, stock.ThreadLocalSingleton) and not isinstance(provider, PER_SCOPE):
        return made.once_per_thread(product)
    return made.with_attributes(product) if getattr(provider, "attributes", None) else product


def _word(provider: Any) -> str:
    """A word for a service without a name."""
    word = snake_case(getattr(_product(provider), "__name__", ""))
    return word if word.isidentifier() else "part"


__all__ = ["ServiceContainer", "container_name", "read_container"]
