"""One start, stop or restart of the lifecycle, and how it is waited for and reported."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from typing import Literal

import anyio

from svcframework._procedures import Starting, Stopping
from svcframework._servicetask import ServiceTask
from svcframework.errors import ShutdownError


class Operation:
    """One start, stop or restart, and whoever waits for it; lives until all of them know its outcome."""

    __slots__ = (
        "budget",
        "done",
        "error",
        "hung",
        "is_claimed",
        "kind",
        "names",
        "off",
        "procedure",
        "reason",
        "stop_errors",
        "waiters",
    )

    def __init__(
        self, kind: Literal["start", "stop", "restart"], names: Collection[str], *, reason: str, budget: float
    ) -> None:
        self.kind, self.names, self.reason, self.budget = kind, tuple(names), reason, budget
        self.done = anyio.Event()
        self.procedure: Starting | Stopping | None = None
        self.off: str | None = None
        """Why a start was called off."""
        self.error: BaseException | None = None
        self.stop_errors: dict[str, BaseException] = {}
        self.hung: dict[str, str] = {}
        self.waiters = 0
        self.is_claimed = False
        """Somebody has been told that the start succeeded."""

    @property
    def is_on_the_way_down(self) -> bool:
        """A stop, or a start that is being undone."""
        return self.kind == "stop" or self.off is not None

    def call_off(self, reason: str) -> None:
        """Undo the start, because of `reason`."""
        if self.kind != "stop" and self.off is None:
            self.off = reason
            if isinstance(self.procedure, Starting):
                self.procedure.call_off()

    def note(self, stopping: Stopping, ended: Iterable[ServiceTask] = ()) -> None:
        """Keep what went wrong with the stops, in the order they ended."""
        for task in ended:
            if task.stop_error is not None:
                self.stop_errors[task.name] = task.stop_error
            if task.hung_at is not None:
                self.hung[task.name] = task.hung_at
        self.stop_errors.update(stopping.errors)
        self.hung.update(stopping.hung)


async def outlast(done: anyio.Event) -> None:
    """Wait on, whatever cancellations arrive; the caller raises the first one afterwards."""
    with anyio.CancelScope(shield=True):
        while not done.is_set():
            # Shields hold off anyio's cancellations but not asyncio's own.
            with contextlib.suppress(anyio.get_cancelled_exc_class()):
                await done.wait()


def shutdown_error(operation: Operation) -> BaseException | None:
    """What a stop raises; None when every service stopped cleanly."""
    errors = {name: error for name, error in operation.stop_errors.items() if name not in operation.hung}
    if not errors and not operation.hung:
        return None
    failed = ShutdownError(errors, operation.hung)
    return exit_among(operation.stop_errors.values(), failed) or failed


def exit_among(errors: Iterable[BaseException], report: Exception) -> BaseException | None:
    """The SystemExit or KeyboardInterrupt that a hook raised: it is raised as itself once all is down."""
    for error in errors:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            error.add_note(str(report))
            return error
    return None
