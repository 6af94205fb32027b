"""Noting statements where they are run, for whoever records them in the same context; nothing else is known here.

While nobody records, a statement pays for one look at a context variable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
_Work = Callable[[Any, str, Any, float], Coroutine[Any, Any, T]]


class NotesStatements(Protocol):
    """What wants to know of statements."""

    def note(self, query: str, rows: int, seconds: float) -> None:
        """A statement has been run. Must not wait or raise."""


_current: ContextVar[NotesStatements | None] = ContextVar("svcframework_postgres_recording", default=None)


def noted(work: _Work[T]) -> _Work[T]:
    """`work` as it is, or such that the recording of this context learns of it."""
    recording = _current.get()
    if recording is None:
        return work

    async def noting(connection: Any, query: str, args: Any, timeout: float) -> T:  # noqa: ASYNC109 - handed on
        started = time.perf_counter()
        result = await work(connection, query, args, timeout)
        recording.note(query, _rows(result), time.perf_counter() - started)
        return result

    return noting


@contextmanager
def noted_by(recording: NotesStatements) -> Iterator[None]:
    """Note the statements of a block. An inner recording takes the outer one's place for its block."""
    token = _current.set(recording)
    try:
        yield
    finally:
        _current.reset(token)


def _rows(result: object) -> int:
    if isinstance(result, list):
        return len(result)
    return 0 if result is None or isinstance(result, str) else 1
