"""The entry point of `svc` and `python -m svcframework`: takes signals before it loads anything."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def _leave(number: int, _frame: FrameType | None) -> None:
    """Nothing runs yet that would have to be stopped; a second signal doesn't ask whether that is so."""
    signal.signal(number, lambda again, _: os._exit(128 + again))
    raise SystemExit(128 + number)


def main() -> None:
    """Run a command.

    Raises:
        SystemExit: Always, with the exit code: 143 or 130 after a signal, even in the middle of an import.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        from svcframework import cli  # noqa: PLC0415 - after the signals
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        print('svc needs its extra: pip install "svcframework[cli]"', file=sys.stderr)  # noqa: T201 - a command's words
        raise SystemExit(2) from None
    cli.run_command()


if __name__ == "__main__":
    main()
