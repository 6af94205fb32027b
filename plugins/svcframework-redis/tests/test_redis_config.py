"""Settings: where they come from, what is refused, and that secrets stay secret."""

import pytest

from svcframework.config import ConfigManager, load_config
from svcframework.errors import ConfigurationError
from svcframework_redis import RedisConfig
from svcframework_redis.address import read_target


@pytest.mark.parametrize("name", ["REDIS_URL", "REDIS__URL"])
def test_address_comes_from_the_environment(name, tmp_path):
    """Both spellings of the variable work."""
    manager = ConfigManager(environ={name: "rediss://u:p@h:1/2"}, root=tmp_path)
    assert "rediss://u:p@h:1/2" == load_config(RedisConfig, manager=manager).url.get_secret_value()


@pytest.mark.parametrize(
    "url",
    ["http://:canary-7Q@h", "redis://:canary-7Q@h:port", "canary-7Q", "redis://canary-7Q..h", "redis://canary-7Q:p@[h"],
)
def test_malformed_address_is_refused_without_showing_it(url, tmp_path):
    """The error names the setting and the form, never the value."""
    manager = ConfigManager(environ={"REDIS_URL": url}, root=tmp_path)
    with pytest.raises(ConfigurationError, match=r"redis://user:password@host:port/db|host name") as caught:
        load_config(RedisConfig, manager=manager)
    assert "canary" not in str(caught.value)


def test_fields_stay_fields():
    """Credentials are passed beside the address, so no character of theirs means anything."""
    config = RedisConfig(host="h", port=1, db=2, username="u@", password="p:/?#@", ssl=True)
    url, arguments = config.connect_arguments()
    assert ("rediss://h:1/2", "u@", "p:/?#@") == (url, arguments["username"], arguments["password"])


def test_shown_address_has_no_credentials():
    """What messages name is host, port and database, or a socket."""
    assert ["h:1/2", "localhost:6379/0", "/run/redis.sock"] == [
        str(read_target(url))
        for url in ("redis://u:canary@h:1/2", "redis://:canary@/", "unix://u:canary@/run/redis.sock?db=1")
    ]
