"""Repeats: the first few of a kind come through, the rest are counted."""

from __future__ import annotations

import threading

from svcframework._repeats import Repeats


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_first_few_come_through() -> None:
    """As many as the limit, each kind for itself."""
    repeats: Repeats[str] = Repeats(limit=2, clock=Clock())
    assert [0, 0, None, None] == [repeats.admit("a") for _ in range(4)]
    assert 0 == repeats.admit("b")
    assert {"a": 4, "b": 1} == repeats.counts


def test_next_window_says_how_many_were_held_back() -> None:
    """The first one of a new window brings the number along, and only the first."""
    clock = Clock()
    repeats: Repeats[str] = Repeats(limit=1, window=10.0, clock=clock)
    for _ in range(5):
        repeats.admit("a")
    clock.now = 9.9
    assert repeats.admit("a") is None
    clock.now = 10.0
    assert 5 == repeats.admit("a")
    clock.now = 20.0
    assert 0 == repeats.admit("a")


def test_kinds_are_bounded() -> None:
    """Of ever new kinds, the least recently seen is forgotten."""
    repeats: Repeats[int] = Repeats(limit=1, clock=Clock())
    for kind in range(2000):
        repeats.admit(kind)
    assert 1024 == len(repeats.counts)
    assert 0 == repeats.admit(0)


def test_threads_count_together() -> None:
    """No event is lost or let through twice."""
    repeats: Repeats[str] = Repeats(limit=10, clock=Clock())
    admitted: list[int] = []

    def work() -> None:
        admitted.extend(1 for _ in range(500) if repeats.admit("a") is not None)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (10, {"a": 2000}) == (len(admitted), repeats.counts)
