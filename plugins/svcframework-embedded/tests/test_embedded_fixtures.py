"""The pytest fixtures, used as a user's tests use them."""

import asyncpg
import pytest
import redis

from svcframework_embedded.testing import PostgresHandle, ValkeyHandle


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
