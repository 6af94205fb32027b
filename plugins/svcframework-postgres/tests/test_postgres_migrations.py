"""Migrations: applied once and in order, whoever starts; what is wrong is told before anything is done."""

import asyncio
import json
import subprocess
import sys
import uuid

import anyio
import asyncpg
import pytest

from svcframework import BaseService, ServiceContainer, ServiceHost, providers
from svcframework.errors import ConfigurationError, ConnectionFailedError, StartupError
from svcframework.testing.faults import FaultProxy
from svcframework_postgres import (
    IrreversibleMigrationError,
    MigrationConfig,
    MigrationFailedError,
    MigrationFilesError,
    MigrationHistoryError,
    MigrationLockedError,
    Migrations,
    MigrationService,
    MigrationsPendingError,
    PostgresConfig,
    PostgresService,
)

USERS = "CREATE TABLE users (id int PRIMARY KEY, name text)"
ADA = """-- it's the first; a ';' means nothing here
INSERT INTO users VALUES (1, 'a;b''c');
INSERT INTO users VALUES (2, '')"""
BY_NAME = "-- svcframework: no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS users_name_idx ON users (name)"


@pytest.fixture
def folder(tmp_path):
    """A folder of three migrations, and a function that writes further ones."""
    folder = tmp_path / "migrations"
    folder.mkdir()

    def write(**files):
        for name, sql in files.items():
            (folder / f"{name.replace('__', '.').removeprefix('v')}.sql").write_text(sql, encoding="utf-8")
        return folder

    write(v0001_create_users=USERS, v0002_add_ada=ADA, v0003_index_names=BY_NAME)
    folder.joinpath("README.md").write_text("not a migration")
    return write


@pytest.fixture(scope="module")
def migrated_dsn(postgres_server):
    """The address of a database of this module's own."""
    name = f"migrated_{uuid.uuid4().hex}"

    async def make():
        connection = await asyncpg.connect(postgres_server.dsn)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    anyio.run(make)
    return postgres_server.dsn.removesuffix("/postgres") + f"/{name}"


@pytest.fixture
async def empty(migrated_dsn):
    """A service on a database with nothing in it."""
    service = PostgresService(PostgresConfig(dsn=migrated_dsn, pool_max_size=3))
    await service.on_startup()
    for row in await service.execute_query(
        "SELECT quote_ident(nspname) AS n FROM pg_namespace WHERE nspname !~ '^pg_'"
    ):
        if row["n"] != "information_schema":
            await service.execute_query(f"DROP SCHEMA {row['n']} CASCADE")
    await service.execute_query("CREATE SCHEMA public")
    yield service
    await service.on_shutdown()


async def test_files_are_applied_once_and_in_order(folder, empty):
    """Whole files, whatever is in their texts; a second time there is nothing to do, a new file is applied alone."""
    migrations = Migrations(folder())
    assert [1, 2, 3] == [file.version for file in (await migrations.status(empty)).pending]
    done = await migrations.apply(empty)
    assert [(1, "create_users"), (2, "add_ada"), (3, "index_names")] == [(one.version, one.name) for one in done]
    assert "a;b'c" == (await empty.execute_one("SELECT name FROM users WHERE id = 1"))["name"]
    assert () == await migrations.apply(empty)
    folder(v0004_more="ALTER TABLE users ADD email text")
    assert [4] == [one.version for one in await migrations.apply(empty)]
    status = await migrations.status(empty)
    assert ([1, 2, 3, 4], ()) == ([one.version for one in status.applied], status.pending)
    assert all(one.seconds > 0 and len(one.checksum) == 64 and one.applied_at for one in status.applied)


async def test_failed_file_is_undone_and_told_with_its_line(folder, empty):
    """Nothing of it stays, what came before stays applied, and it can be corrected and applied."""
    folder(v0004_broken="CREATE TABLE half (id int);\n\nINSERT INTO users (nmae)\nVALUES ('x');")
    migrations = Migrations(folder())
    with pytest.raises(MigrationFailedError, match=r'0004_broken\.sql:3: column "nmae"') as caught:
        await migrations.apply(empty)
    assert ("42703", 3) == (caught.value.sqlstate, caught.value.line)
    assert (await empty.execute_one("SELECT to_regclass('half') AS half"))["half"] is None
    assert [1, 2, 3] == [one.version for one in (await migrations.status(empty)).applied]
    folder(v0004_broken="CREATE TABLE half (id int)")
    assert [4] == [one.version for one in await migrations.apply(empty)]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "COMMIT; SELECT 1; BEGIN"])
async def test_file_that_ends_its_own_transaction_is_refused(folder, empty, end):
    """It is not noted as applied, and the error says what to look at."""
    folder(v0004_ends=f"CREATE TABLE x (id int); {end};")
    with pytest.raises(MigrationFailedError, match="ends its own transaction"):
        await Migrations(folder()).apply(empty)
    assert [1, 2, 3] == [one.version for one in (await Migrations(folder()).status(empty)).applied]


async def test_constraint_that_is_checked_at_the_end(folder, empty):
    """A commit that fails is a failed file."""
    folder(v0004_late="CREATE TABLE a (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1), (1)")
    with pytest.raises(MigrationFailedError, match="duplicate key") as caught:
        await Migrations(folder()).apply(empty)
    assert "23505" == caught.value.sqlstate


async def test_settings_of_a_file_end_with_it(folder, empty):
    """Role, schema path and limits are for the file that set them, and not for the pool's next user."""
    folder(
        v0004_sets="CREATE SCHEMA other; SET search_path = other; SET lock_timeout = 0;"
        " GRANT ALL ON SCHEMA other TO pg_monitor; SET ROLE pg_monitor; CREATE TABLE there (id int)",
        v0005_sees="CREATE TABLE here (id int); CREATE TABLE told AS SELECT current_setting('lock_timeout') AS wait",
    )
    forever = 1e9  # seconds, more than the server can count
    await Migrations(folder(), MigrationConfig(lock_timeout=7, file_timeout=forever)).apply(empty)
    row = await empty.execute_one(
        "SELECT to_regclass('other.there') IS NOT NULL AND to_regclass('public.here') IS NOT NULL AS fine, wait,"
        " current_setting('lock_timeout') AS now, current_user::text AS me FROM told"
    )
    assert [True, "7s", "0", "postgres"] == list(row.values())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"v0005_gap": "SELECT 1"}, "0005_gap.sql: 0004 is missing before it"),
        ({"v0003_twice": "SELECT 1"}, "0003_twice.sql: a second 0003"),
        ({"v4_short": "SELECT 1"}, "4_short.sql: not a migration's name"),
        ({"v0004-dash": "SELECT 1"}, "0004-dash.sql: not a migration's name"),
        ({"v0004_empty": " \n"}, "0004_empty.sql: empty"),
        (
            {"v0004_typo": "-- svcframework: no transactions\nSELECT 1"},
            "`-- svcframework: no transactions` means nothing",
        ),
        ({"v0004_other__down": "SELECT 1"}, "0004_other.down.sql: undoes nothing"),
    ],
)
async def test_wrong_folder_is_told_before_anything_is_done(folder, empty, files, said):
    """All that is wrong with the files is in one error, and the database is not touched."""
    folder(**files, v9_also="SELECT 1")
    with pytest.raises(MigrationFilesError) as caught:
        await Migrations(folder()).apply(empty)
    assert said in str(caught.value)
    assert "9_also.sql" in str(caught.value)
    assert [] == await empty.execute_query("SELECT FROM pg_tables WHERE schemaname = 'public'")


async def test_folder_that_is_not_there(tmp_path, empty):
    """The error names it; a file that isn't text is named as well."""
    with pytest.raises(MigrationFilesError, match="there is no such folder"):
        await Migrations(tmp_path / "nowhere").apply(empty)
    tmp_path.joinpath("0001_x.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(MigrationFilesError, match=r"0001_x\.sql: not UTF-8"):
        await Migrations(tmp_path).apply(empty)


async def test_history_that_is_not_the_files(folder, empty):
    """A changed, a renamed, a lost and a late file: each is told, together, and nothing is done."""
    folder(v0004_four="SELECT 4", v0005_five="SELECT 5")
    await Migrations(folder()).apply(empty)
    await empty.execute_query("DELETE FROM svcframework_migrations WHERE version = 3")
    folder(v0001_create_users=USERS + " ", v0002_add_bob=ADA)
    for gone in ("0002_add_ada", "0005_five"):
        (folder() / f"{gone}.sql").unlink()
    with pytest.raises(MigrationHistoryError) as caught:
        await Migrations(folder()).apply(empty)
    kinds = {problem.version: problem.kind for problem in caught.value.problems}
    assert {1: "changed", 2: "renamed", 3: "late", 5: "missing"} == kinds
    for said in ("0001_create_users.sql was applied on 20", "is 0002_add_bob.sql now", "0003_index_names.sql: comes"):
        assert said in str(caught.value)
    with pytest.raises(MigrationHistoryError):
        await Migrations(folder()).status(empty)


async def test_line_ends_do_not_matter(folder, empty):
    """A checkout with other line ends has the same checksums."""
    await Migrations(folder()).apply(empty)
    path = folder() / "0002_add_ada.sql"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert () == await Migrations(folder()).apply(empty)


async def test_many_hosts_apply_once(folder, postgres, empty):
    """Services that start at the same time, with a build that waits for open transactions, apply each file once."""
    folder(v0004_slow="CREATE TABLE counted (n int); INSERT INTO counted SELECT 1 FROM pg_sleep(0.2)")
    dsn = empty.config.dsn.get_secret_value()
    databases = [PostgresService(PostgresConfig(dsn=dsn, pool_max_size=2)) for _ in range(6)]
    services = [MigrationService({"folder": folder()}, database_service=one) for one in databases]
    await asyncio.gather(*(one.on_startup() for one in databases))
    async with asyncio.timeout(60):  # two that wait for each other would do so for ever
        await asyncio.gather(*(one.on_startup() for one in services))
    assert 1 == (await empty.execute_one("SELECT sum(n)::int AS n FROM counted"))["n"]
    assert [1, 2, 3, 4] == [one.version for one in (await services[0].status()).applied]
    await asyncio.gather(*(one.on_shutdown() for one in databases))


PROCESS = """
import asyncio, sys
from svcframework_postgres import Migrations, PostgresService

async def main(dsn, folder):
    database = PostgresService({"dsn": dsn})
    await database.on_startup()
    print([one.version for one in await Migrations(folder).apply(database)])
    await database.on_shutdown()

asyncio.run(main(*sys.argv[1:]))
"""


async def _process(dsn, folder):
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, dsn, str(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


async def test_process_that_is_killed_leaves_nothing_half_done(folder, migrated_dsn, empty):
    """Others that wait for it take over: what it had begun is undone by the server, and each file applied once."""
    folder(v0004_slow="CREATE TABLE counted (n int); INSERT INTO counted SELECT 1 FROM pg_sleep(2)")
    begun = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE counted%'"
    killed = await _process(migrated_dsn, folder())
    async with asyncio.timeout(60):
        while not await empty.execute_query(begun):
            await asyncio.sleep(0.01)
        others = [await _process(migrated_dsn, folder()) for _ in range(2)]
        waiting = asyncio.create_task(Migrations(folder()).apply(empty))
        killed.kill()
        await killed.communicate()
        told = [(await other.communicate()) for other in others]
        done = [[one.version for one in await waiting], *(json.loads(out) for out, _ in told)]
    assert [b"", b""] == [errors for _, errors in told]
    assert [4] == [version for versions in done for version in versions]
    assert 1 == (await empty.execute_one("SELECT sum(n)::int AS n FROM counted"))["n"]


async def test_waiting_for_another_process_ends(folder, empty):
    """Who waits longer than `lock_wait` is told who is at it, and may try again."""
    folder(v0004_slow="SELECT pg_sleep(30)")
    first = asyncio.create_task(Migrations(folder()).apply(empty))
    while not await empty.execute_query("SELECT FROM pg_locks WHERE locktype = 'advisory'"):
        await asyncio.sleep(0.01)
    with pytest.raises(MigrationLockedError, match=r"process \d+ of svcframework") as caught:
        await Migrations(folder(), MigrationConfig(lock_wait=0.1)).apply(empty)
    assert caught.value.retryable
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    folder(v0004_slow="SELECT 1")  # the lock and what was open are gone with the connection
    assert 4 == (await Migrations(folder()).apply(empty))[-1].version


async def test_killed_connection_is_a_typed_error_and_leaves_nothing(folder, empty):
    """The server undoes the file; the next start applies it."""
    folder(v0004_slow="CREATE TABLE half (id int); SELECT pg_sleep(30)")
    run = asyncio.create_task(Migrations(folder()).apply(empty))
    killing = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE half%'"
    while not await empty.execute_query(killing):
        await asyncio.sleep(0.01)
    with pytest.raises((ConnectionFailedError, MigrationFailedError)):
        await run
    folder(v0004_slow="CREATE TABLE half (id int)")
    assert [4] == [one.version for one in await Migrations(folder()).apply(empty)]


async def test_server_that_falls_silent_is_given_up(folder, migrated_dsn, empty):
    """Not after the minutes that a file may take: the server is asked meanwhile. What it did is undone."""
    folder(v0004_slow="CREATE TABLE half (id int); SELECT pg_sleep(2)")
    async with FaultProxy(migrated_dsn) as proxy:
        database = PostgresService(PostgresConfig(dsn=proxy.through(migrated_dsn), pool_max_size=3))
        await database.on_startup()
        run = asyncio.create_task(Migrations(folder(), MigrationConfig(silence_timeout=1.5)).apply(database))
        while not await empty.execute_query("SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE TABLE half%'"):
            await asyncio.sleep(0.01)
        await proxy.black_hole()
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionFailedError, match=r"has not answered for 1\.5 s"):
                await run
        await database.on_shutdown()
    folder(v0004_slow="CREATE TABLE half (id int)")
    async with asyncio.timeout(60):  # the server learns of it when its statement has ended
        assert 4 == (await Migrations(folder()).apply(empty))[-1].version


@pytest.mark.parametrize(("pool_size", "patience"), [(1, 0.3), (3, 1.5)])
async def test_long_file_on_a_server_that_answers(folder, empty, pool_size, patience):
    """It may take longer than a server may be silent; a pool without a connection to ask on says nothing."""
    folder(v0004_slow="SELECT pg_sleep(1.6)")
    database = PostgresService(PostgresConfig(dsn=empty.config.dsn, pool_max_size=pool_size))
    await database.on_startup()
    assert 4 == (await Migrations(folder(), MigrationConfig(silence_timeout=patience)).apply(database))[-1].version
    await database.on_shutdown()


@pytest.mark.parametrize(("limit", "sqlstate"), [({"file_timeout": 0.2}, "57014"), ({"lock_timeout": 0.2}, "55P03")])
async def test_limits_are_kept(folder, empty, limit, sqlstate):
    """A file may take so long, and wait so long for a table; the error says which limit it was."""
    await Migrations(folder()).apply(empty)
    folder(v0004_waits="LOCK TABLE users; SELECT pg_sleep(0.5)")
    async with empty.transaction() as blocker:
        if "lock_timeout" in limit:
            await blocker.execute_query("SELECT count(*) FROM users")
        with pytest.raises(MigrationFailedError, match="raise ") as caught:
            await Migrations(folder(), MigrationConfig(**limit)).apply(empty)
    assert sqlstate == caught.value.sqlstate


async def test_index_that_a_failed_file_has_left(folder, empty):
    """IF NOT EXISTS would take an invalid index for done: it is dropped, after the failure and before the next try."""
    await Migrations(folder()).apply(empty)
    unique = "-- svcframework: no transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS once_idx ON users (name)"
    folder(v0004_unique=unique)
    await empty.execute_query("INSERT INTO users VALUES (3, ''), (4, 'x')")
    invalid = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE NOT i.indisvalid"
    with pytest.raises(MigrationFailedError, match="could not create unique index"):
        await Migrations(folder()).apply(empty)
    assert [] == await empty.execute_query(invalid)
    async with empty.pool.acquire() as connection:
        with pytest.raises(Exception, match="unique"):
            await connection.execute(unique)  # somebody by hand, or one that was killed
    await empty.execute_query("DELETE FROM users WHERE id = 3")
    await Migrations(folder()).apply(empty)
    assert [] == await empty.execute_query(invalid)
    assert 1 == len(await empty.execute_query("SELECT FROM pg_indexes WHERE indexname = 'once_idx'"))


async def test_file_without_a_transaction_has_one_statement(folder, empty):
    """The server refuses two, and the error says what such a file looks like."""
    folder(v0004_two=BY_NAME.replace("users_name_idx", "two_idx") + "; SELECT 1")
    with pytest.raises(MigrationFailedError, match="has this one statement"):
        await Migrations(folder()).apply(empty)


async def test_newest_migrations_can_be_undone(folder, empty):
    """By their down files, the newest first; without such a file nothing is undone at all."""
    concurrently = "-- svcframework: No Transaction\nDROP INDEX CONCURRENTLY IF EXISTS users_name_idx"
    folder(v0003_index_names__down=concurrently, v0001_create_users__down="DROP TABLE users")
    migrations = Migrations(folder())
    await migrations.apply(empty)
    with pytest.raises(IrreversibleMigrationError, match=r"no 0002_add_ada\.down\.sql"):
        await migrations.revert(empty, to=0)
    assert [3] == [one.version for one in await migrations.revert(empty, to=2)]
    assert [3] == [file.version for file in (await migrations.status(empty)).pending]
    folder(v0002_add_ada__down="DELETE FROM users")
    assert [2, 1] == [one.version for one in await migrations.revert(empty, to=0)]
    assert [1] == [one.version for one in await migrations.apply(empty, to=1)]


async def test_tenants_have_their_own_history(folder, database, empty):
    """The same folder is applied to the database of a pool."""
    pool = await database.get_org_pool(empty.config.dsn.get_secret_value().rpartition("/")[2])
    await Migrations(folder()).apply(database, pool)
    assert 3 == len((await Migrations(folder()).status(empty)).applied)
    assert [] == await database.execute_query("SELECT FROM pg_tables WHERE tablename = 'svcframework_migrations'")


async def test_names_of_schema_and_table_are_quoted(folder, empty):
    """Whatever the table is called, it is one name."""
    await empty.execute_query('CREATE SCHEMA "my ""schema"')
    config = MigrationConfig(schema_name='my "schema', table='x"; DROP TABLE users; --')
    await Migrations(folder(), config).apply(empty)
    assert 3 == len((await Migrations(folder(), config).status(empty)).applied)
    assert 2 == len(await empty.execute_query("SELECT FROM users"))


class Reader(BaseService):
    """Needs the schema."""

    def __init__(self, database_service: PostgresService, migration_service: MigrationService):
        super().__init__()
        self.database = database_service

    async def on_startup(self):
        self.names = [row["name"] for row in await self.database.execute_query("SELECT name FROM users ORDER BY id")]


async def test_schema_is_there_before_who_depends_on_it(folder, empty):
    """A host applies migrations before it starts the services that depend on them; a wrong file stops the start."""

    class Container(ServiceContainer):
        database_service = providers.Service(PostgresService, config=empty.config)
        migration_service = providers.Service(MigrationService, folder=folder())
        reader = providers.Service(Reader)

    async with ServiceHost(Container) as host:
        assert ["a;b'c", ""] == host[Reader].names
        health = await host[MigrationService].health_check()
        assert ("healthy", {"applied": 3, "pending": 0}) == (health["status"], dict(health.details))
    folder(v0001_create_users=USERS + " ")
    with pytest.raises(StartupError, match="was changed since"):
        async with ServiceHost(Container):
            pass


async def test_start_may_only_check(folder, empty):
    """Where something else applies migrations, a start refuses to run on an older schema."""
    service = MigrationService({"on_start": "check", "folder": folder()}, database_service=empty)
    with pytest.raises(MigrationsPendingError, match="lacks 3 migration") as caught:
        await service.on_startup()
    assert "0001_create_users.sql" == caught.value.files[0]
    await service.apply(to=2)
    assert [3] == [one.version for one in (await service.status()).pending]
    await service.apply()
    await service.on_startup()
    folder(v0003_index_names__down="DROP INDEX users_name_idx")
    assert [3] == [one.version for one in await service.revert(to=2)]


async def test_missing_folder_setting_is_named(empty):
    """The error says which setting, and how to set it."""
    with pytest.raises(ConfigurationError, match="MIGRATIONS__FOLDER"):
        await MigrationService(MigrationConfig(), database_service=empty).on_startup()
