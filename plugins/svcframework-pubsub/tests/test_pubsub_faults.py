"""What holds while servers die, fall silent and come back."""

import asyncio
import contextlib
import itertools
import random
import time

import anyio
import pytest

from svcframework.errors import ConnectionFailedError, ExternalServiceError, ServiceTimeoutError
from svcframework.testing import FaultProxy
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey, running

QUICK = {"heartbeat_timeout": 0.5, "connect_timeout": 1.0}  # to notice that a server is silent
TROUBLE = (ExternalServiceError, ServiceTimeoutError)


@pytest.fixture(params=["postgres", "redis"])
def backend(request):
    """Backends with one server."""
    return request.param


@pytest.fixture
async def mortal(backend):
    """A server of the test's own, that stays dead until `relaunch()`."""
    async with running(EmbeddedPostgres() if backend == "postgres" else EmbeddedValkey(), restart=False) as server:
        yield server


def address_of(server):
    return server.dsn if isinstance(server, EmbeddedPostgres) else server.url


async def until(condition, limit=10.0):
    """Wait until something holds."""
    with anyio.fail_after(limit):
        while not condition():
            await anyio.sleep(0.005)


async def test_killed_server_is_noticed_and_returned_to(backend, mortal, serving):
    """Publishing fails at once, health turns, and after a restart all subscribers hear again and know of the gap."""
    seen, gaps = [], []
    async with serving(backend, address_of(mortal)) as pubsub:
        await pubsub.on("runs", lambda message: seen.append(message.payload), on_gap=gaps.append)
        await pubsub.on((), lambda message: seen.append(message.payload), pattern="other*")
        await pubsub.publish("runs", "before")
        await until(lambda: seen == ["before"])
        await mortal.kill()
        started = time.monotonic()
        with pytest.raises(TROUBLE):
            await pubsub.publish("runs", "lost")
        assert 5 > time.monotonic() - started
        assert not await pubsub.health_check()
        assert [] == gaps
        await mortal.relaunch()
        await until(lambda: gaps)
        with anyio.fail_after(10):
            while not await pubsub.health_check():
                await anyio.sleep(0.02)
        await pubsub.publish("runs", "after")
        await pubsub.publish("other.1", "by pattern")
        await until(lambda: seen == ["before", "after", "by pattern"])
        assert 1 == len(set(gaps))
        assert 0 < gaps[0] < 10


async def test_silent_server_is_noticed(backend, address, serving):
    """A server that stops answering costs a publish at most 5 s, and subscribers are told how long they were deaf."""
    gaps, seen = [], []
    async with FaultProxy(address) as proxy, serving(backend, proxy.through(address), timeout=1.0, **QUICK) as pubsub:
        await pubsub.on("runs", lambda message: seen.append(message.payload), on_gap=gaps.append)
        await proxy.black_hole()
        started = time.monotonic()
        with pytest.raises(TROUBLE):
            await pubsub.publish("runs", "lost")
        assert 5 > time.monotonic() - started
        with anyio.fail_after(10):
            while "can't publish" not in (health := await pubsub.health_check()).message and health:
                await anyio.sleep(0.02)
        await anyio.sleep(0.9)  # longer than the heartbeat and its deadline
        await proxy.pass_on()
        await until(lambda: gaps)
        with anyio.fail_after(20):
            while "after" not in seen:  # with such limits a busy machine may be taken for a silent server once more
                with contextlib.suppress(*TROUBLE):
                    await pubsub.publish("runs", "after")
                await anyio.sleep(0.05)
        assert 0 < gaps[0] < 30


async def test_reset_connections_are_replaced(backend, address, serving):
    """Connections that are cut are made again by themselves, and messages come as before."""
    gaps, seen = [], []
    async with FaultProxy(address) as proxy, serving(backend, proxy.through(address)) as pubsub:
        await pubsub.on("runs", lambda message: seen.append(message.payload), on_gap=gaps.append)
        for number in range(3):
            await proxy.drop_connections()
            await until(lambda number=number: len(gaps) > number)
            with anyio.fail_after(10):
                while True:
                    try:
                        await pubsub.publish("runs", number)
                        break
                    except ConnectionFailedError:  # it was under way when the connection was cut
                        await anyio.sleep(0.01)
            await until(lambda number=number: number in seen)


async def test_subscribing_while_the_server_is_away_ends_in_time(backend, address, serving):
    """It raises, or stands and is told of the gap; it never hangs."""
    async with FaultProxy(address) as proxy, serving(backend, proxy.through(address), timeout=1.0) as pubsub:
        await proxy.refuse()
        gaps = []
        started = time.monotonic()
        try:
            await pubsub.on("runs", lambda _: None, on_gap=gaps.append)
            is_told = True
        except TROUBLE:
            is_told = False
        assert 5 > time.monotonic() - started
        await proxy.pass_on()
        if is_told:
            await until(lambda: gaps)
        seen = []
        await pubsub.on("runs", lambda message: seen.append(message.payload))
        with anyio.fail_after(10):
            while not seen:
                with contextlib.suppress(*TROUBLE):
                    await pubsub.publish("runs", 1)
                await anyio.sleep(0.02)


async def test_cancelled_publishes_disturb_nobody(backend, address, serving):
    """Of thousands of publishes, some cancelled at random moments, each other one arrives once, and unchanged."""
    randomly = random.Random(7)
    seen, sent = [], set()
    async with serving(backend, address) as pubsub:
        await pubsub.on("runs", lambda message: seen.append(tuple(message.payload)))

        async def publish(task):
            for number in range(100):
                with anyio.move_on_after(randomly.choice([10.0, 10.0, 0.0, 0.0003, 0.001])):
                    await pubsub.publish("runs", (task, number, "x" * (task * number % 300)))
                    sent.add((task, number))

        async with anyio.create_task_group() as tasks:
            for task in range(30):
                tasks.start_soon(publish, task)
        await until(lambda: sent <= {(task, number) for task, number, _ in seen})
    assert len(seen) == len(set(seen))
    assert all(text == "x" * (task * number % 300) for task, number, text in seen)
    assert 1_000 < len(sent) < 3_000


async def test_stop_leaves_no_task(backend, address, serving):
    """After a stop, also during a fault, nothing of the service runs."""
    before = asyncio.all_tasks()
    for fault in [None, "black_hole", "refuse"]:
        async with FaultProxy(address) as proxy, serving(backend, proxy.through(address), **QUICK) as pubsub:
            await pubsub.on("runs", lambda _: None)
            await pubsub.publish("runs", 1)
            if fault is not None:
                await getattr(proxy, fault)()
                with anyio.move_on_after(0.02), contextlib.suppress(*TROUBLE):
                    await pubsub.publish("runs", 1)
        await until(lambda: not [task for task in asyncio.all_tasks() - before if "pubsub" in task.get_name()])
    with anyio.fail_after(5):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:
            await anyio.sleep(0.01)


async def test_stalled_listener_does_not_stop_publishers(backend, address, serving):
    """While a subscriber that blocks is full, its service reads nothing, and others publish and receive."""
    seen = []
    async with serving(backend, address) as slow, serving(backend, address) as other:
        async with slow.subscribe("runs", queue_size=10, overflow="block"):
            await other.on("runs", lambda message: seen.append(message.payload))
            await other.publish_many("runs", range(2_000))
            await until(lambda: len(seen) == 2_000)
            await until(lambda: slow._router.is_blocked)  # its connection may be behind the other one
            assert await slow.publish("other", 1)


@pytest.mark.parametrize("seed", range(3))
async def test_no_hole_without_a_gap(backend, address, serving, seed):
    """Of a flood, read slowly, whose connection is cut again and again: what is missing was told, the rest bounded."""
    randomly = random.Random(seed)
    gaps, found, is_over = [], [], anyio.Event()
    async with FaultProxy(address) as proxy, serving(backend, proxy.through(address)) as slow:
        async with (
            serving(backend, address) as other,
            slow.subscribe("runs", queue_size=20, overflow="block", on_gap=gaps.append) as messages,
            anyio.create_task_group() as tasks,
        ):

            async def flood():
                number = 0
                while not is_over.is_set():
                    await other.publish_many("runs", range(number, number + 40))
                    number += 40
                    await anyio.sleep(0.002)
                for _ in range(400):  # so that one comes when all is well again
                    await other.publish("runs", number)
                    await anyio.sleep(0.02)

            async def cut():
                for _ in range(15):
                    await anyio.sleep(randomly.uniform(0.0, 0.12))
                    await proxy.drop_connections()
                is_over.set()

            tasks.start_soon(flood)
            tasks.start_soon(cut)
            longest = 0
            with anyio.fail_after(30):
                while True:
                    found.append((await anext(messages)).payload)
                    longest = max(longest, messages.statistics.waiting)
                    if len(found) % 50 == 0:
                        await anyio.sleep(randomly.uniform(0.0, 0.02))
                    if len(found) > 1 and found[-1] == found[-2]:  # the one that ends it
                        break
            tasks.cancel_scope.cancel()
    assert sorted(found) == found
    holes = sum(after > before + 1 for before, after in itertools.pairwise(found))
    assert 0 < holes <= len(gaps)
    assert 5_000 > longest  # a read of the socket at most beyond the bound, or two
