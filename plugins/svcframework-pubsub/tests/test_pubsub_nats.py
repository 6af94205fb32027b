"""What holds on NATS alone: subjects, groups on JetStream, a server that dies."""

import anyio
import pytest

from svcframework.errors import AuthenticationFailedError, ExternalServiceError, ServiceTimeoutError

TROUBLE = (ExternalServiceError, ServiceTimeoutError)


@pytest.fixture
def backend():
    return "nats"


@pytest.fixture
async def pubsub(serve):
    """A service that is quick to take a message for lost."""
    async with serve(claim_after=0.3, max_deliveries=2) as service:
        yield service


async def next_of(messages):
    with anyio.fail_after(10):
        return await anext(messages)


async def test_group_shares_messages_and_keeps_them(serve):
    """Each durable message goes to one consumer; what comes while nobody reads waits."""
    seen, done = [], anyio.Event()

    async def work(messages):
        async for message in messages:
            seen.append(message.payload)
            await message.ack()
            if len(seen) == 4:
                done.set()

    async with serve(claim_after=60.0) as pubsub:
        async with pubsub.group("jobs", "workers"):
            pass
        await pubsub.publish_many("jobs", range(4), durable=True)
        async with pubsub.group("jobs", "workers") as one, pubsub.group("jobs", "workers") as two:
            async with anyio.create_task_group() as tasks:
                for messages in (one, two):
                    tasks.start_soon(work, messages)
                with anyio.fail_after(10):
                    await done.wait()
                tasks.cancel_scope.cancel()
    assert [0, 1, 2, 3] == sorted(seen)


async def test_unacknowledged_message_comes_again_then_is_dead(pubsub):
    """After `claim_after` it comes again, after `max_deliveries` it goes to the channel of the dead."""
    async with pubsub.group("work.dead", "undertakers") as dead, pubsub.group("work", "workers") as messages:
        await pubsub.publish("work", "poison", durable=True)
        assert 1 == (await next_of(messages)).deliveries
        again = await next_of(messages)
        assert ("poison", 2) == (again.payload, again.deliveries)
        await anyio.sleep(0.35)
        await pubsub.publish("work", "healthy", durable=True)
        healthy = await next_of(messages)
        await healthy.ack()
        assert "healthy" == healthy.payload
        assert "poison" == (await next_of(dead)).payload


async def test_released_message_comes_again_soon(serve):
    """`release` gives a message to whoever reads next, without the wait."""
    async with serve(claim_after=60.0) as pubsub, pubsub.group("tasks", "workers") as messages:
        await pubsub.publish("tasks", 1, durable=True)
        message = await next_of(messages)
        await message.release()
        again = await next_of(messages)
        await again.ack()
        assert (message.id, 2) == (again.id, again.deliveries)


async def test_killed_server_is_returned_to(pubsub, nats_server):
    """Publishing fails while it is away; afterwards subscribers hear again and are told of the gap."""
    seen, gaps = [], []
    await pubsub.on("runs", lambda message: seen.append(message.payload), on_gap=gaps.append)
    nats_server.kill()
    with pytest.raises(TROUBLE):
        await pubsub.publish("runs", "lost")
    assert not await pubsub.health_check()
    nats_server.start()
    with anyio.fail_after(10):
        while not gaps:
            await anyio.sleep(0.01)
        while not await pubsub.health_check():
            await anyio.sleep(0.01)
    await pubsub.publish("runs", "after")
    with anyio.fail_after(10):
        while "after" not in seen:
            await anyio.sleep(0.01)


async def test_wrong_password_is_told(serving, nats_server):
    """The error says that the credentials were refused, and not which."""
    with pytest.raises(AuthenticationFailedError) as caught:
        async with serving("nats", nats_server.url.replace("sesame", "open-barley")):
            pass
    assert "open-barley" not in str(caught.value)
