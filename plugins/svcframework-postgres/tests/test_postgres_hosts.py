"""Addresses with several servers, the settings of replicas, and what a lag is told from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework.config import ConfigManager, load_config
from svcframework.errors import ConfigurationError
from svcframework_postgres import PostgresConfig
from svcframework_postgres.config import address_of, replica_arguments
from svcframework_postgres.hosts import hosts_in, hosts_of, shown, split_hosts, wanted_kind
from svcframework_postgres.reading.wal import WalHistory, end_of_records, parsed_position, shown_position


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@one/d", (("one", 5432),)),
        ("postgresql://u:p@one:1,two:2/d", (("one", 1), ("two", 2))),
        ("postgresql://u:p@[::1]:1,two/d", (("::1", 1), ("two", 5432))),
        ("postgresql://u:p@%2Fsocket,two:2/d", (("/socket", 5432), ("two", 2))),
        ("postgresql:///d?host=one,two&port=1,2", (("one", 1), ("two", 2))),
        ("postgresql:///d?host=one,two&port=7", (("one", 7), ("two", 7))),
        ("postgresql://u@/d?host=/socket&port=7", (("/socket", 7),)),
        ("postgresql:///d", ()),
    ],
)
def test_hosts_of_an_address(dsn, expected):
    """They are read as libpq writes them, ports and sockets included."""
    assert expected == hosts_in(dsn)


@pytest.mark.parametrize(
    "hosts", ["h:port", "h:0", "h:65536", "h:1,h:x", "[::1", "[::1]5432", "one,two:-1", "h:\u0661"]
)
def test_malformed_hosts_are_refused_without_quoting_them(hosts, tmp_path):
    """In an address and in fields, and whatever stands there isn't shown."""
    with pytest.raises(ValueError, match=r"port|IPv6"):
        split_hosts(hosts)
    for settings in ({"DATABASE_URL": f"postgresql://u:canary-7Q@{hosts}/d"}, {"DATABASE__HOST": hosts}):
        manager = ConfigManager(environ=settings, root=tmp_path)
        with pytest.raises(ConfigurationError) as caught:
            load_config(PostgresConfig, manager=manager)
        assert "canary" not in str(caught.value)


def test_ports_fit_hosts():
    """One port is for all; otherwise there is one for each."""
    assert (("a", 1), ("b", 2)) == split_hosts("a,b", "1,2")
    with pytest.raises(ValueError, match="2 ports for 3 hosts"):
        split_hosts("a,b,c", "1,2")


@given(
    st.lists(st.tuples(st.sampled_from(["db", "db-1.example", "127.0.0.1", "::1"]), st.integers(1, 65535)), min_size=1)
)
def test_shown_hosts_are_read_back(hosts):
    """What a message shows leads to the same servers."""
    assert tuple(hosts) == split_hosts(shown(hosts))


def test_hosts_of_fields():
    """A field holds several hosts too, which share its port unless they have their own."""
    several = PostgresConfig(host="one,two:2", port=7, user="u", database="d").connect_arguments()
    single = PostgresConfig(host="one:2", user="u").connect_arguments()
    assert ((("one", 7), ("two", 2)), "one:7,two:2/d") == (hosts_of(several), address_of(several))
    assert ("one", 2) == (single["host"], single["port"])
    assert "::1" == PostgresConfig(host="::1", user="u").connect_arguments()["host"]


def test_replicas_come_from_the_environment(tmp_path):
    """Words between commas or JSON, hosts or addresses; they print as stars."""
    assert 2 == len(PostgresConfig(replicas="db2, db3:5433").replicas)
    for text in ("db2,db3:5433", '["db2", "db3:5433"]'):
        manager = ConfigManager(environ={"DATABASE__REPLICAS": text}, root=tmp_path)
        config = load_config(PostgresConfig, manager=manager)
        assert ["db2", "db3:5433"] == [replica.get_secret_value() for replica in config.replicas]
        assert "db3" not in repr(config)


def test_replica_takes_the_rest_from_the_primary():
    """A bare host has the primary's user, password and database; an address has its own. Both take any server."""
    config = PostgresConfig(
        dsn="postgresql://u:p@one,two/d?target_session_attrs=read-write",
        replicas=["three:5433", "postgresql+asyncpg://v:q@four/d"],
    )
    bare, full = [replica_arguments(replica, config.connect_arguments()) for replica in config.replicas]
    assert ("three", 5433, "three:5433/d") == (bare["host"], bare["port"], address_of(bare))
    assert ("postgresql://v:q@four/d", "four:5432/d") == (full["dsn"], address_of(full))
    assert ["any", "any"] == [wanted_kind(bare), wanted_kind(full)]
    fields = PostgresConfig(host="one", user="u", password="p", database="d", replicas=["postgresql://v:q@four/e"])
    full = replica_arguments(fields.replicas[0], fields.connect_arguments())
    assert ({"host", "port", "user", "password"} & set(full), full["database"]) == (set(), "d")


@pytest.mark.parametrize("replica", ["one,two", "postgresql://u:canary-7Q@a,b/d", "mysql://u:canary-7Q@a/d", "a:b", ""])
def test_replica_must_be_one_server(replica):
    """Lag is a property of one server; the error names the entry by its number."""
    with pytest.raises(ValueError, match="number 2 names no single server") as caught:
        PostgresConfig(replicas=["fine", replica])
    assert "canary" not in str(caught.value)


def test_lag_must_be_measurable():
    """A bound that is shorter than two measurements would put every replica out."""
    with pytest.raises(ValueError, match=r"replica_check_interval 0\.5 is over half of max_replica_lag 0\.9"):
        PostgresConfig(max_replica_lag=0.9)


@given(st.integers(0, 2**64 - 1))
def test_positions_are_read_back(position):
    """A position is the same after it was shown."""
    assert position == parsed_position(shown_position(position))


@pytest.mark.parametrize("text", ["", "/", "1", "1/", "/1", "g/1", "123456789/1", "1/123456789", "1/2/3"])
def test_what_is_no_position_is_refused(text):
    """It came from a cookie, perhaps."""
    with pytest.raises(ValueError):
        parsed_position(text)


def test_end_of_the_log_is_before_an_empty_page():
    """The header of a page that holds nothing yet is not part of what a replica replays."""
    page, segment = 8192, 16 * 1024**2
    assert 3 * segment == end_of_records(3 * segment + 40, page=page, segment=segment)
    assert 5 * page == end_of_records(5 * page + 24, page=page, segment=segment)
    assert 5 * page + 40 == end_of_records(5 * page + 40, page=page, segment=segment)
    assert 5 * page + 32 == end_of_records(5 * page + 32, page=page, segment=segment)


events = st.lists(st.tuples(st.sampled_from(["write", "ask", "tick"]), st.integers(0, 3)), max_size=60)


@given(events, st.integers(0, 80), st.floats(1, 20))
def test_lag_is_never_understated(steps, replayed, window):
    """Whatever was committed by the time that a history tells, a replica at that position has replayed."""
    history, now, written, commits = WalHistory(window), 0.0, 0, []
    for kind, amount in steps:
        now += 0.5
        if kind == "write" and amount:
            written += amount
            commits.append((now, written))
        elif kind == "ask":
            history.add(written, now)
    told = history.reached(replayed)
    if told is not None:
        assert all(position <= replayed for at, position in commits if at < told)


def test_idle_primary_is_not_behind_itself():
    """The same position asked again is as fresh as the last question, and a history keeps no more than it needs."""
    history = WalHistory(10.0)
    for second in range(100):
        history.add(7, float(second))
    assert (99.0, None) == (history.reached(7), history.reached(6))
    for second in range(100, 200):
        history.add(second, float(second))
    assert (199.0, 195.0) == (history.reached(500), history.reached(195))
    assert history.reached(150) is None  # longer ago than the window
    history.add(3, 300.0)  # another server, whose positions are its own
    assert (300.0, None) == (history.reached(5), history.reached(2))
