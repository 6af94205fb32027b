"""Unix sockets on asyncio and trio, without what anyio's own leave asyncio's loop: a callback that fails.

anyio 4.16 has it when a task is cancelled in the turn of the loop in which its socket gets ready. Here a task waits by
`anyio.wait_readable` and `wait_writable`, which take that into account. Knows nothing of who talks over the socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import AsyncResource, ByteStream, SocketAttribute

_QUEUE_FULL = 0.005  # seconds until a server that has too many waiting is asked again


async def connect_unix(path: Path) -> UnixStream:
    """Connect to the server at `path`; waits while too many others do.

    Raises:
        OSError: Nobody listens there.
    """
    raw = socket.socket(socket.AF_UNIX)
    try:
        raw.setblocking(False)  # noqa: FBT003 - its only form
        while True:
            try:
                raw.connect(str(path))
            except BlockingIOError:
                await anyio.sleep(_QUEUE_FULL)
            else:
                return UnixStream(raw)
    except BaseException:
        raw.close()
        raise


def listen_unix(path: Path, *, mode: int = 0o600) -> UnixListener:
    """Listen at `path`, in the place of a socket that was left there.

    Args:
        path: The socket's file; whoever closes the listener removes it.
        mode: The file's permissions.

    Raises:
        OSError: The file can't be made.
    """
    if path.is_socket():
        path.unlink()
    raw = socket.socket(socket.AF_UNIX)
    try:
        raw.setblocking(False)  # noqa: FBT003 - its only form
        raw.bind(str(path))
        path.chmod(mode)
        raw.listen(socket.SOMAXCONN)
    except BaseException:
        raw.close()
        raise
    return UnixListener(raw)


class _Closing(AsyncResource):
    """A socket whose close wakes up who waits for it."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw

    async def aclose(self) -> None:
        """Close it; whoever waits for it gets a `ClosedResourceError`."""
        if self._raw.fileno() >= 0:
            anyio.notify_closing(self._raw)
            self._raw.close()
        await anyio.lowlevel.checkpoint()

    def _lost(self) -> Exception:
        """What to raise after the system's error: we closed it, or the other end did."""
        return anyio.ClosedResourceError() if self._raw.fileno() < 0 else anyio.BrokenResourceError()


class UnixStream(_Closing, ByteStream):
    """A connection; lives until it is closed. One task may receive while another one sends.

    Args:
        raw: A connected socket that doesn't block; belongs to the stream from now on.
    """

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket, as anyio's streams have it."""
        return {SocketAttribute.raw_socket: lambda: self._raw}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has arrived, at least a byte of it."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self._raw.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._raw)
            except OSError as error:
                raise self._lost() from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """Send all of it."""
        await anyio.lowlevel.checkpoint()
        left = memoryview(item)
        while left:
            try:
                left = left[self._raw.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._raw)
            except OSError as error:
                raise self._lost() from error

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        try:
            self._raw.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost() from error


class UnixListener(_Closing):
    """Accepts connections; lives until it is closed.

    Args:
        raw: A listening socket that doesn't block; belongs to the listener from now on.
    """

    async def accept(self) -> UnixStream:
        """The next connection."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                raw, _ = self._raw.accept()
            except BlockingIOError:
                await anyio.wait_readable(self._raw)
            except OSError as error:
                raise self._lost() from error
            else:
                raw.setblocking(False)  # noqa: FBT003 - its only form
                return UnixStream(raw)
