"""Notices that a service blocks the event loop while it starts or stops, and where."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Self

from svcframework import _backend
from svcframework.events import LoopBlocked

INTERVAL = 0.05
"""Seconds between two looks at the loop."""


class Watchdog:
    """Looks at the event loop from a thread of its own while a `with` block runs in the loop.

    Args:
        token: The loop's native token.
        report: Takes a `LoopBlocked`; called in the loop.
        threshold: Seconds that the loop may stand still.
        code: The code of the method whose `self.name` is the service that runs on the stack.
    """

    def __init__(
        self, token: object, report: Callable[[LoopBlocked], None], *, threshold: float, code: CodeType
    ) -> None:
        self._token, self._report, self._threshold, self._code = token, report, threshold, code
        self._loop_thread = threading.get_ident()
        self._is_over = threading.Event()
        self._answered = threading.Event()
        self._asked_at = 0.0
        self._seen: tuple[str, str | None] | None = None
        self._thread = threading.Thread(target=self._watch, name="svcframework watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer()
        self._is_over.set()
        self._answered.set()
        self._thread.join()

    def _watch(self) -> None:
        """Ask the loop for an answer, again and again; look at its stack when none comes. In the thread."""
        while not self._is_over.wait(INTERVAL):
            self._answered.clear()
            self._asked_at = time.perf_counter()
            try:
                _backend.call_soon(self._token, self._answer)
            except RuntimeError:  # the loop has ended
                return
            if self._is_over.is_set():
                return
            if not self._answered.wait(self._threshold):
                self._seen = self._look()
                self._answered.wait()

    def _answer(self) -> None:
        """The loop turns; report if it had stopped to. In the loop."""
        seen, self._seen = self._seen, None
        if seen is not None and not self._answered.is_set():
            stack, service = seen
            self._report(LoopBlocked(time.perf_counter() - self._asked_at, stack, service))
        self._answered.set()

    def _look(self) -> tuple[str, str | None] | None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the public way to see another thread
        if frame is None:
            return None
        return "".join(traceback.format_stack(frame)), self._service_on(frame)

    def _service_on(self, frame: FrameType | None) -> str | None:
        while frame is not None:
            if frame.f_code is self._code:
                return str(frame.f_locals["self"].name)
            frame = frame.f_back
        return None
