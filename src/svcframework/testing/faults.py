"""FaultProxy: a network that fails on command, between a client and a real server.

TCP and unix sockets, any protocol; it looks at no byte. What it can't do is lose single packets: it is a proxy, so a
connection is always accepted by the kernel, also in a black hole.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Self, cast
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute, SocketListener, TaskGroup

from svcframework.errors import IllegalStateError
from svcframework.unixsockets import UnixListener, connect_unix, listen_unix

Target = tuple[str, int] | Path
"""A TCP address, or the path of a unix socket."""

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "nats": 4222,
    "amqp": 5672,
}
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@dataclass(frozen=True, slots=True)
class Fault:
    """What the network does: a kind, and its amount in seconds, bytes, or bytes per second."""

    kind: Literal["pass", "latency", "black_hole", "half_open", "refuse", "reset", "reset_after", "slow"] = "pass"
    amount: float = 0.0

    def holds_back(self, *, answers: bool) -> bool:
        """Nothing gets through in this direction: of the questions, or of the answers."""
        return self.kind == "black_hole" or (self.kind == "half_open" and answers)


@dataclass(eq=False, slots=True)
class _Link:
    """One client's connection and the connection made for it."""

    client: ByteStream
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    answered: int = 0
    is_reset: bool = False

    def reset(self) -> None:
        self.is_reset = True
        self.scope.cancel()


class FaultProxy:
    """Hands on every byte until it is told otherwise; lives as long as its `async with` block.

    A fault holds for connections that are open and for new ones, until the next call. Each of the fault methods
    returns when the fault is in force.

    Args:
        target: The server: `(host, port)`, the path of a unix socket, or a URL such as `redis://localhost:6379`.
        socket_path: Listen on this unix socket instead of on a free TCP port of 127.0.0.1.

    Example:
        >>> async def stall(url: str) -> None:
        ...     async with FaultProxy(url) as proxy:
        ...         service = RedisService({"url": proxy.through(url)})
        ...         await proxy.black_hole()  # whatever the service does now must end in its own deadline
        ...         await proxy.pass_on()
    """

    def __init__(self, target: Target | str, *, socket_path: Path | None = None) -> None:
        self.target: Target = _target_of(target) if isinstance(target, str) else target
        self.socket_path = socket_path
        self.accepted = 0
        """Connections accepted so far, also those that were reset at once."""
        self._fault = Fault()
        self._changed = anyio.Event()
        self._links: set[_Link] = set()
        self._listener: SocketListener | UnixListener | None = None
        self._accepting: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None
        self._exits = AsyncExitStack()
        self._port = 0

    # --- where it is ------------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The TCP port it listens on; the same over a time of `refuse`."""
        return self._port

    @property
    def fault(self) -> Fault:
        """What is in force."""
        return self._fault

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def through(self, url: str) -> str:
        """`url` with this proxy's address in the place of the server's."""
        parts = urlsplit(url)
        if self.socket_path is not None:
            return _with_socket(parts, self.socket_path)
        user, at, _ = parts.netloc.rpartition("@")
        kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"host", "port"}]
        return parts._replace(netloc=f"{user}{at}{self.host}:{self.port}", query=urlencode(kept)).geturl()

    # --- what it can do to a client ---------------------------------------------------------------------

    async def pass_on(self) -> None:
        """End the fault. What a black hole has swallowed arrives now, as after a network partition."""
        await self._switch(Fault())

    async def latency(self, seconds: float) -> None:
        """Delay each piece of data, in both directions, by `seconds`."""
        await self._switch(Fault("latency", seconds))

    async def black_hole(self) -> None:
        """Accept connections and data, and let nothing through."""
        await self._switch(Fault("black_hole"))

    async def half_open(self) -> None:
        """Let questions through to the server, and no answer back: half of each connection is dead."""
        await self._switch(Fault("half_open"))

    async def refuse(self) -> None:
        """Refuse new connections and reset the open ones: the server's machine is up, the server isn't."""
        await self._switch(Fault("refuse"))

    async def reset(self) -> None:
        """Reset open connections now and new ones as soon as they are made."""
        await self._switch(Fault("reset"))

    async def reset_after(self, count: int) -> None:
        """Reset each connection when `count` bytes of answers have come through from now on: in mid-answer."""
        for link in self._links:
            link.answered = 0
        await self._switch(Fault("reset_after", count))

    async def slow(self, bytes_per_second: float = 1.0) -> None:
        """Hand on one byte at a time, in both directions."""
        await self._switch(Fault("slow", bytes_per_second))

    async def drop_connections(self) -> None:
        """Reset the open connections once; new ones are served as before."""
        for link in tuple(self._links):
            link.reset()
        while any(link.is_reset for link in self._links):
            await anyio.lowlevel.checkpoint()

    @contextlib.asynccontextmanager
    async def during(self, fault: Callable[..., Awaitable[None]], *arguments: float) -> AsyncIterator[None]:
        """A fault for the length of a block: `async with proxy.during(proxy.latency, 0.2):`."""
        await fault(*arguments)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.pass_on()

    # --- its life ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise IllegalStateError("enter a FaultProxy", "running", fix="make another one")
        self._tasks = await self._exits.enter_async_context(anyio.create_task_group())
        try:
            await self._listen()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, *details: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._close_listener()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
        try:
            await self._exits.aclose()
        finally:
            self._tasks = None

    async def _switch(self, fault: Fault) -> None:
        if self._tasks is None:
            raise IllegalStateError(f"switch to {fault.kind}", "not running", fix="enter it with `async with` first")
        self._fault = fault
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        if fault.kind == "refuse":
            await self._close_listener()
        elif self._listener is None:
            await self._listen()
        if fault.kind in {"refuse", "reset"}:
            await self.drop_connections()

    async def _listen(self) -> None:
        listener: SocketListener | UnixListener
        if self.socket_path is not None:
            listener = listen_unix(self.socket_path)
        else:
            multi = await anyio.create_tcp_listener(local_host=self.host, local_port=self._port)
            listener = cast("SocketListener", multi.listeners[0])
            self._port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        self._listener = listener
        # Only the close of the listener ends its task, also when all is cancelled: an accept that is cancelled as a
        # client arrives leaves asyncio's loop a callback that fails.
        self._accepting = anyio.CancelScope(shield=True)
        if self._tasks is not None:
            self._tasks.start_soon(self._accept, listener, self._accepting)

    async def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.aclose()
            if self._accepting is not None:
                self._accepting.cancel()  # anyio's close doesn't end an accept that has only just begun
            if self.socket_path is not None:
                self.socket_path.unlink(missing_ok=True)

    async def _accept(self, listener: SocketListener | UnixListener, until_closed: anyio.CancelScope) -> None:
        tasks = self._tasks
        with contextlib.suppress(anyio.ClosedResourceError), until_closed:
            while tasks is not None:
                tasks.start_soon(self._serve, await listener.accept())

    # --- one connection ---------------------------------------------------------------------------------

    async def _serve(self, client: ByteStream) -> None:
        self.accepted += 1
        link = _Link(client)
        self._links.add(link)
        try:
            with link.scope:
                await self._join(link)
        finally:
            if link.is_reset:
                _linger_not(client)
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(client)
            self._links.discard(link)

    async def _join(self, link: _Link) -> None:
        while self._fault.kind == "black_hole":  # like a machine that is not there, it doesn't reach the server either
            await self._changed.wait()
        if self._fault.kind == "reset":
            link.is_reset = True
            return
        try:
            server = await _connect(self.target)
        except OSError:
            link.is_reset = True  # the server is down: the nearest to a refusal that an accepted client can be told
            return
        try:
            async with anyio.create_task_group() as both:
                both.start_soon(self._pump, link.client, server, link)
                both.start_soon(partial(self._pump, server, link.client, link, answers=True))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(server)

    async def _pump(self, source: ByteStream, sink: ByteStream, link: _Link, *, answers: bool = False) -> None:
        try:
            while True:
                try:
                    data = await source.receive()
                except anyio.EndOfStream:
                    while self._fault.holds_back(answers=answers):
                        await self._changed.wait()
                    await sink.send_eof()
                    return
                await self._deliver(data, sink, link, answers=answers)
        except _GONE:
            link.reset()

    async def _deliver(self, data: bytes, sink: ByteStream, link: _Link, *, answers: bool) -> None:
        if self._fault.kind == "latency":
            await anyio.sleep(self._fault.amount)
        while data:
            fault, piece = self._fault, data
            if fault.holds_back(answers=answers):
                await self._changed.wait()
                continue
            if fault.kind == "slow":
                piece = data[:1]
            elif fault.kind == "reset_after" and answers:
                piece = data[: max(0, int(fault.amount) - link.answered)]
            if piece:
                await sink.send(piece)
            data = data[len(piece) :]
            link.answered += len(piece) if answers else 0
            if fault.kind == "reset_after" and answers and link.answered >= fault.amount:
                link.reset()
                await anyio.sleep_forever()  # until the cancellation arrives
            if fault.kind == "slow":
                with anyio.move_on_after(1.0 / fault.amount):
                    await self._changed.wait()


async def _connect(target: Target) -> ByteStream:
    if isinstance(target, Path):
        return await connect_unix(target)
    return await anyio.connect_tcp(*target)


def _linger_not(stream: ByteStream) -> None:
    """Have the close send a reset. On a duplicate, since uvloop's own socket object takes no options."""
    with contextlib.suppress(OSError):
        number = os.dup(stream.extra(SocketAttribute.raw_socket).fileno())  # noqa: S610 - not Django's
        with socket.socket(fileno=number) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _target_of(url: str) -> Target:
    """The address in a URL or DSN; `host` and `port` may be in the query, as libpq has it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        return Path(parts.path)
    host = parts.hostname or query.get("host") or "localhost"
    port = parts.port or int(query.get("port", 0)) or _DEFAULT_PORTS.get(parts.scheme.partition("+")[0], 0)
    if not port:
        raise ValueError(f"{parts.scheme}://{parts.hostname} has no port; give the target as (host, port)")
    return Path(host) / f".s.PGSQL.{port}" if host.startswith("/") else (host, port)


def _with_socket(parts: SplitResult, path: Path) -> str:
    """The URL with a unix socket in it: libpq's way for PostgreSQL, a path for all others."""
    user, at, _ = parts.netloc.rpartition("@")
    if parts.scheme.startswith("postgres"):
        port = path.suffix.removeprefix(".")
        query = urlencode({**dict(parse_qsl(parts.query)), "host": str(path.parent), "port": port})
        return f"{parts.scheme}://{user}{at}{parts.path}?{query}"
    return f"unix://{user}{at}{quote(str(path))}" + (f"?{parts.query}" if parts.query else "")
