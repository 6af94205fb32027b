"""What can go wrong with a server of ours."""

from __future__ import annotations

from svcframework.errors import ConnectionFailedError

_SIGNALLED = 128  # plus the signal's number is the exit code, as in a shell


class ServerStartError(ConnectionFailedError):
    """The server did not come up; the message ends with the last lines of its log."""


class ServerCrashedError(ConnectionFailedError):
    """The server ended though nobody asked it to. The restart policy brings it back on the same port and data.

    Args:
        server: What ended, e.g. `PostgreSQL`.
        exit_code: Its exit code; 128 plus the signal's number when a signal ended it.
        log: The last lines of its log.
    """

    def __init__(self, server: str, exit_code: int, *, log: str = "") -> None:
        self.server, self.exit_code = server, exit_code
        how = f"killed by signal {exit_code - _SIGNALLED}" if exit_code > _SIGNALLED else f"exit code {exit_code}"
        super().__init__(f"{server} ended unexpectedly ({how}); see its log{f': {log}' if log else ''}")
