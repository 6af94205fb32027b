"""Several hosts, and a primary that is lost: who is connected to, what callers see, and what is kept."""

import asyncio
import gc
import time

import pytest

from svcframework.errors import ConnectionFailedError, DatabaseError, ServiceFrameworkError
from svcframework.testing.faults import FaultProxy
from svcframework_embedded import EmbeddedPostgres, EmbeddedPostgresReplica, running
from svcframework_postgres import Connection, PostgresConfig, PostgresService, ReadOnlyServerError
from svcframework_postgres.connections import connect

SOON = 20.0  # seconds; only ever waited for when something is broken
WHO = "SELECT pg_is_in_recovery() AS standby, inet_server_port() AS port"


def both(dsn, *ports):
    """The address with these servers in it."""
    head, _, tail = dsn.rpartition("@")
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"{head}@{hosts}/{tail.partition('/')[2]}"


async def opened(**settings):
    service = PostgresService(PostgresConfig(**settings))
    await service.on_startup()
    return service


async def test_primary_is_found_among_the_hosts(postgres_server, postgres_replica):
    """Wherever it stands in the list, as an address or as a field; dead hosts and standbys are passed over."""
    order = [postgres_replica.port, 1, postgres_server.port]
    dsn = both(postgres_server.dsn, *order)
    fields = {
        "host": ",".join(f"127.0.0.1:{port}" for port in order),
        "user": "postgres",
        "database": "postgres",
        "password": postgres_server.dsn.partition("postgres:")[2].partition("@")[0],
    }
    for settings in ({"dsn": dsn}, fields):
        service = await opened(**settings)
        assert {"standby": False, "port": postgres_server.port} == dict(await service.execute_one(WHO))
        assert all(f"127.0.0.1:{port}" in service.pool.address for port in order)
        await service.on_shutdown()


async def test_only_host_may_be_a_standby(postgres_replica):
    """Who names one server gets it; who names several may ask for another kind than the primary."""
    for dsn in (
        postgres_replica.dsn,
        both(postgres_replica.dsn, 1, postgres_replica.port) + "?target_session_attrs=any",
    ):
        service = await opened(dsn=dsn)
        assert (await service.execute_one(WHO))["standby"]
        await service.on_shutdown()


async def test_silent_host_costs_a_quarter_of_a_second(postgres_server):
    """The next host is asked before the first one's time is up."""
    async with FaultProxy(postgres_server.dsn) as silent:
        await silent.black_hole()
        started = time.monotonic()
        service = await opened(dsn=both(postgres_server.dsn, silent.port, postgres_server.port), connect_timeout=15)
        assert time.monotonic() - started < 10
        assert not (await service.execute_one(WHO))["standby"]
        await service.on_shutdown()


async def test_connect_that_is_cancelled_leaves_nothing(postgres_server):
    """After any number of turns of the loop: no error that nobody fetches, which the driver alone leaves behind."""
    arguments = PostgresConfig(dsn=both(postgres_server.dsn, 1, postgres_server.port)).connect_arguments()
    left = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    for turns in range(120):
        call = asyncio.create_task(connect(arguments, address="here"))
        for _ in range(turns % 12):
            await asyncio.sleep(0)
        call.cancel()
        for opened in await asyncio.gather(call, return_exceptions=True):
            assert isinstance(opened, (asyncio.CancelledError, Connection))
            if isinstance(opened, Connection):
                opened.terminate()
    await asyncio.sleep(0.1)
    gc.collect()
    await asyncio.sleep(0)
    assert [] == left


async def test_hosts_without_a_primary_are_all_named(postgres_replica):
    """The error tells what is wrong with each, and is retryable: somebody may be promoted."""
    with pytest.raises(ConnectionFailedError, match="it is a standby") as caught:
        await opened(dsn=both(postgres_replica.dsn, 1, postgres_replica.port))
    assert caught.value.retryable
    assert f"127.0.0.1:{postgres_replica.port}" in str(caught.value)
    assert "127.0.0.1:1: " in str(caught.value)
    assert postgres_replica.dsn.partition("postgres:")[2].partition("@")[0] not in str(caught.value)


async def test_refusal_by_the_primary_is_told(postgres_server):
    """A wrong database is named as such, though another host is merely unreachable."""
    dsn = both(postgres_server.dsn, 1, postgres_server.port).removesuffix("postgres") + "nowhere"
    with pytest.raises(DatabaseError, match="nowhere"):
        await opened(dsn=dsn)


async def test_write_on_a_server_that_became_read_only(postgres_server, postgres_replica):
    """It is a retryable error of its own, once; the pool leaves that server, and the next call writes."""
    async with FaultProxy(postgres_replica.dsn) as address:  # as a DNS name or virtual IP that moves
        service = await opened(dsn=address.through(postgres_replica.dsn), pool_max_size=3)
        await asyncio.gather(*(service.execute_query("SELECT pg_sleep(0.05)") for _ in range(3)))
        address.target = ("127.0.0.1", postgres_server.port)  # for new connections
        async with service.pool.acquire():  # held meanwhile: it is closed when it comes back
            with pytest.raises(ReadOnlyServerError) as caught:
                await service.execute_query("CREATE TABLE IF NOT EXISTS moved (n int)")
        assert caught.value.retryable
        assert (await service.execute_query("CREATE TABLE IF NOT EXISTS moved (n int)")) == []
        answers = await asyncio.gather(*(service.execute_one(WHO + ", pg_sleep(0.05)") for _ in range(3)))
        assert [False] * 3 == [answer["standby"] for answer in answers]
        await service.on_shutdown()


async def test_transaction_on_a_server_that_became_read_only(postgres_server, postgres_replica):
    """Its write says the same, whatever the block makes of it; the next transaction is on the new primary."""
    async with FaultProxy(postgres_replica.dsn) as address:
        service = await opened(dsn=address.through(postgres_replica.dsn))
        address.target = ("127.0.0.1", postgres_server.port)
        with pytest.raises(RuntimeError, match="wrapped"):
            async with service.transaction() as tx:
                try:
                    await tx.execute("CREATE TABLE IF NOT EXISTS moved (n int)")
                except ReadOnlyServerError as error:
                    raise RuntimeError("wrapped") from error
        async with service.transaction() as tx:
            await tx.execute("CREATE TABLE IF NOT EXISTS moved (n int)")
        await service.on_shutdown()


async def test_every_kind_of_write_tells_a_standby(postgres_server, postgres_replica):
    """COPY, many rows and serializable transactions too, which can't even begin there."""
    primary, standby = await opened(dsn=postgres_server.dsn), await opened(dsn=postgres_replica.dsn)
    await primary.execute_query("CREATE TABLE IF NOT EXISTS kinds (n int)")
    async with asyncio.timeout(SOON):
        while (await standby.execute_one("SELECT to_regclass('kinds') AS found"))["found"] is None:
            await asyncio.sleep(0.01)
    writes = [
        lambda: standby.copy_in("kinds", [(1,)], columns=["n"]),
        lambda: standby.execute_many("INSERT INTO kinds VALUES ($1)", [(1,), (2,)]),
        lambda: standby.run_in_transaction(lambda tx: tx.execute("INSERT INTO kinds VALUES (1)")),
    ]
    for write in writes:
        with pytest.raises(ReadOnlyServerError):
            await write()
    await primary.on_shutdown()
    await standby.on_shutdown()


async def test_write_in_a_read_only_transaction_is_the_callers_mistake(database, postgres_replica):
    """It is no failover: not retryable, and no connection is closed for it."""
    standby = await opened(dsn=postgres_replica.dsn)
    for service in (database, standby):
        with pytest.raises(DatabaseError) as caught:
            async with service.transaction(readonly=True) as tx:
                await tx.execute("CREATE TABLE never (n int)")
        assert (False, "25006") == (caught.value.retryable, caught.value.sqlstate)
        assert 1 == service.pool.statistics.opened
    await standby.on_shutdown()


class Traffic:
    """Writers and readers that go on whatever happens, and remember what they were told."""

    def __init__(self, service, writers=6, readers=2):
        self.service = service
        self.acknowledged = set()
        self.errors, self.read_errors = [], []
        self.reads = self.last_write = 0
        self.over = False
        self.tasks = [asyncio.create_task(self.write(n)) for n in range(writers)]
        self.tasks += [asyncio.create_task(self.read()) for _ in range(readers)]

    async def write(self, writer):
        number = 0
        while not self.over:
            number += 1  # a number is tried once: what failed may have been written
            try:
                if number % 2:
                    await self.service.execute_returning("INSERT INTO log VALUES ($1, $2) RETURNING n", writer, number)
                else:
                    async with self.service.transaction() as tx:
                        await tx.execute_query("INSERT INTO log VALUES ($1, $2)", writer, number)
            except ServiceFrameworkError as error:
                self.errors.append(error)
                await asyncio.sleep(0.02)
            else:
                self.acknowledged.add((writer, number))
                self.last_write = time.monotonic()

    async def read(self):
        while not self.over:
            try:
                await self.service.reader.execute_one("SELECT count(*) FROM log")
            except ServiceFrameworkError as error:
                self.read_errors.append(error)
            else:
                self.reads += 1
            await asyncio.sleep(0.01)

    async def end(self):
        self.over = True
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def pair():
    """A primary behind a network that fails on command, and its replica."""
    async with (
        running(EmbeddedPostgres(), restart=False) as primary,
        running(EmbeddedPostgresReplica(primary=primary), restart=False) as replica,
        FaultProxy(primary.dsn) as proxy,
    ):
        yield primary, replica, proxy


@pytest.mark.parametrize("fault", ["killed", "silent"])
async def test_failover_loses_nothing_and_stops_no_read(pair, fault):
    """The primary is killed or cut off and its replica promoted, under load.

    Writes go on within 10 s without a restart; what was acknowledged is there once, what wasn't at most once; reads of
    the replica go on meanwhile. Replication is synchronous here: otherwise the last acknowledged writes could be lost.
    """
    primary, replica, proxy = pair
    ports = proxy.port, replica.port
    service = await opened(
        dsn=both(primary.dsn, *ports),
        replicas=[f"127.0.0.1:{port}" for port in ports],
        max_replica_lag=5.0,
        replica_check_interval=2.0,
        pool_max_size=4,
        command_timeout=5.0 if fault == "killed" else 2.0,
    )
    measuring = asyncio.create_task(service.on_run())
    await service.execute_query("CREATE TABLE log (writer int, n int)")
    await service.execute_query("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await service.execute_query("SELECT pg_reload_conf()")
    traffic = Traffic(service)
    async with asyncio.timeout(SOON):
        while len(traffic.acknowledged) < 100 or [False, True] != [s.in_use for s in service.reader.replicas]:
            await asyncio.sleep(0.02)

    await (primary.kill() if fault == "killed" else proxy.black_hole())
    before = len(traffic.acknowledged), traffic.reads
    async with asyncio.timeout(SOON):
        while traffic.reads < before[1] + 30:
            await asyncio.sleep(0.01)
    assert "healthy" != (await service.health_check())["status"]
    await replica.promote()
    promoted = time.monotonic()
    async with asyncio.timeout(SOON):
        while len(traffic.acknowledged) < before[0] + 50:
            await asyncio.sleep(0.01)
    assert time.monotonic() - promoted < 10
    assert await service.health_check()
    await traffic.end()

    rows = [tuple(row) for row in await service.execute_query("SELECT writer, n FROM log")]
    assert len(rows) == len(set(rows))
    assert traffic.acknowledged <= set(rows)
    if fault == "killed":
        assert [] == traffic.read_errors
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    await service.on_shutdown()
