"""The lock: one holder at a time, whatever happens to holders, and tokens that only grow."""

import asyncio
import random
import sys

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import DeadlineExceededError, IllegalStateError
from svcframework.testing.faults import FaultProxy
from svcframework_redis import LockLostError, LockNotAcquiredError, RedisConfig, RedisService


@pytest.fixture
async def services(redis, valkey):
    """Three services, as three processes would have them."""
    others = [RedisService(server=valkey) for _ in range(2)]
    for service in others:
        await service.on_startup()
    yield [redis, *others]
    for service in others:
        await service.on_shutdown()


async def test_one_holder_at_a_time(services):
    """Sixty tasks of three services, some cancelled anywhere: never two holders, and every token is a new highest."""
    chance = random.Random(4)
    inside, tokens, done = [], [], []

    async def work(service, number):
        async with service.lock("job {1}", ttl=5, wait=60) as lock:
            inside.append(number)
            assert [number] == inside
            assert lock.is_held
            tokens.append(lock.token)
            try:
                await asyncio.sleep(chance.uniform(0, 0.003))
            finally:
                inside.remove(number)
        done.append(number)

    tasks = [asyncio.create_task(work(service, n * 3 + i)) for n in range(20) for i, service in enumerate(services)]
    victims = chance.sample(tasks, 20)
    for victim in victims:
        await asyncio.sleep(chance.uniform(0, 0.01))
        victim.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert set() == {type(error) for error in ended} - {type(None), asyncio.CancelledError}
    assert len(done) >= 40
    assert sorted(set(tokens)) == tokens
    async with services[0].lock("job {1}", ttl=5, wait=0) as lock:  # nobody has left it locked
        assert lock.token > tokens[-1]


HOLDER = """
import asyncio, sys
from svcframework_redis import RedisConfig, RedisService

async def hold():
    service = RedisService(RedisConfig(url=sys.stdin.readline().strip()))
    await service.on_startup()
    async with service.lock("job", ttl=1.5) as lock:
        print(lock.token, flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


async def test_killed_holder_is_outlived(redis, valkey):
    """A holder keeps the lock past its ttl while it lives; once it is killed the next one has it after a lease."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        holder.stdin.write(f"{valkey.url}\n".encode())
        token = int(await holder.stdout.readline())
        with pytest.raises(LockNotAcquiredError, match="somebody else holds it"):
            async with redis.lock("job", ttl=1, wait=2.0):
                pass
    finally:
        holder.kill()
        await holder.communicate()
    async with redis.lock("job", ttl=1, wait=20) as lock:
        assert lock.token > token


async def test_lease_is_renewed_while_the_block_runs(redis):
    """A block longer than the lease keeps the lock; afterwards it is free at once."""
    async with redis.lock("job", ttl=1.2) as lock:
        await asyncio.sleep(1.8)
        assert lock.is_held
    assert not lock.is_held
    async with redis.lock("job", ttl=5, wait=0) as second:
        assert second.token > lock.token


async def test_lost_lock_cancels_its_block(redis):
    """When the server has lost the lease the block ends, and the error says why; what the block raises itself stays."""
    went_on = False
    with pytest.raises(LockLostError, match="'job' was lost: the server has given it to somebody else"):
        async with redis.lock("job", ttl=1.2) as lock:
            await redis.delete("lock:{job}")
            await asyncio.sleep(30)
            went_on = True
    assert (False, False) == (went_on, lock.is_held)
    with pytest.raises(LookupError):
        async with redis.lock("job", ttl=1.2):
            await redis.delete("lock:{job}")
            raise LookupError
    async with redis.lock("job", ttl=5, wait=0):
        pass


async def test_unreachable_server_costs_the_lock_after_a_lease(valkey):
    """Without renewal the holder gives up when its lease has ended, not when the network says so."""
    async with FaultProxy(valkey.url) as proxy:
        service = RedisService(RedisConfig(url=proxy.through(valkey.url), timeout=1.0, stop_timeout=0.4))
        await service.on_startup()
        loop = asyncio.get_running_loop()
        with pytest.raises(LockLostError, match="could not be asked"):
            async with service.lock("far", ttl=1.5):
                started = loop.time()
                await proxy.black_hole()
                await asyncio.sleep(30)
        assert 0.3 < loop.time() - started < 8
        await service.on_shutdown()


async def test_cancelled_holder_releases(redis):
    """A block that is cancelled, also twice, leaves no lock behind, and neither does one that waits."""
    for _ in range(5):
        entered = asyncio.Event()

        async def hold(entered=entered):
            async with redis.lock("job", ttl=30):
                entered.set()
                await asyncio.sleep(30)

        holder = asyncio.create_task(hold())
        await entered.wait()
        waiter = asyncio.create_task(hold())
        await asyncio.sleep(0)
        waiter.cancel()
        holder.cancel()
        await asyncio.sleep(0)
        holder.cancel()
        ended = await asyncio.gather(holder, waiter, return_exceptions=True)
        assert [asyncio.CancelledError] * 2 == [type(error) for error in ended]
        async with redis.lock("job", ttl=30, wait=5):
            pass


async def test_deadline_of_the_holder_releases(redis):
    """A block that runs out of time gives the lock up at once, though its own time is over."""
    with pytest.raises(DeadlineExceededError):
        with deadline(0.2):
            async with redis.lock("job", ttl=60):
                await asyncio.sleep(30)
    async with redis.lock("job", ttl=60, wait=5):
        pass


async def test_cancelled_at_each_step_leaves_no_lock(redis):
    """Wherever a cancellation hits the way in, the next one gets the lock at once."""
    for steps in range(12):

        async def hold():
            async with redis.lock("job", ttl=30, wait=5):
                pass

        task = asyncio.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with redis.lock("job", ttl=30, wait=5):
            pass
    assert not await redis.exists("lock:{job}")


async def test_tokens_grow_over_a_crash(mortal_valkey):
    """Neither a killed server nor a lost counter makes a token come back."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    tokens = []
    for turn in range(4):
        async with service.lock("job", ttl=5) as lock:
            tokens.append(lock.token)
        if turn == 1:
            await mortal_valkey.kill()
            await mortal_valkey.relaunch()
        if turn == 2:
            await service.execute("FLUSHALL")
    assert sorted(set(tokens)) == tokens
    await service.on_shutdown()


async def test_waiting_ends_in_time(redis):
    """`wait` and the caller's deadline bound the wait, here and on the server; wrong values are refused."""
    async with redis.lock("job", ttl=5) as lock:
        for hint, service in [("others here", redis)]:
            with pytest.raises(LockNotAcquiredError, match=hint):
                async with service.lock("job", ttl=5, wait=0.05):
                    pass
        with pytest.raises(LockNotAcquiredError), deadline(5):
            async with redis.lock("job", ttl=5, wait=0):
                pass
        with pytest.raises(IllegalStateError, match="make another one"):
            await lock.__aenter__()
    for name, ttl, wait in [("", 1, 1), ("a", 0, 1), ("a", 1, -1), ("a", float("inf"), 1)]:
        with pytest.raises(ValueError, match="0 s or more"):
            redis.lock(name, ttl=ttl, wait=wait)


async def test_names_of_locks_are_injective(redis):
    """No name reaches into another's keys, whatever characters it has."""
    names = ["a", "a}", "a}:token", "{a}", "a%7D", "%7Ba}", "a:token"]
    async with asyncio.timeout(20):
        for held in names:
            async with redis.lock(held, ttl=5):
                for other in set(names) - {held}:
                    async with redis.lock(other, ttl=5, wait=0):
                        pass
