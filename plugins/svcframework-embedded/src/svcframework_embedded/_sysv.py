"""System V shared memory, of which PostgreSQL takes a few bytes and leaves them behind when it is killed."""

from __future__ import annotations

import ctypes
from pathlib import Path

_IPC_RMID = 0
_SEGMENT_LINE = 6  # of postmaster.pid, from 0: "key id"; see PostgreSQL's utils/pidfile.h


def remove_segment(pid_file: Path) -> None:
    """Remove the segment of a server that was killed and won't be restarted; a stopped one has no pid file."""
    try:
        words = pid_file.read_text().splitlines()[_SEGMENT_LINE].split()
        ctypes.CDLL(None).shmctl(int(words[1]), _IPC_RMID, None)
    except (OSError, IndexError, ValueError, AttributeError):
        return
