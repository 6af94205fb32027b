"""`python -m catalogue.demo`: the demo as a program, with an exit code that can be trusted."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def leave(number: int, _frame: FrameType | None) -> None:
    """End at once. Right only while nothing runs: before `host.run()`, which has handlers of its own, and after it."""
    os._exit(128 + number)


if __name__ == "__main__":
    for early in (signal.SIGINT, signal.SIGTERM):
        signal.signal(early, leave)
    from catalogue.demo.script import main  # imports for half a second, and may be told to stop meanwhile

    sys.exit(main())
