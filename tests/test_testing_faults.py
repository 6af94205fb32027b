"""The fault proxy, between a plain socket client and an echo server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute, SocketStream

from svcframework.errors import IllegalStateError
from svcframework.testing.faults import FaultProxy

SOON = 30.0  # seconds; only ever waited for when something is broken


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[str, int]]:
    async def echo(client: SocketStream) -> None:
        async with client:
            async for data in client:
                await client.send(data)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as multi:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(multi.serve, echo)
            yield "127.0.0.1", multi.listeners[0].extra(SocketAttribute.local_port)
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def proxied() -> AsyncIterator[FaultProxy]:
    async with echo_server() as address, FaultProxy(address) as proxy:
        yield proxy


async def ask(client: SocketStream, data: bytes) -> bytes:
    await client.send(data)
    answer = b""
    while len(answer) < len(data):
        answer += await client.receive()
    return answer


async def test_passes_bytes_on() -> None:
    """Without a fault a client sees the server."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        assert b"hello" == await ask(client, b"hello")
        assert (1, 1) == (proxy.accepted, proxy.connections)


async def test_end_of_stream_is_passed_on() -> None:
    """A client that has said all gets the rest of the answer, then the end."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        await client.send(b"last")
        await client.send_eof()
        assert b"last" == await client.receive()
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_black_hole_holds_everything_until_it_ends() -> None:
    """Nothing comes through; afterwards what was sent arrives, as after a network partition."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        await ask(client, b"before")
        await proxy.black_hole()
        await client.send(b"held")
        with anyio.move_on_after(0.1) as waiting:
            await client.receive()
        assert waiting.cancelled_caught
        await proxy.pass_on()
        with anyio.fail_after(SOON):
            assert b"held" == await client.receive()


async def test_black_hole_accepts_new_connections() -> None:
    """A new client is connected, and then waits."""
    async with proxied() as proxy:
        await proxy.black_hole()
        async with await anyio.connect_tcp(proxy.host, proxy.port) as client:
            with anyio.move_on_after(0.1) as waiting:
                await ask(client, b"x")
            assert waiting.cancelled_caught


async def test_refuse_resets_and_refuses_and_comes_back_on_the_same_port() -> None:
    """Open connections break, new ones are refused; afterwards the port is the same."""
    async with proxied() as proxy:
        port = proxy.port
        async with await anyio.connect_tcp(proxy.host, port) as client:
            await ask(client, b"x")
            await proxy.refuse()
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await client.receive()
        with pytest.raises(OSError):
            await anyio.connect_tcp(proxy.host, port)
        await proxy.pass_on()
        async with await anyio.connect_tcp(proxy.host, port) as client:
            assert b"again" == await ask(client, b"again")


@pytest.mark.parametrize("turns", range(4))
async def test_refuse_right_at_the_beginning(turns: int) -> None:
    """Also before the first client could be accepted."""
    with anyio.fail_after(SOON):
        async with FaultProxy(("127.0.0.1", 1)) as proxy:
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            await proxy.refuse()
            with pytest.raises(OSError):
                await anyio.connect_tcp(proxy.host, proxy.port)


async def test_reset_breaks_open_and_new_connections() -> None:
    """The peer gets a reset, not an orderly end."""
    async with proxied() as proxy:
        async with await anyio.connect_tcp(proxy.host, proxy.port) as client:
            await ask(client, b"x")
            await proxy.reset()
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()
        async with await anyio.connect_tcp(proxy.host, proxy.port) as client:
            with pytest.raises(anyio.BrokenResourceError):
                await client.receive()


async def test_reset_after_cuts_an_answer() -> None:
    """Exactly so many bytes of the answer arrive."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        await proxy.reset_after(3)
        await client.send(b"abcdef")
        received = b""
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                received += await client.receive()
        assert b"abc".startswith(received)  # a reset may overtake what the receiver has not read yet


async def test_slow_hands_on_single_bytes() -> None:
    """Each read gives one byte; the end of the fault brings the rest."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        await ask(client, b"x")
        await proxy.slow(bytes_per_second=0.001)
        await client.send(b"abc")
        with anyio.fail_after(SOON):
            await proxy.slow(bytes_per_second=50.0)
            assert b"a" == await client.receive(1)
            await proxy.pass_on()
            assert b"b" == await client.receive(1)


async def test_latency_delays() -> None:
    """An answer comes, but not at once."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        async with proxy.during(proxy.latency, 0.1):
            began = anyio.current_time()
            assert b"x" == await ask(client, b"x")
            assert anyio.current_time() - began >= 0.19
        assert "pass" == proxy.fault.kind


async def test_dead_server_resets_the_client() -> None:
    """A server that is down looks like a reset, and the proxy lives on."""
    async with echo_server() as address:
        pass
    async with FaultProxy(address) as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


@pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
async def test_unix_socket(tmp_path: Path) -> None:
    """It listens on a unix socket, and leaves no file behind."""
    path = tmp_path / "proxy.sock"
    async with echo_server() as address:
        async with FaultProxy(address, socket_path=path), await anyio.connect_unix(path) as client:
            assert b"hello" == await ask(client, b"hello")
        assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a queue of none holds one, and others wait")
async def test_full_unix_socket_is_waited_for(tmp_path: Path) -> None:
    """A server that has too many waiting gets the connection once it has accepted others."""
    path = tmp_path / "full.sock"
    with contextlib.ExitStack() as sockets:
        server, first = (sockets.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        server.bind(str(path))
        server.listen(0)
        server.settimeout(SOON)
        first.connect(str(path))
        async with FaultProxy(path) as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
            await client.send(b"x")
            await anyio.sleep(0.05)
            for _ in range(2):
                accepted, _ = await anyio.to_thread.run_sync(server.accept)
                sockets.enter_context(accepted)
            accepted.settimeout(SOON)
            assert b"x" == await anyio.to_thread.run_sync(accepted.recv, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a queue of none holds one, and others wait")
async def test_full_unix_socket_is_given_up_cleanly(tmp_path: Path) -> None:
    """Leaving the block while a connection waits for its place leaves no callback that fails."""
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))
        async with FaultProxy(path) as proxy, await anyio.connect_tcp(proxy.host, proxy.port):
            await anyio.sleep(0.05)
        assert 0 == proxy.connections


@pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
@pytest.mark.parametrize("speaker", ["client", "server"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_connection_is_dropped_as_data_arrives(
    tmp_path: Path, anyio_backend: str, speaker: Literal["client", "server"]
) -> None:
    """No callback fails in the loop, nor does the drop, when both happen in the same turn."""
    failed = failing_callbacks()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "server.sock"))
        listener.listen()
        async with FaultProxy(tmp_path / "server.sock", socket_path=tmp_path / "proxy.sock") as proxy:
            for _ in range(3):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "proxy.sock"))
                    server, _ = await anyio.to_thread.run_sync(listener.accept)
                    with server:
                        await anyio.wait_all_tasks_blocked()
                        (client if speaker == "client" else server).send(b"data")
                        await asyncio.sleep(0)  # in the next turn the socket is readable
                        await proxy.drop_connections()
    assert [] == failed


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_proxy_is_cut_off_as_a_client_arrives(tmp_path: Path, anyio_backend: str, kind: str) -> None:
    """No callback fails in the loop when both happen in the same turn."""
    failed = failing_callbacks()
    path = tmp_path / "proxy.sock" if kind == "unix" else None
    for _ in range(3):
        with anyio.CancelScope() as scope, socket.socket(socket.AF_UNIX if path else socket.AF_INET) as client:
            async with FaultProxy(("127.0.0.1", 1), socket_path=path) as proxy:
                await anyio.wait_all_tasks_blocked()
                client.connect(str(path) if path else (proxy.host, proxy.port))
                await asyncio.sleep(0)  # in the next turn the listener is readable
                scope.cancel()
                await anyio.sleep_forever()
    assert [] == failed


def failing_callbacks() -> list[object]:
    """The running loop's failures, from now on."""
    failed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    return failed


async def test_half_open_lets_questions_through_only() -> None:
    """The server gets what is sent; its answer comes when the fault ends."""
    async with proxied() as proxy, await anyio.connect_tcp(proxy.host, proxy.port) as client:
        await ask(client, b"before")
        await proxy.half_open()
        await client.send(b"held")
        with anyio.move_on_after(0.1) as waiting:
            await client.receive()
        assert waiting.cancelled_caught
        await proxy.pass_on()
        with anyio.fail_after(SOON):
            assert b"held" == await client.receive()


async def test_half_open_server_hears_a_new_client() -> None:
    """A question on a new connection reaches the server, unlike in a black hole."""
    heard = anyio.Event()

    async def listen(client: SocketStream) -> None:
        async with client:
            assert b"anybody?" == await client.receive()
            heard.set()
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as multi, anyio.create_task_group() as tasks:
        tasks.start_soon(multi.serve, listen)
        port = multi.listeners[0].extra(SocketAttribute.local_port)
        async with FaultProxy(("127.0.0.1", port)) as proxy:
            await proxy.half_open()
            async with await anyio.connect_tcp(proxy.host, proxy.port) as client:
                await client.send(b"anybody?")
                with anyio.fail_after(SOON):
                    await heard.wait()
        tasks.cancel_scope.cancel()


async def test_leaving_the_block_ends_everything() -> None:
    """Connections are closed with the proxy, also those in a black hole."""
    async with echo_server() as address:
        async with FaultProxy(address) as proxy:
            client = await anyio.connect_tcp(proxy.host, proxy.port)
            await ask(client, b"x")
            await proxy.black_hole()
            await client.send(b"x")
        async with client:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await client.receive()
        assert 0 == proxy.connections


async def test_switching_needs_a_running_proxy() -> None:
    """The error says what to do."""
    with pytest.raises(IllegalStateError, match="async with"):
        await FaultProxy(("127.0.0.1", 1)).reset()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://:pw@localhost:7000/0", ("localhost", 7000)),
        ("redis://localhost", ("localhost", 6379)),
        ("postgresql+asyncpg://u:p@db/x", ("db", 5432)),
        ("postgresql://u@/x?host=%2Ftmp%2Fd&port=5433", Path("/tmp/d/.s.PGSQL.5433")),
        ("unix:///tmp/valkey.sock?db=1", Path("/tmp/valkey.sock")),
    ],
)
def test_target_of_a_url(url: str, target: object) -> None:
    """A URL's address is understood as the driver understands it."""
    assert target == FaultProxy(url).target


def test_url_without_a_port_is_refused() -> None:
    """A scheme without a known port needs a pair."""
    with pytest.raises(ValueError, match="has no port"):
        FaultProxy("foo://bar")


async def test_through_keeps_the_rest_of_the_url() -> None:
    """User, password, path and options stay."""
    async with FaultProxy("postgresql://u:p%40@db:1/x?host=h&sslmode=disable") as proxy:
        expected = f"postgresql://u:p%40@127.0.0.1:{proxy.port}/x?sslmode=disable"
        assert expected == proxy.through("postgresql://u:p%40@db:1/x?host=h&sslmode=disable")


def test_through_a_unix_socket() -> None:
    """PostgreSQL gets its directory and port, others the path."""
    proxy = FaultProxy(("db", 1), socket_path=Path("/tmp/p/.s.PGSQL.5"))
    assert "postgresql://u:p@/x?host=%2Ftmp%2Fp&port=5" == proxy.through("postgresql://u:p@db:1/x")
    proxy = FaultProxy(("db", 1), socket_path=Path("/tmp/p.sock"))
    assert "unix://:p@/tmp/p.sock?db=1" == proxy.through("redis://:p@db:1?db=1")
