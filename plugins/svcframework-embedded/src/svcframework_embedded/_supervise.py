"""A program: runs one server and ends it, with all it forked, when whoever started this program is gone.

Not imported but run, by path, with nothing but the standard library. Its standard input is the lifeline: every byte
that arrives is the number of a signal for the server, and its end means that the other side died, in whatever way
(a pipe closes on SIGKILL too). The first line on standard output is the server's process id. It ends when the
server and everything the server forked have ended, with the server's exit code, or 128 plus the signal that
killed it.

    python -I -S _supervise.py UID GID LOG SIGNAL SCRATCH COMMAND [ARGUMENT ...]

UID and GID are whose the server is (`-`: ours); LOG takes its output; SIGNAL is what ends it when we are orphaned;
SCRATCH is then removed (`-`: nothing is).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
ORPHAN_GRACE = 3.0  # seconds between the polite signal and SIGKILL once we are orphaned


def main(uid: str, gid: str, log: str, last_signal: str, scratch: str, *command: str) -> int:
    """Run `command` until it ends or we are orphaned; its exit code."""
    _prctl(PR_SET_CHILD_SUBREAPER)  # what the server leaves behind becomes our child, to be ended and reaped
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # orders come through the lifeline only
    server = _spawn(command, log, None if uid == "-" else (int(uid), int(gid)))
    with contextlib.suppress(OSError):
        os.write(1, b"%d\n" % server)
    status, orphaned = _attend(server, wake_read, int(last_signal))
    _end_descendants()
    if orphaned and scratch != "-":
        import shutil  # noqa: PLC0415 - costs 5 ms and is needed only here

        shutil.rmtree(scratch, ignore_errors=True)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _spawn(command: tuple[str, ...], log: str, owner: tuple[int, int] | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if owner is not None:
            os.setgroups([])
            os.setgid(owner[1])
            os.setuid(owner[0])
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
        os.execv(command[0], command)  # noqa: S606 - the command is ours
    except BaseException as error:  # noqa: BLE001 - the child must never return into the parent's code
        os.write(2, f"can't run {command[0]}: {error}\n".encode())
    os._exit(127)


def _attend(server: int, wake: int, last_signal: int) -> tuple[int, bool]:
    """Hand on signals until the server has ended; its wait status, and whether our owner died before."""
    orphaned_at: float | None = None
    while True:
        status = _reap(server)
        if status is not None:
            return status, orphaned_at is not None
        lifeline = [0] if orphaned_at is None else []
        ready, _, _ = select.select([wake, *lifeline], [], [], None if orphaned_at is None else 0.1)
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 512)
        if 0 in ready:
            numbers = os.read(0, 64)
            if not numbers:
                orphaned_at = time.monotonic()
                numbers = bytes([last_signal])
            for number in numbers:
                os.kill(server, number)
        if orphaned_at is not None and time.monotonic() - orphaned_at > ORPHAN_GRACE:
            os.kill(server, signal.SIGKILL)


def _reap(server: int) -> int | None:
    """Collect whoever has ended; the server's wait status once it has."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == server:
                found = status
    return found


def _end_descendants() -> None:
    """Kill and collect what the server left running: after a crash, backends that are still computing."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)


def _children() -> list[int]:
    """Our children's process ids; none where the system doesn't tell, and none are adopted there either."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as listing:  # noqa: PTH123 - pathlib costs 5 ms
            return [int(pid) for pid in listing.read().split()]
    except OSError:
        return []


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - not needed elsewhere

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
