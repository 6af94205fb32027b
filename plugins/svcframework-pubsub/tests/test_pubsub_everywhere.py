"""What holds on every backend."""

import contextlib
import gc
from dataclasses import dataclass

import anyio
import msgspec
import pytest
from pydantic import BaseModel

from svcframework import service_context
from svcframework.errors import IllegalStateError, ServiceTimeoutError, ServiceUnavailableError
from svcframework_pubsub import (
    ChannelNameError,
    MalformedMessageError,
    MessageEncodingError,
    MessageTooLargeError,
    PubSubConfig,
    PubSubService,
    SubscriptionOverflowError,
)

ONE_SERVER = ["memory", "postgres", "redis", "nats"]  # two servers hear a name no other way than each alone
ODD_NAMES = ["runs:1", "Zähler", "a b", 'x"; DROP TABLE y; --', "a*b?[c]", "svc:any", "r" * 200, "ü" * 100, "'", "\\"]


async def collect(messages, count):
    """The payloads of the next messages."""
    with anyio.fail_after(30):
        return [(await anext(messages)).payload for _ in range(count)]


async def test_message_reaches_every_subscriber(pubsub):
    """Each subscriber of a channel gets each message, and publish says that it was taken."""
    async with pubsub.subscribe("runs") as one, pubsub.subscribe("runs") as two:
        assert await pubsub.publish("runs", {"thread_id": "abc", "status": "running"}) is True
        assert [{"thread_id": "abc", "status": "running"}] == await collect(one, 1) == await collect(two, 1)


async def test_other_channels_are_not_heard(pubsub):
    """A subscriber gets what was published on its own channels, in order."""
    async with pubsub.subscribe("a", "b") as messages:
        for channel in ["a", "c", "b", "ab", "a"]:
            await pubsub.publish(channel, channel)
        assert ["a", "b", "a"] == await collect(messages, 3)


async def test_channel_is_what_its_name_says(pubsub):
    """Two texts that are equal name one channel: a name may be made anew for each call."""
    for number in range(2):
        async with pubsub.subscribe(f"runs:{number}") as messages:
            await pubsub.publish(f"runs:{number}", 1)
            assert [1] == await collect(messages, 1)


async def test_messages_cross_services(serve, backend):
    """What one service publishes another receives, unless it is in memory, which they don't share."""
    async with serve() as here, serve() as there, there.subscribe("runs") as messages:
        await here.publish("runs", 1)
        await there.publish("runs", 2)
        assert ([2] if backend == "memory" else [1, 2]) == await collect(messages, 1 if backend == "memory" else 2)


async def test_plain_for_loop_listens_and_cleans_up(pubsub):
    """Leaving the loop ends the subscription, without an `async with`."""

    async def publish():
        while (route := pubsub._router.channels.get("runs")) is None or not route.is_live:
            await anyio.sleep(0.01)
        await pubsub.publish_many("runs", range(5))

    seen = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        with anyio.fail_after(10):
            async for message in pubsub.subscribe("runs"):
                seen.append(message.payload)
                if message.payload == 4:
                    break
    gc.collect()
    with anyio.fail_after(5):
        while pubsub._router.topics():
            await anyio.sleep(0.01)
    assert [0, 1, 2, 3, 4] == seen


async def test_envelope_carries_id_time_trace_and_version(pubsub):
    """Every message has an id of its own that sorts by time, its time, the publisher's trace and schema version."""
    async with pubsub.subscribe("runs") as messages:
        with service_context(correlation_id="request-7"):
            await pubsub.publish("runs", None, schema_version=3)
        await pubsub.publish_many("runs", [None, None])
        first, second, third = [await anext(messages) for _ in range(3)]
    assert ("request-7", 3, False) == (first.trace_id, first.schema_version, first.is_foreign)
    assert (None, 1) == (second.trace_id, second.schema_version)
    assert [36, 36, 36] == [len(message.id) for message in (first, second, third)]
    assert first.id < second.id < third.id
    assert 0 < first.time <= second.time == third.time


@pytest.mark.parametrize("backend", ONE_SERVER, indirect=True)
@pytest.mark.parametrize("name", ODD_NAMES)
async def test_any_name_is_a_channel(pubsub, name):
    """Names are data: quotes, wildcards, spaces and length change nothing, and no two names are one channel."""
    async with pubsub.subscribe(name) as messages:
        for other in ODD_NAMES:
            if other != name:
                await pubsub.publish(other, "wrong")
        await pubsub.publish(name, "right")
        message = await anext(messages)
    assert (name, "right") == (message.channel, message.payload)


async def test_bad_name_is_refused(pubsub):
    """What some backend could not carry is refused on all of them, before anything is sent."""
    for name in ["", "a\0b", "a\nb", "x" * 256, "\ud800", None]:
        with pytest.raises(ChannelNameError):
            await pubsub.publish(name, 1)
        with pytest.raises(ChannelNameError):
            pubsub.subscribe(name)


@pytest.mark.parametrize("backend", ONE_SERVER, indirect=True)
@pytest.mark.parametrize(
    ("pattern", "fitting", "unfitting"),
    [
        ("runs.*", ["runs.1", "runs.", "runs.1.done"], ["runs", "xruns.1"]),
        ("r?ns", ["runs", "rüns"], ["rns", "ruuns"]),
        ("r[au-w]n", ["ran", "run", "rvn"], ["rxn", "r[n"]),
        ("r[^a]n", ["run"], ["ran"]),
        ("r[!a]n", ["run"], ["ran"]),
        (r"a\*b", ["a*b"], ["axb"]),
        ("a[b", ["a[b"], ["ab"]),
        ("*" + "x" * 70, ["y" + "x" * 70], ["x" * 69]),
    ],
)
async def test_patterns_mean_the_same_everywhere(pubsub, pattern, fitting, unfitting):
    """A pattern fits the same names on every backend, and each message comes once."""
    async with pubsub.subscribe(pattern=pattern) as messages:
        for name in [*unfitting, *fitting]:
            await pubsub.publish(name, name)
        assert fitting == await collect(messages, len(fitting))
        assert 0 == messages.statistics.waiting


async def test_patterns_and_names_do_not_disturb_each_other(pubsub):
    """Overlapping subscriptions each get a message once."""
    async with (
        pubsub.subscribe("runs.1") as by_name,
        pubsub.subscribe(pattern="runs.*") as by_pattern,
        pubsub.subscribe(pattern="*") as everything,
    ):
        await pubsub.publish_many("runs.1", [1, 2])
        await pubsub.publish("end", 3)
        assert [1, 2, 3] == await collect(everything, 3)
        assert [1, 2] == await collect(by_pattern, 2) == await collect(by_name, 2)
        assert 0 == by_name.statistics.waiting + by_pattern.statistics.waiting


async def test_equal_messages_all_arrive(pubsub):
    """The same payload many times is as many messages."""
    async with pubsub.subscribe("runs") as messages:
        assert 500 == await pubsub.publish_many("runs", ["same"] * 500)
        assert ["same"] * 500 == await collect(messages, 500)


async def test_long_messages_arrive_in_order(pubsub):
    """Length doesn't matter up to `max_message_bytes`, nor does it change the order."""
    sizes = [10, 9_000, 20, 7_700, 7_900, 100_000, 30]
    async with pubsub.subscribe("runs") as messages, pubsub.subscribe(pattern="run*") as by_pattern:
        for size in sizes:
            await pubsub.publish("runs", "é" * (size // 2))
        await pubsub.publish_many("runs", ["x" * size for size in sizes])
        expected = [size // 2 for size in sizes] + sizes
        assert expected == [len(text) for text in await collect(messages, 2 * len(sizes))]
        assert expected == [len(text) for text in await collect(by_pattern, 2 * len(sizes))]


async def test_too_long_or_no_json_is_an_error(pubsub):
    """The caller is told what is wrong, and nothing is sent."""
    with pytest.raises(MessageTooLargeError, match="max_message_bytes"):
        await pubsub.publish("runs", "x" * 2_000_000)
    with pytest.raises(MessageTooLargeError, match="max_message_bytes"):
        await pubsub.publish_many("runs", ["x", "x" * 2_000_000])
    with pytest.raises(MessageEncodingError, match="object has no form in JSON"):
        await pubsub.publish("runs", {"x": object()})


async def test_many_publishers_lose_nothing(pubsub):
    """Messages of concurrent publishers all arrive, each publisher's in its own order."""
    seen = []
    subscription = await pubsub.on("runs", lambda message: seen.append(tuple(message.payload)))

    async def publish(task):
        for number in range(40):
            await pubsub.publish("runs", (task, number))

    async with anyio.create_task_group() as tasks:
        for task in range(25):
            tasks.start_soon(publish, task)
    with anyio.fail_after(30):
        while len(seen) < 1000:
            await anyio.sleep(0.01)
    await subscription.close()
    assert 1000 == len(set(seen))
    assert all(sorted(mine) == mine for task in range(25) if (mine := [m for m in seen if m[0] == task]))


# --- typed channels -------------------------------------------------------------------------------------


class StructEvent(msgspec.Struct):
    run: int
    state: str = "new"


@dataclass
class DataEvent:
    run: int
    state: str = "new"


class ModelEvent(BaseModel):
    run: int
    state: str = "new"


@pytest.mark.parametrize("model", [StructEvent, DataEvent, ModelEvent])
async def test_typed_channel_reads_and_writes_its_model(pubsub, model):
    """What is published comes back as an equal instance of the model."""
    runs = pubsub.channel("runs", model, schema_version=2)
    async with runs.subscribe() as messages:
        await runs.publish(model(run=1, state="done"))
        await runs.publish_many([model(run=2)])
        first, second = await anext(messages), await anext(messages)
    assert (model(run=1, state="done"), model(run=2)) == (first.payload, second.payload)
    assert 2 == first.schema_version


async def test_malformed_message_is_counted_and_skipped(pubsub):
    """A message that doesn't fit goes to `on_error`; the subscription goes on."""
    errors = []
    runs = pubsub.channel("runs", StructEvent)
    async with runs.subscribe(on_error=lambda error, message: errors.append((error, message.payload))) as messages:
        await pubsub.publish("runs", {"run": "no number"})
        await pubsub.publish("runs", {"run": 2})
        assert 2 == (await anext(messages)).payload.run
        assert 1 == messages.statistics.malformed
    [(error, payload)] = errors
    assert isinstance(error, MalformedMessageError)
    assert {"run": "no number"} == payload


# --- callbacks ------------------------------------------------------------------------------------------


async def test_callback_that_raises_is_called_again(pubsub):
    """Its error is counted and told to `on_error`; other subscribers notice nothing."""
    errors, seen = [], []

    def shaky(message):
        if message.payload == 1:
            raise RuntimeError("no ones")
        seen.append(message.payload)

    subscription = await pubsub.on("runs", shaky, on_error=lambda error, _: errors.append(str(error)))
    async with pubsub.subscribe("runs") as messages:
        await pubsub.publish_many("runs", [1, 2])
        await collect(messages, 2)
    assert ([2], ["no ones"], 1) == (seen, errors, subscription.statistics.failed)


async def test_coroutine_callback_handles_one_after_another(pubsub):
    """Messages are awaited in order, in the correlation id of who published them."""
    from svcframework.log import context_fields

    seen, done = [], anyio.Event()

    async def slow(message):
        await anyio.sleep(0.01 if message.payload == 0 else 0)
        seen.append((message.payload, context_fields().get("correlation_id")))
        if message.payload == 2:
            done.set()

    async with await pubsub.on("runs", slow):
        with service_context(correlation_id="c-1"):
            await pubsub.publish_many("runs", range(3))
        with anyio.fail_after(10):
            await done.wait()
    assert [(0, "c-1"), (1, "c-1"), (2, "c-1")] == seen


async def test_stop_drains_callbacks(serve):
    """At a stop a coroutine callback is given time for what has arrived."""
    seen, begun = [], anyio.Event()

    async def slow(message):
        begun.set()
        await anyio.sleep(0.01)
        seen.append(message.payload)

    async with serve() as pubsub:
        await pubsub.on("runs", slow)
        async with pubsub.subscribe("runs") as messages:
            await pubsub.publish_many("runs", range(10))
            await collect(messages, 10)
        await begun.wait()
    assert list(range(10)) == seen


async def test_closed_callback_is_not_called(pubsub):
    """After `close` no message reaches the callback."""
    seen = []
    subscription = await pubsub.on("runs", seen.append)
    await subscription.close()
    async with pubsub.subscribe("runs") as messages:
        await pubsub.publish("runs", 1)
        await collect(messages, 1)
    assert [] == seen


# --- bounds ---------------------------------------------------------------------------------------------


async def test_overflow_raises_in_the_slow_subscriber(pubsub):
    """With the default policy who reads too slowly gets what fitted, then an error."""
    async with pubsub.subscribe("runs", queue_size=3) as slow, pubsub.subscribe("runs") as fast:
        await pubsub.publish_many("runs", range(10))
        assert list(range(10)) == await collect(fast, 10)
        assert [0, 1, 2] == await collect(slow, 3)
        with pytest.raises(SubscriptionOverflowError, match="queue_size"):
            await anext(slow)


async def test_overflow_can_drop_the_oldest(pubsub):
    """The newest messages stay, the others are counted."""
    async with pubsub.subscribe("runs", queue_size=3, overflow="drop_oldest") as slow:
        async with pubsub.subscribe("runs") as fast:
            await pubsub.publish_many("runs", range(10))
            await collect(fast, 10)
        assert [7, 8, 9] == await collect(slow, 3)
        assert 7 == slow.statistics.dropped


async def test_overflow_can_block_the_source(serve, backend):
    """Nothing more is read while the subscriber is full, and nothing is lost."""
    count = 3_000
    async with serve() as pubsub, serve() as other:
        publisher = pubsub if backend == "memory" else other
        async with pubsub.subscribe("runs", queue_size=50, overflow="block") as slow:

            async def publish():
                for start in range(0, count, 100):
                    await publisher.publish_many("runs", ["x" * 400 + str(n) for n in range(start, start + 100)])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish)
                with anyio.fail_after(10):
                    while not pubsub._router.is_blocked:
                        await anyio.sleep(0.01)
                await anyio.sleep(0.2)
                assert slow.statistics.waiting < count
                found = await collect(slow, count)
        assert ["x" * 400 + str(n) for n in range(count)] == found
        assert not pubsub._router.is_blocked


# --- life -----------------------------------------------------------------------------------------------


async def test_stop_ends_iteration(serve):
    """Who iterates when the service stops sees the end of the loop."""
    ended = anyio.Event()

    async def read(pubsub):
        async for _ in pubsub.subscribe("runs"):
            pass
        ended.set()

    async with anyio.create_task_group() as tasks:
        async with serve() as pubsub:
            tasks.start_soon(read, pubsub)
            while not pubsub._router.topics():
                await anyio.sleep(0.01)
        with anyio.fail_after(5):
            await ended.wait()


async def test_use_before_start_is_an_error():
    """Publishing and subscribing name the service and say what to do."""
    service = PubSubService(PubSubConfig(backend="memory"))
    with pytest.raises(ServiceUnavailableError, match="isn't started"):
        await service.publish("runs", 1)
    with pytest.raises(ServiceUnavailableError, match="isn't started"):
        async with service.subscribe("runs"):
            pass


async def test_closed_subscription_is_not_opened_again(pubsub):
    """It ends when it is iterated over, and says what to do when it is entered."""
    async with pubsub.subscribe("runs") as messages:
        pass
    assert not messages.is_open
    with pytest.raises(StopAsyncIteration):
        await anext(messages)
    with pytest.raises(IllegalStateError, match="subscribe again"):
        await messages.open()


async def test_cancelled_subscriber_leaves_nothing(pubsub):
    """A subscription that is cancelled while it waits or opens is forgotten."""
    for delay in [0.0, 0.0005, 0.01]:
        with anyio.move_on_after(delay), contextlib.suppress(ServiceTimeoutError):  # whichever is first
            async with pubsub.subscribe("runs") as messages:
                await anext(messages)
    with anyio.fail_after(5):
        while pubsub._router.topics():
            await anyio.sleep(0.01)
    async with pubsub.subscribe("runs") as messages:
        await pubsub.publish("runs", "alive")
        assert ["alive"] == await collect(messages, 1)


async def test_health_tells_numbers(pubsub, backend):
    """The details say which backend, how many topics, and what was published and received."""
    async with pubsub.subscribe("runs") as messages:
        await pubsub.publish("runs", 1)
        await collect(messages, 1)
        health = await pubsub.health_check()
    assert health
    expected = "redis, else postgres" if backend == "both" else backend
    assert (expected, 1, 1, 1, 0) == tuple(
        health.details[key] for key in ("backend", "topics", "published", "received", "gaps")
    )
