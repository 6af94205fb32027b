"""Pools by database, and connections outside of them: opened once, bounded, closed in the end."""

import asyncio
import gc

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import (
    ConnectionFailedError,
    DatabaseError,
    DeadlineExceededError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import ConnectionManager, Identifier, PostgresConfig, PostgresService


@pytest.fixture
async def tenants(database):
    """The names of three databases."""
    names = [f"svc_tenant_{number}" for number in range(3)]
    known = {row["datname"] for row in await database.execute_query("SELECT datname FROM pg_database")}
    for name in names:
        if name not in known:
            await database.execute(f"CREATE DATABASE {Identifier(name)} STRATEGY file_copy", timeout=60)
    return names


@pytest.fixture
async def manager(postgres, tenants):
    """Two databases at most, with idle connections that are soon too old."""
    manager = ConnectionManager(PostgresConfig(max_databases=2, pool_idle_lifetime=0.3), server=postgres)
    await manager.open()
    yield manager
    await manager.close()


async def _backends(database, name):
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = $1"
    return (await database.execute_one(query, name))["n"]


async def _until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_many_who_ask_at_once_get_one_pool(manager, tenants):
    """The pool is opened once however many wait for it, and none of them gets it before it is open."""
    pools = await asyncio.gather(*(manager.open_pool(tenants[0]) for _ in range(20)))
    assert 1 == len(set(map(id, pools)))
    assert 1 == pools[0].statistics.opened


async def test_failed_opening_is_everybodys_error_and_nobodys_later(manager):
    """All who wait for it get the error, and the next one tries again."""
    found = await asyncio.gather(*(manager.open_pool("svc_nowhere") for _ in range(5)), return_exceptions=True)
    assert ["3D000"] * 5 == [error.sqlstate for error in found]
    assert {} == dict(manager.pools)
    with pytest.raises(DatabaseError):
        await manager.open_pool("svc_nowhere")


async def test_one_who_gives_up_takes_the_pool_from_nobody(manager, tenants):
    """The opening goes on when whoever asked first is cancelled or runs out of time."""
    first = asyncio.create_task(manager.open_pool(tenants[0]))
    others = [asyncio.create_task(manager.open_pool(tenants[0])) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(DeadlineExceededError):
        with deadline(1e-6):
            await manager.open_pool(tenants[0])
    pools = await asyncio.gather(*others)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert pools == [await manager.open_pool(tenants[0])] * 3


async def test_pool_pushed_out_still_works_and_keeps_no_connection(manager, tenants, database):
    """The one used longest ago makes room; who holds it goes on, and it is the same one when it is asked for again."""
    first, second = await manager.open_pool(tenants[0]), await manager.open_pool(tenants[1])
    async with first.acquire() as held:
        await manager.open_pool(tenants[2])
        assert 1 == await held.fetchval("SELECT 1")
    assert tenants[0] == (await first.execute_one("SELECT current_database() AS d"))["d"]
    await _until(lambda: _none(database, tenants[0]))
    assert second is await manager.open_pool(tenants[1])
    assert first is await manager.open_pool(tenants[0])
    await first.execute_one("SELECT 1")
    assert 1 == first.statistics.idle


async def _none(database, name):
    return not await _backends(database, name)


async def test_pool_that_nobody_holds_is_forgotten(manager, tenants):
    """A pool that was pushed out leaves nothing in memory."""
    for name in tenants:
        await (await manager.open_pool(name)).execute_one("SELECT 1")

    async def forgotten():
        gc.collect()
        return 2 == len(manager.pools)

    await _until(forgotten)
    assert set(tenants[1:]) == set(manager.pools)


async def test_idle_connections_are_closed_by_themselves(manager, tenants, database):
    """A database that nobody asks any more costs no connection after `pool_idle_lifetime`; the main one keeps its."""
    pool = await manager.open_pool(tenants[0])
    await asyncio.gather(*(pool.execute_query("SELECT pg_sleep(0.05)") for _ in range(3)))
    await asyncio.gather(*(manager.main.execute_query("SELECT pg_sleep(0.05)") for _ in range(3)))
    await _until(lambda: _none(database, tenants[0]))

    async def settled():
        return (0, 1) == (pool.statistics.size, manager.main.statistics.size)

    await _until(settled)
    assert 3 == pool.statistics.closed
    assert 0 == pool.statistics.discarded
    assert tenants[0] == (await pool.execute_one("SELECT current_database() AS d"))["d"]


async def test_health_of_each_database(database, tenants):
    """What one of them can't do is told by its name, and the service is degraded."""
    pools = [await database.get_org_pool(name) for name in tenants[:2]]
    assert (await database.health_check()).details["pools"][tenants[0]]["ok"]
    await database.execute(f"ALTER DATABASE {tenants[0]} ALLOW_CONNECTIONS false")
    try:
        await database.execute_query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", tenants[0]
        )
        with pytest.raises((ConnectionFailedError, DatabaseError)):
            async with asyncio.timeout(30):
                while True:
                    await pools[0].execute_one("SELECT 1")

        async def told():
            found = await database.health_check()
            return not found.details["pools"][tenants[0]]["ok"] or not pools[0].statistics.idle

        await _until(told)
        assert (await database.health_check()).details["pools"][tenants[1]]["ok"]
    finally:
        await database.execute(f"ALTER DATABASE {tenants[0]} ALLOW_CONNECTIONS true")


async def test_closed_manager_closes_everything_and_opens_again(postgres, tenants, database):
    """Pools that were pushed out and connections outside are closed as well; what is asked later is refused."""
    manager = ConnectionManager(PostgresConfig(max_databases=1, application_name="svc_closing"), server=postgres)
    await manager.open()
    pools = [await manager.open_pool(name) for name in tenants]
    outside = await manager.open_connection(tenants[0])
    opening = asyncio.create_task(manager.open_connection())
    await asyncio.sleep(0)
    await manager.close()
    assert outside.is_closed()
    assert isinstance((await asyncio.gather(opening, return_exceptions=True))[0], ServiceUnavailableError)
    for ask in (manager.open_pool(tenants[0]), manager.open_connection(), pools[0].execute_one("SELECT 1")):
        with pytest.raises(ServiceUnavailableError):
            await ask

    async def gone():
        query = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'svc_closing'"
        return 0 == (await database.execute_one(query))["n"]

    await _until(gone)
    await manager.open()
    assert 1 == (await manager.main.execute_one("SELECT 1 AS n"))["n"]
    await manager.close()


async def test_connection_outside_the_pools(database, tenants):
    """It has the codecs, takes no place in a pool, is counted, and may be of another database."""
    connection = await database.open_connection(tenants[1])
    assert [tenants[1], {"a": 1}] == list(await connection.fetchrow("SELECT current_database(), '{\"a\": 1}'::jsonb"))
    assert 1 == database.connections.outside == (await database.health_check()).details["outside"]
    assert 1 == database.pool.statistics.size
    await connection.close()

    async def counted():
        return 0 == database.connections.outside

    await _until(counted)


async def test_connection_that_comes_too_late_is_closed(database):
    """Who is cancelled while it is opened leaves nothing behind."""
    for steps in range(12):
        opening = asyncio.create_task(database.open_connection())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)

    async def nothing_left():
        return not database.connections.outside and not database.connections._connecting

    await _until(nothing_left)


async def test_connection_to_nowhere_is_a_typed_error(postgres):
    """A server that is gone or silent is told as by any other call."""
    async with FaultProxy(postgres.dsn) as proxy:
        service = PostgresService(PostgresConfig(dsn=proxy.through(postgres.dsn), connect_timeout=1.5, stop_timeout=1))
        await service.on_startup()
        await proxy.refuse()
        with pytest.raises(ConnectionFailedError):
            await service.open_connection()
        await proxy.black_hole()
        with pytest.raises(ServiceTimeoutError):
            await service.open_connection()
        await service.on_shutdown()
    with pytest.raises(ServiceUnavailableError, match="isn't started"):
        await service.open_connection()


async def test_statistics_count_what_a_pool_has_done(postgres):
    """Waits, timeouts and connections opened, closed and thrown away are counted, in constant memory."""
    service = PostgresService(PostgresConfig(pool_max_size=1, acquire_timeout=30), server=postgres)
    await service.on_startup()
    before = service.pool.statistics
    async with service.pool.acquire():
        with pytest.raises(ServiceTimeoutError):
            await service.execute_one("SELECT 1", timeout=0.1)
        waiting = asyncio.create_task(service.execute_one("SELECT 1", timeout=30))
        await asyncio.sleep(0.02)
    await waiting
    with pytest.raises(ServiceTimeoutError):
        await service.execute_one("SELECT pg_sleep(10)", timeout=0.05)
    await service.execute_one("SELECT 1", timeout=30)
    after = service.pool.statistics
    assert (1, 1) == (after.timeouts, after.discarded)
    assert (before.opened + 1, before.closed + 1) == (after.opened, after.closed)
    assert after.waited >= before.waited + 2
    assert after.wait_max >= 0.09
    assert after.wait_seconds >= after.wait_max
    told = (await service.health_check()).details
    assert (after.timeouts, after.discarded, after.opened) == (told["timeouts"], told["discarded"], told["opened"])
    await service.on_shutdown()
