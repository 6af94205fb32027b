"""Physical replicas of an embedded PostgreSQL: what they have, follow and refuse, and how one takes over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from svcframework import ServiceContainer, ServiceHost, providers
from svcframework.errors import ConfigurationError, ConnectionFailedError, IllegalStateError, ServiceUnavailableError
from svcframework_embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresConfig,
    EmbeddedPostgresReplica,
    EmbeddedPostgresReplicaConfig,
    ServerStartError,
    _files,
    running,
)
from svcframework_embedded.postgres import _addresses
from svcframework_embedded.testing import PostgresHandle

SOON = 30.0  # seconds; only ever waited for when something is broken


@pytest.fixture
def anyio_backend() -> str:
    """The driver that asks the servers knows no other; that the servers run on both is tested elsewhere."""
    return "asyncio"


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that the unprivileged server may reach; pytest's own are private."""
    import shutil

    folder = _files.make_scratch(None, prefix="svctest-")
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def primary() -> AsyncIterator[EmbeddedPostgres]:
    """A server of the test's own, with a table of one row."""
    config = EmbeddedPostgresConfig(user="an owner", database='d"b', settings={"max_prepared_transactions": "7"})
    async with running(EmbeddedPostgres(config), restart=False) as server:
        await statement(server, "CREATE TABLE kept AS SELECT 1 AS x")
        yield server


async def statement(server: EmbeddedPostgres | PostgresHandle, sql: str) -> Any:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def arrives(server: EmbeddedPostgres | PostgresHandle, sql: str, expected: Any) -> None:
    with anyio.fail_after(SOON):
        while await statement(server, sql) != expected:
            await anyio.sleep(0.01)


async def test_replica_follows_and_refuses_to_write(primary: EmbeddedPostgres) -> None:
    """It has the primary's data, users and password, gets what is written later, and writes nothing itself."""
    async with running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica:
        assert replica.is_standby
        assert 1 == await statement(replica, "SELECT x FROM kept")
        await statement(primary, "INSERT INTO kept VALUES (2)")
        await arrives(replica, "SELECT count(*) FROM kept", 2)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await statement(replica, "INSERT INTO kept VALUES (3)")
        assert await replica.health_check()


async def test_replica_that_was_down_catches_up(primary: EmbeddedPostgres) -> None:
    """Killed and started again it keeps its data and gets what it missed."""
    async with running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica:
        await replica.kill()
        await statement(primary, "INSERT INTO kept VALUES (2)")
        await replica.relaunch()
        assert replica.is_standby
        await arrives(replica, "SELECT count(*) FROM kept", 2)


async def test_primary_that_comes_back_is_followed_on(primary: EmbeddedPostgres) -> None:
    """After a crash of the primary its replica streams again by itself."""
    async with running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica:
        await primary.kill()
        assert 1 == await statement(replica, "SELECT count(*) FROM kept")
        await primary.relaunch()
        await statement(primary, "INSERT INTO kept VALUES (2)")
        await arrives(replica, "SELECT count(*) FROM kept", 2)


async def test_promoted_replica_is_a_primary_for_good(primary: EmbeddedPostgres) -> None:
    """It writes, also after a restart, can't be promoted twice, and can be followed itself."""
    async with running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica:
        await primary.kill()
        await replica.promote()
        await statement(replica, "INSERT INTO kept VALUES (2)")
        with pytest.raises(IllegalStateError, match="accepts writes already"):
            await replica.promote()
        await replica.relaunch()
        assert not replica.is_standby
        await statement(replica, "INSERT INTO kept VALUES (3)")
        async with running(EmbeddedPostgresReplica(primary=replica), restart=False) as second:
            assert 3 == await statement(second, "SELECT count(*) FROM kept")


async def test_replica_with_a_data_dir_is_kept(primary: EmbeddedPostgres, public_dir: Path) -> None:
    """Its data is copied once; the next start goes on from there, and a copy that was cut off is made again."""
    config = EmbeddedPostgresReplicaConfig(data_dir=public_dir / "replica")
    (public_dir / "replica" / "basebackup.new" / "base").mkdir(parents=True)  # as a killed copy leaves it
    async with running(EmbeddedPostgresReplica(config, primary), restart=False) as replica:
        made = (replica.data_dir / "PG_VERSION").stat().st_mtime_ns
        assert not (replica.data_dir / "basebackup.new").exists()
    await statement(primary, "INSERT INTO kept VALUES (2)")
    async with running(EmbeddedPostgresReplica(config, primary), restart=False) as replica:
        await arrives(replica, "SELECT count(*) FROM kept", 2)
        assert made == (replica.data_dir / "PG_VERSION").stat().st_mtime_ns


async def test_what_cannot_be_followed_is_named(primary: EmbeddedPostgres, public_dir: Path) -> None:
    """A server that doesn't run, a standby, the user's own server, and a directory with something else in it."""
    with pytest.raises(ServiceUnavailableError):
        await EmbeddedPostgresReplica(primary=EmbeddedPostgres(EmbeddedPostgresConfig())).on_startup()
    external = EmbeddedPostgres(EmbeddedPostgresConfig(dsn=primary.dsn))
    with pytest.raises(ConfigurationError, match="server of your own"):
        await EmbeddedPostgresReplica(primary=external).on_startup()
    (public_dir / "mine.txt").touch()
    with pytest.raises(ServerStartError, match=r"mine\.txt"):
        await EmbeddedPostgresReplica({"data_dir": public_dir}, primary).on_startup()
    async with running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica:
        with pytest.raises(ServerStartError, match="is a standby itself"):
            await EmbeddedPostgresReplica(primary=replica).on_startup()


async def test_replica_shares_nothing_with_its_primary() -> None:
    """Its settings have a section of their own, and none for what is a copy of the primary's."""
    with pytest.raises(ValueError, match="so database, user can't be set"):
        EmbeddedPostgresReplicaConfig(user="me", database="mine")
    assert ("embedded_postgres", "embedded_postgres_replica") == (
        EmbeddedPostgres.config_type.prefix,
        EmbeddedPostgresReplica.config_type.prefix,
    )


async def test_replica_that_is_the_users_own(postgres_server: PostgresHandle) -> None:
    """With an address it needs no primary, and nothing is started."""
    replica = EmbeddedPostgresReplica(EmbeddedPostgresReplicaConfig(dsn=postgres_server.dsn))
    await replica.on_startup()
    assert postgres_server.dsn == replica.dsn
    assert await replica.health_check()
    with pytest.raises(ConfigurationError, match="nobody to follow"):
        await EmbeddedPostgresReplica().on_startup()


async def test_external_server_may_be_several(postgres_server: PostgresHandle) -> None:
    """One that answers is enough, wherever it stands in the list."""
    before, _, after = postgres_server.dsn.partition("127.0.0.1")
    server = EmbeddedPostgres(EmbeddedPostgresConfig(dsn=f"{before}127.0.0.1:1,127.0.0.1{after}"))
    await server.on_startup()
    assert await server.health_check()
    nobody = EmbeddedPostgres(EmbeddedPostgresConfig(dsn="postgresql://canary-7Q@127.0.0.1:1,[::1]:2/d"))
    with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1.*; .*::1:2") as caught:
        await nobody.on_startup()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@one/d", ["one:5432"]),
        ("postgresql://u:p@one:1,[::1]:2,three/d", ["one:1", "::1:2", "three:5432"]),
        ("postgresql://u@/d?host=%2Fsocket&port=7", ["/socket/.s.PGSQL.7"]),
        ("postgresql:///d?host=one,two&port=1,2", ["one:1", "two:2"]),
        ("postgresql:///d", ["localhost:5432"]),
    ],
)
def test_address_is_read_as_libpq_reads_it(dsn: str, expected: list[str]) -> None:
    """Several hosts, ports of their own, sockets."""
    assert expected == [str(address) for address in _addresses(dsn)]


async def test_replica_in_a_container() -> None:
    """The host starts the primary first; both serve."""

    class Servers(ServiceContainer):
        primary = providers.Service(EmbeddedPostgres)
        replica = providers.Service(EmbeddedPostgresReplica)

    async with ServiceHost(Servers) as host:
        assert host["replica"].is_standby
        assert await statement(host["replica"], "SELECT pg_is_in_recovery()")


async def test_replica_fixture(postgres_server: PostgresHandle, postgres_replica: PostgresHandle) -> None:
    """What is written to the run's server arrives at the run's replica."""
    await statement(postgres_server, "CREATE TABLE arriving AS SELECT 7 AS x")
    await arrives(postgres_replica, "SELECT to_regclass('arriving') IS NOT NULL", expected=True)
    assert 7 == await statement(postgres_replica, "SELECT x FROM arriving")
    await statement(postgres_server, "DROP TABLE arriving")
