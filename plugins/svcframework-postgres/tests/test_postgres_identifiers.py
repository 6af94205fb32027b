"""Names from anywhere stay names: of schemas, tables, columns, channels and databases."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svcframework.errors import DatabaseError
from svcframework_postgres import Identifier, PostgresConfig, PostgresService

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=63).filter(
    lambda name: len(name.encode()) <= 63
)
HOSTILE = ('"', '""', "';--", 'x"; DROP SCHEMA public CASCADE; --', "%s%n", "a.b", "$1", "\\", "\n", " ", "é" * 31)


async def _meets_itself(service, name):
    """Use the name for everything there is, on the server, and read it back as it was."""
    quoted = Identifier(name)
    async with service.transaction() as tx:
        schema = "s" + name[:10] if name.startswith("pg_") else name  # such schemas are the server's own
        table = Identifier(schema, name)
        await tx.execute(f"CREATE SCHEMA {Identifier(schema)}")
        await tx.execute(f"CREATE TABLE {table} ({quoted} int)")
        row = await tx.execute_returning(f"INSERT INTO {table} ({quoted}) VALUES (5) RETURNING {quoted}")
        found = await tx.execute_one(
            "SELECT nspname, relname, attname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " JOIN pg_attribute ON attrelid = c.oid AND attnum = 1 WHERE c.oid = $1::text::regclass",
            str(table),
        )
        await tx.execute(f"LISTEN {quoted}")
        await tx.execute(f"DROP SCHEMA {Identifier(schema)} CASCADE")
    assert [(name, 5)] == list(row.items())
    assert (schema, name, name) == tuple(found)
    connection = await service.open_connection()
    try:
        heard = asyncio.Queue()
        await connection.add_listener(name, lambda *event: heard.put_nowait(event[2:]))
        await service.execute_one("SELECT pg_notify($1, $2)", name, "payload")
        async with asyncio.timeout(20):
            assert (name, "payload") == await heard.get()
    finally:
        await connection.close()


def test_any_name_comes_back_as_it_was(postgres_server):
    """Quotes, semicolons, control characters and scripts of all kinds name a schema, table, column and channel."""
    with asyncio.Runner() as runner:
        service = PostgresService(PostgresConfig(pool_max_size=1, command_timeout=30), server=postgres_server)
        runner.run(service.on_startup())

        @given(NAMES)
        @example(HOSTILE[0])
        @example(HOSTILE[3])
        def check(name):
            runner.run(_meets_itself(service, name))

        try:
            check()
            for name in HOSTILE:
                runner.run(_meets_itself(service, name))
        finally:
            runner.run(service.on_shutdown())


@given(st.text(max_size=80))
def test_name_is_quoted_or_refused(text):
    """What can't be a name is an error before anything is sent; the rest is one quoted word."""
    try:
        quoted = str(Identifier(text))
    except ValueError:
        assert not text or "\0" in text or len(text.encode(errors="surrogatepass")) > 63 or not text.isprintable()
        return
    assert '"' == quoted[0] == quoted[-1]
    assert text == quoted[1:-1].replace('""', '"')


HOSTILE_TENANTS = ('a"b', "a'; DROP DATABASE postgres; --", "p%20q%s", "postgres?host=evil.example", "../etc", "été 😀")


async def test_tenant_names_lead_to_their_own_database(database):
    """Whatever characters it has, a name is a database's, and never an address, an option or a statement."""
    here = database.pool.address
    for name in HOSTILE_TENANTS:
        await database.execute(f"CREATE DATABASE {Identifier(name)} STRATEGY file_copy", timeout=60)
        pool = await database.get_org_pool(name)
        assert name == (await database.execute_one(pool, "SELECT current_database() AS d"))["d"]
        assert here.rpartition("/")[0] == pool.address.removesuffix(f"/{name}")


@pytest.mark.parametrize("name", ["", "   ", None, 7, "a\0b", "x" * 64, "é" * 32])
async def test_tenant_without_a_name_is_an_error(database, name):
    """A missing name never means the default database, and one that PostgreSQL would cut never another's."""
    for call in (database.get_org_pool, database.connections.open_pool):
        with pytest.raises(ValueError, match=r"names no database|can't be an identifier"):
            await call(name)
    if name is not None:
        with pytest.raises(ValueError, match=r"names no database|can't be an identifier"):
            await database.open_connection(name)


async def test_tenant_that_does_not_exist_is_an_error(database):
    """It is remembered nowhere, so that it can be made and used afterwards."""
    with pytest.raises(DatabaseError) as caught:
        await database.get_org_pool("svc_later")
    assert "3D000" == caught.value.sqlstate
    assert {} == dict(database.connections.pools)
    await database.execute("CREATE DATABASE svc_later STRATEGY file_copy", timeout=60)
    pool = await database.get_org_pool("svc_later")
    assert "svc_later" == (await pool.execute_one("SELECT current_database() AS d"))["d"]
