"""Ticks at a fixed rate that end when their service is asked to stop. Knows no service and no host."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

_current: ContextVar[StopSignal | None] = ContextVar("svcframework_stop_signal", default=None)


class StopSignal:
    """Asks work to come to an end by itself, before it is cancelled; lives as long as one run of the work."""

    __slots__ = ("_event", "is_heeded")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self.is_heeded = False
        """Something in the work looks at the signal, so that it is worth waiting a moment before cancelling."""

    @property
    def is_set(self) -> bool:
        """The work was asked to end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the work to end. Asking twice is as good as once."""
        self._event.set()

    async def wait(self) -> None:
        """Return when the work is asked to end."""
        self.is_heeded = True
        await self._event.wait()

    @contextmanager
    def bound(self) -> Iterator[Self]:
        """Make this the signal of everything that is started in the `with` block."""
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)


def stop_signal() -> StopSignal | None:
    """The signal of the work that the caller is part of; None outside a service's background work."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class Tick:
    """One beat.

    Args:
        number: 1 for the first.
        late: Seconds between when it was due and when it came.
        missed: Beats that were left out before it because the work between took too long.
    """

    number: int
    late: float = 0.0
    missed: int = 0


class every:  # noqa: N801 - read as `async for tick in every(10.0):`, like range()
    """Beat at a fixed rate: the first time at once (or after `delay`), then every `seconds`.

    The rate does not drift by the time the loop's body takes. A body that takes longer than `seconds` makes beats
    be left out, never caught up in a burst. When the service is asked to stop, the body that runs is finished and
    the loop ends; a plain cancellation ends it like any other code.

    Args:
        seconds: Between two beats.
        delay: Seconds before the first one.
        stop: What ends it; by default the signal of the service that it runs in.

    Raises:
        ValueError: `seconds` is not above 0, or `delay` is below.
    """

    def __init__(self, seconds: float, *, delay: float = 0.0, stop: StopSignal | None = None) -> None:
        if not seconds > 0:
            raise ValueError(f"every({seconds!r}): give the seconds between two beats, more than 0")
        if delay < 0:
            raise ValueError(f"every({seconds!r}, delay={delay!r}): a delay is 0 seconds or more")
        self.seconds = seconds
        self._delay = delay
        self._stop = stop or stop_signal()
        self._due: float | None = None
        self._number = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tick:
        now = anyio.current_time()
        due = now + self._delay if self._due is None else self._due
        missed = max(0, int((now - due) // self.seconds))
        due += missed * self.seconds
        if await self._stopped_before(due - now):
            raise StopAsyncIteration
        self._due = due + self.seconds
        self._number += 1
        return Tick(self._number, max(0.0, anyio.current_time() - due), missed)

    async def _stopped_before(self, seconds: float) -> bool:
        if self._stop is None:
            await anyio.sleep(max(0.0, seconds))
            return False
        if seconds <= 0:
            self._stop.is_heeded = True
            await anyio.lowlevel.checkpoint()
        else:
            with anyio.move_on_after(seconds):
                await self._stop.wait()
        return self._stop.is_set
