"""What the lifecycle knows of its services: units, their graph and their states. Starts and stops nothing."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svcframework._types import Restart, ServiceState
from svcframework.events import Event, HookFailed, ServiceStateChanged

if TYPE_CHECKING:
    from svcframework._servicetask import ServiceTask

Hook = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Unit:
    """One service, as the lifecycle sees it; lives as long as its host.

    A unit without any hook is plain: it costs no task and no wait.

    Args:
        name: The registered name.
        label: How an error shows it: the name with its type.
        startup: The author's `on_startup`, None when there is nothing to do.
        run: The author's `on_run`, None when there is nothing to do.
        shutdown: The author's `on_shutdown`, None when there is nothing to do.
        requires: Units that must run before; if one of them fails, this one is not started.
        wants: Units that are tried before; whether they run does not matter.
        start_timeout: Seconds that `startup` may take.
        stop_timeout: Seconds that the end of `run` and `shutdown` together may take.
        restart: What an end of `run` means.
        optional: A failed start is tried again in the background, and the others run without it.
        critical: The host stops when restarts are exhausted.
        on_state: Told of each new state.
        on_dependency_change: Told when a dependency crashed or came back: its name and state.
        hints: Further lines for the error when the start fails.
    """

    name: str
    label: str = ""
    startup: Hook | None = None
    run: Hook | None = None
    shutdown: Hook | None = None
    requires: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    start_timeout: float = 30.0
    stop_timeout: float = 10.0
    restart: Restart = field(default_factory=Restart.transient)
    optional: bool = False
    critical: bool = True
    on_state: Callable[[ServiceState], None] | None = None
    on_dependency_change: Callable[[str, ServiceState], None] | None = None
    hints: Callable[[], Sequence[str]] | None = None

    @property
    def is_plain(self) -> bool:
        """Nothing is ever called, so no task is needed."""
        return self.startup is None and self.run is None and self.shutdown is None

    @property
    def edges(self) -> tuple[str, ...]:
        """Whatever starts before it, required or wanted, each once."""
        return tuple(dict.fromkeys((*self.requires, *self.wants))) if self.wants else self.requires


class Roster:
    """All units of one lifecycle: start order, who depends on whom, states, and the tasks that are alive.

    Args:
        units: In a deterministic order; an acyclic graph.
        emit: Takes every event; must not raise.

    Raises:
        ValueError: A unit names another that isn't there, two have one name, or there is a ring.
    """

    def __init__(self, units: Iterable[Unit], emit: Callable[[Event], None]) -> None:
        self.units: dict[str, Unit] = {}
        for unit in units:
            if unit.name in self.units:
                raise ValueError(f"two units are named {unit.name!r}")
            self.units[unit.name] = unit
        self.emit = emit
        self.dependents: dict[str, list[str]] = {name: [] for name in self.units}
        for unit in self.units.values():
            for dependency in unit.edges:
                if dependency not in self.units:
                    raise ValueError(f"unit {unit.name!r} depends on {dependency!r}, which is not a unit")
                self.dependents[dependency].append(unit.name)
        self.order = self._sorted()
        self.states = dict.fromkeys(self.units, ServiceState.REGISTERED)
        self.tasks: dict[str, ServiceTask] = {}
        self.held: dict[str, None] = {}
        """Optional units that wait for what they require to come up in the background."""

    def _sorted(self) -> tuple[str, ...]:
        """Dependencies first; otherwise as given."""
        given = {name: position for position, name in enumerate(self.units)}
        names = list(self.units)
        missing = {name: len(unit.edges) for name, unit in self.units.items()}
        ready = [given[name] for name in names if not missing[name]]
        order: list[str] = []
        while ready:
            name = names[heapq.heappop(ready)]
            order.append(name)
            for dependent in self.dependents[name]:
                missing[dependent] -= 1
                if not missing[dependent]:
                    heapq.heappush(ready, given[dependent])
        if len(order) < len(names):
            raise ValueError(f"the units depend on one another in a ring: {sorted(set(names) - set(order))}")
        return tuple(order)

    def is_up(self, name: str) -> bool:
        """What requires it may start."""
        return self.states[name] is ServiceState.RUNNING

    def is_live(self, name: str) -> bool:
        """There is something to stop."""
        return name in self.tasks or (self.units[name].is_plain and self.is_up(name))

    def live(self) -> list[str]:
        """Whatever there is to stop, in start order."""
        return [name for name in self.order if self.is_live(name)]

    def with_required(self, names: Collection[str] | None) -> tuple[str, ...]:
        """These and all that they require, in start order; None is everything."""
        if names is None:
            return self.order
        return self._closure(names, lambda name: self.units[name].requires)

    def with_dependents(self, names: Collection[str] | None) -> tuple[str, ...]:
        """These and all that depend on them, in start order; None is everything."""
        if names is None:
            return self.order
        return self._closure(names, lambda name: self.dependents[name])

    def _closure(self, names: Collection[str], beyond: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
        found: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                ahead.extend(beyond(name))
        return tuple(name for name in self.order if name in found)

    def set_state(self, name: str, new: ServiceState) -> None:
        """Note a transition and tell the service and the listeners."""
        old = self.states[name]
        if old is new:
            return
        self.states[name] = new
        on_state = self.units[name].on_state
        if on_state is not None:
            self._tell(name, "on_state", functools.partial(on_state, new))
        self.emit(ServiceStateChanged(name, old, new))

    def tell_dependents(self, name: str) -> tuple[str, ...]:
        """Let the live dependents know the state of `name`; their names."""
        told = tuple(dependent for dependent in self.dependents[name] if self.is_live(dependent))
        state = self.states[name]
        for dependent in told:
            hook = self.units[dependent].on_dependency_change
            if hook is not None:
                self._tell(dependent, "on_dependency_change", functools.partial(hook, name, state))
        return told

    def _tell(self, name: str, hook: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a boundary: what an author's callback raises must not stop the rest
            self.emit(HookFailed(name, hook, error))
