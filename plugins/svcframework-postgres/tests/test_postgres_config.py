"""Settings: where they come from, what is refused, and that secrets stay secret."""

import pytest

from svcframework.config import ConfigManager, load_config
from svcframework.errors import ConfigurationError
from svcframework_postgres import PostgresConfig
from svcframework_postgres.config import address_of


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE__DSN"])
def test_address_comes_from_the_environment(name, tmp_path):
    """Both spellings of the variable work; a driver that SQLAlchemy wants in the scheme is dropped."""
    manager = ConfigManager(environ={name: "postgresql+asyncpg://u:p@h:1/d"}, root=tmp_path)
    config = load_config(PostgresConfig, manager=manager)
    assert "postgresql://u:p@h:1/d" == config.dsn.get_secret_value()


@pytest.mark.parametrize("dsn", ["mysql://u:canary-7Q@h/d", "postgresql://u:canary-7Q@h:port/d", "canary-7Q"])
def test_malformed_address_is_refused_without_showing_it(dsn, tmp_path):
    """The error names the setting and the form, never the value."""
    manager = ConfigManager(environ={"DATABASE_URL": dsn}, root=tmp_path)
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host:port/database") as caught:
        load_config(PostgresConfig, manager=manager)
    assert "canary" not in str(caught.value)


def test_pool_sizes_must_fit():
    """A pool that must keep more than it may hold is refused."""
    with pytest.raises(ValueError, match="pool_min_size 3 is over pool_max_size 2"):
        PostgresConfig(pool_min_size=3, pool_max_size=2)


def test_fields_stay_fields():
    """Nothing is concatenated into an address, so no character of a field means anything."""
    config = PostgresConfig(host="db", user="a@b/c", password="p:/?#@", database="d?host=evil", ssl="require")
    arguments = config.connect_arguments()
    assert ("db", "a@b/c", "p:/?#@", "d?host=evil", "require") == tuple(
        arguments[key] for key in ("host", "user", "password", "database", "ssl")
    )
    assert "dsn" not in arguments
    assert "other" == PostgresConfig(dsn="postgresql://h/d").connect_arguments(database="other")["database"]


def test_shown_address_has_no_credentials():
    """What messages name is host, port and database."""
    shown = [
        address_of(PostgresConfig(dsn="postgresql://u:canary@h:5433/d?sslmode=disable").connect_arguments()),
        address_of(PostgresConfig(dsn="postgresql://u:canary@/d?host=%2Fsocket").connect_arguments()),
        address_of(PostgresConfig(host="h", user="u", password="canary", database="d").connect_arguments()),
    ]
    assert ["h:5433/d", "local socket:5432/d", "h:5432/d"] == shown
