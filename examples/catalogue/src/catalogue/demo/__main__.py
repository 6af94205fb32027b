"""`python -m catalogue.demo`: the demo as a program, with an exit code that can be trusted.

While the host runs it has signal handlers of its own. These are for the time before and after.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def leave(number: int, _frame: FrameType | None) -> None:
    """End at once: nothing has been made yet, and an exception might get lost in the middle of an import."""
    os._exit(128 + number)


def end(number: int, _frame: FrameType | None) -> None:
    """End in order."""
    sys.exit(128 + number)


def on_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> None:
    """What Ctrl-C and SIGTERM do from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


if __name__ == "__main__":
    on_signals(leave)
    from catalogue.demo.script import main  # takes half a second

    on_signals(end)
    try:
        sys.exit(main())
    finally:
        on_signals(signal.SIG_IGN)  # it ends anyway, and what is removed at the very end must be
