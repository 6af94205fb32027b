"""The shared connection: what goes over it, what doesn't, and what happens when it is full, slow, lost or cancelled."""

import asyncio
import contextvars
import functools
import random
import time

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    DeadlineExceededError,
    ServiceTimeoutError,
)
from svcframework.testing.faults import FaultProxy
from svcframework_redis import RedisConfig, RedisService, TransactionConflictError


async def test_commands_of_one_turn_leave_in_one_write(redis):
    """Fifty tasks that ask at once cost one write, and each has its own answer."""
    await redis.execute_many([("SET", f"k{n}", n) for n in range(50)])
    before = redis.statistics
    found = await asyncio.gather(*(redis.get(f"k{n}") for n in range(50)))
    assert [str(n).encode() for n in range(50)] == found
    assert (50, 1) == (redis.statistics.answered - before.answered, redis.statistics.writes - before.writes)
    assert 1 == redis.statistics.connects


async def test_batch_answers_in_order(redis):
    """A batch has its answers in the order of its commands, also when it is larger than any buffer."""
    size = 3000
    await redis.execute_many([("SET", f"k{n}", str(n) * 100) for n in range(size)])
    found = await redis.execute_many([("GET", f"k{n}") for n in range(size)])
    assert [(str(n) * 100).encode() for n in range(size)] == found
    assert [] == await redis.execute_many([])


async def test_batch_raises_the_first_error_when_all_is_done(redis):
    """The others have been done; the error says which command it was, and no value."""
    await redis.set("word", "canary-7Q")
    with pytest.raises(DatabaseError, match=r"INCR \(2 of 4 commands\)") as caught:
        await redis.execute_many([("SET", "a", 1), ("INCR", "word"), ("LPUSH", "word", 1), ("SET", "b", 2)])
    assert "canary" not in str(caught.value)
    assert [b"1", b"2"] == await redis.mget(["a", "b"])


async def test_atomic_batch_is_one_transaction(redis):
    """Its answers are those of its commands; one that can't be queued calls all of it off."""
    assert [b"OK", 2] == await redis.execute_many([("SET", "n", 1), ("INCR", "n")], atomic=True)
    with pytest.raises(DatabaseError, match=r"GET \(2 of 2 commands\).*wrong number"):
        await redis.execute_many([("SET", "n", 7), ("GET",)], atomic=True)
    assert b"2" == await redis.get("n")
    await redis.set("word", "x")
    with pytest.raises(DatabaseError, match=r"INCR \(1 of 2 commands\).*not an integer"):
        await redis.execute_many([("INCR", "word"), ("INCR", "n")], atomic=True)
    assert b"3" == await redis.get("n")


async def test_commands_that_change_the_connection_are_refused(redis):
    """What would change it for all callers names the way that there is instead."""
    for command, instead in [
        (("SELECT", 1), "set `db`"),
        ((b"subscribe", "c"), r"subscriber\(\)"),
        (("multi",), "atomic=True"),
        (("WATCH", "k"), r"transaction\(key\)"),
        (("CLIENT", "REPLY", "OFF"), "redis-py's own"),
    ]:
        with pytest.raises(ValueError, match=instead):
            await redis.execute(*command)
        with pytest.raises(ValueError, match=instead):
            await redis.execute_many([("GET", "k"), command])
    with pytest.raises(ValueError, match="send it alone"):
        await redis.execute_many([("XREAD", "STREAMS", "s", "0"), ("XREAD", "BLOCK", 10, "STREAMS", "s", "0")])
    for nothing in (redis.execute(), redis.execute_many([()])):
        with pytest.raises(ValueError, match="needs a name"):
            await nothing
    with pytest.raises(TypeError, match="str, int, float or bytes"):
        await redis.execute("SET", "k", None)
    assert redis.statistics.in_flight == 0


async def test_blocking_commands_hold_nobody_up(redis):
    """Each has a connection for itself, and the time that it may block on top of its limit."""
    popped = asyncio.create_task(redis.execute("BLPOP", "queue", 30))
    read = asyncio.create_task(redis.execute("XREAD", "BLOCK", 30_000, "STREAMS", "stream", "$"))
    while redis.statistics.leased < 2:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)  # the commands are on their way; the test is as good if they aren't
    assert await redis.get("k") is None
    await redis.execute("RPUSH", "queue", "job")
    assert [b"queue", b"job"] == await popped
    while not read.done():
        await redis.execute("XADD", "stream", "*", "a", 1)
        await asyncio.wait([read], timeout=0.05)
    assert b"stream" in await read
    assert await redis.execute("BZPOPMIN", "none", 0.05) is None
    assert 0 == await redis.execute("WAIT", 0, 10)
    assert 0 == redis.statistics.leased


async def test_cancelled_blocking_command_gives_its_place_back(valkey):
    """Its connection is closed, for its answer may still come, and the place is free at once."""
    service = RedisService(RedisConfig(max_connections=1), server=valkey)
    await service.on_startup()
    for _ in range(3):
        call = asyncio.create_task(service.execute("BLPOP", "empty", 30))
        while not service.statistics.leased:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await service.execute("BLPOP", "empty", 0.01) is None
    await service.on_shutdown()


async def test_transaction_reads_then_changes_all_or_nothing(redis):
    """What was read still holds when the changes are made, or nothing is changed and the error says so."""
    await redis.set("n", 1)
    async with redis.transaction("n") as transaction:
        number = int(await transaction.execute("GET", "n"))
        transaction.queue("SET", "n", number + 1)
        transaction.queue("GET", "n")
    assert [b"OK", b"2"] == transaction.results
    with pytest.raises(TransactionConflictError, match="changed") as caught:
        async with redis.transaction("n") as transaction:
            transaction.queue("SET", "n", 10)
            await redis.set("n", 5)
    assert caught.value.retryable
    with pytest.raises(LookupError):
        async with redis.transaction("n") as transaction:
            transaction.queue("SET", "n", 20)
            raise LookupError
    async with redis.transaction("n"):
        pass
    assert b"5" == await redis.get("n")
    assert 0 == redis.statistics.leased
    with pytest.raises(ValueError, match="watches keys"):
        redis.transaction()


async def test_concurrent_transactions_lose_no_change(redis):
    """Ten writers that try again on a conflict add up exactly."""
    await redis.set("n", 0)

    async def add():
        while True:
            try:
                async with redis.transaction("n") as transaction:
                    transaction.queue("SET", "n", int(await transaction.execute("GET", "n")) + 1)
            except TransactionConflictError:
                continue
            return

    await asyncio.gather(*(add() for _ in range(10)))
    assert b"10" == await redis.get("n")


async def test_full_connection_makes_callers_wait(valkey):
    """Beyond `max_in_flight` calls wait their turn; nothing is lost, and nobody waits longer than `acquire_timeout`."""
    async with FaultProxy(valkey.url) as proxy:
        config = RedisConfig(url=proxy.through(valkey.url), max_in_flight=10, acquire_timeout=1.5, timeout=12)
        service = RedisService(config)
        await service.on_startup()
        for _ in range(3):
            first = [asyncio.create_task(service.execute("ECHO", n)) for n in range(10)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            rest = [asyncio.create_task(service.execute("ECHO", n)) for n in range(10, 100)]
            found = await asyncio.gather(*first, *rest)
            assert [str(n).encode() for n in range(100)] == found
        await proxy.black_hole()
        held = [asyncio.create_task(service.get("k")) for _ in range(10)]
        await asyncio.sleep(0.05)
        started = time.monotonic()
        with pytest.raises(ServiceTimeoutError, match="too many commands are under way"):
            await service.get("k")
        assert time.monotonic() - started < 8
        assert 0 == service.statistics.waiting
        await proxy.pass_on()
        assert [None] * 10 == await asyncio.gather(*held)
        assert await service.get("k") is None
        await service.on_shutdown()


async def test_who_waits_for_room_is_not_left_behind(valkey):
    """When a full connection is given up, those in line go on with the next one, before their own time is over."""
    async with FaultProxy(valkey.url) as proxy:
        config = RedisConfig(url=proxy.through(valkey.url), max_in_flight=5, timeout=1.5, acquire_timeout=20)
        service = RedisService(config)
        await service.on_startup()
        await proxy.black_hole()
        held = [asyncio.create_task(service.get("k")) for _ in range(5)]
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(service.execute("ECHO", n, timeout=30)) for n in range(20)]
        ended = await asyncio.gather(*held, return_exceptions=True)
        assert {ServiceTimeoutError} == {type(error) for error in ended}
        await proxy.pass_on()
        assert [str(n).encode() for n in range(20)] == await asyncio.gather(*waiting)
        await service.on_shutdown()


async def test_large_values_do_not_pile_up(valkey):
    """Fifty megabytes sent at once arrive, by and by as the network takes them."""
    service = RedisService(RedisConfig(timeout=60, acquire_timeout=60), server=valkey)
    await service.on_startup()
    value = b"x" * 1_000_000
    await asyncio.gather(*(service.set(f"k{n % 10}", value) for n in range(50)))
    assert [len(value)] * 10 == [await service.execute("STRLEN", f"k{n}") for n in range(10)]
    await service.on_shutdown()


async def test_slow_command_harms_no_other(mortal_valkey):
    """A command that keeps the server busy beyond the limit costs that caller a timeout; the next ones get answers."""
    quick = RedisService(RedisConfig(timeout=1.0), server=mortal_valkey)
    await quick.on_startup()
    held = asyncio.create_task(quick.execute("DEBUG", "SLEEP", "2.0", timeout=9))
    await asyncio.sleep(0.05)
    with pytest.raises(ServiceTimeoutError):
        await quick.get("k")
    assert quick.statistics.retired == 1
    async with asyncio.timeout(10):
        while not await quick.health_check():
            pass
        assert b"OK" == await held
        while quick.statistics.retired:
            await asyncio.sleep(0.01)
    assert await quick.get("k") is None
    await quick.on_shutdown()


async def test_limits_of_calls_are_kept_apart(valkey):
    """On a silent server each call ends after its own limit: the usual one, a shorter or a longer one."""
    async with FaultProxy(valkey.url) as proxy:
        service = RedisService(RedisConfig(url=proxy.through(valkey.url), timeout=0.4, connect_timeout=5.0))
        await service.on_startup()
        await proxy.black_hole()
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def lasts(call):
            with pytest.raises((ServiceTimeoutError, TimeoutError)):
                await call
            return loop.time() - started

        async def bounded():
            with deadline(0.1):
                await service.get("k")

        usual, short, long, caller = await asyncio.gather(
            lasts(service.get("k")),
            lasts(service.execute("GET", "k", timeout=0.1)),
            lasts(service.execute("GET", "k", timeout=0.8)),
            lasts(bounded()),
        )
        assert 0.39 < usual < 5
        assert 0.09 < short < 5
        assert 0.79 < long < 5
        assert 0.09 < caller < 5
        assert short < usual < long
        await service.on_shutdown()


async def test_deadline_of_a_thread_is_known(redis):
    """A deadline that was set outside of any task cancels nothing by itself; the call keeps it."""

    def set_one():
        limit = deadline(0.0)
        limit.__enter__()
        return contextvars.copy_context()

    context = await asyncio.to_thread(set_one)
    with pytest.raises(DeadlineExceededError):
        await asyncio.create_task(redis.get("k"), context=context)


async def test_lost_connection_fails_what_was_under_way(mortal_valkey):
    """Each call in flight gets a typed error of its own, and reads are sent again when there is a server."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    await service.set("n", 5)
    calls = [asyncio.create_task(service.execute("DEBUG", "SLEEP", "20", timeout=30))]
    calls += [asyncio.create_task(service.incr("m")) for _ in range(20)]
    while service.statistics.in_flight < len(calls):
        await asyncio.sleep(0.01)
    await mortal_valkey.kill()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {ConnectionFailedError} == {type(error) for error in ended}
    assert len({id(error) for error in ended}) == len(ended)
    assert 0 == service.statistics.in_flight
    await mortal_valkey.relaunch()
    assert 6 == await service.incr("n")
    assert 1 == await service.incr("m")  # the server slept when it was killed: none of the twenty was done
    assert (2, 1) == (service.statistics.connects, service.statistics.lost)
    await service.on_shutdown()


async def test_many_callers_make_one_connection(valkey):
    """Whoever finds no connection waits for the one that is being made; a caller who gives up stops nobody else."""
    async with FaultProxy(valkey.url) as proxy:
        service = RedisService(RedisConfig(url=proxy.through(valkey.url)))
        await service.on_startup()
        for _ in range(3):
            before = proxy.accepted
            await proxy.drop_connections()
            while service.statistics.lost < before:
                await asyncio.sleep(0.001)
            calls = [asyncio.create_task(service.execute("ECHO", n)) for n in range(20)]
            await asyncio.sleep(0)
            calls[0].cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(ended[0], asyncio.CancelledError)
            assert [str(n).encode() for n in range(1, 20)] == ended[1:]
            assert before + 1 == proxy.accepted
        await service.on_shutdown()


@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_every_answer_carries_its_own_key(valkey, loop_name):
    """100,000 interleaved commands, some cancelled or late, mix up no answers (gate S19); the loops share them."""
    uvloop = pytest.importorskip("uvloop")
    calls = 40_000 if loop_name == "asyncio" else 60_000
    run = asyncio.run if loop_name == "asyncio" else uvloop.run
    asked, wrong, cancelled = run(_fuzz(valkey, calls, random.Random(19)))
    assert [] == wrong
    assert calls <= asked
    assert calls / 20 < cancelled < calls


async def _fuzz(valkey, calls, chance):
    """Ask for words and compare; how many were asked, what was wrong, how many calls were cancelled or late."""
    service = RedisService(RedisConfig(max_in_flight=300, timeout=20, acquire_timeout=20), server=valkey)
    await service.on_startup()
    wrong, asked, gone = [], 0, 0
    while asked < calls:
        tasks = [asyncio.create_task(_ask(service, f"{asked + n}", chance)) for n in range(500)]
        asked += len(tasks)
        for task in chance.sample(tasks, 100):
            if chance.random() < 0.2:
                await asyncio.sleep(0)
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        given_up = [one for one in ended if isinstance(one, (asyncio.CancelledError, ServiceTimeoutError))]
        gone += len(given_up)
        wrong += [one for one in ended if one is not None and one not in given_up]
    assert service.statistics.connects == 1
    await service.on_shutdown()
    return asked, wrong, gone


async def _ask(service, word, chance):
    """Ask in one of three ways; returns what is wrong with the answer."""
    kind = chance.random()
    if kind < 0.9:
        found, expected = await service.execute("ECHO", word), word.encode()
    elif kind < 0.95:
        found = await service.execute_many([("ECHO", word), ("ECHO", f"{word}-2")])
        expected = [word.encode(), f"{word}-2".encode()]
    else:
        found, expected = await service.execute("ECHO", word, timeout=chance.choice([0.0001, 20])), word.encode()
    return None if found == expected else (word, found)


async def test_command_after_a_hang_up_takes_a_new_connection(valkey):
    """Between the server's hanging up and the end of the connection nothing is sent on it: even a write succeeds."""
    async with FaultProxy(valkey.url) as proxy:
        service = RedisService(RedisConfig(url=proxy.through(valkey.url)))
        await service.on_startup()
        await service.delete("hung-up")
        for turn in range(1, 6):
            link = service._calls.transport.link
            link.eof_received()  # as the event loop calls it; looks inside, for the moment is too short to be hit
            assert turn == await service.incr("hung-up")
            assert link is not service._calls.transport.link
            link.abort()
        assert 6 == service.statistics.connects
        await service.on_shutdown()


async def test_a_list_may_change_while_its_batch_waits(valkey_server):
    """Replies are counted by what was sent: whoever empties his buffer meanwhile gives nobody another's answer."""
    service = RedisService(server=valkey_server)
    await service.on_startup()
    await service.set("mine", "value")
    for send, buffer in [
        (service.execute_many, [("GET", "mine")] * 3),
        (functools.partial(service.publish_many, "nobody"), [b"1", b"2", b"3"]),
    ]:
        service._calls.transport.link.abort()
        await asyncio.sleep(0)  # the next call has to connect
        task = asyncio.create_task(send(buffer))
        while service._calls.transport._connecting is None:
            await asyncio.sleep(0)
        buffer.clear()
        async with asyncio.timeout(10):
            assert 3 == len(await task)
            assert b"value" == await service.execute("GET", "mine")
    await service.on_shutdown()
