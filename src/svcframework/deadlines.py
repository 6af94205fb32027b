"""How much time the caller has left: set with `deadline`, read with `remaining`. Keeps no clock of its own."""

from __future__ import annotations

import math
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Self, overload

import anyio

from svcframework.errors import DeadlineExceededError

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

_current: ContextVar[deadline | None] = ContextVar("svcframework_deadline", default=None)


class deadline:  # noqa: N801 - used as `with deadline(1.5):`, like open() and suppress()
    """Everything in the `with` block ends in time, or it raises; lives as long as the block.

    In async code what runs in the block is cancelled when the time is up. Sync code and threads can't be cancelled:
    there the deadline is only known to `remaining()`, which every call of a plugin asks. Deadlines nest; an inner one
    never extends an outer one.

    Args:
        seconds: From entering the block; None sets no limit.
        operation: What the error names.

    Raises:
        DeadlineExceededError: The time was up before the block had ended (async code only).
    """

    __slots__ = ("_closed", "_outer", "_scope", "_token", "at", "operation", "seconds")

    def __init__(self, seconds: float | None, *, operation: str = "the call") -> None:
        if seconds is not None and math.isnan(seconds):
            raise ValueError("deadline(nan): give the seconds from now, or None for no limit")
        self.seconds, self.operation = seconds, operation
        self.at = math.inf
        """When the time is up, on the clock of `time.monotonic()`; never later than an outer deadline."""
        self._closed = True
        self._outer: deadline | None = None
        self._scope: anyio.CancelScope | None = None
        self._token: Token[deadline | None] | None = None

    def __enter__(self) -> Self:
        if not self._closed:
            raise RuntimeError("This deadline has been entered already; make one for each block: with deadline(…):")
        self._outer = _open_deadline()
        own = math.inf if self.seconds is None else time.monotonic() + self.seconds
        self.at = own if self._outer is None else min(own, self._outer.at)
        self._token = _current.set(self)
        self._closed = False
        if self.seconds is not None and (now := _loop_time()) is not None and _in_task():
            self._scope = anyio.CancelScope(deadline=now + self.seconds)
            self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # Closed and not only reset: a task that was started in the block and outlives it has this deadline in its
        # copy of the context, and is no longer bound by it.
        self._closed = True
        if self._token is not None:
            _current.reset(self._token)
        scope, self._scope = self._scope, None
        if scope is None:
            return None
        swallowed = scope.__exit__(kind, error, traceback)
        if scope.cancelled_caught and self.seconds is not None:
            raise DeadlineExceededError(self.operation, self.seconds) from None
        return swallowed


@overload
def remaining() -> float | None: ...
@overload
def remaining(default: float) -> float: ...
@overload
def remaining(default: None) -> float | None: ...
def remaining(default: float | None = None) -> float | None:
    """How long the caller will wait, by `deadline` blocks and, in async code, by any cancel scope around the call.

    Args:
        default: What to return when nothing limits the caller.

    Returns:
        Seconds; 0 or less when the time is up.
    """
    left = _left()
    return default if left == math.inf else left


def has_deadline() -> bool:
    """Whether a `deadline` block is around the caller.

    Far cheaper than `remaining()`, which asks cancel scopes as well. Those end an async call by themselves; a deadline
    that was set in a thread, or outside of any task, is only known here.
    """
    return _current.get() is not None and _open_deadline() is not None


def effective_timeout(own: float) -> float:
    """The shorter of an operation's own timeout and what its caller has left.

    Args:
        own: Seconds.

    Returns:
        Seconds, never below 0.
    """
    return max(0.0, min(own, _left()))


def _left() -> float:
    """Seconds that the caller has; infinite where nothing limits it."""
    found = _current.get()
    left = math.inf
    if found is not None and (found := _open_deadline()) is not None:
        left = found.at - time.monotonic()
    try:
        ends = anyio.current_effective_deadline()
        # The clock is asked only where a scope has a deadline, for most have none.
        return left if ends == math.inf else min(left, ends - anyio.current_time())
    except RuntimeError:  # no event loop runs here, a worker thread for one
        return left


def _open_deadline() -> deadline | None:
    """The innermost deadline whose block hasn't ended."""
    found = _current.get()
    while found is not None and found._closed:  # noqa: SLF001 - of its own class
        found = found._outer  # noqa: SLF001 - of its own class
    return found


def _loop_time() -> float | None:
    """The event loop's clock, which isn't `time.monotonic()` on trio; None where no event loop runs."""
    try:
        return anyio.current_time()
    except RuntimeError:
        return None


def _in_task() -> bool:
    """Whether something can be cancelled here: not so in the event loop's callbacks."""
    try:
        anyio.get_current_task()
    except (RuntimeError, AttributeError):
        return False
    return True
