"""What callers see when the server dies, hangs or refuses, beyond what FaultConformance asks of every service."""

import asyncio
import time

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DeadlineExceededError,
    PluginError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)
from svcframework.testing.faults import FaultProxy
from svcframework_redis import RedisConfig, RedisService


async def test_reads_are_sent_again_once(mortal_valkey):
    """A read that meets a connection which died unnoticed succeeds on a new one."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    await service.set("k", "v")
    await mortal_valkey.kill()
    await mortal_valkey.relaunch()
    assert b"v" == await service.get("k")
    await service.on_shutdown()


async def test_start_without_a_server_fails():
    """Nobody listens: a connection error that names the place and no password."""
    with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1") as caught:
        await RedisService(RedisConfig(url="redis://:canary-7Q@127.0.0.1:1/0")).on_startup()
    assert "canary" not in str(caught.value)


async def test_wrong_password_is_an_authentication_error(valkey):
    """Refused credentials, and missing ones, are told apart from an unreachable server and shown nowhere."""
    for secret in (":canary-7Q@", ""):
        config = RedisConfig(url=f"redis://{secret}127.0.0.1:{valkey.port}/0")
        with pytest.raises(AuthenticationFailedError) as caught:
            await RedisService(config).on_startup()
        assert "canary" not in str(caught.value)


async def test_server_that_never_answers():
    """A black hole costs `timeout`, and health says so."""
    held = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = RedisConfig(url=f"redis://:canary-7Q@127.0.0.1:{port}/0", timeout=0.2)
    started = time.monotonic()
    with pytest.raises(ServiceTimeoutError, match=f"127.0.0.1:{port}/0") as caught:
        await RedisService(config).on_startup()
    assert time.monotonic() - started < 4
    assert "canary" not in str(caught.value)
    for writer in held:
        writer.close()
    server.close()


async def test_deadline_of_the_caller_holds(redis):
    """The caller's remaining time is the limit when it is shorter than the service's."""
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        with deadline(0.1):
            await redis.execute("BLPOP", "empty", 0, timeout=20)
    assert time.monotonic() - started < 4


async def test_exhausted_pool_is_a_timeout(valkey):
    """A blocking call that gets no connection says so in time; ordinary ones need none of their own."""
    service = RedisService(RedisConfig(max_connections=1, acquire_timeout=0.1), server=valkey)
    await service.on_startup()
    blocked = asyncio.create_task(service.execute("BLPOP", "empty", 1.5))
    while not service.statistics.leased:
        await asyncio.sleep(0.01)
    with pytest.raises(ServiceTimeoutError, match="every connection is in use"):
        await service.execute("BLPOP", "empty", 1.5)
    assert await service.get("k") is None
    assert await blocked is None
    assert await service.execute("BLPOP", "empty", 0.01) is None
    await service.on_shutdown()


def test_host_on_trio_is_refused():
    """The driver runs on asyncio only, and the error says what to do."""
    import trio

    with pytest.raises(PluginError, match="run the host on asyncio"):
        trio.run(RedisService(RedisConfig()).on_startup)


async def test_cancelled_release_gives_the_place_back(redis):
    """A caller that is cancelled while its connection waits to be put back loses none (looks inside redis-py)."""
    pool = redis.client.connection_pool
    connection = await pool.get_connection()
    async with pool._condition:
        giving_back = asyncio.create_task(pool.release(connection))
        await asyncio.sleep(0)
        giving_back.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await giving_back
    assert 0 == len(pool._in_use_connections)


async def test_stop_at_each_step_of_a_call_leaves_no_connection_open(valkey):
    """A call that is connecting while its service stops ends with an error of ours, or its answer."""
    async with FaultProxy(valkey.url) as proxy:
        for steps in range(40):
            service = RedisService(RedisConfig(url=proxy.through(valkey.url)))
            await service.on_startup()
            await proxy.drop_connections()
            call = asyncio.create_task(service.ping())
            for _ in range(steps):
                await asyncio.sleep(0)
            await service.on_shutdown()
            (ended,) = await asyncio.gather(call, return_exceptions=True)
            assert ended is None or isinstance(ended, ServiceFrameworkError)
            async with asyncio.timeout(10):
                while proxy.connections:
                    await asyncio.sleep(0.001)


async def test_stop_does_not_wait_for_ever(valkey):
    """A call that outlives the stop's budget fails with an error of ours."""
    service = RedisService(RedisConfig(stop_timeout=0.2), server=valkey)
    await service.on_startup()
    call = asyncio.create_task(service.execute("BLPOP", "empty", 0, timeout=30))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await service.on_shutdown()
    assert time.monotonic() - started < 4
    with pytest.raises(ConnectionFailedError):
        await call
