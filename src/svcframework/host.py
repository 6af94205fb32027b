"""ServiceHost, the running whole: connects registry, resolver, lifecycle and health, which don't know one another."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

import anyio

from svcframework import diagrams
from svcframework._signatures import Want, fits
from svcframework._types import HealthResult, HealthStatus, Lifetime, Location, ServiceState
from svcframework.background import Background
from svcframework.config import ConfigManager, get_config_manager, use_config_manager
from svcframework.discovery import LoadedPlugin, PluginCatalogue
from svcframework.errors import (
    IllegalStateError,
    LifecycleError,
    PluginError,
    ScopeError,
    ServiceNotFoundError,
    ShutdownError,
    type_name,
)
from svcframework.events import Event, EventBus, HostStopping
from svcframework.health import HealthMonitor, HealthTarget
from svcframework.injection import CURRENT, activate, current_resolver, deactivate
from svcframework.lifecycle import Lifecycle
from svcframework.problems import Problem, WiringError, listed
from svcframework.registry import ServiceDescriptor, ServiceRegistry, as_names
from svcframework.resolver import Resolver
from svcframework.retry import on_retry
from svcframework.scopes import AMBIENT, Scope, ambient
from svcframework.service import BaseService
from svcframework.units import Units
from svcframework.wiring import Graph, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
    from contextvars import Token
    from types import TracebackType

    from svcframework.events import Listener

T = TypeVar("T")
_ambient_now = AMBIENT.get
S = TypeVar("S", bound="BaseService[Any]")
_AT_REST = {ServiceState.REGISTERED, ServiceState.STOPPED, ServiceState.FAILED}


class ServiceHost:
    """A set of services that is validated, started, watched and stopped as one.

    `async with host:` starts it and stops it on the way out; `host.run()` owns the process. It can be started again
    after it has stopped.

    Args:
        containers: Container classes (or instances) whose services it runs.
        plugins: Names of plugins whose services it runs too; nothing else that is installed is imported.
        scopes: The scope levels, the longest-lived first.
        config: Where settings come from; the current configuration when not given.
        start_timeout: Seconds for the whole start; None waits as long as each service's own limit.
        stop_timeout: Seconds for the whole stop, whatever the services do.
        drain_delay: Seconds between readiness going off and the first stop, for load balancers to notice.
        name: What reports and logs call it; the first container's name when not given.
        catalogue: The installed plugins; discovered when not given.
        log_events: Log every lifecycle event through the structured logger.
    """

    def __init__(
        self,
        *containers: Any,
        plugins: Iterable[str] = (),
        scopes: Iterable[str] = ("request",),
        config: ConfigManager | None = None,
        start_timeout: float | None = None,
        stop_timeout: float = 30.0,
        drain_delay: float = 0.0,
        name: str | None = None,
        catalogue: PluginCatalogue | None = None,
        log_events: bool = True,
    ) -> None:
        self.containers, self.plugins, self.scopes = containers, tuple(plugins), tuple(scopes)
        self.start_timeout, self.stop_timeout, self.drain_delay = start_timeout, stop_timeout, drain_delay
        self.name = name or (_container_name(containers[0]) if containers else "host")
        self.registry = ServiceRegistry()
        self.events = EventBus()
        self.health = HealthMonitor(self._health_targets, emit=self.events.emit)
        self.events.subscribe(self.health.on_event)
        self.stop_reason: str | None = None
        """What the log says of the stop at the end of the block, e.g. the signal's name; from the next start None."""
        self._config, self._catalogue, self._log_events = config, catalogue, log_events
        self._resolver = Resolver(self._wire, host=self, attach=self._attach)
        self.get = self._resolver.table.__getitem__
        self._innermost = self._resolver.recipes(self.scopes[-1])
        self._lifecycle: Lifecycle | None = None
        self._problems: list[Problem] = []
        self._is_read = self._is_reading = self._is_initialized = self._is_entered = False
        self._body: anyio.CancelScope | None = None
        self._token: Token[Resolver | None] | None = None
        self._background: Background | None = None
        self._prepared: Graph | None = None
        self._lock = threading.Lock()
        self._hurried: float | None = None
        self._hurry = anyio.Event()
        self._forget_retries: Callable[[], None] = _nothing
        self.events.subscribe(self._note)

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

    @property
    def state(self) -> ServiceState:
        """Where the host is in its life."""
        return ServiceState.REGISTERED if self._lifecycle is None else self._lifecycle.state

    @property
    def states(self) -> Mapping[str, ServiceState]:
        """The state of each service that lives as long as the host."""
        if self._lifecycle is not None:
            return self._lifecycle.states
        return {name: ServiceState.REGISTERED for name, node in self.graph.nodes.items() if node.is_singleton}

    @property
    def is_running(self) -> bool:
        """Services run, all or most of them."""
        return self.state.is_running

    @property
    def lifecycle(self) -> Lifecycle:
        """The last start's lifecycle: timeline, critical path, states.

        Raises:
            IllegalStateError: The host was never started.
        """
        if self._lifecycle is None:
            raise IllegalStateError("look at the lifecycle", self.state, fix="start the host first")
        return self._lifecycle

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
            IllegalStateError: It runs.
        """
        self._read()
        if self._lifecycle is not None and self._lifecycle.states.get(name, ServiceState.STOPPED).is_running:
            raise IllegalStateError(f"unregister {name!r}", "it runs", fix="stop the host first")
        self.registry.unregister(name)
        self._resolver.invalidate()

    def register_group(self, name: str, members: Iterable[str]) -> None:
        """Name a set of services, to be started, stopped and checked as a whole."""
        self.registry.register_group(name, list(members))
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
        self.graph.check()

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
                    Problem("plugin", f"plugin {name!r}: {error.reason}", None, (error.fix,), (name,))
                )
                continue
            if not isinstance(loaded, LoadedPlugin):
                failure = loaded.as_error()
                self._problems.append(
                    Problem("plugin", f"plugin {name!r}: {failure.reason}", None, (failure.fix,), (name,))
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
        service.host = self
        service.__dict__["_space"] = self._resolver.space

    # --- life -----------------------------------------------------------------------------------------

    async def start(self, *, group: str | None = None) -> None:
        """Start every service, or none: what had started is stopped again if one fails.

        Args:
            group: Only the services of that group, and what they need.

        Raises:
            WiringError: The wiring is wrong; nothing was built.
            StartupError: Services failed to start; holds all their errors.
            StartupCancelledError: `stop` was called meanwhile.
            IllegalStateError: A stop is under way, or a service was registered while the others run.
            EventLoopError: It runs on another event loop.
            ForkError: It runs in the parent process.
        """
        self._read()
        names = None if group is None else self.registry.group(group)
        lifecycle = self._ready_lifecycle()
        lifecycle.check_loop()
        self._refuse_newcomers(lifecycle)
        if lifecycle.state is ServiceState.REGISTERED:
            self.health.enter("starting")
        activate(self._resolver)
        token = CURRENT.set(self._resolver)  # what the services' own tasks inherit
        try:
            await lifecycle.start(names)
            self._watch_health()
        except BaseException:
            if lifecycle is self._lifecycle and lifecycle.state in _AT_REST:
                self._after_stop()
            raise
        finally:
            CURRENT.reset(token)
        if lifecycle.state.is_running:
            self.health.enter("started")

    def _ready_lifecycle(self) -> Lifecycle:
        """The lifecycle that runs or starts, else a new one; the same for all who ask at the same time."""
        with self._lock:
            known = self._lifecycle
            state = ServiceState.STOPPED if known is None else known.state
            is_fresh = state is ServiceState.REGISTERED and self._prepared is self.graph
            if known is not None and (is_fresh or state not in _AT_REST):
                return known
            return self._prepare()

    def _refuse_newcomers(self, lifecycle: Lifecycle) -> None:
        late = [name for name, node in self.graph.nodes.items() if node.is_singleton and name not in lifecycle.states]
        if late and lifecycle.state.is_running:
            what = f"start {listed(map(repr, late))}, registered after the start,"
            raise IllegalStateError(what, "the others run", fix="stop the host first, or register it before the start")

    def _prepare(self) -> Lifecycle:
        """Validate, build what can be built before the start, and describe it to a new lifecycle."""
        if self._log_events:
            self._log_events = False
            from svcframework import log  # noqa: PLC0415 - structlog loads with the first start

            log.load()  # now, and not in the middle of the start, where it would block the loop
            self.events.subscribe(log.LogListener(log.ServiceLogger(self.name)))
        self.graph.check()
        deferred = self._resolver.deferred
        singletons = [name for name, node in self.graph.nodes.items() if node.is_singleton]
        with self._settings():
            self._resolver.build_all(name for name in singletons if name not in deferred)
        units = Units(self._resolver, deferred)
        self._lifecycle = Lifecycle(
            [units.unit(self.graph.nodes[name]) for name in singletons],
            emit=self.events.emit,
            start_timeout=self.start_timeout,
            stop_timeout=self.stop_timeout,
            on_failure=self._on_failure,
        )
        self._resolver.is_started = True
        self.stop_reason = None
        self._prepared, self._hurried, self._hurry = self.graph, None, anyio.Event()
        self._forget_retries()
        self._forget_retries = on_retry.subscribe(self._forward_retry)
        return self._lifecycle

    def _forward_retry(self, event: Event) -> None:
        """A retry of the process is told by the host that it happens in."""
        if current_resolver() is self._resolver:
            self.events.emit(event)

    def _note(self, event: Event) -> None:
        """Whoever begins the stop, and be it a failure: from then on the host isn't ready."""
        if isinstance(event, HostStopping):
            self.health.enter("draining")
        else:
            self.health.on_event(event)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        if self._config is None:
            yield
        else:
            with use_config_manager(self._config):
                yield

    async def stop(self, *, reason: str = "requested", timeout: float | None = None, group: str | None = None) -> None:  # noqa: ASYNC109 - a budget, enforced by the lifecycle
        """Stop every service, dependents first; goes on past errors and ends in time.

        Args:
            reason: For the log.
            timeout: Seconds for the whole; the host's `stop_timeout` when not given.
            group: Only the services of that group, and all that depend on them.

        Raises:
            ShutdownError: Everything was stopped, but some services raised or hung.
            EventLoopError: It runs on another event loop.
            ForkError: It runs in the parent process.
        """
        lifecycle = self._lifecycle
        if lifecycle is None:
            return
        lifecycle.check_loop()
        if group is not None:
            await lifecycle.stop(self.registry.group(group), reason=reason, timeout=timeout)
            return
        if lifecycle.state.is_running:
            self.health.enter("draining")
            with anyio.move_on_after(self.drain_delay, shield=True):
                await self._hurry.wait()
        if self._hurried is not None:
            timeout = min(self._hurried, self.stop_timeout if timeout is None else timeout)
        try:
            await lifecycle.stop(reason=reason, timeout=timeout)
        finally:
            if lifecycle is self._lifecycle and lifecycle.state in _AT_REST:
                await self._end_background()
                self._after_stop()

    def _after_stop(self) -> None:
        self._forget_retries()
        self._forget_retries = _nothing
        deactivate(self._resolver)
        self._resolver.is_started = False
        self._resolver.flush()
        self._resolver.forget(self._resolver.deferred)

    async def restart(self, name: str) -> None:
        """Stop a service and all that depends on it, then start them again."""
        await self.lifecycle.restart(name)

    def hurry(self, timeout: float = 1.0) -> None:
        """Shorten the stop that is under way, or about to begin, to `timeout` seconds; a drain delay ends at once."""
        self._hurried = timeout
        self._hurry.set()
        if self._lifecycle is not None:
            self._lifecycle.hurry(timeout)

    async def wait_failed(self) -> None:
        """Wait until everything has stopped.

        Raises:
            HostFailedError: A service crashed for good, and that was the reason.
        """
        await self.lifecycle.wait_failed()

    def _on_failure(self, _error: LifecycleError) -> None:
        """A service crashed for good and all was stopped: the block that runs on this host must end."""
        background, self._background = self._background, None
        if background is not None:
            background.cancel()
            self.health.stop()
        self._after_stop()
        if self._body is not None:
            self._body.cancel()

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise IllegalStateError("enter the host", "it is entered already", fix="use one `async with host:` block")
        self._is_entered = True
        try:
            await self.start()
        except BaseException:
            self._is_entered = False
            raise
        self._token = CURRENT.set(self._resolver)
        self._body = anyio.CancelScope()
        self._body.__enter__()
        if self.lifecycle.failure is not None:
            self._body.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        body, self._body, self._is_entered = self._body, None, False
        failure = self.lifecycle.failure
        if body is not None and body.__exit__(kind, error, trace):
            error = None  # it was our own cancellation, because of a failure
        if self._token is not None:
            with suppress(ValueError):  # left in another context than entered, as some test runners do
                CURRENT.reset(self._token)
            self._token = None
        try:
            block = "the block ended" if error is None else f"{type(error).__name__} in the block"
            await self.stop(reason=self.stop_reason or block)
        except ShutdownError as stop_error:
            if error is None:
                raise
            error.add_note(f"{type(stop_error).__name__}: {stop_error}")  # what went wrong first is what is raised
        failure = failure or self.lifecycle.failure
        if failure is not None and error is None:
            raise failure
        return False

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """The lifespan of an ASGI application: `FastAPI(lifespan=host.lifespan)`."""
        del app
        async with self:
            yield

    def run(
        self,
        main: Callable[[], Awaitable[Any]] | None = None,
        *,
        backend: str = "asyncio",
        health_port: int | None = None,
    ) -> None:
        """Own the process: start, run `main` (or until told to end), stop; then exit.

        SIGTERM or SIGINT calls off a start, ends `main` and stops in order; a second one shortens the stop to a
        second, a third kills. The exit code is 0, 143 after SIGTERM, 130 after SIGINT, 1 after a failure.

        Args:
            main: Called once everything runs; its end ends the host. None runs until a signal or a failure.
            backend: `asyncio`, `uvloop` or `trio`.
            health_port: Serve liveness, readiness and startup over HTTP on this port of the loopback address, from the
                first moment; 0 lets the system choose.

        Raises:
            SystemExit: Always, with the exit code.
        """
        from svcframework.process import own_process  # noqa: PLC0415 - only those who own the process need it

        raise SystemExit(own_process(self, main, backend=backend, health_port=health_port))

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
        parent = None
        if _ambient_now() is not None:
            parent = ambient()
            if parent is not None and not parent.belongs_to(self._resolver):
                parent = None
        if not (level or values or named):
            return Scope(self._innermost, None, parent)
        level = level or self.scopes[-1]
        if level not in self.scopes:
            raise ScopeError(f"There is no scope level {level!r}. The host has: {', '.join(self.scopes)}.")
        given: dict[str | type, Any] = dict(values or {})
        given.update(named)
        checked = {self._scope_value(key, value): value for key, value in given.items()}
        return Scope(self._resolver.recipes(level), checked, parent)

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

    # --- health ---------------------------------------------------------------------------------------

    async def check_health(self, *, group: str | None = None) -> dict[str, HealthResult]:
        """Check services now, concurrently, each within its own timeout.

        Args:
            group: Only the services of that group.

        Returns:
            Name to what was found; objects that have no health check are left out.
        """
        if group is None:
            return await self.health.check_all(fresh=True)
        members = self.registry.group(group)
        found = await self.health.check_all(fresh=True, names=members)
        return {name: found[name] for name in members if name in found}

    def _health_targets(self) -> dict[str, HealthTarget]:
        """Everything that can be asked how it is: the services that have been built."""
        states = self._lifecycle.states if self._lifecycle is not None else {}
        targets = {}
        for name in states:
            instance = self._resolver.instances.get(name)
            if isinstance(instance, BaseService) and instance.host is self:
                targets[name] = HealthTarget.of(instance)
        return targets

    def _watch_health(self) -> None:
        if self._background is None or self._background.has_ended:
            self._background = Background(self.health.run, name="svcframework health monitor")

    async def _end_background(self) -> None:
        background, self._background = self._background, None
        if background is not None:
            await background.end()

    # --- showing --------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; the result ends the subscription."""
        return self.events.subscribe(listener)

    def emit(self, event: Event) -> None:
        """Tell every listener of an event."""
        self.events.emit(event)

    def describe(self) -> str:
        """The services as a text tree: states, start times, and what each needs."""
        return diagrams.tree(self.graph, self.states, self._started_in())

    def mermaid(self) -> str:
        """The dependency graph as a Mermaid flowchart."""
        return diagrams.mermaid(self.graph, self.states)

    def _started_in(self) -> Mapping[str, float]:
        return {} if self._lifecycle is None else self._lifecycle.started_in

    def summary(self) -> dict[str, Any]:
        """Counts, states, start times and metrics of all services."""
        states = self.states
        results = self.health.last_results
        services = {name: self._resolver.instances.get(name) for name in states}
        return {
            "total_services": len(states),
            "running_services": sum(state.is_running for state in states.values()),
            "healthy_services": sum(state.is_running and _is_well(results.get(name)) for name, state in states.items()),
            "state": self.state.value,
            "states": {name: state.value for name, state in states.items()},
            "start_times": dict(self._started_in()),
            "metrics": {
                name: service.metrics.snapshot()
                for name, service in services.items()
                if isinstance(service, BaseService)
            },
        }

    def __repr__(self) -> str:
        return f"<ServiceHost {self.name!r} {self.state.value}>"


def _is_well(result: HealthResult | None) -> bool:
    """A service that has started and was not checked yet is taken at its word."""
    return result is None or bool(result) or result.status is HealthStatus.UNKNOWN


def _nothing() -> None:
    """Nothing to undo."""


def _section(config: Any, name: str) -> Any:
    """A part of a settings object or mapping."""
    if not name:
        return None
    return config.get(name) if isinstance(config, dict) else getattr(config, name, None)


def _container_name(container: Any) -> str:
    return type_name(container if isinstance(container, type) else type(container))


__all__ = ["ServiceHost", "Want", "WiringError"]
