"""Redis carries the messages, and PostgreSQL while Redis is away; subscribers hear both."""

from contextlib import asynccontextmanager

import anyio
import pytest

from svcframework.errors import ServiceFrameworkError
from svcframework.testing import FaultProxy
from svcframework_postgres import PostgresConfig, PostgresService
from svcframework_pubsub import PubSubConfig, PubSubService


@pytest.fixture
def addresses(valkey_server, postgres_server):
    """Where both servers are."""
    return valkey_server.url, postgres_server.dsn


@pytest.fixture
def both(serving):
    """Runs a service on two servers."""

    @asynccontextmanager
    async def run(redis, postgres, **settings):
        async with serving("both", redis, fallback_url=postgres, **settings) as pubsub:
            yield pubsub

    return run


async def next_payload(messages):
    with anyio.fail_after(10):
        return (await anext(messages)).payload


async def until_carried_by(pubsub, name):
    with anyio.fail_after(10):
        while (await pubsub.health_check()).details["carries"] != name:
            await anyio.sleep(0.02)


async def test_starts_without_redis_and_returns_to_it(both, addresses):
    """The start goes the second way, health says so, and Redis is used as soon as it is there."""
    redis, postgres = addresses
    async with FaultProxy(redis) as proxy:
        await proxy.refuse()
        async with both(proxy.through(redis), postgres) as pubsub, pubsub.subscribe("runs") as messages:
            await pubsub.publish("runs", "by PostgreSQL")
            assert "by PostgreSQL" == await next_payload(messages)
            health = await pubsub.health_check()
            assert ("degraded", "postgres") == (health["status"], health.details["carries"])
            await proxy.pass_on()
            await until_carried_by(pubsub, "redis")
            await pubsub.publish("runs", "by Redis")
            assert "by Redis" == await next_payload(messages)
            with anyio.fail_after(10):
                while (await pubsub.health_check())["status"] != "healthy":
                    await anyio.sleep(0.02)
            assert (await pubsub.health_check()).details["diverted"]


async def test_redis_that_comes_late_is_listened_to_first(both, addresses):
    """Messages go by PostgreSQL until this process has caught up with its subscriptions on Redis."""
    redis, postgres = addresses
    begun, may_go_on = anyio.Event(), anyio.Event()
    async with FaultProxy(redis) as proxy:
        await proxy.refuse()
        async with both(proxy.through(redis), postgres) as pubsub, pubsub.subscribe("runs") as messages:
            side = pubsub._backend._primary
            catches_up = side._catch_up

            async def catch_up_late(topic):
                begun.set()
                await may_go_on.wait()
                await catches_up(topic)

            side._catch_up = catch_up_late
            await proxy.pass_on()
            with anyio.fail_after(10):
                await begun.wait()
            assert await pubsub.publish("runs", "meanwhile")
            assert "meanwhile" == await next_payload(messages)
            may_go_on.set()
            await until_carried_by(pubsub, "redis")
            assert await pubsub.publish("runs", "by Redis")
            assert "by Redis" == await next_payload(messages)


@pytest.mark.parametrize("fault", ["refuse", "black_hole", "reset"])
async def test_failure_diverts_messages_without_loss(both, addresses, fault):
    """A publish that Redis does not answer goes to PostgreSQL within its time; nothing is lost, nothing comes twice."""
    redis, postgres = addresses
    async with FaultProxy(redis) as proxy:
        async with both(proxy.through(redis), postgres, timeout=1.5) as pubsub:
            async with pubsub.subscribe("runs") as messages:
                await pubsub.publish("runs", 0)
                assert 0 == await next_payload(messages)  # what is on its way to a listener when it is cut off is a gap
                await getattr(proxy, fault)()
                for number in range(1, 5):
                    assert await pubsub.publish("runs", number)
                await proxy.pass_on()
                await until_carried_by(pubsub, "redis")
                await pubsub.publish("runs", 5)
                found = [await next_payload(messages) for _ in range(5)]
                assert [1, 2, 3, 4, 5] == sorted(found)  # two ways have no common order
                assert 0 == messages.statistics.waiting


async def test_returns_to_redis_when_it_is_heard_there_too(both, addresses):
    """Redis takes messages again before this process listens to it again: until then they go by PostgreSQL."""
    redis, postgres = addresses
    async with FaultProxy(redis) as proxy:
        async with both(proxy.through(redis), postgres, reconnect_delay=0.5) as pubsub:
            async with pubsub.subscribe("runs") as messages:
                await proxy.refuse()
                assert await pubsub.publish("runs", "away")
                assert "away" == await next_payload(messages)
                await proxy.pass_on()
                await until_carried_by(pubsub, "redis")
                assert await pubsub.publish("runs", "back")
                assert "back" == await next_payload(messages)


async def test_publisher_and_subscriber_need_not_agree(both, addresses):
    """A publisher that can't see Redis is heard by subscribers that can, and the other way round."""
    redis, postgres = addresses
    async with FaultProxy(redis) as proxy:
        async with both(proxy.through(redis), postgres) as cut_off, both(redis, postgres) as well:
            async with cut_off.subscribe("runs") as here, well.subscribe(pattern="run?") as there:
                await proxy.refuse()
                await cut_off.publish("runs", "from the cut off")
                assert "from the cut off" == await next_payload(there) == await next_payload(here)
                await well.publish("runs", "from Redis")
                assert "from Redis" == await next_payload(there)


async def test_listener_that_was_cut_off_is_told(both, addresses):
    """Who could not hear Redis for a while is told of the gap: nothing is lost silently."""
    redis, postgres = addresses
    gaps = []
    async with (
        FaultProxy(redis) as proxy,
        both(proxy.through(redis), postgres) as cut_off,
        both(redis, postgres) as well,
    ):
        await cut_off.on("runs", lambda _: None, on_gap=gaps.append)
        await proxy.refuse()
        await well.publish("runs", "not heard by the cut off")
        await proxy.pass_on()
        with anyio.fail_after(10):
            while not gaps:
                await anyio.sleep(0.01)


async def test_message_that_went_both_ways_comes_once(both, addresses):
    """Redis took a message and its answer was lost: it is sent again the other way, with the same id."""
    redis, postgres = addresses
    async with FaultProxy(redis) as proxy:
        async with both(proxy.through(redis), postgres) as pubsub, both(redis, postgres) as other:
            async with other.subscribe("runs") as messages:
                await proxy.reset_after(1)
                await pubsub.publish("runs", "once")
                await other.publish("runs", "end")
                assert {"once", "end"} == {await next_payload(messages), await next_payload(messages)}
                await anyio.sleep(0.1)
                assert 0 == messages.statistics.waiting
            assert 1 == (await pubsub.health_check()).details["diverted"]


async def test_transaction_goes_by_postgres(both, addresses, postgres_server):
    """A transaction's messages need no relay: PostgreSQL sends them, and everybody listens there too."""
    database = PostgresService(PostgresConfig(), server=postgres_server)
    await database.on_startup()
    async with both(*addresses) as pubsub, pubsub.subscribe("runs") as messages:
        async with database.transaction() as tx:
            await pubsub.publish("runs", "committed", transaction=tx)
        assert "committed" == await next_payload(messages)
    await database.on_shutdown()


async def test_neither_server_is_an_error(both, addresses):
    """With both away the start fails with the first one's error; the other's is attached."""
    async with FaultProxy(addresses[0]) as redis, FaultProxy(addresses[1]) as postgres:
        await redis.refuse()
        await postgres.refuse()
        with pytest.raises(ServiceFrameworkError) as caught:
            async with both(redis.through(addresses[0]), postgres.through(addresses[1])):
                pass
        assert "The fallback failed too" in caught.value.__notes__[0]


async def test_publish_fails_when_both_are_away(both, addresses):
    """A publish that nobody takes raises in time, and works again afterwards."""
    async with FaultProxy(addresses[0]) as redis, FaultProxy(addresses[1]) as postgres:
        async with both(redis.through(addresses[0]), postgres.through(addresses[1])) as pubsub:
            await redis.refuse()
            await postgres.refuse()
            with pytest.raises(ServiceFrameworkError), anyio.fail_after(5):
                await pubsub.publish("runs", 1)
            assert "unhealthy" == (await pubsub.health_check())["status"]
            await postgres.pass_on()
            with anyio.fail_after(10):
                while True:
                    try:
                        await pubsub.publish("runs", 2)
                        break
                    except ServiceFrameworkError:
                        await anyio.sleep(0.02)


def test_fallback_is_of_redis_only():
    """PostgreSQL has no fallback; the setting is ignored there."""
    assert "none" == PubSubConfig(backend="postgres").fallback
    assert PubSubService(PubSubConfig(backend="memory", fallback="postgres"))
