"""Values of every type that has a codec come back as they went in."""

import uuid
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework.errors import ConfigurationError, DatabaseError
from svcframework_postgres import Codec, Identifier, PostgresConfig, PostgresService
from svcframework_postgres.codecs import _from_vector, _to_vector


async def _service(postgres, *, extension="", codecs=(), database=None):
    service = PostgresService(PostgresConfig(pool_max_size=1), server=postgres, codecs=codecs)
    await service.on_startup()
    if extension:
        await service.execute(f"CREATE EXTENSION IF NOT EXISTS {extension}", timeout=30)
        service.pool.shrink()  # codecs are set when a connection is opened
    return service


async def test_vectors_are_lists_of_floats(postgres):
    """The types of pgvector need no text and no numpy; the server's own arithmetic agrees."""
    service = await _service(postgres, extension="vector")
    row = await service.execute_one(
        "SELECT $1::vector AS v, $2::halfvec AS h, $1::vector <-> '[0,0,2]' AS distance, NULL::vector AS nothing,"
        " ARRAY[$1::vector] AS many",
        [1.5, 0.0, 2],
        (0.5, -1.0),
    )
    assert [[1.5, 0.0, 2.0], [0.5, -1.0], 1.5, None, [[1.5, 0.0, 2.0]]] == list(row.values())
    await service.execute("CREATE TABLE IF NOT EXISTS svc_items (id int, at vector(3))")
    assert 2 == await service.copy_in("svc_items", [(1, [1, 2, 3]), (2, [4, 5, 6])])
    with pytest.raises(DatabaseError):
        await service.execute_one("SELECT $1::vector", ["no number"])
    assert 1 == service.pool.statistics.idle
    await service.on_shutdown()


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=200))
def test_vector_codec_is_lossless(values):
    """Every 32-bit float comes back."""
    assert values == _from_vector(_to_vector(values))


async def test_hstore_is_a_dict(postgres):
    """Where the extension is, its type is a dict of texts."""
    service = await _service(postgres, extension="hstore")
    row = await service.execute_one("SELECT $1::hstore AS h", {"a": "b", "c": None})
    assert {"a": "b", "c": None} == row["h"]
    await service.on_shutdown()


async def test_database_without_the_extensions_works(database):
    """Their absence is no error, in this database and in others."""
    await database.execute('CREATE DATABASE "svc plain" STRATEGY file_copy', timeout=60)
    pool = await database.get_org_pool("svc plain")
    assert [{"a": 1}] == list((await pool.execute_one("SELECT '{\"a\": 1}'::jsonb")).values())


async def test_uuid_comes_back_also_inside_json(database):
    """A uuid is a `uuid.UUID`, whichever way it came."""
    value = uuid.uuid4()
    found = (await database.execute_one("SELECT $1::uuid AS u", value))["u"]
    assert value == found
    assert isinstance(found, uuid.UUID)
    row = await database.execute_one("SELECT $1::jsonb AS j", {"id": found, "same": value})
    assert {"id": str(value), "same": str(value)} == row["j"]


async def test_users_codec_wins(postgres):
    """A codec given to the service holds on every connection, also for a built-in type."""
    name = f"mood_{uuid.uuid4().hex}"
    plain = await _service(postgres)
    await plain.execute(f"CREATE TYPE {Identifier(name)} AS ENUM ('sad', 'happy')")
    codecs = [
        Codec(name, encoder=str.lower, decoder=str.upper),
        Codec("inet", encoder=str, decoder=lambda text: text, schema="pg_catalog"),
        Codec("not_there", encoder=str, decoder=str, required=False),
    ]
    service = await _service(postgres, codecs=codecs)
    for pool in (service.pool, await service.get_org_pool("postgres")):
        row = await pool.execute_one(f"SELECT $1::{Identifier(name)} AS m, '10.0.0.1'::inet AS a", "HAPPY")
        assert ["HAPPY", "10.0.0.1"] == list(row.values())
    connection = await service.open_connection()
    assert "SAD" == await connection.fetchval(f"SELECT 'sad'::{Identifier(name)}")
    await connection.close()
    assert IPv4Address("10.0.0.1") == (await plain.execute_one("SELECT '10.0.0.1'::inet AS a"))["a"]
    for service_ in (plain, service):
        await service_.on_shutdown()


async def test_codec_of_a_missing_type_is_a_configuration_error(postgres):
    """It is told at the start, with the type and the way out."""
    with pytest.raises(ConfigurationError, match=r"(?s)type app\.colour isn't in the database.*required=False"):
        await _service(postgres, codecs=[Codec("colour", encoder=str, decoder=str, schema="app")])
