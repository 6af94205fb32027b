"""The function API on the current host: the one this context has entered, else the one that runs, else a default one.

The default host is made on first use. It and the handles below are the only state of modules that changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from svcframework._types import HealthResult, Lifetime, Location
from svcframework.discovery import DiscoveredService, LoadedPlugin, PluginCatalogue, PluginFailure, load_plugin
from svcframework.discovery import discover_services as _discover
from svcframework.errors import HostNotRunningError, IllegalStateError, ServiceNotFoundError
from svcframework.host import ServiceHost
from svcframework.registry import ServiceDescriptor
from svcframework.routing import current_resolver, deactivate, set_fallback
from svcframework.service import BaseService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from svcframework.health import HealthMonitor
    from svcframework.resolver import Resolver

T = TypeVar("T")
C = TypeVar("C", bound="Callable[..., Any]")


class _Default:
    """The default host, once there is one."""

    host: ServiceHost | None = None


def default_host() -> ServiceHost:
    """The default host, made on first use."""
    if _Default.host is None:
        _Default.host = ServiceHost(name="default")
    return _Default.host


def current_host() -> ServiceHost:
    """The host that this context has entered, else the one that runs, else the default one."""
    resolver = current_resolver()
    return default_host() if resolver is None else resolver.host


def reset_default_host() -> None:
    """Forget the default host and all that was registered on it; for tests.

    Raises:
        IllegalStateError: Its services run.
    """
    host = _Default.host
    if host is not None and host.is_running:
        raise IllegalStateError("reset the default host", host.state, fix="await shutdown_all_services() first")
    _Default.host = None


def existing_default_host() -> ServiceHost | None:
    """The default host, if there is one already; for test tools."""
    return _Default.host


def forget_default_host() -> bool:
    """Forget the default host whatever it does; False if its services ran. For test tools."""
    host, _Default.host = _Default.host, None
    if host is None or not host.is_running:
        return True
    deactivate(host.resolver)
    return False


def _fallback() -> Resolver | None:
    return None if _Default.host is None else _Default.host.resolver


set_fallback(_fallback)


# --- registering ----------------------------------------------------------------------------------------


def register_singleton(
    target: Callable[..., Any],
    name: str | None = None,
    *,
    dependencies: Iterable[str] | str = (),
    optional_dependencies: Iterable[str] | str = (),
    groups: Iterable[str] | str = (),
    config: Any = None,
    optional: bool = False,
    **arguments: Any,
) -> ServiceDescriptor:
    """Declare a service of which there is one, started and stopped with the host.

    Args:
        target: A class, function or generator function.
        name: Its name; the class name in snake case when not given.
        dependencies: Names of services that must run first; passed to parameters of that name.
        optional_dependencies: Names of services that start first if they exist.
        groups: Groups it belongs to.
        config: Its settings.
        optional: The host may run without it.
        arguments: Constructor arguments; the rest is wired by type or by name.

    Raises:
        RegistrationError: The name is taken or no use, or the target can't be called.
    """
    return current_host().register(
        target,
        name=name,
        dependencies=dependencies,
        optional_dependencies=optional_dependencies,
        groups=groups,
        config=config,
        optional=optional,
        arguments=arguments,
        at=Location.of_caller(),
    )


def register_scoped(
    target: Callable[..., Any], name: str | None = None, *, scope: str | None = None, **arguments: Any
) -> ServiceDescriptor:
    """Declare a service of which there is one per scope, closed with it.

    Args:
        target: A class, a function, or a generator function whose code after `yield` closes it.
        name: Its name.
        scope: The scope level; the innermost when not given.
        arguments: Constructor arguments; the rest is wired by type or by name.
    """
    at = Location.of_caller()
    host = current_host()
    return host.register(target, name=name, lifetime=Lifetime.SCOPED, scope=scope, arguments=arguments, at=at)


def register_transient(target: Callable[..., Any], name: str | None = None, **arguments: Any) -> ServiceDescriptor:
    """Declare a service that is made anew for each one who asks.

    Args:
        target: A class or function.
        name: Its name.
        arguments: Constructor arguments; the rest is wired by type or by name.
    """
    at = Location.of_caller()
    return current_host().register(target, name=name, lifetime=Lifetime.TRANSIENT, arguments=arguments, at=at)


def register_instance(instance: Any, name: str | None = None, *, groups: Iterable[str] | str = ()) -> ServiceDescriptor:
    """Declare a ready instance; it stays its owner's, and is neither started nor stopped."""
    return current_host().register_instance(instance, name=name, groups=groups, at=Location.of_caller())


def unregister(name: str) -> None:
    """Forget a service.

    Raises:
        ServiceNotFoundError: There is none of that name.
        IllegalStateError: It runs.
    """
    current_host().unregister(name)


def register_service_group(name: str, members: Iterable[str]) -> None:
    """Name a set of services, to be started, stopped and checked as a whole."""
    current_host().register_group(name, members, at=Location.of_caller())


def discover_services() -> list[DiscoveredService]:
    """The services that installed plugins offer; reads metadata only, imports nothing."""
    return _discover()


def register_discovered_services(found: Iterable[DiscoveredService]) -> list[PluginFailure]:
    """Load the plugins and register their services on the current host under their entry-point names.

    Args:
        found: From `discover_services()`, all or some.

    Returns:
        The plugins that could not be loaded, as data; one that fails prevents no other.
    """
    host, failures = current_host(), []
    for one in found:
        loaded = load_plugin(one)
        if not isinstance(loaded, LoadedPlugin):
            failures.append(loaded)
        elif one.name not in host.registry:
            host.register(loaded.service, name=one.name, at=Location.of(loaded.service))
    return failures


# --- asking ---------------------------------------------------------------------------------------------


@overload
def get_service(wanted: type[T]) -> T: ...
@overload
def get_service(wanted: str) -> Any: ...
def get_service(wanted: str | type[Any]) -> Any:
    """The service of that name or type; does no I/O and is never awaited.

    Raises:
        ServiceNotFoundError: There is none.
        AmbiguousServiceError: Several are of that type.
        WiringError: Something is wrong with it or with what it needs.
    """
    return current_host()[wanted]


def get_services_by_group(name: str) -> list[Any]:
    """The services of a group, in the order they joined it.

    Raises:
        ServiceNotFoundError: There is no such group.
    """
    return current_host().group(name)


def get_service_metrics(name: str) -> dict[str, Any]:
    """Counts and times of a service: `avg_response_time` in ms, `success_rate` and `error_rate` in percent.

    Raises:
        ServiceNotFoundError: There is no such service, or it keeps no metrics.
    """
    service = get_service(name)
    if not isinstance(service, BaseService):
        raise ServiceNotFoundError(name, needed_by="get_service_metrics(), which needs a BaseService")
    return dict(service.metrics.snapshot())


def get_service_summary() -> dict[str, Any]:
    """Counts, states, start times and metrics of all services."""
    return current_host().summary()


# --- living ---------------------------------------------------------------------------------------------


async def startup_all_services() -> None:
    """Start every service, or none. They run on when this returns.

    Raises:
        WiringError: The wiring is wrong; nothing was built.
        StartupError: Services failed to start; holds all their errors.
    """
    await current_host().start()


async def shutdown_all_services() -> None:
    """Stop every service, dependents first.

    Raises:
        ShutdownError: Everything was stopped, but some services raised or hung.
    """
    await current_host().stop(reason="shutdown_all_services()")


async def health_check_all_services(group: str | None = None) -> dict[str, HealthResult]:
    """Check every service now, concurrently, each within its own timeout.

    Args:
        group: Only the services of that group.
    """
    return await current_host().check_health(group=group)


# --- the five handles of older code ---------------------------------------------------------------------


class ServiceFactory:
    """Builds instances with their dependencies resolved, without registering them."""

    def create(self, cls: Callable[..., T], **overrides: Any) -> T:
        """A new instance of `cls`, its constructor wired from the current host.

        Args:
            cls: A class or function; it need not be registered.
            overrides: Constructor arguments that are given.

        Raises:
            WiringError: A parameter can be answered by nothing.
        """
        return current_host().create(cls, **overrides)


class ServiceManager:
    """The life of all services of the current host."""

    async def startup(self) -> None:
        """Start every service, or none."""
        await current_host().start()

    async def shutdown(self) -> None:
        """Stop every service, dependents first."""
        await current_host().stop(reason="service_manager.shutdown()")

    async def restart(self, name: str) -> None:
        """Stop a service and all that depends on it, then start them again."""
        await current_host().restart(name)

    async def start_group(self, name: str) -> None:
        """Start the services of a group, and what they need."""
        await current_host().start(group=name)

    async def stop_group(self, name: str) -> None:
        """Stop the services of a group, and all that depend on them."""
        await current_host().stop(group=name)

    @property
    def states(self) -> Mapping[str, Any]:
        """The state of each service."""
        return current_host().states

    def subscribe(self, listener: Callable[[Any], None]) -> Callable[[], None]:
        """Call `listener` with every event; the result ends the subscription."""
        return current_host().subscribe(listener)


class _OfCurrentHost:
    """Stands for a part of whichever host is current when it is used."""

    def __init__(self, part: Callable[[ServiceHost], Any], doc: str) -> None:
        self._part = part
        self.__doc__ = doc

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copy, pickle, inspect and pytest ask for what isn't there; that makes no host
        return getattr(self._part(current_host()), name)

    def __getitem__(self, key: Any) -> Any:
        return self._part(current_host())[key]

    def __contains__(self, key: object) -> bool:
        return key in self._part(current_host())

    def __iter__(self) -> Any:
        return iter(self._part(current_host()))

    def __len__(self) -> int:
        return len(self._part(current_host()))


class ServiceRegistry(_OfCurrentHost):
    """The registry of the current host, with its services as attributes: `ServiceRegistry().aurora`.

    There is one: every call returns the same object. Its other names are those of
    `svcframework.registry.ServiceRegistry`, which holds the declarations of one host.
    """

    _only: ServiceRegistry | None = None

    def __new__(cls) -> Self:
        """The one there is."""
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cast("Self", cls._only)

    def __init__(self) -> None:
        super().__init__(lambda host: host.registry, type(self).__doc__ or "")

    def initialize(self, config: Any = None) -> None:
        """Give each service its section of `config`, validate all, and build all; the second call does nothing.

        Args:
            config: An object or mapping with a section per service, found by the service's name or its prefix.

        Raises:
            WiringError: Anything is wrong, settings included.
        """
        current_host().initialize(config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        host = current_host()
        if name in host.graph.nodes:
            return host[name]
        known = getattr(host.registry, name, None)
        if known is None:
            raise ServiceNotFoundError(name, known=host.graph.nodes)
        return known


service_registry = ServiceRegistry()
service_container: ServiceHost = _OfCurrentHost(
    lambda host: host, "What `register_*` declares: the current host's services."
)  # type: ignore[assignment]  # likewise
service_health_monitor: HealthMonitor = _OfCurrentHost(
    lambda host: host.health, "The health monitor of the current host."
)  # type: ignore[assignment]  # likewise
service_factory = ServiceFactory()
service_manager = ServiceManager()

__all__ = [
    "HostNotRunningError",
    "PluginCatalogue",
    "ServiceFactory",
    "ServiceManager",
    "ServiceRegistry",
    "current_host",
    "default_host",
    "discover_services",
    "get_service",
    "get_service_metrics",
    "get_service_summary",
    "get_services_by_group",
    "health_check_all_services",
    "register_discovered_services",
    "register_instance",
    "register_scoped",
    "register_service_group",
    "register_singleton",
    "register_transient",
    "reset_default_host",
    "service_container",
    "service_factory",
    "service_health_monitor",
    "service_manager",
    "service_registry",
    "shutdown_all_services",
    "startup_all_services",
    "unregister",
]
