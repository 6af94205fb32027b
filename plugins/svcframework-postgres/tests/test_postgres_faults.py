"""What callers see when the server dies, hangs or refuses, beyond what FaultConformance asks of every service."""

import asyncio
import contextlib

import asyncpg
import pytest

from svcframework.deadlines import deadline
from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DeadlineExceededError,
    ServiceTimeoutError,
)
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import PostgresConfig, PostgresService, TransactionOutcomeUnknownError
from svcframework_postgres.errors import translate


@contextlib.asynccontextmanager
async def _ends_within(limit):
    """The block ends within its limit, give or take what a busy machine needs.

    The loop's own clock decides, which is late for the block and for this when the loop is.
    """
    try:
        async with asyncio.timeout(limit + 3):
            yield
    except TimeoutError as error:
        assert isinstance(error, ServiceTimeoutError), f"it did not end within {limit} s"  # noqa: PT017 - ours may pass
        raise


async def test_call_in_flight_when_the_server_is_killed(mortal_postgres):
    """It ends at once with a typed error."""
    service = PostgresService(server=mortal_postgres)
    await service.on_startup()
    call = asyncio.create_task(service.execute_query("SELECT pg_sleep(30)"))
    while not service.pool.statistics.in_use:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    await mortal_postgres.kill()
    with pytest.raises(ConnectionFailedError):
        await call
    await service.on_shutdown()


async def test_start_without_a_server_fails():
    """Nobody listens: a connection error that names the place and no password."""
    config = PostgresConfig(host="127.0.0.1", port=1, user="u", password="canary-7Q")
    with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1") as caught:
        await PostgresService(config).on_startup()
    assert "canary" not in str(caught.value) + repr(config)


async def test_wrong_password_is_an_authentication_error(postgres):
    """Refused credentials are told apart from an unreachable server, and shown nowhere."""
    config = PostgresConfig(
        host="127.0.0.1", port=postgres.port, user="postgres", password="canary-7Q", database="postgres"
    )
    with pytest.raises(AuthenticationFailedError) as caught:
        await PostgresService(config).on_startup()
    assert "canary" not in str(caught.value)


async def test_server_that_never_answers_a_connect():
    """A black hole costs `connect_timeout`, not the driver's minute."""
    held = []
    server = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = PostgresConfig(dsn=f"postgresql://u:canary-7Q@127.0.0.1:{port}/d", connect_timeout=0.2)
    with pytest.raises(ServiceTimeoutError, match=f"127.0.0.1:{port}/d") as caught:
        async with _ends_within(0.2):
            await PostgresService(config).on_startup()
    assert "canary" not in str(caught.value)
    for writer in held:
        writer.close()
    server.close()


async def test_slow_statement_is_cut_off(database):
    """After its limit the caller gets a typed error, and the connection is not used again."""
    before = (await database.execute_one("SELECT pg_backend_pid() AS pid"))["pid"]
    with pytest.raises(ServiceTimeoutError, match=r"within 0\.05 s"):
        await database.execute_query("SELECT pg_sleep(10)", timeout=0.05)
    await database.execute_query("SELECT 1")
    for _ in range(1000):
        rows = await database.execute_query("SELECT 1 FROM pg_stat_activity WHERE pid = $1", before)
        if not rows:
            break
        await asyncio.sleep(0.02)
    assert rows == []


async def test_deadline_of_the_caller_holds(database):
    """The caller's remaining time is the limit when it is shorter than the service's."""
    with pytest.raises(DeadlineExceededError):
        async with _ends_within(0.1):
            with deadline(0.1):
                await database.execute_query("SELECT pg_sleep(20)")


async def test_exhausted_pool_is_a_timeout(postgres):
    """A call that gets no connection says so within `acquire_timeout`, and the next one works."""
    service = PostgresService(PostgresConfig(pool_max_size=1, acquire_timeout=1), server=postgres)
    await service.on_startup()
    async with service.pool.acquire():
        with pytest.raises(ServiceTimeoutError, match="all 1 are in use"):
            await service.execute_query("SELECT 1")
        waiting = asyncio.create_task(service.execute_query("SELECT 1", timeout=0.1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "degraded" == (await service.health_check())["status"]
        with pytest.raises(ServiceTimeoutError):
            await waiting
    assert (await service.execute_one("SELECT 1 AS n"))["n"] == 1
    await service.on_shutdown()


async def test_shutdown_cuts_off_what_does_not_end(postgres):
    """A statement that outlives the stop budget fails, and nothing is left behind."""
    service = PostgresService(PostgresConfig(stop_timeout=0.2, command_timeout=30), server=postgres)
    await service.on_startup()
    call = asyncio.create_task(service.execute_query("SELECT pg_sleep(20)"))
    while not service.pool.statistics.in_use:
        await asyncio.sleep(0)
    async with _ends_within(0.2):
        await service.on_shutdown()
    with pytest.raises(ConnectionFailedError):
        await call


def test_host_on_trio_is_refused():
    """The driver runs on asyncio only, and the error says what to do."""
    import trio

    from svcframework.errors import PluginError

    with pytest.raises(PluginError, match="run the host on asyncio"):
        trio.run(PostgresService(PostgresConfig(host="127.0.0.1")).on_startup)


async def test_leftover_dead_connections_are_probed(postgres):
    """After a timeout, connections that were idle meanwhile are asked before they are used again."""
    service = PostgresService(PostgresConfig(pool_max_size=3), server=postgres)
    await service.on_startup()
    await asyncio.gather(*(service.execute_query("SELECT pg_sleep(0.05)") for _ in range(3)))
    with pytest.raises(ServiceTimeoutError):
        await service.execute_query("SELECT pg_sleep(10)", timeout=0.05)
    answers = await asyncio.gather(*(service.execute_one("SELECT $1::int AS n", n) for n in range(9)))
    assert list(range(9)) == [row["n"] for row in answers]
    await service.on_shutdown()


@pytest.fixture
async def faulty(postgres):
    """A service behind a network that fails on command."""
    async with FaultProxy(postgres.dsn) as proxy:
        config = PostgresConfig(
            dsn=proxy.through(postgres.dsn),
            pool_max_size=3,
            command_timeout=1.5,
            connect_timeout=1.5,
            health_check_timeout=1.5,
            stop_timeout=1,
        )
        service = PostgresService(config)
        await service.on_startup()
        await asyncio.gather(*(service.execute_query("SELECT pg_sleep(0.02)") for _ in range(3)))
        yield service, proxy
        async with _ends_within(1):
            await service.on_shutdown()


async def _recovers(service):
    """Calls succeed again within the 10 s that are promised, and all of them from then on."""
    async with asyncio.timeout(10):
        while not await service.health_check():
            await asyncio.sleep(0.05)
    answers = await asyncio.gather(*(service.execute_one("SELECT $1::int AS n", n) for n in range(9)))
    assert list(range(9)) == [row["n"] for row in answers]


async def test_transaction_in_a_black_hole(faulty):
    """A commit that gets no answer says that nobody knows its outcome, and the connection is given up."""
    service, proxy = faulty
    with pytest.raises(TransactionOutcomeUnknownError, match="nobody knows whether it happened"):
        async with service.transaction() as tx:
            await tx.execute_query("SELECT 1")
            await proxy.black_hole()
    await proxy.pass_on()
    await _recovers(service)


async def test_cancellation_at_each_step_leaves_the_pool_whole(postgres):
    """A call on a fresh pool, cancelled after 1, 2, 3, … turns of the loop, loses no place in it."""
    service = PostgresService(PostgresConfig(pool_max_size=1, pool_min_size=0), server=postgres)
    await service.on_startup()
    cancelled = 0
    for steps in range(60):
        service.pool.shrink()
        call = asyncio.create_task(service.execute_query("SELECT 1"))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        cancelled += isinstance((await asyncio.gather(call, return_exceptions=True))[0], asyncio.CancelledError)
        assert (await service.execute_one("SELECT $1::int AS n", steps))["n"] == steps
    assert cancelled > 5
    numbers = service.pool.statistics
    assert (1, 1, 0, 0) == (numbers.size, numbers.idle, numbers.in_use, numbers.waiting)
    await service.on_shutdown()


async def test_server_with_a_closed_door_is_told_from_a_bad_statement(mortal_postgres):
    """A connection that the server ends (an administrator, a restart) is a retryable connection error."""
    service = PostgresService(PostgresConfig(pool_max_size=2), server=mortal_postgres)
    await service.on_startup()
    with pytest.raises(ConnectionFailedError):
        await service.execute_query("SELECT pg_terminate_backend(pg_backend_pid())")
    assert (await service.execute_one("SELECT 1 AS n"))["n"] == 1
    await service.on_shutdown()


def test_connection_that_is_closing_is_a_failed_connection():
    """A call between a dying server's last word and the end of the connection was never sent, and may be retried."""
    raised = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    found = translate(raised, "execute_one", 5.0)

    assert (ConnectionFailedError, True) == (type(found), found.retryable)


@contextlib.asynccontextmanager
async def _relay_that_hides_the_end(port):
    """Hands on every byte between clients and the server, but not that the server has hung up."""
    tasks = set()

    async def pump(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)

    async def serve(reader, writer):
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.add(asyncio.create_task(pump(server_reader, writer)))
        with contextlib.suppress(ConnectionError):
            await pump(reader, server_writer)
        for end in (writer, server_writer):
            end.close()

    relay = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield relay.sockets[0].getsockname()[1]
    finally:
        await asyncio.wait(tasks, timeout=20)
        relay.close()


async def test_connections_that_are_about_to_close_are_replaced_silently(postgres, database):
    """Nothing was sent on them, so that a call or transaction goes on with another one."""
    async with _relay_that_hides_the_end(postgres.port) as port:
        config = PostgresConfig(
            dsn=postgres.dsn.replace(f":{postgres.port}", f":{port}"),
            pool_max_size=3,
            application_name="svc_doomed",
            stop_timeout=5,
        )
        service = PostgresService(config)
        await service.on_startup()

        async def in_transaction(number):
            async with service.transaction() as tx:
                return await tx.execute_one("SELECT $1::int AS n", number)

        for ask in (lambda n: service.execute_one("SELECT $1::int AS n", n), in_transaction):
            await asyncio.gather(*(service.execute_one("SELECT pg_sleep(0.05)") for _ in range(3)))
            await database.execute_query(
                "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE application_name = 'svc_doomed'",
                timeout=30,
            )
            for _ in range(20):  # turns of the loop, in which the server's last word arrives; its hanging up never does
                await asyncio.sleep(0.005)
            assert service.pool.statistics.idle
            answers = await asyncio.gather(*(ask(number) for number in range(6)))
            assert list(range(6)) == [row["n"] for row in answers]
        assert service.pool.statistics.discarded >= 3
        await service.on_shutdown()
