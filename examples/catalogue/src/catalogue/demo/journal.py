"""Journal: every event of the host, with the second it happened at; to be looked up, and to be followed live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

import anyio

from svcframework.events import Event

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event, `at` seconds after the journal was opened."""

    at: float
    event: Event


class Journal:
    """A listener that remembers: `host.subscribe(journal)`. Lives as long as the demo."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.entries: list[Entry] = []
        self._clock, self._opened = clock, clock()
        self._news: anyio.Event | None = None

    @property
    def now(self) -> float:
        """Seconds since it was opened."""
        return self._clock() - self._opened

    def __call__(self, event: Event, /) -> None:
        """Take note; a listener must not wait, so whoever prints it does so later."""
        self.entries.append(Entry(self.now, event))
        if self._news is not None:
            self._news.set()

    def of(self, kind: type[E], *, since: float = 0.0) -> list[E]:
        """All events of a kind, in order."""
        return [entry.event for entry in self._since(since) if isinstance(entry.event, kind)]

    def follow(self, since: float = 0.0) -> Follower:
        """Iterate over what has happened since, and go on with what happens: `async for entry in journal.follow()`."""
        return Follower(self, len(self.entries) - sum(1 for _ in self._since(since)))

    async def wait_for(self, kind: type[E], accept: Callable[[E], bool], *, since: float = 0.0) -> E:
        """The first event of that kind that is accepted; waits until there is one."""
        async for entry in self.follow(since):
            if isinstance(entry.event, kind) and accept(entry.event):
                return entry.event
        raise AssertionError("a follower never ends")

    async def news(self) -> None:
        """Wait for the next event."""
        if self._news is None or self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    def _since(self, moment: float) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.at >= moment)


class Follower:
    """Reads a journal to its end, waits there, and reads on."""

    def __init__(self, journal: Journal, place: int) -> None:
        self._journal, self._place = journal, place

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        while self._place >= len(self._journal.entries):
            await self._journal.news()
        self._place += 1
        return self._journal.entries[self._place - 1]
