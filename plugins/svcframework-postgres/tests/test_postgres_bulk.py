"""COPY and streams: all or nothing, in time, and the connection always back in order."""

import asyncio
import contextlib
import io
import itertools
import uuid

import pytest

from svcframework.deadlines import deadline
from svcframework.errors import ConnectionFailedError, DatabaseError, DeadlineExceededError, ServiceTimeoutError
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import Identifier, PostgresConfig, PostgresService

ROWS = [(number, f'row "{number}", é') for number in range(1000)]
CSV = b"".join(f'{number},"row ""{number}"", é"\n'.encode() for number, _ in ROWS)


@pytest.fixture
async def table(database):
    """An empty table of a schema, both with odd names."""
    name = Identifier("svc bulk", f"t {uuid.uuid4().hex}")
    await database.execute(f'CREATE SCHEMA IF NOT EXISTS "svc bulk"; CREATE TABLE {name} (id int, "the word" text)')
    return name


async def _content(database, table):
    return [tuple(row) for row in await database.execute_query(f"SELECT * FROM {table} ORDER BY id")]


async def _in_turns(items):
    for number, item in enumerate(items):
        if number % 100 == 0:
            await asyncio.sleep(0)
        yield item


def _sources(folder):
    (folder / "rows.csv").write_bytes(CSV)
    halves = [CSV[:7000], CSV[7000:]]
    return {
        "list": (ROWS, None),
        "generator": ((row for row in ROWS), None),
        "asynchronous": (_in_turns(ROWS), None),
        "bytes": (CSV, "csv"),
        "memory": (memoryview(bytearray(CSV)), "csv"),
        "file": (io.BytesIO(CSV), "csv"),
        "path": (folder / "rows.csv", "csv"),
        "chunks": (halves, "csv"),
        "asynchronous chunks": (_in_turns(halves), "csv"),
    }


@pytest.mark.parametrize(
    "kind",
    ["list", "generator", "asynchronous", "bytes", "memory", "file", "path", "chunks", "asynchronous chunks"],
)
async def test_copy_in_takes_rows_from_anywhere(database, table, tmp_path, kind):
    """Records and CSV from memory, files and iterables all arrive, and are counted."""
    source, format_ = _sources(tmp_path)[kind]
    extra = {} if format_ is None else {"format": format_}
    assert 1000 == await database.copy_in(table, source, columns=["id", "the word"], **extra)
    assert ROWS == await _content(database, table)
    assert 0 == database.pool.statistics.in_use


async def test_copy_out_goes_anywhere(database, table, tmp_path):
    """A table and a query with arguments come as bytes, in a file, through a function, and chunk by chunk."""
    await database.copy_in(table, ROWS)
    query = f"SELECT * FROM {table} WHERE id < $1 ORDER BY id"
    assert CSV == await database.copy_out(query, 1000)
    assert sorted(CSV.splitlines()) == sorted((await database.copy_out(table)).splitlines())
    assert 1000 == await database.copy_out(query, 1000, to=tmp_path / "out.csv")
    assert CSV == (tmp_path / "out.csv").read_bytes()
    memory, chunks = io.BytesIO(), []
    assert 10 == await database.copy_out(query, 10, to=memory)
    assert CSV.splitlines(keepends=True)[:10] == memory.getvalue().splitlines(keepends=True)

    async def take(chunk):
        chunks.append(chunk)

    assert 1000 == await database.copy_out(query, 1000, to=take)
    assert CSV == b"".join(chunks)
    assert CSV == b"".join([chunk async for chunk in database.copy_chunks(query, 1000)])
    assert 0 == database.pool.statistics.in_use


async def test_binary_copy_goes_out_and_in_again(database, table):
    """What came out in the binary format goes into another table."""
    await database.copy_in(table, ROWS)
    data = await database.copy_out(table, format="binary")
    await database.execute(f"TRUNCATE {table}")
    assert 1000 == await database.copy_in(table, data, format="binary")
    assert ROWS == await _content(database, table)


async def test_options_of_the_format(database, table):
    """Header, delimiter and null go through; nothing else gets into the statement."""
    told = {"format": "csv", "header": True, "delimiter": ";", "null": "-"}
    assert 1 == await database.copy_in(table, b"id;the word\n1;-\n", **told)
    assert [(1, None)] == await _content(database, table)
    assert b"id;the word\n1;-\n" == await database.copy_out(table, **told)
    with pytest.raises(ValueError, match="give True, False or 'match'"):
        await database.copy_out(table, header="true); DROP TABLE x; --")
    with pytest.raises(TypeError, match="COPY knows no colour"):
        await database.copy_out(table, colour="red")
    with pytest.raises(ValueError, match="too many parts"):
        await database.copy_in(Identifier("a", "b", "c"), [])


async def test_failed_copy_leaves_no_row(database, table):
    """A row that the server refuses, or that the source can't give, undoes the ones before it."""
    with pytest.raises(DatabaseError) as caught:
        await database.copy_in(table, b"1,a\nnot a number,b\n", format="csv")
    assert "22P02" == caught.value.sqlstate
    with pytest.raises(DatabaseError):
        await database.copy_in(table, [(1, "a"), ("not a number", "b")])

    def broken(error):
        yield from ROWS
        raise error

    async def broken_later(error):
        yield CSV
        raise error

    for error in (LookupError("mine"), OSError("mine"), ValueError("mine"), TimeoutError("mine")):
        for source, extra in ((broken(error), {}), (broken_later(error), {"format": "csv"})):
            with pytest.raises(type(error), match="mine") as mine:
                await database.copy_in(table, source, **extra)
            assert error is mine.value
    assert [] == await _content(database, table)
    with pytest.raises(FileNotFoundError):
        await database.copy_in(table, "/nowhere/rows.csv", format="csv")
    assert 0 == database.pool.statistics.in_use


async def test_failed_copy_out_leaves_no_file(database, tmp_path):
    """A file is there when all of it is, or not at all; what writing raised is raised."""
    with pytest.raises(DatabaseError) as caught:
        await database.copy_out("SELECT 1 / (500 - n) FROM generate_series(1, 1000) n", to=tmp_path / "out.csv")
    assert "22012" == caught.value.sqlstate

    async def full(chunk):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await database.copy_out("SELECT n FROM generate_series(1, 100000) n", to=full)
    assert [] == list(tmp_path.iterdir())
    assert 1 == (await database.execute_one("SELECT 1 AS n"))["n"]


async def test_copy_is_limited_by_its_progress(database, table):
    """A long COPY may go on as long as it moves; one whose source stalls is cut off."""

    async def steady():
        for row in ROWS[:3]:
            await asyncio.sleep(0.2)
            yield row

    async def in_chunks():
        for _ in range(4):
            await asyncio.sleep(0.4)
            yield b"1,a\n"
        await asyncio.sleep(60)

    assert 3 == await database.copy_in(table, steady(), timeout=30)
    with pytest.raises(ServiceTimeoutError, match=r"copy_in .* no answer within 1\.3 s"):
        await database.copy_in(table, in_chunks(), format="csv", timeout=1.3)
    assert 3 == len(await _content(database, table))
    with pytest.raises(DeadlineExceededError):
        with deadline(0.5):
            await database.copy_in(table, (row async for row in _endless()), timeout=30)
    assert 3 == len(await _content(database, table))


async def _endless():
    for number in itertools.count():
        yield (number, "x")
        await asyncio.sleep(0)


async def test_slow_reader_of_chunks_is_not_cut_off(database):
    """The limit is on the server: how long the caller takes for a chunk is its own affair."""
    async with database.copy_chunks("SELECT repeat('x', 10000) FROM generate_series(1, 50)", timeout=1) as chunks:
        size = 0
        async for number, chunk in _numbered(chunks):
            size += len(chunk)
            if number == 0:
                await asyncio.sleep(1.5)
    assert 50 * 10_001 == size


async def _numbered(items):
    number = 0
    async for item in items:
        yield number, item
        number += 1


async def test_copy_in_a_transaction_belongs_to_it(database, table):
    """It is rolled back with it, sees it, and a failed one ends it."""
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            assert 1000 == await database.copy_in(table, ROWS, on=tx)
            assert 1000 == len((await database.copy_out(table, on=tx)).splitlines())
            raise LookupError
    assert [] == await _content(database, table)
    pool = await database.get_org_pool("postgres")
    assert 1000 == await database.copy_in(table, ROWS, on=pool)
    with pytest.raises(TypeError, match="on= takes a pool"):
        await database.copy_in(table, ROWS, on="postgres")


# --- streams --------------------------------------------------------------------------------------------


async def test_stream_gives_every_row_in_batches(database):
    """Rows come in order, a batch at a time, and the connection is back at the end."""
    query = "SELECT n FROM generate_series(1, $1::int) n"
    for count in (0, 1, 99, 100, 101, 1000):
        assert list(range(1, count + 1)) == [row["n"] async for row in database.stream(query, count, batch=100)]
        assert (0, 1) == (database.pool.statistics.in_use, database.pool.statistics.size)


async def test_stream_holds_no_more_than_a_batch(database):
    """A million rows are not fetched for the first one."""
    async with database.stream("SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000)", batch=10) as rows:
        async for row in rows:
            assert 1000 == len(row["x"])
            break
    assert 0 == database.pool.statistics.in_use
    assert 1 == database.pool.statistics.opened


async def test_stream_changes_are_kept_when_it_ends(database, table):
    """A statement that writes is committed with its last row, and rolled back if the loop is left or fails."""
    query = f"INSERT INTO {table} SELECT n, 'x' FROM generate_series(1, 10) n RETURNING id"
    with pytest.raises(LookupError):
        async with database.stream(query) as rows:
            async for _ in rows:
                raise LookupError
    assert [] == await _content(database, table)
    assert 10 == len([row async for row in database.stream(query)])
    assert 10 == len(await _content(database, table))


async def test_stream_left_without_a_block_gives_its_connection_back(database):
    """A bare loop that is left early lets go as soon as the interpreter has noticed."""
    async for _ in database.stream("SELECT n FROM generate_series(1, 1000) n", batch=10):
        break
    async with asyncio.timeout(30):
        while database.pool.statistics.in_use:
            await asyncio.sleep(0.01)
    assert 1 == (await database.execute_one("SELECT 1 AS n"))["n"]


async def test_stream_runs_once(database):
    """A second loop over one stream is an error, not an empty result."""
    stream = database.stream("SELECT 1 AS n")
    assert [1] == [row["n"] async for row in stream]
    with pytest.raises(RuntimeError, match="a stream runs once"):
        [row async for row in stream]
    with pytest.raises(ValueError, match="ask for 1 row or more"):
        [row async for row in database.stream("SELECT 1", batch=0)]


async def test_stream_in_a_transaction_shares_it(database, table):
    """Other statements run between its rows."""
    async with database.transaction() as tx:
        async for row in database.stream("SELECT n FROM generate_series(1, 5) n", on=tx, batch=2):
            await tx.execute_query(f"INSERT INTO {table} VALUES ($1, 'x')", row["n"])
    assert 5 == len(await _content(database, table))


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_stream_and_copy_cancelled_anywhere(database, table, steps):
    """After a cancellation at any step no place in the pool is lost, nothing was kept, and the next call is right."""

    async def streaming():
        async for _ in database.stream("SELECT n FROM generate_series(1, 100) n", batch=3):
            await asyncio.sleep(0)

    async def copying_out():
        async for _ in database.copy_chunks("SELECT repeat('x', 1000) FROM generate_series(1, 2000)"):
            await asyncio.sleep(0)

    async def copying_in():
        await database.copy_in(table, _endless())

    for work in (streaming, copying_out, copying_in):
        task = asyncio.create_task(work())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await database.execute_one("SELECT $1::int AS n", steps))["n"] == steps
    assert [] == await _content(database, table)
    async with asyncio.timeout(30):
        while database.pool.statistics.in_use:
            await asyncio.sleep(0.01)


@pytest.fixture
async def faulty(postgres):
    """A service behind a network that fails on command, and a table for it."""
    async with FaultProxy(postgres.dsn) as proxy:
        config = PostgresConfig(dsn=proxy.through(postgres.dsn), command_timeout=1.2, connect_timeout=5, stop_timeout=1)
        service = PostgresService(config)
        await service.on_startup()
        await service.execute("CREATE TABLE IF NOT EXISTS svc_faulty (id int, word text)")
        yield service, proxy
        await service.on_shutdown()


async def _streaming(service, fault):
    query = "SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 5000) n"
    async with service.stream(query, batch=100) as rows:
        async for row in rows:
            if row["n"] == 250:
                await fault()


async def _copying_out(service, fault):
    async with service.copy_chunks("SELECT repeat('x', 1000) FROM generate_series(1, 50000)") as chunks:
        async for number, _ in _numbered(chunks):
            if number == 10:
                await fault()


async def _copying_in(service, fault):
    async def rows():
        for number in itertools.count():
            yield (number, "x" * 1000)
            if number == 500:
                await fault()

    await service.copy_in("svc_faulty", rows())


@pytest.mark.parametrize("work", [_streaming, _copying_out, _copying_in])
@pytest.mark.parametrize(("fault", "error"), [("reset", ConnectionFailedError), ("black_hole", ServiceTimeoutError)])
async def test_network_that_fails_in_the_middle(faulty, work, fault, error):
    """A reset is a connection error, silence a timeout; neither gives a part for the whole, and both are survived."""
    service, proxy = faulty
    with pytest.raises(error):
        await work(service, getattr(proxy, fault))
    await proxy.pass_on()
    async with asyncio.timeout(30):
        while not await service.health_check():
            await asyncio.sleep(0.02)
    assert 0 == (await service.execute_one("SELECT count(*) AS n FROM svc_faulty"))["n"]
    assert 0 == service.pool.statistics.in_use
