"""Composition: the services of a host, declared, wired, asked for, scoped and overridden. It starts nothing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints, overload

from svcframework._signatures import fits
from svcframework._types import Lifetime, Location
from svcframework.config import ConfigManager, get_config_manager, use_config_manager
from svcframework.discovery import LoadedPlugin, PluginCatalogue
from svcframework.errors import PluginError, ScopeError, ServiceNotFoundError, did_you_mean, type_name
from svcframework.problems import Problem, WiringError
from svcframework.registry import ServiceDescriptor, ServiceRegistry, as_names
from svcframework.resolver import Resolver
from svcframework.scopes import PrivateScope, Scope
from svcframework.wiring import Graph, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from svcframework.host import ServiceHost
    from svcframework.service import BaseService

T = TypeVar("T")


class Composition:
    """What a host is made of: containers, plugins and registrations, wired into one graph. Lives as long as the host.

    Args:
        containers: Container classes (or instances) whose services it has.
        plugins: Names of plugins whose services it has too.
        scopes: The scope levels, the longest-lived first.
        config: Where settings come from; the current configuration when not given.
        name: What reports call it; the first container's name when not given.
        catalogue: The installed plugins; discovered when not given.
    """

    def __init__(
        self,
        *containers: Any,
        plugins: Iterable[str] = (),
        scopes: Iterable[str] = ("request",),
        config: ConfigManager | None = None,
        name: str | None = None,
        catalogue: PluginCatalogue | None = None,
    ) -> None:
        self.containers, self.plugins, self.scopes = containers, tuple(plugins), tuple(scopes)
        self.name = name or (_container_name(containers[0]) if containers else "host")
        self.registry = ServiceRegistry()
        self._config, self._catalogue = config, catalogue
        self._resolver = Resolver(self._wire, host=self, attach=self._attach)
        self.get = self._resolver.table.__getitem__
        self._innermost = self._resolver.level(self.scopes[-1])
        self._problems: list[Problem] = []
        self._is_read = self._is_reading = self._is_initialized = False
        self._lock = threading.Lock()

    # --- asking ---------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, wanted: type[T]) -> T: ...
    @overload
    def __getitem__(self, wanted: str) -> Any: ...
    def __getitem__(self, wanted: str | type[Any]) -> Any:
        """The service of that name or type, built now if it was not yet.

        Raises:
            ServiceNotFoundError: There is none.
            AmbiguousServiceError: Several are of that type.
            WiringError: Something is wrong with it or with what it needs.
        """
        return self._resolver.table[wanted]

    @property
    def services(self) -> Any:
        """The services that live as long as the host, as attributes: `host.services.user_service`, the fastest way."""
        return self.resolver.space

    def services_as(self, kind: type[T]) -> T:
        """The services as attributes, with the types that a class gives them: `host.services_as(Services).users`.

        Args:
            kind: A class whose annotations are services; `svc stubs` writes it, or you do, with just those you need.

        Raises:
            WiringError: A service is not there, doesn't live as long as the host, or is of another type. All of them.
        """
        graph = self.graph
        problems = [each for name, hint in get_type_hints(kind).items() if (each := _unlike(graph, kind, name, hint))]
        if problems:
            raise WiringError(problems, subject=f"{kind.__qualname__}, asked of {self.name}")
        return cast("T", self.resolver.space)

    def factory(self, wanted: type[T]) -> Callable[[], T]:
        """A function that makes a transient service; it stays right when overrides come and go.

        Raises:
            ServiceNotFoundError: There is none.
            ScopeError: It holds something that only a scope has.
        """
        return self.resolver.factory(self.resolver.name_for(wanted))

    def all(self, wanted: type[T]) -> list[T]:
        """All services of a type, in the order of declaration."""
        return [self._resolver.any_of(name) for name in self.graph.candidates(wanted)]

    def group(self, name: str) -> list[Any]:
        """The services of a group, in the order they joined it."""
        return [self._resolver.any_of(member) for member in self.registry.group(name)]

    def __contains__(self, wanted: object) -> bool:
        if isinstance(wanted, str):
            return wanted in self.graph.nodes
        return isinstance(wanted, type) and bool(self.graph.candidates(wanted))

    @property
    def config(self) -> ConfigManager:
        """Where the services' settings come from."""
        return self._config or get_config_manager()

    @property
    def graph(self) -> Graph:
        """The wired services with their problems; read and wired on first use."""
        self._read()
        return self._resolver.graph

    @property
    def resolver(self) -> Resolver:
        """Who builds and hands out instances; for integrations."""
        self._read()
        return self._resolver

    @property
    def catalogue(self) -> PluginCatalogue:
        """The installed plugins and what became of those that were loaded."""
        if self._catalogue is None:
            self._catalogue = PluginCatalogue()
        return self._catalogue

    # --- declaring ------------------------------------------------------------------------------------

    def register(
        self,
        target: Any,
        *,
        name: str | None = None,
        lifetime: Lifetime = Lifetime.SINGLETON,
        scope: str | None = None,
        dependencies: Iterable[str] | str = (),
        optional_dependencies: Iterable[str] | str = (),
        groups: Iterable[str] | str = (),
        config: Any = None,
        optional: bool = False,
        arguments: Mapping[str, Any] | None = None,
        at: Location | None = None,
    ) -> ServiceDescriptor:
        """Declare a service without a container.

        Args:
            target: A class, function or generator function.
            name: Its name; the class name in snake case when not given.
            lifetime: How long an instance lives.
            scope: The scope level of a scoped one; the innermost when not given.
            dependencies: Names of services that must run first.
            optional_dependencies: Names of services that start first if they exist.
            groups: Groups it belongs to.
            config: Its settings.
            optional: The host may run without it.
            arguments: Constructor arguments by parameter; the rest is wired by type or by name.
            at: Where the registration is written; the caller's line when not given.

        Raises:
            RegistrationError: The name is taken or no use, or the target can't be called.
        """
        descriptor = ServiceDescriptor.describe(
            target,
            name=name,
            lifetime=lifetime,
            scope=(scope or self.scopes[-1]) if lifetime is Lifetime.SCOPED else "",
            dependencies=as_names(dependencies),
            optional_dependencies=as_names(optional_dependencies),
            groups=as_names(groups),
            config=config,
            optional=optional,
            kwargs=dict(arguments or {}),
            declared_in=self.name,
            at=at or Location.of_caller(),
        )
        return self._add(descriptor)

    def register_instance(
        self, instance: Any, *, name: str | None = None, groups: Iterable[str] | str = (), at: Location | None = None
    ) -> ServiceDescriptor:
        """Declare a ready instance; it stays its owner's, and is neither started nor stopped."""
        named = ServiceDescriptor.describe(type(instance), name=name, at=at or Location.of_caller())
        return self._add(
            ServiceDescriptor(
                named.name,
                type(instance),
                instance=instance,
                groups=as_names(groups),
                declared_in=self.name,
                at=named.at,
            )
        )

    def unregister(self, name: str) -> None:
        """Forget a service.

        Raises:
            ServiceNotFoundError: There is none of that name.
        """
        self._read()
        self.registry.unregister(name)
        self._resolver.invalidate()

    def register_group(self, name: str, members: Iterable[str], *, at: Location | None = None) -> None:
        """Name a set of services, to be started, stopped and checked as a whole."""
        self.registry.register_group(name, list(members), at=at or Location.of_caller())
        self._resolver.invalidate()

    def _add(self, descriptor: ServiceDescriptor) -> ServiceDescriptor:
        self._read()
        added = self.registry.register(descriptor)
        self._resolver.invalidate()
        return added

    def create(self, target: Callable[..., T], /, **arguments: Any) -> T:
        """A new instance of a class that need not be registered, its constructor wired from this host.

        Args:
            target: A class or function.
            arguments: Constructor arguments that are given.

        Raises:
            WiringError: A parameter can be answered by nothing.
        """
        descriptor = ServiceDescriptor.describe(
            target, name="created", lifetime=Lifetime.TRANSIENT, kwargs=arguments, at=Location.of_caller()
        )
        node, problems = self.graph.wire_one(descriptor)
        if problems:
            raise WiringError(problems, subject=self.name)
        return cast("T", self._resolver.construct(node))

    def initialize(self, config: Any = None) -> None:
        """Give each service its section of a settings object, validate all, and build all; once.

        Args:
            config: An object or mapping with a section per service, by the service's name or its config's prefix.

        Raises:
            WiringError: Anything is wrong, settings included.
        """
        if self._is_initialized:
            return
        self._read()
        for name, descriptor in list(self.registry.descriptors.items()) if config is not None else ():
            prefix = getattr(getattr(descriptor.provides, "config_type", None), "prefix", "")
            section = _section(config, name) or _section(config, prefix)
            if section is not None and descriptor.config is None:
                self.registry.replace(name, config=section)
        self._resolver.invalidate()
        self.validate()
        deferred = self._resolver.deferred
        with self._settings():
            self._resolver.build_all(
                n for n, node in self.graph.nodes.items() if node.is_singleton and n not in deferred
            )
        self._is_initialized = True

    # --- wiring ---------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check the whole wiring; nothing is built or started.

        Raises:
            WiringError: Holds every problem.
        """
        self.graph.check(without=self._resolver.substitutes)

    def _read(self) -> None:
        """Read containers and plugins into the registry, once; whoever else asks meanwhile waits for it."""
        if self._is_read:
            return
        with self._resolver.lock:
            if not self._is_reading:
                self._is_reading = True
                self._read_declarations()
                self._is_read = True

    def _read_declarations(self) -> None:
        if self.containers:
            from svcframework.containers import read_container  # noqa: PLC0415 - loads dependency_injector, and FastAPI with it

            for container in self.containers:
                descriptors, problems = read_container(container, manager=self.config)
                self._problems += problems
                for descriptor in descriptors:
                    self.registry.add(descriptor)
        if self.plugins:
            self._read_plugins()

    def _read_plugins(self) -> None:
        for name in self.plugins:
            try:
                loaded = self.catalogue.load([name])[name]
            except PluginError as error:
                self._problems.append(
                    Problem("plugin", f"plugin {name!r}: {error.reason}", None, (_sentence(error.fix),), (name,))
                )
                continue
            if not isinstance(loaded, LoadedPlugin):
                failure = loaded.as_error()
                self._problems.append(
                    Problem("plugin", f"plugin {name!r}: {failure.reason}", None, (_sentence(failure.fix),), (name,))
                )
            elif name not in self.registry:
                at = Location.of(loaded.service)
                self.registry.add(ServiceDescriptor.describe(loaded.service, name=name, declared_in="plugins", at=at))

    def _wire(self) -> Graph:
        self._read()
        graph = wire(self.registry, scopes=self.scopes, manager=self.config, hint=self._hint, subject=self.name)
        graph.problems = (*self._problems, *graph.problems)
        return graph

    def _hint(self, wanted: str | type) -> str | None:
        """A plugin that would provide what is missing."""
        for found in self.catalogue.found:
            module = found.module.partition(".")[0]
            same = wanted == found.name if isinstance(wanted, str) else wanted.__module__.partition(".")[0] == module
            if same and (isinstance(wanted, str) or found.value.endswith(f":{wanted.__name__}")):
                return f'A plugin does: add "{found.name}" to plugins=[…]'
        return None

    def _attach(self, service: BaseService[Any], name: str) -> None:
        service.name = name
        service.host = cast("ServiceHost", self)
        service.__dict__["_host_space"] = self._resolver.space

    @contextmanager
    def _settings(self) -> Iterator[None]:
        if self._config is None:
            yield
        else:
            with use_config_manager(self._config):
                yield

    # --- scopes and overrides -------------------------------------------------------------------------

    def scope(self, level: str | None = None, /, values: Mapping[Any, Any] | None = None, **named: Any) -> Scope:
        """A scope to enter: `async with host.scope("request", request=request) as scope:`.

        Args:
            level: The scope level; the innermost when not given.
            values: Scope values by name or by type.
            named: Scope values by name.

        Raises:
            ScopeError: There is no such level, or a value nobody declared, or one of the wrong type.
        """
        if not (level or values or named):
            return Scope(self._innermost)
        level = level or self.scopes[-1]
        if level not in self.scopes:
            raise ScopeError(f"There is no scope level {level!r}. The host has: {', '.join(self.scopes)}.")
        given: dict[str | type, Any] = dict(values or {})
        given.update(named)
        checked = {self._scope_value(key, value): value for key, value in given.items()}
        return Scope(self._resolver.level(level), checked)

    def private_scope(self) -> Scope:
        """A scope of the innermost level that only its holder sees: `async with host.private_scope() as scope:`.

        What is called in its block does not join it; services are asked of it. For a unit of work apart from the one
        around it, such as an audit entry that stays when the request fails. It is the faster one, too.
        """
        scope: PrivateScope = PrivateScope()
        scope.shared, scope.values = self._innermost, {}
        scope.exits = scope.making = scope._token = None  # noqa: SLF001 - our own, and it has no constructor
        return scope

    def _scope_value(self, key: str | type, value: Any) -> str:
        try:
            name = self.resolver.name_for(key)
        except ServiceNotFoundError as error:
            known = [n for n, node in self.graph.nodes.items() if node.descriptor.is_scope_value]
            declared = f"There are: {', '.join(known)}." if known else "None is declared."
            raise ScopeError(
                f"No scope value is {type_name(key) if isinstance(key, type) else repr(key)}. {declared} "
                f"Declare it in the container: name = providers.ScopeValue(Type)."
            ) from error
        wanted = self.graph.nodes[name].descriptor.provides
        if wanted is not object and not isinstance(value, wanted) and not fits(type(value), wanted):
            raise ScopeError(f"The scope value {name!r} must be a {type_name(wanted)}, not a {type_name(type(value))}.")
        return name

    @contextmanager
    def override(self, replacements: Mapping[str | type, Any] | None = None, /, **named: Any) -> Iterator[Any]:
        """Replace services within a block; before the start for the whole host, on a running host for this context.

        Args:
            replacements: By name or by type.
            named: By name.

        Returns:
            A namespace with the replacements by name: `fakes.mailer`.

        Raises:
            ServiceNotFoundError: There is no such service.
            OverrideError: Running services hold the one to be replaced; names them and the two ways out.
        """
        given: dict[str | type, Any] = {**(replacements or {}), **cast("dict[str | type, Any]", named)}
        fakes = {self.resolver.name_for(key): fake for key, fake in given.items()}
        with self._resolver.override(fakes):
            yield SimpleNamespace(**fakes)


def _sentence(words: str) -> str:
    """An error's fix, which stands after a semicolon there, as a sentence of its own."""
    end = "?" if words.startswith("did you mean") and ";" not in words else "."
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '?')) else end}"


def _section(config: Any, name: str) -> Any:
    """A part of a settings object or mapping."""
    if not name:
        return None
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _container_name(container: Any) -> str:
    return type_name(container if isinstance(container, type) else type(container))


def _unlike(graph: Graph, kind: type, name: str, hint: Any) -> Problem | None:
    """What is wrong with an annotation of a class of services."""
    node = graph.nodes.get(name.replace("__dot__", "."))
    headline, at = (
        f"{kind.__qualname__}.{name}: {type_name(hint) if isinstance(hint, type) else hint}",
        Location.of(kind),
    )
    if node is None:
        return Problem("missing", headline, at, (f"no service is named {name!r}.{did_you_mean(name, graph.nodes)}",))
    if not node.is_singleton:
        how = "ask a scope for it, or have it injected"
        return Problem("scope", headline, at, (f"{name!r} doesn't live as long as the host: {how}.",), (name,))
    provided = node.descriptor.provides
    if isinstance(hint, type) and hint not in {object, Any} and not fits(provided, hint):
        return Problem("mistyped", headline, at, (f"{name!r} is a {type_name(provided)}.",), (name,))
    return None
