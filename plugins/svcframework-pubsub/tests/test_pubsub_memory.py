"""What holds in memory alone: any event loop, callbacks that publish, publishers that wait."""

import anyio
import pytest

from svcframework import service_context
from svcframework.errors import ServiceTimeoutError
from svcframework_pubsub import PubSubConfig, PubSubService
from svcframework_pubsub.errors import MessageTooLargeError


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    """Both event loops."""
    return request.param


@pytest.fixture
async def pubsub():
    """A running service."""
    service = PubSubService(PubSubConfig(backend="memory", timeout=0.05, queue_size=2, overflow="block"))
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_messages_come_on_every_event_loop(pubsub):
    """By name, by pattern and to coroutine functions."""
    seen, done = [], anyio.Event()

    async def handle(message):
        seen.append(message.payload)
        done.set()

    await pubsub.on("runs", handle)
    async with pubsub.subscribe(pattern="r*") as messages:
        await pubsub.publish("runs", 1)
        assert 1 == (await anext(messages)).payload
    await done.wait()
    assert [1] == seen


async def test_callback_may_publish(pubsub):
    """What a callback publishes is delivered after what it was called for, to everybody in the same order."""
    one, two = [], []

    def answer(message):
        one.append(message.payload)
        if message.payload < 3:
            deliver(message.payload + 1)

    def deliver(payload):
        coroutine = pubsub.publish("runs", payload)
        with pytest.raises(StopIteration):  # in memory nothing has to be waited for
            coroutine.send(None)

    await pubsub.on("runs", answer)
    await pubsub.on("runs", lambda message: two.append(message.payload))
    await pubsub.publish("runs", 1)
    assert [1, 2, 3] == one == two


async def test_publisher_waits_for_room_in_time(pubsub):
    """A subscriber that blocks and doesn't read costs a publisher its time, and an error that says why."""
    async with pubsub.subscribe("runs"):
        for number in range(3):
            await pubsub.publish("runs", number)
        with pytest.raises(ServiceTimeoutError, match="overflow='block'"):
            await pubsub.publish("runs", 3)
    assert await pubsub.publish("runs", 4)


async def test_limit_is_of_each_message_and_not_of_a_batch():
    """Many messages at once may be longer together than one may be; an envelope counts, a trace in it too."""
    service = PubSubService(PubSubConfig(backend="memory", max_message_bytes=300))
    await service.on_startup()
    with service_context(correlation_id="t" * 100):
        assert 50 == await service.publish_many("runs", ["x" * 100] * 50)
        for length in (150, 200, 260):
            with pytest.raises(MessageTooLargeError):
                await service.publish_many("runs", ["x" * length])
            with pytest.raises(MessageTooLargeError):
                await service.publish("runs", "x" * length)
    await service.on_shutdown()
