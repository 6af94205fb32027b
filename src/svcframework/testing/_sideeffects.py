"""Notices files, sockets and processes that a block of code opens, by Python's own audit events."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

_ALWAYS = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.sendto",
    "subprocess.Popen",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.",
    "sqlite3.connect",
    "tempfile.",
    "urllib.Request",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class _Recorder:
    """One hook for the life of the process, since a hook can't be removed; it records for one thread at a time."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.found: list[str] = []
        self.is_hooked = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.thread is None or self.thread != threading.get_ident():
            return
        if event.startswith(_ALWAYS) or (event == "open" and _writes(arguments)):
            self.found.append(f"{event}({', '.join(map(repr, arguments[:2]))})")


_recorder = _Recorder()


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = (*arguments, None, None)[:3]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITING)


@contextlib.contextmanager
def side_effects() -> Iterator[list[str]]:
    """The files written, sockets and processes opened by this thread in the block, as text. Reading is free.

    >>> with side_effects() as found:
    ...     open(os.devnull, "w").close()
    >>> [line.startswith("open(") for line in found]
    [True]
    """
    if not _recorder.is_hooked:
        sys.addaudithook(_recorder)
        _recorder.is_hooked = True
    _recorder.found = []
    _recorder.thread = threading.get_ident()
    try:
        yield _recorder.found
    finally:
        _recorder.thread = None
