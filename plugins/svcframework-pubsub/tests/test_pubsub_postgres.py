"""What holds on PostgreSQL alone: transactions, the limit of NOTIFY, foreign notifications, the queue."""

import anyio
import asyncpg
import pytest

from svcframework.errors import DatabaseError
from svcframework_postgres import PostgresConfig, PostgresService
from svcframework_pubsub import MessageLostError, PubSubConfig, PubSubService


@pytest.fixture
def backend():
    return "postgres"


@pytest.fixture
async def database(postgres_server):
    """A running PostgresService."""
    service = PostgresService(PostgresConfig(pool_max_size=4), server=postgres_server)
    await service.on_startup()
    yield service
    await service.on_shutdown()


@pytest.fixture
async def pubsub(database):
    """A service on that one."""
    service = PubSubService(PubSubConfig(backend="postgres"), postgres=database)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def next_payload(messages):
    with anyio.fail_after(10):
        return (await anext(messages)).payload


async def test_transaction_sends_on_commit_only(pubsub, database):
    """Nothing is heard before the commit, everything after it, in order, long messages and equal ones too."""
    sent = ["same", "same", "x" * 9_000, {"a": 1}]
    async with pubsub.subscribe("runs") as messages, pubsub.subscribe(pattern="r*") as by_pattern:
        async with database.transaction() as tx:
            for message in sent:
                assert await pubsub.publish("runs", message, transaction=tx)
            await pubsub.publish_many("runs", ["many", "many"], transaction=tx)
            await pubsub.publish("other", "sent at once")
            await anyio.sleep(0.05)
            assert 0 == messages.statistics.waiting
        assert [*sent, "many", "many"] == [await next_payload(messages) for _ in range(6)]
        assert [*sent, "many", "many"] == [await next_payload(by_pattern) for _ in range(6)]


async def test_rollback_sends_nothing(pubsub, database):
    """What was published in a transaction that fails is never heard, nor is its long payload kept."""

    class StopError(Exception):
        pass

    async with pubsub.subscribe("runs") as messages:
        with pytest.raises(StopError):
            async with database.transaction() as tx:
                await pubsub.publish("runs", "no", transaction=tx)
                await pubsub.publish("runs", "n" * 9_000, transaction=tx)
                raise StopError
        await pubsub.publish("runs", "yes")
        assert "yes" == await next_payload(messages)
    assert not await database.execute_query("SELECT 1 FROM svcframework_pubsub_payload WHERE data LIKE '%nnnn%'")


async def test_foreign_notification_is_a_message(pubsub, database):
    """What triggers and psql send arrives: JSON as its value, anything else as its text."""
    async with pubsub.subscribe("runs") as messages:
        for text in ['{"table": "runs"}', "plain", "", '{"svc": broken', "[1,"]:
            await database.execute_query("SELECT pg_notify('runs', $1)", text)
        found = [await anext(messages) for _ in range(5)]
    assert [{"table": "runs"}, "plain", "", '{"svc": broken', "[1,"] == [message.payload for message in found]
    assert all(message.is_foreign and message.id == "" and message.time == 0 for message in found)


async def test_names_inject_nothing(pubsub, database):
    """A channel's name reaches the server as a quoted identifier or a bound value, whatever it holds."""
    await database.execute_query("CREATE TABLE IF NOT EXISTS victims (id int)")
    for name in ['runs"; DROP TABLE victims; --', "runs'; DROP TABLE victims; --", "$1", "a\\'b"]:
        async with pubsub.subscribe(name) as messages:
            await pubsub.publish(name, name)
            assert name == await next_payload(messages)
    assert [] == await database.execute_query("SELECT * FROM victims")


async def test_patterns_cost_nothing_unless_somebody_listens(pubsub, postgres_server):
    """Messages are sent once more only while a subscriber of a pattern exists, in this process or another."""
    seen = []
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.add_listener("svc:any", lambda *args: seen.append(args[3].partition("\n")[0]))
    await pubsub.publish("before", 1)
    async with pubsub.subscribe(pattern="*") as messages:
        await pubsub.publish("during", 2)
        assert 2 == await next_payload(messages)
    with anyio.fail_after(5):
        while "svc:any" in pubsub._backend._listener._live:
            await anyio.sleep(0.01)
    await pubsub.publish("after", 3)
    await connection.fetchval("SELECT 1")
    await connection.close()
    assert ["during"] == seen


async def test_old_payloads_are_removed(database):
    """Long messages are kept for `payload_retention` seconds."""
    service = PubSubService(PubSubConfig(backend="postgres", payload_retention=0.001), postgres=database)
    await service.on_startup()
    await service.publish("runs", "y" * 9_000)
    await service._backend._payloads.clean()
    await service.on_shutdown()
    assert not await database.execute_query("SELECT 1 FROM svcframework_pubsub_payload WHERE data LIKE '%yyyy%'")


async def test_lost_payload_is_told(pubsub, database):
    """A long message that was removed before it was read is an error for `on_error`; the next one arrives."""
    errors = []
    async with pubsub.subscribe("runs", on_error=lambda error, _: errors.append(error)) as messages:
        fetch = pubsub._backend._payloads.fetch

        async def remove_first(name):
            await database.execute_query("DELETE FROM svcframework_pubsub_payload WHERE id = $1", name)
            return await fetch(name)

        pubsub._backend._payloads.fetch = remove_first
        await pubsub.publish("runs", "z" * 9_000)
        await pubsub.publish("runs", "short")
        assert "short" == await next_payload(messages)
    assert [MessageLostError] == [type(error) for error in errors]


async def test_payload_table_comes_back(pubsub, database):
    """A table that was dropped is made again with the next long message."""
    await pubsub.publish("runs", "x" * 9_000)
    await database.execute_query("DROP TABLE svcframework_pubsub_payload")
    with pytest.raises(DatabaseError):
        await pubsub.publish("runs", "x" * 9_000)
    assert await pubsub.publish("runs", "x" * 9_000)


async def test_full_queue_is_seen(pubsub):
    """The heartbeat asks how full the server's queue is, and health says when somebody should look."""
    pubsub._backend._listener.queue_usage = 0.7
    health = await pubsub.health_check()
    assert "degraded" == health["status"]
    assert "70% full" in health.message
    assert 0.7 == health.details["notification_queue"]


async def test_publishes_of_one_turn_share_a_statement(pubsub, database):
    """Fifty publishers at once cost a few statements, not fifty."""
    costs = []
    for _ in range(3):
        before = await statements(database)
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(pubsub.publish, "runs", number)
        costs.append(await statements(database) - before)
    assert 5 >= min(costs)  # the server has work of its own at times


async def statements(database):
    """Transactions that the server has committed in this database, about: each statement of ours is one."""
    await database.execute_query("SELECT pg_stat_force_next_flush()")
    await anyio.sleep(0.05)
    [row] = await database.execute_query("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return row[0]
