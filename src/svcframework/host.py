"""ServiceHost, the running whole: connects registry, resolver, lifecycle and health, which don't know one another."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio

from svcframework import diagrams
from svcframework._types import HealthResult, HealthStatus, ServiceState
from svcframework.background import Background
from svcframework.composition import Composition
from svcframework.config import ConfigManager
from svcframework.discovery import PluginCatalogue
from svcframework.errors import (
    IllegalStateError,
    LifecycleError,
    ShutdownError,
)
from svcframework.events import Event, EventBus, HostStopping
from svcframework.health import HealthMonitor, HealthTarget
from svcframework.lifecycle import Lifecycle
from svcframework.problems import listed
from svcframework.resolver import Resolver
from svcframework.retry import on_retry
from svcframework.routing import CURRENT, activate, current_resolver, deactivate
from svcframework.service import BaseService
from svcframework.units import Units
from svcframework.wiring import Graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
    from contextvars import Token
    from types import TracebackType

    from svcframework.events import Listener

T = TypeVar("T")
S = TypeVar("S", bound="BaseService[Any]")
_AT_REST = {ServiceState.REGISTERED, ServiceState.STOPPED, ServiceState.FAILED}


class ServiceHost(Composition):
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
        super().__init__(*containers, plugins=plugins, scopes=scopes, config=config, name=name, catalogue=catalogue)
        self.start_timeout, self.stop_timeout, self.drain_delay = start_timeout, stop_timeout, drain_delay
        self.events = EventBus()
        self.health = HealthMonitor(self._health_targets, emit=self.events.emit)
        self.events.subscribe(self.health.on_event)
        self.stop_reason: str | None = None
        """What the log says of the stop at the end of the block, e.g. the signal's name; from the next start None."""
        self._log_events = log_events
        self._lifecycle: Lifecycle | None = None
        self._is_entered = False
        self._body: anyio.CancelScope | None = None
        self._token: Token[Resolver | None] | None = None
        self._background: Background | None = None
        self._prepared: Graph | None = None
        self._hurried: float | None = None
        self._hurry = anyio.Event()
        self._forget_retries: Callable[[], None] = _nothing
        self.events.subscribe(self._note)

    # --- states ---------------------------------------------------------------------------------------

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

    def unregister(self, name: str) -> None:
        """Forget a service.

        Raises:
            ServiceNotFoundError: There is none of that name.
            IllegalStateError: It runs.
        """
        if self._lifecycle is not None and self._lifecycle.states.get(name, ServiceState.STOPPED).is_running:
            raise IllegalStateError(f"unregister {name!r}", "it runs", fix="stop the host first")
        super().unregister(name)

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
        self.graph.check(without=self._resolver.substitutes)
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
