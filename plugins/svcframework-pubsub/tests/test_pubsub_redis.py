"""What holds on Redis alone: foreign messages, groups on streams, the outbox."""

import anyio
import msgspec
import pytest

from svcframework_postgres import PostgresConfig, PostgresService
from svcframework_pubsub import PubSubConfig, PubSubService, UnsupportedError
from svcframework_redis import RedisConfig, RedisService


@pytest.fixture
def backend():
    return "redis"


@pytest.fixture
async def redis(valkey_server):
    """A running RedisService on an empty database."""
    service = RedisService(RedisConfig(), server=valkey_server)
    await service.on_startup()
    await service.execute("FLUSHDB")
    yield service
    await service.on_shutdown()


@pytest.fixture
def claim_after():
    """Seconds until a message that nobody acknowledged is somebody else's; a busy machine doesn't take so long."""
    return 60.0


@pytest.fixture
async def pubsub(redis, claim_after):
    """A service on that one."""
    config = PubSubConfig(backend="redis", durable_channels=("jobs*",), claim_after=claim_after, max_deliveries=2)
    service = PubSubService(config, redis=redis)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def next_of(messages):
    with anyio.fail_after(10):
        return await anext(messages)


async def test_foreign_message_is_a_message(pubsub, redis):
    """What redis-cli publishes arrives: JSON as its value, text as text, anything else as bytes."""
    async with pubsub.subscribe("runs") as messages:
        for data in [b'{"a": 1}', b"plain text", b"\xff\xfe"]:
            await redis.execute("PUBLISH", "runs", data)
        assert [{"a": 1}, "plain text", b"\xff\xfe"] == [(await next_of(messages)).payload for _ in range(3)]


async def test_group_shares_messages(pubsub):
    """Each message goes to one consumer, and also to whoever just listens."""
    seen, done = [], anyio.Event()

    def work(name):
        def handle(message):
            seen.append((name, message.payload))
            if len(seen) == 20:
                done.set()

        return handle

    workers = [await pubsub.on_group("jobs", "workers", work(name)) for name in ("a", "b")]
    async with pubsub.subscribe("jobs") as messages:
        await pubsub.publish_many("jobs", range(20))
        assert list(range(20)) == [(await next_of(messages)).payload for _ in range(20)]
    with anyio.fail_after(10):
        await done.wait()
    for worker in workers:
        await worker.close()
    assert list(range(20)) == sorted(payload for _, payload in seen)


async def test_group_gets_what_came_while_nobody_read(pubsub):
    """Messages wait for a group without consumers; another group begins where it is made."""
    async with pubsub.group("jobs", "workers"):
        pass
    await pubsub.publish_many("jobs", [1, 2])
    async with pubsub.group("jobs", "late"), pubsub.group("jobs", "workers") as messages:
        first, second = await next_of(messages), await next_of(messages)
        await first.ack()
        await second.ack()
    assert [(1, 1), (2, 1)] == [(message.payload, message.deliveries) for message in (first, second)]


@pytest.mark.parametrize("claim_after", [0.2])
async def test_unacknowledged_message_is_claimed_then_dead(pubsub):
    """After `claim_after` another consumer gets it, after `max_deliveries` it goes to the channel of the dead."""
    async with pubsub.group("jobs.dead", "undertakers") as dead, pubsub.group("jobs", "workers") as first:
        await pubsub.publish("jobs", "poison")
        assert 1 == (await next_of(first)).deliveries
        async with pubsub.group("jobs", "workers") as second:
            claimed = await next_of(second)
            assert ("poison", 2) == (claimed.payload, claimed.deliveries)
            await anyio.sleep(0.25)
            await pubsub.publish("jobs", "healthy")
            healthy = await next_of(second)
            await healthy.ack()
            assert "healthy" == healthy.payload
        assert "poison" == (await next_of(dead)).payload


async def test_released_message_comes_again_soon(redis):
    """`release` gives a message to whoever reads next, without the wait."""
    service = PubSubService(PubSubConfig(backend="redis", claim_after=60.0), redis=redis)
    await service.on_startup()
    async with service.group("jobs", "workers") as messages:
        await service.publish("jobs", 1, durable=True)
        message = await next_of(messages)
        await message.release()
        again = await next_of(messages)
        assert (message.id, 2) == (again.id, again.deliveries)
        await again.ack()
    await service.on_shutdown()


@pytest.mark.parametrize("claim_after", [1.0])
async def test_callback_of_a_group_acknowledges_what_it_returned_from(pubsub):
    """A message whose callback raised comes again, one whose callback returned doesn't."""
    seen, done, errors = [], anyio.Event(), []

    async def work(message):
        seen.append((message.payload, message.deliveries))
        if message.payload == "shaky" and message.deliveries == 1:
            raise RuntimeError("not yet")
        if message.payload == "shaky":
            done.set()

    await pubsub.on_group("jobs", "workers", work, on_error=lambda error, _: errors.append(str(error)))
    await pubsub.publish_many("jobs", ["shaky", "sound"])
    with anyio.fail_after(10):
        await done.wait()
    await anyio.sleep(1.2)
    assert [("shaky", 1), ("sound", 1), ("shaky", 2)] == seen
    assert ["not yet"] == errors


class Job(msgspec.Struct):
    number: int


async def test_malformed_job_is_dead_at_once(pubsub):
    """What doesn't fit the model isn't tried again."""
    errors = []
    typed = pubsub.channel("jobs", Job)
    async with (
        pubsub.group("jobs.dead", "undertakers") as dead,
        typed.group("w", on_error=lambda error, _: errors.append(error)) as jobs,
    ):
        await pubsub.publish_many("jobs", [{"number": "x"}, {"number": 2}])
        assert Job(2) == (await next_of(jobs)).payload
        assert {"number": "x"} == (await next_of(dead)).payload
    assert 1 == len(errors)


async def test_kept_messages_are_bounded(redis):
    """A durable channel keeps about `stream_max_length` messages."""
    service = PubSubService(PubSubConfig(backend="redis", stream_max_length=100), redis=redis)
    await service.on_startup()
    await service.publish_many("jobs", range(2_000), durable=True)
    await service.on_shutdown()
    assert 400 > await redis.execute("XLEN", "svcframework:pubsub:stream:jobs")


async def test_group_leaves_no_consumer_behind(pubsub, redis):
    """A consumer that has nothing pending is forgotten when it leaves."""
    async with pubsub.group("jobs", "workers") as messages:
        await pubsub.publish("jobs", 1)
        await (await next_of(messages)).ack()
    assert [] == list(await redis.execute("XINFO", "CONSUMERS", "svcframework:pubsub:stream:jobs", "workers"))


async def test_group_needs_a_backend_that_keeps():
    """Memory and PostgreSQL refuse, and say which backends can."""
    service = PubSubService(PubSubConfig(backend="memory"))
    await service.on_startup()
    with pytest.raises(UnsupportedError, match="redis or nats"):
        service.group("jobs", "workers")
    with pytest.raises(UnsupportedError, match="redis or nats"):
        await service.publish("jobs", 1, durable=True)
    await service.on_shutdown()


# --- the outbox -----------------------------------------------------------------------------------------


@pytest.fixture
async def database(postgres_server):
    """A running PostgresService without an outbox."""
    service = PostgresService(PostgresConfig(pool_max_size=4), server=postgres_server)
    await service.on_startup()
    await service.execute_query("DROP TABLE IF EXISTS svcframework_pubsub_outbox")
    yield service
    await service.on_shutdown()


@pytest.fixture
async def outbox(redis, database):
    """A service on both."""
    service = PubSubService(PubSubConfig(backend="redis", outbox_interval=30.0), redis=redis, postgres=database)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_outbox_sends_on_commit(outbox, database):
    """A message of a transaction goes to Redis when it commits, at once and in order, durable ones too."""
    async with outbox.group("jobs", "workers") as jobs, outbox.subscribe("runs") as messages:
        async with database.transaction() as tx:
            await outbox.publish("runs", 1, transaction=tx)
            await outbox.publish_many("runs", [2, 3], transaction=tx)
            await outbox.publish("jobs", "job", transaction=tx, durable=True)
            await anyio.sleep(0.1)
            assert 0 == messages.statistics.waiting
        assert [1, 2, 3] == [(await next_of(messages)).payload for _ in range(3)]
        job = await next_of(jobs)
        await job.ack()
        assert "job" == job.payload
        with anyio.fail_after(10):
            while await outbox._outbox.waiting():  # what was sent is removed after it, and may be heard before that
                await anyio.sleep(0.01)


async def test_outbox_forgets_a_rollback(outbox, database):
    """What was published in a transaction that fails is never sent."""

    class StopError(Exception):
        pass

    async with outbox.subscribe("runs") as messages:
        with pytest.raises(StopError):
            async with database.transaction() as tx:
                await outbox.publish("runs", "no", transaction=tx)
                raise StopError
        async with database.transaction() as tx:
            await outbox.publish("runs", "yes", transaction=tx)
        assert "yes" == (await next_of(messages)).payload


async def test_outbox_left_behind_is_relayed_once_to_each(redis, database, outbox):
    """A relay that died after sending sends again; who has the message already doesn't get it twice."""
    async with outbox.subscribe("runs") as messages:
        failing = True
        publish = outbox._outbox._publish

        async def publish_and_die(*args):
            await publish(*args)
            if failing:
                raise RuntimeError("died before the commit")

        outbox._outbox._publish = publish_and_die
        async with database.transaction() as tx:
            await outbox.publish("runs", "once", transaction=tx)
        assert "once" == (await next_of(messages)).payload
        assert 1 == await outbox._outbox.waiting()
        failing = False
        outbox._outbox._bell.set()
        with anyio.fail_after(10):
            while await outbox._outbox.waiting():
                await anyio.sleep(0.02)
        await outbox.publish("runs", "end")
        assert "end" == (await next_of(messages)).payload


async def test_transaction_without_a_database_is_refused(pubsub):
    """The error says what to give the service."""
    with pytest.raises(UnsupportedError, match="PostgresService"):
        await pubsub.publish("runs", 1, transaction=object())
