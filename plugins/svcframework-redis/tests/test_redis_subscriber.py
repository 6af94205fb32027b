"""Subscribers: messages in order, on a connection that comes back and says what it has missed."""

import asyncio

import pytest

from svcframework.errors import AuthenticationFailedError, ConnectionFailedError, IllegalStateError
from svcframework.testing.faults import FaultProxy
from svcframework_redis import RedisConfig, RedisService


async def until(condition):
    """Wait for something that happens by itself; ten seconds mean that it doesn't."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_messages_of_channels_and_patterns(redis):
    """Each arrives once per subscription, in order, with the pattern that matched."""
    got = []
    async with redis.subscriber(lambda *message: got.append(message)) as subscriber:
        await subscriber.subscribe("a", "é")
        await subscriber.psubscribe("x.*")
        for channel, data in [("a", "1"), ("x.y", b"\x00"), ("é", "3"), ("other", "4")]:
            await redis.publish(channel, data)
        await until(lambda: len(got) == 3)
        assert [(None, b"a", b"1"), (b"x.*", b"x.y", b"\x00"), (None, "é".encode(), b"3")] == got
        await subscriber.unsubscribe("a")
        await subscriber.punsubscribe("x.*")
        assert [0, 0, 1] == [await redis.publish(channel, "5") for channel in ("a", "x.y", "é")]
        assert ["é".encode()] == subscriber.channels
        assert [] == subscriber.patterns
    assert not subscriber.is_connected
    async with asyncio.timeout(10):
        while await redis.publish("é", "6"):  # until the server has seen the end of the connection
            await asyncio.sleep(0.01)


async def test_many_messages_keep_their_order(redis):
    """Ten thousand messages of a batch arrive as they were published, though a callback fails at times."""
    got = []

    def take(pattern, channel, data):
        got.append(int(data))
        if len(got) % 1000 == 0:
            raise LookupError("a caller's mistake")

    async with redis.subscriber(take) as subscriber:
        await subscriber.subscribe("c")
        await redis.execute_many([("PUBLISH", "c", n) for n in range(10_000)])
        assert [1] * 10_000 == await redis.publish_many("c", [str(n) for n in range(10_000, 20_000)])
        await until(lambda: len(got) >= 20_000)
    assert list(range(20_000)) == got


async def test_many_messages_of_any_length(redis):
    """A batch is sent as it is, whatever is in the messages; what is no message is refused before any is sent."""
    got = []
    messages = [b"", "é\r\n$1\r\n", b"\r\n*3\r\n", "x" * 70_000, memoryview(b"view"), b"y"]
    expected = [message.encode() if isinstance(message, str) else bytes(message) for message in messages]
    async with redis.subscriber(lambda *message: got.append(message[1:])) as subscriber:
        await subscriber.subscribe("ä\r\n")
        assert [1] * len(messages) == await redis.publish_many("ä\r\n", messages)
        await until(lambda: len(got) >= len(messages))
        assert [("ä\r\n".encode(), message) for message in expected] == got
        assert [] == await redis.publish_many("ä\r\n", [])
        with pytest.raises(TypeError, match="not int"):
            await redis.publish_many("ä\r\n", [b"1", 2])
        assert [1, 0] == [(await redis.publish_many(name, [b"last"]))[0] for name in ("ä\r\n", "other")]
        await until(lambda: got[-1][1] == b"last")
        assert len(messages) + 1 == len(got)


async def test_subscriber_comes_back(mortal_valkey):
    """After a crash it has its subscriptions again, soon, and says for how long it was deaf."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    got, gaps = [], []
    async with service.subscriber(lambda *message: got.append(message[2]), on_gap=gaps.append) as subscriber:
        await subscriber.subscribe("a")
        for turn in range(3):
            await mortal_valkey.kill()
            await until(lambda: not subscriber.is_connected)
            await subscriber.subscribe(f"later-{turn}")
            await mortal_valkey.relaunch()
            started = asyncio.get_running_loop().time()
            await until(lambda expected=turn + 1: len(gaps) == expected)
            assert asyncio.get_running_loop().time() - started < 5  # 0.1 s on a machine that is free
            assert [1, 1] == [await service.publish(channel, str(turn)) for channel in ("a", f"later-{turn}")]
            await until(lambda expected=2 * (turn + 1): len(got) == expected)
        assert 3 == subscriber.reconnects
        assert all(0 < gap < 10 for gap in gaps)
    await service.on_shutdown()


async def test_silent_network_is_noticed(valkey):
    """A connection without signs of life is replaced: the gap begins when it fell silent at the earliest."""
    async with FaultProxy(valkey.url) as proxy:
        config = RedisConfig(url=proxy.through(valkey.url), heartbeat_interval=0.1, timeout=1.0, connect_timeout=1.0)
        service = RedisService(config)
        await service.on_startup()
        gaps = []
        async with service.subscriber(lambda *_: None, on_gap=gaps.append) as subscriber:
            await subscriber.subscribe("quiet")
            await asyncio.sleep(0.5)
            assert (True, 0) == (subscriber.is_connected, subscriber.reconnects)  # silence alone is no fault
            await proxy.black_hole()
            await until(lambda: not subscriber.is_connected)
            await proxy.pass_on()
            await until(lambda: len(gaps) > 0)
            async with asyncio.timeout(10):
                while await service.publish("quiet", "x") != 1:  # the server may not have missed the old connection yet
                    await asyncio.sleep(0.002)
        await service.on_shutdown()


async def test_forbidden_channel_is_an_error_once(redis, valkey):
    """What the server doesn't allow is told to the one who asks, and isn't asked for again."""
    await redis.execute("ACL", "SETUSER", "bob", "on", ">canary-7Q", "~*", "+@all", "resetchannels", "&open")
    service = RedisService(RedisConfig(url=f"redis://bob:canary-7Q@127.0.0.1:{valkey.port}/0"))
    await service.on_startup()
    async with service.subscriber(lambda *_: None) as subscriber:
        await subscriber.subscribe("open")
        for _ in range(2):
            with pytest.raises(AuthenticationFailedError):
                await subscriber.subscribe("closed")
        await subscriber.subscribe("open")
        assert [b"open"] == subscriber.channels
        assert (True, 0) == (subscriber.is_connected, subscriber.reconnects)
    await service.on_shutdown()
    await redis.execute("ACL", "DELUSER", "bob")


async def test_subscriber_needs_a_server_to_begin_with(mortal_valkey):
    """The first connection fails as any call does; a block can't be entered twice."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    async with service.subscriber(lambda *_: None) as subscriber:
        with pytest.raises(IllegalStateError, match="make another one"):
            await subscriber.__aenter__()
    await mortal_valkey.kill()
    with pytest.raises(ConnectionFailedError):
        async with service.subscriber(lambda *_: None):
            pass
    await service.on_shutdown()


async def test_stop_of_the_service_ends_the_connection(valkey):
    """A subscriber that is still open doesn't hold the stop up, and is back when the service is."""
    service = RedisService(server=valkey)
    await service.on_startup()
    got = []
    async with service.subscriber(lambda *message: got.append(message)) as subscriber:
        await subscriber.subscribe("a")
        started = asyncio.get_running_loop().time()
        await service.on_shutdown()
        assert asyncio.get_running_loop().time() - started < 4
        await until(lambda: not subscriber.is_connected)
        await service.on_startup()
        await until(lambda: subscriber.is_connected and subscriber.reconnects == 1)
        assert 1 == await service.publish("a", "1")
    await service.on_shutdown()
