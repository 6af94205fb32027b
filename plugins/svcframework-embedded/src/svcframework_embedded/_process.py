"""One server process under a supervisor that outlives neither it nor us. Knows nothing of databases."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import anyio
from anyio.abc import Process

from svcframework.errors import ServiceTimeoutError
from svcframework_embedded._files import Owner, tail
from svcframework_embedded.errors import ServerStartError

_KILL_TIMEOUT = 2.0  # seconds; what is stuck in the kernel can't be helped
_SUPERVISOR = Path(__file__).with_name("_supervise.py")


class ServerProcess:
    """A running server; lives until it ends, is stopped, or our own process dies in whatever way.

    Made with `start`. The pid is the server's own, not the supervisor's.
    """

    def __init__(self, name: str, supervisor: Process, lifeline: int, log: Path) -> None:
        self.name, self.log = name, log
        self.pid = 0
        self._supervisor, self._lifeline = supervisor, lifeline

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        owner: Owner | None,
        scratch: Path | None,
        last_signal: signal.Signals,
    ) -> Self:
        """Start `command`; returns once it runs, which is before it serves.

        Args:
            name: What errors call it.
            command: An absolute path and arguments.
            log: Takes its output.
            owner: Whose process it becomes; ours when None.
            scratch: Removed by the supervisor if our process dies.
            last_signal: Ends the server if our process dies.

        Raises:
            ServerStartError: It can't be started.
        """
        arguments = [owner.uid if owner else "-", owner.gid if owner else "-", log, int(last_signal), scratch or "-"]
        # The write end stays with us alone: descriptors aren't inherited unless one asks for it.
        read_end, write_end = os.pipe()
        try:
            with anyio.CancelScope(shield=True):  # a process that nobody holds can't be stopped
                supervisor = await anyio.open_process(
                    [sys.executable, "-I", "-S", *map(str, [_SUPERVISOR, *arguments, *command])],
                    stdin=read_end,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env=environment(os.environ),
                    start_new_session=True,  # Ctrl-C is for us; we stop the server when its users have stopped
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        self = cls(name, supervisor, write_end, log)
        try:
            await self._learn_pid()
        except BaseException:
            self._hang_up()
            with anyio.CancelScope(shield=True):
                await supervisor.wait()
            raise
        return self

    async def _learn_pid(self) -> None:
        stdout = self._supervisor.stdout
        if stdout is None:  # can't be: it was asked for
            raise ServerStartError(f"{self.name} has no supervisor")
        line = b""
        with contextlib.suppress(anyio.EndOfStream):
            while not line.endswith(b"\n"):
                line += await stdout.receive(32)
        await stdout.aclose()
        if not line:
            raise ServerStartError(f"{self.name} could not be started: its supervisor ended at once")
        self.pid = int(line)

    @property
    def is_alive(self) -> bool:
        """It has not been seen to end."""
        return self._supervisor.returncode is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 plus the signal's number when a signal ended it."""
        return self._supervisor.returncode

    def send(self, number: signal.Signals) -> None:
        """Send the server a signal; nothing happens when it has ended."""
        if self._lifeline >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._lifeline, bytes([number]))

    async def wait(self) -> int:
        """Wait until it and everything it forked has ended; its exit code."""
        code = await self._supervisor.wait()
        self._hang_up()
        await self._supervisor.aclose()
        return code

    async def stop(self, *steps: tuple[signal.Signals, float]) -> int:
        """End it: each signal gets its seconds, SIGKILL is the last. Can't be cancelled, but is bounded."""
        with anyio.CancelScope(shield=True):
            for number, seconds in (*steps, (signal.SIGKILL, _KILL_TIMEOUT)):
                self.send(number)
                with anyio.move_on_after(seconds):
                    return await self.wait()
        raise ServiceTimeoutError(f"SIGKILL of {self.name}, process {self.pid}", _KILL_TIMEOUT)  # e.g. a dead disk

    def log_tail(self) -> str:
        """The last lines of its output."""
        return tail(self.log)

    def _hang_up(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a server needs, and none of our secrets."""
    kept = {key: ours[key] for key in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if key in ours}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
