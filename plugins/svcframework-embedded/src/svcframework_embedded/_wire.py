"""The little of both wire protocols that tells whether a server serves: no driver is needed for that."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from svcframework.errors import AuthenticationFailedError, ConnectionFailedError, DatabaseError
from svcframework.unixsockets import connect_unix


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address, or the path of a unix socket."""

    host: str | None = None
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.path is None else str(self.path)

    async def connect(self) -> ByteStream:
        """Connect.

        Raises:
            ConnectionFailedError: Nobody listens there.
        """
        try:
            if self.path is not None:
                return await connect_unix(self.path)
            return await anyio.connect_tcp(self.host or "localhost", self.port)
        except OSError as error:
            raise ConnectionFailedError(f"nothing accepts connections at {self}: {error}") from error


async def greet_postgres(address: Address, *, user: str, database: str) -> None:
    """Return when a PostgreSQL server at `address` accepts sessions; whether it would accept ours is not asked.

    Raises:
        ConnectionFailedError: It can't be reached, hangs up, or is still starting or already stopping.
    """
    stream = await address.connect()
    async with stream:
        try:
            await stream.send(_startup_message(user, database))
            kind, body = await _message(BufferedByteReceiveStream(stream))
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead) as error:
            raise ConnectionFailedError(f"the server at {address} hung up") from error
    if kind == b"E" and (found := _database_error(body)).sqlstate in {"57P03", "53300"}:
        raise ConnectionFailedError(f"the server at {address} accepts no sessions: {found}")


async def query_postgres(address: Address, sql: str, *, user: str, database: str) -> int:
    """Run one statement on a server that trusts us, e.g. through its private socket; the number of rows.

    Raises:
        DatabaseError: The statement failed.
        AuthenticationFailedError: The server doesn't trust us.
        ConnectionFailedError: It can't be reached or hung up.
    """
    stream = await address.connect()
    async with stream:
        receiver = BufferedByteReceiveStream(stream)
        try:
            await stream.send(_startup_message(user, database))
            await _until_ready(receiver)
            await stream.send(_framed(b"Q", sql.encode() + b"\0"))
            rows = await _until_ready(receiver)
            await stream.send(_framed(b"X", b""))
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead) as error:
            raise ConnectionFailedError(f"the server at {address} hung up") from error
        return rows


async def _until_ready(receiver: BufferedByteReceiveStream) -> int:
    rows = 0
    while True:
        kind, body = await _message(receiver)
        if kind == b"Z":
            return rows
        if kind == b"E":
            raise _database_error(body)
        if kind == b"R" and struct.unpack("!i", body[:4]) != (0,):
            raise AuthenticationFailedError("the server asks for a password on its private socket")
        rows += kind == b"D"


async def _message(receiver: BufferedByteReceiveStream) -> tuple[bytes, bytes]:
    head = await receiver.receive_exactly(5)
    (size,) = struct.unpack("!i", head[1:])
    if not 4 <= size <= 1_000_000:  # noqa: PLR2004 - the length counts itself; the rest is not PostgreSQL
        raise ConnectionFailedError("whatever answered is not a PostgreSQL server")
    return head[:1], await receiver.receive_exactly(size - 4)


def _startup_message(user: str, database: str) -> bytes:
    fields = ["user", user, "database", database, "application_name", "svcframework-embedded"]
    body = struct.pack("!i", 3 << 16) + "".join(f"{field}\0" for field in fields).encode() + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _database_error(body: bytes) -> DatabaseError:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return DatabaseError(fields.get(b"M", "unknown error"), sqlstate=fields.get(b"C"))


async def greet_valkey(address: Address, credentials: Sequence[str] = ()) -> None:
    """Return when a Valkey or Redis server at `address` serves commands; whether it lets us in is not asked.

    Args:
        address: Where it is.
        credentials: The arguments of AUTH: a password, or user and password. A server that wants a password says so
            before it says that it is still loading its data, so without them a loading one looks ready.

    Raises:
        ConnectionFailedError: It can't be reached, hangs up, or is still loading its data.
    """
    commands = [["AUTH", *credentials], ["PING"]] if credentials else [["PING"]]
    stream = await address.connect()
    async with stream:
        receiver = BufferedByteReceiveStream(stream)
        try:
            await stream.send(b"".join(map(_array, commands)))
            answers = [await receiver.receive_until(b"\r\n", 1024) for _ in commands]
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound) as error:
            raise ConnectionFailedError(f"the server at {address} hung up") from error
    if not answers[-1].startswith((b"+PONG", b"-NOAUTH", b"-DENIED")):
        reason = answers[-1].decode(errors="replace")
        raise ConnectionFailedError(f"the server at {address} doesn't serve yet: {reason}")


async def command_valkey(address: Address, credentials: Sequence[str], commands: Sequence[Sequence[str]]) -> None:
    """Run commands on a server.

    Args:
        address: Where it is.
        credentials: As for `greet_valkey`.
        commands: Each must answer with one line.

    Raises:
        DatabaseError: It refused one.
        ConnectionFailedError: It can't be reached or hung up.
    """
    sent = [["AUTH", *credentials], *commands] if credentials else list(commands)
    stream = await address.connect()
    async with stream:
        receiver = BufferedByteReceiveStream(stream)
        try:
            await stream.send(b"".join(map(_array, sent)))
            answers = [await receiver.receive_until(b"\r\n", 1024) for _ in sent]
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound) as error:
            raise ConnectionFailedError(f"the server at {address} hung up") from error
    for answer, words in zip(answers, sent, strict=True):
        if answer.startswith(b"-"):
            raise DatabaseError(f"{words[0]} at {address}: {answer[1:].decode(errors='replace')}")


def _array(words: Sequence[str]) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
