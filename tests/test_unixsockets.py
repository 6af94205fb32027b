"""Unix sockets: a client and a server of ours, and what is left when a task is cancelled while it waits for one."""

from __future__ import annotations

import asyncio
import gc
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute

from svcframework.unixsockets import UnixListener, UnixStream, connect_unix, listen_unix

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")

SOON = 30.0  # seconds; only ever waited for when something is broken
WAITS_TO = pytest.mark.parametrize("waits_to", ["receive", "send", "accept"])
MUCH = bytes(10_000_000)  # more than a socket's buffers hold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.sock"


@asynccontextmanager
async def both_ends(path: Path) -> AsyncIterator[tuple[UnixStream, UnixStream]]:
    async with listen_unix(path) as listener, await connect_unix(path) as client, await listener.accept() as server:
        yield client, server


async def test_bytes_go_both_ways(path: Path) -> None:
    """What one end sends, the other one receives; then the end of it."""
    async with both_ends(path) as (client, server):
        await client.send(b"question")
        await client.send_eof()
        assert b"question" == await server.receive()
        with pytest.raises(anyio.EndOfStream):
            await server.receive()
        await server.send(b"answer")
        assert (b"ans", b"wer") == (await client.receive(3), await client.receive())


async def test_much_is_sent_as_it_is_received(path: Path) -> None:
    """A sender waits for a slow receiver, and nothing is lost."""
    received = 0
    with anyio.fail_after(SOON):
        async with both_ends(path) as (client, server), anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, MUCH)
            while received < len(MUCH):
                received += len(await server.receive())


async def test_nobody_listens(path: Path) -> None:
    """Neither at a path where nothing is, nor at a socket that was left there."""
    with pytest.raises(FileNotFoundError):
        await connect_unix(path)
    async with listen_unix(path):
        pass
    with pytest.raises(ConnectionRefusedError):
        await connect_unix(path)


async def test_socket_that_was_left_is_replaced(path: Path) -> None:
    """A second listener takes the place of one that is gone; only its user may connect."""
    async with listen_unix(path):
        pass
    async with both_ends(path) as (client, server):
        await client.send(b"x")
        assert b"x" == await server.receive()
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)


async def test_other_file_is_not_replaced(path: Path) -> None:
    """Only a socket makes way."""
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        listen_unix(path)
    assert "mine" == path.read_text()


async def test_other_end_has_gone(path: Path) -> None:
    """Receiving meets the end, sending a broken connection."""
    async with both_ends(path) as (client, server):
        await server.aclose()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await client.send(b"x")


async def test_own_end_is_closed(path: Path) -> None:
    """Using it says so; closing it again does nothing."""
    async with both_ends(path) as (client, _):
        await client.aclose()
        await client.aclose()
        for use in (client.receive, client.send_eof, lambda: client.send(b"x")):
            with pytest.raises(anyio.ClosedResourceError):
                await use()


@WAITS_TO
async def test_close_wakes_up_who_waits(path: Path, waits_to: str) -> None:
    """A task that receives, sends or accepts is told that another one has closed."""

    async def expect_close() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await _wait(waits_to, server, listener)

    with anyio.fail_after(SOON):
        async with listen_unix(path) as listener, await connect_unix(path), await listener.accept() as server:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(expect_close)
                await anyio.wait_all_tasks_blocked()
                await (listener if waits_to == "accept" else server).aclose()


async def test_it_tells_its_socket(path: Path) -> None:
    """As anyio's streams do, for whoever has options to set."""
    async with both_ends(path) as (client, _):
        assert socket.AF_UNIX == client.extra(SocketAttribute.raw_socket).family


@WAITS_TO
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_wait_is_cancelled_as_the_socket_gets_ready(path: Path, anyio_backend: str, waits_to: str) -> None:
    """No callback fails in asyncio's loop when both happen in the same turn, and no socket stays open."""
    loop = asyncio.get_running_loop()
    failed: list[object] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    for _ in range(3):
        async with listen_unix(path) as listener, await connect_unix(path) as client, await listener.accept() as server:
            waiting = asyncio.ensure_future(_wait(waits_to, server, listener))
            await anyio.wait_all_tasks_blocked()
            with socket.socket(socket.AF_UNIX) as another:
                if waits_to == "receive":
                    client.extra(SocketAttribute.raw_socket).send(b"x")
                elif waits_to == "send":
                    client.extra(SocketAttribute.raw_socket).recv(len(MUCH))
                else:
                    another.connect(str(path))
                loop.call_soon(waiting.cancel)  # in the next turn, in which the socket is ready as well
                await asyncio.wait([waiting])
                assert waiting.cancelled()
                await asyncio.sleep(0)
    gc.collect()
    assert [] == failed


async def _wait(waits_to: str, server: UnixStream, listener: UnixListener) -> None:
    if waits_to == "receive":
        await server.receive()
    elif waits_to == "send":
        await server.send(MUCH)
    else:
        await listener.accept()
