"""The read side on a real primary with real replicas: where reads go, how fresh they are, and what troubles them."""

import asyncio
import random
import time

import pytest

from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.testing.faults import FaultProxy
from svcframework_embedded import EmbeddedPostgres, EmbeddedPostgresConfig, EmbeddedPostgresReplica, running
from svcframework_postgres import PostgresConfig, PostgresService

WIDE = 60.0  # seconds of lag that a busy machine doesn't reach
SOON = 20.0  # seconds; only ever waited for when something is broken
WHO = "SELECT pg_is_in_recovery() AS standby"


@pytest.fixture(scope="module")
def servers(postgres_server, postgres_replica):
    """The run's primary and its replica."""
    return postgres_server, postgres_replica


class Driven:
    """A service with its `on_run` beside it, as under a host."""

    def __init__(self, service):
        self.service = service

    async def __aenter__(self):
        await self.service.on_startup()
        self.task = asyncio.create_task(self.service.on_run())
        return self.service

    async def __aexit__(self, *_):
        running_still = not self.task.done()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.service.on_shutdown()
        assert running_still, "on_run has ended by itself"


async def until(found):
    async with asyncio.timeout(SOON):
        while not found():
            await asyncio.sleep(0.01)


def in_use(service):
    return [status.in_use for status in service.reader.replicas]


@pytest.fixture
async def split(servers):
    """A service that reads from the run's replica, however far behind."""
    primary, replica = servers
    config = PostgresConfig(
        dsn=primary.dsn, replicas=[replica.dsn], max_replica_lag=WIDE, replica_check_interval=2.0, pool_max_size=4
    )
    async with Driven(PostgresService(config)) as service:
        await until(lambda: in_use(service) == [True])
        yield service


async def test_reads_go_to_the_replica(split):
    """Statements and transactions of the reader do; the service's own don't. The metrics tell."""
    assert (await split.reader.execute_one(WHO))["standby"]
    assert (await split.reader.execute_query(WHO))[0]["standby"]
    async with split.reader.transaction(isolation="repeatable read") as tx:
        assert await tx.fetchval("SELECT pg_is_in_recovery()")
    assert not (await split.execute_one(WHO))["standby"]
    assert 3 == split.metrics.operation("read.replica").success
    assert 0 == split.metrics.operation("read.primary").count
    (status,) = split.reader.replicas
    assert (3, 0, "") == (status.reads, status.failures, status.problem)
    assert 0 <= status.lag < SOON


async def test_reader_writes_nowhere(split):
    """Refused on the replica and, so that it doesn't depend on luck, on the primary."""
    for statement in ["CREATE TABLE never (x int)", "SELECT 1 FROM pg_class FOR UPDATE"]:
        with pytest.raises(DatabaseError) as caught:
            await split.reader.execute_query(statement)
        assert not caught.value.retryable
    with split.primary(), pytest.raises(DatabaseError) as caught:
        await split.reader.execute_query("CREATE TABLE never (x int)")
    assert ("25006", False) == (caught.value.sqlstate, caught.value.retryable)
    with split.primary(), pytest.raises(DatabaseError):
        async with split.reader.transaction() as tx:
            await tx.execute("CREATE TABLE never (x int)")


async def test_block_reads_from_the_primary(split):
    """Within `primary()` reads go there, in tasks that the block starts too, and nowhere else."""
    outside = asyncio.Event()

    async def read_elsewhere():
        await outside.wait()
        return (await split.reader.execute_one(WHO))["standby"]

    elsewhere = asyncio.create_task(read_elsewhere())
    with split.primary():
        assert not (await split.reader.execute_one(WHO))["standby"]
        assert not (await asyncio.create_task(split.reader.execute_one(WHO)))["standby"]
        outside.set()
        assert await elsewhere
    assert (await split.reader.execute_one(WHO))["standby"]


async def test_own_writes_are_seen_after_their_position(split):
    """A reader after a position sees what was committed before it, a hundred times out of a hundred."""
    await split.execute_query("CREATE TABLE IF NOT EXISTS seen (n int)")
    await split.execute_query("TRUNCATE seen")
    for n in range(1, 101):
        await split.execute_query("INSERT INTO seen VALUES ($1)", n)
        reader = split.reader.after(await split.position())
        assert n == (await reader.execute_one("SELECT count(*) AS n FROM seen"))["n"]
    position = await split.position()
    async with asyncio.timeout(SOON):
        while not (await split.reader.after(position).execute_one(WHO))["standby"]:  # the replica gets there
            await asyncio.sleep(0.02)
    with pytest.raises(ValueError, match="no position"):
        split.reader.after("yesterday")


async def test_tenant_is_read_from_the_replica(split):
    """Another database of the same servers has the same reader; one that hasn't arrived yet is read on the primary."""
    await split.execute_query("DROP DATABASE IF EXISTS acme")
    await split.execute_query("CREATE DATABASE acme")
    reader = split.get_org_reader("acme")
    assert "acme" == (await reader.execute_one("SELECT current_database() AS name"))["name"]
    async with asyncio.timeout(SOON):
        while not (await reader.execute_one(WHO))["standby"]:
            await asyncio.sleep(0.02)
    async with reader.after(await split.position()).transaction() as tx:
        assert "acme" == await tx.fetchval("SELECT current_database()")
    for name in ("", "a" * 64):
        with pytest.raises(ValueError, match=r"database|identifier"):
            split.get_org_reader(name)


async def test_idle_primary_keeps_its_replica(servers):
    """A replica that has everything is not behind, though nothing has happened for longer than the bound.

    Also where the log ends at the end of a page or segment, which `pg_switch_wal` brings about.
    """
    primary, replica = servers
    config = PostgresConfig(dsn=primary.dsn, replicas=[replica.dsn], max_replica_lag=1.0, replica_check_interval=0.2)
    async with Driven(PostgresService(config)) as service:
        await service.execute_query("SELECT pg_switch_wal()")
        async with asyncio.timeout(8):  # the server itself writes something every 15 s
            while not (await service.reader.after(await service.position()).execute_one(WHO))["standby"]:
                await asyncio.sleep(0.02)
        await asyncio.sleep(1.5)
        await until(lambda: in_use(service) == [True])


async def test_replica_that_lags_is_left_and_taken_back(servers):
    """Held up in its replay it is out once it is behind the bound, and back by itself when it has caught up."""
    primary, replica = servers
    config = PostgresConfig(dsn=primary.dsn, replicas=[replica.dsn], max_replica_lag=0.6, replica_check_interval=0.2)
    direct = PostgresService(PostgresConfig(dsn=replica.dsn))
    await direct.on_startup()
    async with Driven(PostgresService(config)) as service:
        await service.execute_query("CREATE TABLE IF NOT EXISTS lagging (n int)")
        await until(lambda: in_use(service) == [True])
        await direct.execute_query("SELECT pg_wal_replay_pause()")
        try:
            await service.execute_query("INSERT INTO lagging VALUES (1)")
            await until(lambda: "0.6 s are allowed" in service.reader.replicas[0].problem)
            assert [False] == in_use(service)
            assert not (await service.reader.execute_one(WHO))["standby"]
            (status,) = service.reader.replicas
            assert status.lag > 0.6
            health = await service.health_check()
            assert ("degraded", True) == (health["status"], status.address in health.message)
        finally:
            await direct.execute_query("SELECT pg_wal_replay_resume()")
        await until(lambda: in_use(service) == [True])
        assert await service.health_check()
    await direct.on_shutdown()


@pytest.fixture
async def faulty(servers):
    """A service whose replica is behind a network that fails on command."""
    primary, replica = servers
    async with FaultProxy(replica.dsn) as proxy:
        config = PostgresConfig(
            dsn=primary.dsn,
            replicas=[proxy.through(replica.dsn)],
            max_replica_lag=WIDE,
            replica_check_interval=1.0,
            connect_timeout=1.0,
            stop_timeout=1.0,
        )
        async with Driven(PostgresService(config)) as service:
            await until(lambda: in_use(service) == [True])
            assert (await service.reader.execute_one(WHO))["standby"]
            yield service, proxy


async def test_silent_replica_fails_no_read(faulty, capfd):
    """Reads that wait for it are asked of the primary within the check interval; when it speaks again it is used."""
    service, proxy = faulty
    await proxy.black_hole()
    started = time.monotonic()
    answers = await asyncio.gather(*(service.reader.execute_one(WHO) for _ in range(5)))
    assert [False] * 5 == [answer["standby"] for answer in answers]
    assert time.monotonic() - started < 4.5  # the limit of a call is 5 s, and the check's 1 s
    assert [False] == in_use(service)
    assert "degraded" == (await service.health_check())["status"]
    await proxy.pass_on()
    async with asyncio.timeout(10):
        await until(lambda: in_use(service) == [True])
    assert (await service.reader.execute_one(WHO))["standby"]
    assert 1 == capfd.readouterr().err.count("replica is out")


async def test_silent_primary_stops_no_read(servers):
    """Reads go on, on the replica, also those that had begun to wait for the primary; a write gets its own error."""
    primary, replica = servers
    async with FaultProxy(primary.dsn) as proxy:
        config = PostgresConfig(
            dsn=proxy.through(primary.dsn),
            replicas=[replica.dsn],
            max_replica_lag=1.2,
            replica_check_interval=0.6,
            stop_timeout=1.0,
        )
        async with Driven(PostgresService(config)) as service:
            await until(lambda: in_use(service) == [True])
            with service.primary():
                assert not (await service.reader.execute_one(WHO))["standby"]  # a connection to fall silent
            await proxy.black_hole()
            ending = time.monotonic() + 2.4
            while time.monotonic() < ending:
                started = time.monotonic()
                assert (await service.reader.execute_one(WHO))["standby"]
                assert time.monotonic() - started < 4.5  # the limit of a call is 5 s
                await asyncio.sleep(0.02)
            assert service.metrics.operation("read.failover").success
            with pytest.raises(ServiceTimeoutError):
                await service.execute_one("SELECT 1", timeout=0.3)
            await proxy.pass_on()
            await until(lambda: in_use(service) == [True])


async def test_replica_left_on_an_old_timeline_is_not_read_from():
    """A standby that follows the dead primary, while another one has taken over, holds what isn't true any more."""
    async with (
        running(EmbeddedPostgres(), restart=False) as primary,
        running(EmbeddedPostgresReplica(primary=primary), restart=False) as heir,
        running(EmbeddedPostgresReplica(primary=primary), restart=False) as orphan,
    ):
        address = primary.dsn.replace(f":{primary.port}/", f":{primary.port},127.0.0.1:{heir.port}/")
        config = PostgresConfig(dsn=address, replicas=[orphan.dsn], max_replica_lag=WIDE)
        async with Driven(PostgresService(config)) as service:
            await until(lambda: in_use(service) == [True])
            await primary.kill()
            await heir.promote()
            await until(lambda: "timeline" in service.reader.replicas[0].problem)
            assert not (await service.reader.execute_one(WHO))["standby"]


async def test_stop_while_a_replica_is_silent(faulty):
    """It stays in its budget: the fixture stops the service with the fault on."""
    service, proxy = faulty
    await proxy.black_hole()
    read = asyncio.create_task(service.reader.execute_one(WHO))
    await until(lambda: in_use(service) == [False])
    assert not (await read)["standby"]


@pytest.mark.parametrize("fault", ["reset", "refuse"])
async def test_replica_that_hangs_up_fails_no_read(faulty, fault):
    """Each read is asked of the primary instead, in one call."""
    service, proxy = faulty
    await getattr(proxy, fault)()
    for _ in range(5):
        assert not (await service.reader.execute_one(WHO))["standby"]
    async with service.reader.transaction() as tx:
        assert not await tx.fetchval("SELECT pg_is_in_recovery()")
    await proxy.pass_on()
    await until(lambda: in_use(service) == [True])


async def test_answer_cut_in_the_middle_is_asked_again(faulty):
    """Half an answer from a replica is no answer: the whole comes from the primary."""
    service, proxy = faulty
    await proxy.reset_after(5_000)
    rows = await service.reader.execute_query("SELECT repeat('x', 1000) AS x FROM generate_series(1, 100)")
    assert 100 == len(rows)
    assert 1 == service.metrics.operation("read.primary").success


async def test_no_read_fails_or_gets_anothers_answer(faulty):
    """Hundreds of reads, cancelled anywhere, while the replica's network fails in every way, have their own answers.

    Only a transaction that has begun on the replica can fail: it can't be begun again elsewhere.
    """
    service, proxy = faulty
    chance = random.Random(11)
    answers, broken, failed = [], [], []

    async def ask(number):
        if chance.random() < 0.3:
            try:
                async with service.reader.transaction() as tx:
                    answers.append((number, await tx.fetchval("SELECT $1::int", number)))
            except (ConnectionFailedError, ServiceTimeoutError) as error:
                broken.append(error)
        else:
            row = await service.reader.execute_one("SELECT $1::int AS n", number, timeout=15)
            answers.append((number, row["n"]))

    faults = [
        proxy.reset,
        proxy.refuse,
        proxy.pass_on,
        lambda: proxy.reset_after(chance.randrange(2000)),
        proxy.pass_on,
    ]
    for turn in range(40):
        if turn % 2:
            await chance.choice(faults)()
        if turn == 20:
            await proxy.black_hole()
        calls = [asyncio.create_task(ask(turn * 100 + n)) for n in range(12)]
        for call in chance.sample(calls, 4):
            for _ in range(chance.randrange(8)):
                await asyncio.sleep(0)
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        failed += [end for end in ends if isinstance(end, Exception)]
    assert [] == failed
    assert [] == [(number, found) for number, found in answers if number != found]
    assert len(answers) >= 40 * 8 - len(broken)
    await proxy.pass_on()
    await until(lambda: in_use(service) == [True])
    await until(lambda: not any(pool.statistics.in_use for pool in service._router._servers.replicas[0]._all))


async def test_broken_replicas_are_named_and_not_read_from(servers, tmp_path):
    """A standby of another cluster, the primary itself, a wrong password and a closed port: the primary is read."""
    primary, replica = servers
    made_anew = EmbeddedPostgresConfig(cache_dir=tmp_path / "cache")  # copies of one template are one cluster
    async with (
        running(EmbeddedPostgres(made_anew), restart=False) as other,
        running(EmbeddedPostgresReplica(primary=other), restart=False) as stranger,
    ):
        wrong = f"postgresql://postgres:canary-7Q@127.0.0.1:{replica.port}/postgres"
        replicas = [stranger.dsn, primary.dsn, wrong, "127.0.0.1:1"]
        config = PostgresConfig(dsn=primary.dsn, replicas=replicas, max_replica_lag=WIDE)
        async with Driven(PostgresService(config)) as service:
            words = ["another cluster", "primary", "authentication", "refused"]
            await until(
                lambda: words == [w for w, s in zip(words, service.reader.replicas, strict=True) if w in s.problem]
            )
            assert [False] * 4 == in_use(service)
            assert not (await service.reader.execute_one(WHO))["standby"]
            assert "canary" not in str(await service.health_check()) + str(service.reader.replicas)


async def test_reader_without_replicas(database):
    """It reads from the primary, and still writes nothing."""
    assert 1 == (await database.reader.execute_one("SELECT 1 AS n"))["n"]
    with pytest.raises(DatabaseError):
        await database.reader.execute_query("CREATE TABLE never (x int)")
    assert () == database.reader.replicas
    assert "replicas" not in (await database.health_check()).details


async def test_reader_of_a_stopped_service():
    """An error that says so."""
    with pytest.raises(ServiceUnavailableError):
        _ = PostgresService(PostgresConfig(host="127.0.0.1")).reader


async def test_unknown_isolation_is_refused(split):
    """Replicas have no serializable transactions."""
    with pytest.raises(ValueError, match="repeatable read"):
        async with split.reader.transaction(isolation="serializable"):
            pass


async def test_replica_killed_while_it_is_read(servers):
    """The read in flight, and those after it, come from the primary; the replica is used again when it is back."""
    primary, replica = servers
    config = PostgresConfig(dsn=primary.dsn, replicas=[replica.dsn], max_replica_lag=WIDE)
    async with Driven(PostgresService(config)) as service:
        await until(lambda: in_use(service) == [True])
        slow = asyncio.create_task(service.reader.execute_one("SELECT pg_is_in_recovery() AS standby, pg_sleep(1.5)"))
        await until(lambda: service.metrics.operation("read.replica").in_flight == 1)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(replica.kill)
        try:
            assert not (await service.reader.execute_one(WHO))["standby"]
            assert not (await slow)["standby"]
        finally:
            await asyncio.to_thread(replica.restart)
        await until(lambda: in_use(service) == [True])
        assert (await service.reader.execute_one(WHO))["standby"]
