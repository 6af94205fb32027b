"""Every transition is a frozen event; logs, metrics, traces and pages are listeners."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcframework._types import HealthResult, ServiceState


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events."""


@dataclass(frozen=True, slots=True)
class HostStarting(Event):
    """The host has begun to start `services`, named in start order."""

    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostStarted(Event):
    """All services run, after `seconds`; the slowest chain was `critical_path`."""

    seconds: float
    critical_path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostStopping(Event):
    """The host has begun to stop, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class HostStopped(Event):
    """Nothing runs any more, after `seconds`; `culprits` could not be stopped in time."""

    seconds: float
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceEvent(Event):
    """Something about one service."""

    service: str


@dataclass(frozen=True, slots=True)
class ServiceStateChanged(ServiceEvent):
    """The service went from state `old` to `new`."""

    old: ServiceState
    new: ServiceState


@dataclass(frozen=True, slots=True)
class ServiceStarting(ServiceEvent):
    """`on_startup` is about to be called."""


@dataclass(frozen=True, slots=True)
class ServiceStarted(ServiceEvent):
    """`on_startup` returned after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ServiceStartFailed(ServiceEvent):
    """`on_startup` raised `error` or was cut off after `seconds`; `will_retry` for an optional service."""

    error: BaseException
    seconds: float
    will_retry: bool = False


@dataclass(frozen=True, slots=True)
class ServiceStopping(ServiceEvent):
    """`on_shutdown` is about to be called."""


@dataclass(frozen=True, slots=True)
class ServiceStopped(ServiceEvent):
    """`on_shutdown` has ended after `seconds`, with `error` if it raised one."""

    seconds: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ServiceHung(ServiceEvent):
    """`on_shutdown` did not return in time; it was last waiting at `waiting_at` (file:line in function)."""

    seconds: float
    waiting_at: str


@dataclass(frozen=True, slots=True)
class ServiceCrashed(ServiceEvent):
    """`on_run` raised `error`, or returned though it may not (`error` is None); `dependents` are told."""

    error: BaseException | None
    dependents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceRestarting(ServiceEvent):
    """Restart number `attempt` in its window begins in `delay` seconds."""

    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class RestartsExhausted(ServiceEvent):
    """More than `max_restarts` in `within` seconds: the host stops."""

    max_restarts: int
    within: float


@dataclass(frozen=True, slots=True)
class HookFailed(ServiceEvent):
    """A callback of the service that must not raise, named `hook`, raised `error`; the host went on."""

    hook: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class HealthChanged(ServiceEvent):
    """A health check turned: `old` is the last reported result, None for the first one."""

    old: HealthResult | None
    new: HealthResult


@dataclass(frozen=True, slots=True)
class LoopBlocked(Event):
    """The event loop stood still for `seconds` while `service` started or stopped; `stack` shows where."""

    seconds: float
    stack: str
    service: str | None = None


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Attempt number `attempt` of `operation` failed with `error`; the next one begins in `delay` seconds."""

    operation: str
    attempt: int
    delay: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class PluginSkipped(Event):
    """The plugin named `plugin` was not loaded, for `reason`."""

    plugin: str
    reason: str


class Listener(Protocol):
    """Whatever wants to know. Called in the task where it happened; it must not wait."""

    def __call__(self, event: Event, /) -> None:
        """Take note of `event`."""


class EventBus:
    """Hands each event to every listener, in the order they subscribed. Lives as long as its host."""

    __slots__ = ("_listeners",)

    def __init__(self) -> None:
        self._listeners: tuple[Listener, ...] = ()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event from now on; the result ends the subscription."""
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            self._listeners = tuple(known for known in self._listeners if known is not listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Tell every listener. One that raises is reported and prevents no other."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a boundary: a broken listener must not break the host
                logging.getLogger("svcframework").exception("listener %r failed on %s", listener, type(event).__name__)
