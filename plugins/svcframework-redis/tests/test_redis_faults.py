"""What callers see when the server dies, hangs or refuses, and that connections stay in order."""

import asyncio
import random
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


async def test_killed_server_is_survived(mortal_valkey):
    """While it is down calls fail at once with a retryable error; once it is back they work, without a restart."""
    service = RedisService(RedisConfig(max_connections=4), server=mortal_valkey)
    await service.on_startup()
    await asyncio.gather(*(service.incr("n") for _ in range(8)))
    await mortal_valkey.kill()
    for _ in range(6):
        with pytest.raises(ConnectionFailedError) as caught:
            await service.incr("n")
        assert caught.value.retryable
    assert not await service.health_check()
    await mortal_valkey.relaunch()
    assert list(range(9, 15)) == [await service.incr("n") for _ in range(6)]
    assert await service.health_check()
    await service.on_shutdown()


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
    assert time.monotonic() - started < 10
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
    assert time.monotonic() - started < 10


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


async def test_cancelled_calls_mix_up_no_answers(redis):
    """After hundreds of calls cancelled anywhere, each answer is still that of its own question."""
    chance = random.Random(7)
    wrong = []

    async def ask(word):
        found = await redis.execute("ECHO", word)
        if found != word.encode():
            wrong.append((word, found))

    for turn in range(60):
        calls = [asyncio.create_task(ask(f"{turn}-{n}")) for n in range(12)]
        for call in chance.sample(calls, 8):
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            call.cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.gather(*(ask(f"last-{n}") for n in range(20)))
    assert wrong == []


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


@pytest.fixture
async def faulty(valkey):
    """A service behind a network that fails on command."""
    async with FaultProxy(valkey.url) as proxy:
        config = RedisConfig(
            url=proxy.through(valkey.url),
            max_connections=3,
            timeout=1.5,
            connect_timeout=1.5,
            acquire_timeout=1.5,
            stop_timeout=1,
        )
        service = RedisService(config)
        await service.on_startup()
        await asyncio.gather(*(service.incr("warm") for _ in range(6)))
        yield service, proxy
        started = time.monotonic()
        await service.on_shutdown()
        assert time.monotonic() - started < 10


async def _recovers(service):
    """Calls succeed again within the 10 s that are promised, and all of them from then on."""
    async with asyncio.timeout(10):
        while not await service.health_check():
            await asyncio.sleep(0.05)
    words = [f"word-{n}".encode() for n in range(9)]
    assert words == await asyncio.gather(*(service.execute("ECHO", word) for word in words))


async def test_black_hole_costs_one_limit(faulty):
    """A server that falls silent costs each call its limit; health says so, and all is well once it speaks again."""
    service, proxy = faulty
    await proxy.black_hole()
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(ServiceTimeoutError):
            await service.get("k")
        assert time.monotonic() - started < 10
    assert not await service.health_check()
    await proxy.pass_on()
    await _recovers(service)


async def test_stop_during_a_black_hole_stays_in_budget(faulty):
    """The fixture measures the stop; here the fault is simply never ended."""
    service, proxy = faulty
    await proxy.black_hole()
    with pytest.raises(ServiceTimeoutError):
        await service.get("k")


@pytest.mark.parametrize("fault", ["reset", "refuse"])
async def test_reset_connections_are_replaced(faulty, fault):
    """A network that hangs up gives a retryable error at once, then recovers."""
    service, proxy = faulty
    await getattr(proxy, fault)()
    with pytest.raises(ConnectionFailedError) as caught:
        await service.get("k")
    assert caught.value.retryable
    await proxy.pass_on()
    await _recovers(service)


async def test_reset_in_mid_answer_gives_no_half_result(faulty):
    """An answer that breaks off is an error, never a shorter value."""
    service, proxy = faulty
    await service.set("big", "x" * 100_000)
    await proxy.reset_after(5_000)
    with pytest.raises(ConnectionFailedError):
        await service.get("big")
    await proxy.pass_on()
    await _recovers(service)


async def test_one_byte_per_second_is_a_timeout(faulty):
    """A server that trickles is cut off at the limit."""
    service, proxy = faulty
    await proxy.slow(1)
    with pytest.raises(ServiceTimeoutError):
        await service.get("k")
    await proxy.pass_on()
    await _recovers(service)


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
    assert time.monotonic() - started < 10
    with pytest.raises(ConnectionFailedError):
        await call
