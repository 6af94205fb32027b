"""The pytest fixtures, used as a user's tests use them."""

import asyncpg
import pytest
import redis

from svcframework_embedded.testing import PostgresHandle, ValkeyHandle, own_valkey


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_postgres_fixture_survives_a_kill(postgres_server: PostgresHandle) -> None:
    """After kill() nobody is there; after restart() the same address has the same data."""
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute("CREATE TABLE kept (x int)")
    await connection.execute("INSERT INTO kept VALUES (42)")
    connection.terminate()
    dsn = postgres_server.dsn
    postgres_server.kill()
    with pytest.raises(OSError):
        await asyncpg.connect(dsn)
    postgres_server.restart()
    connection = await asyncpg.connect(dsn)
    try:
        assert 42 == await connection.fetchval("SELECT x FROM kept")
        await connection.execute("DROP TABLE kept")
    finally:
        await connection.close()


def test_valkey_fixture_survives_a_kill(valkey_server: ValkeyHandle) -> None:
    """After kill() nobody is there; after restart() the same address has the same data."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.set("kept", "42")
    valkey_server.kill()
    with redis.Redis.from_url(valkey_server.url) as client, pytest.raises(redis.ConnectionError):
        client.get("kept")
    valkey_server.restart()
    with redis.Redis.from_url(valkey_server.url) as client:
        assert b"42" == client.get("kept")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rotated_password_of_postgres(postgres_server: PostgresHandle) -> None:
    """Who is connected is cut off, who comes is refused; after the block the address works again."""
    connection = await asyncpg.connect(postgres_server.dsn)
    with postgres_server.rotated_password():
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(postgres_server.dsn)
    connection = await asyncpg.connect(postgres_server.dsn)
    assert 1 == await connection.fetchval("SELECT 1")
    await connection.close()


def test_rotated_password_of_valkey(valkey_server: ValkeyHandle) -> None:
    """Likewise, and a restart within the block brings the old password back."""
    with redis.Redis.from_url(valkey_server.url) as client:
        assert client.ping()
        with valkey_server.rotated_password(), pytest.raises(redis.AuthenticationError):
            client.ping()
        assert client.ping()
        with valkey_server.rotated_password():
            valkey_server.restart()
            assert client.ping()
        assert client.ping()


def test_own_server_has_settings_of_its_own() -> None:
    """It lives as long as its block."""
    with own_valkey(max_memory="64mb") as server:
        assert server.is_alive
        with redis.Redis.from_url(server.url) as client:
            assert {"maxmemory": "67108864"} == client.config_get("maxmemory")
    assert not server.is_alive
