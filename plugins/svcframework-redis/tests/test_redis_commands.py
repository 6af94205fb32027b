"""Commands against a real server, async and blocking."""

import pytest

from svcframework.errors import DatabaseError, ServiceUnavailableError
from svcframework_redis import RedisConfig, RedisService, get_redis_client


async def test_values_roundtrip(redis):
    """Text, bytes and numbers go in; bytes come out; a missing key is None."""
    assert await redis.set("k", "é")
    assert "é".encode() == await redis.get("k")
    assert await redis.set("k", b"\x00\xff")
    assert b"\x00\xff" == await redis.get("k")
    assert await redis.get("none") is None
    assert [b"\x00\xff", None] == await redis.mget(["k", "none"])
    assert [] == await redis.mget([])


async def test_conditions_of_set(redis):
    """`nx` needs a new key, `xx` an old one."""
    assert not await redis.set("k", "1", xx=True)
    assert await redis.set("k", "1", nx=True)
    assert not await redis.set("k", "2", nx=True)
    assert await redis.set("k", "2", xx=True)
    with pytest.raises(ValueError, match="one of"):
        await redis.set("k", "1", nx=True, xx=True)


async def test_expiry(redis):
    """Seconds may be fractions, under either name; a key without expiry has no ttl."""
    await redis.set("a", "1", expire=100.5)
    await redis.set("b", "1", ex=50)
    await redis.set("c", "1")
    assert 100 < await redis.ttl("a") <= 100.5
    assert 49 < await redis.ttl("b") <= 50
    assert await redis.ttl("c") is None
    assert await redis.expire("c", 0.001)
    while await redis.exists("c"):
        pass
    assert not await redis.expire("c", 5)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            await redis.set("a", "1", expire=wrong)


async def test_counting_and_deleting(redis):
    """`incr` begins at 0, `delete` and `exists` count."""
    assert [1, 6] == [await redis.incr("n"), await redis.incr("n", 5)]
    assert 1 == await redis.exists("n", "none")
    assert 1 == await redis.delete("n", "none")
    assert [0, 0] == [await redis.delete(), await redis.exists()]


async def test_any_command_and_the_driver_itself(redis):
    """What has no method goes through `execute` or redis-py's client."""
    await redis.execute("ZADD", "board", 7, "ada")
    assert [b"ada"] == await redis.client.zrange("board", 0, -1)
    async with redis.client.pipeline() as pipe:
        assert [True, b"1"] == await pipe.set("p", "1").get("p").execute()


async def test_refused_command_is_a_database_error(redis):
    """The server's reason arrives, the value doesn't."""
    await redis.set("word", "canary-7Q")
    with pytest.raises(DatabaseError, match=r"INCRBY on .*not an integer") as caught:
        await redis.incr("word")
    assert "canary" not in str(caught.value)


async def test_blocking_client_shares_the_settings(redis, valkey):
    """Threads get redis-py's own client, as a method and as the function of the seeds."""
    client = redis.get_redis_client()
    assert client is redis.get_redis_client()
    assert client.set("key", "value", ex=3600)
    assert b"value" == await redis.get("key")
    config = RedisConfig(url=valkey.url)
    same = get_redis_client(config)
    assert same is get_redis_client(RedisConfig(url=valkey.url))
    assert b"value" == same.get("key")
    same.close()


async def test_fields_instead_of_an_address(valkey):
    """Host, port and password work without an address, whatever characters the password has."""
    from urllib.parse import unquote, urlsplit

    password = unquote(urlsplit(valkey.url).password)
    service = RedisService(RedisConfig(host="127.0.0.1", port=valkey.port, password=password))
    await service.on_startup()
    assert await service.health_check()
    await service.on_shutdown()


async def test_service_that_is_not_started_says_so(valkey):
    """No call waits for a client that isn't there; start after stop works."""
    service = RedisService(server=valkey)
    with pytest.raises(ServiceUnavailableError, match="isn't started"):
        await service.get("k")
    assert not await service.health_check()
    for _ in range(2):
        await service.on_startup()
        await service.ping()
        await service.on_shutdown()


def test_address_is_checked_and_kept_secret():
    """A malformed address is refused without being shown; a good one is not in the repr."""
    with pytest.raises(ValueError, match="not of the form") as caught:
        RedisConfig(url="http://:canary-7Q@host")
    assert "not of the form" in caught.value.errors()[0]["msg"]
    assert "canary" not in repr(RedisConfig(url="redis://:canary-7Q@host"))
