"""The blocking client of seed 001, its default, its environment and its command."""

import os
import threading
import time

import pytest

from svcframework.config import set_config_manager
from svcframework.errors import ConfigurationError, ServiceUnavailableError
from svcframework_pubsub import (
    ChannelNameError,
    PubSubClient,
    create_pubsub_client,
    get_default_client,
    set_default_client,
)
from svcframework_pubsub.__main__ import main

VARIABLES = ["PUBSUB_BACKEND", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """None of the machine's own settings."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    set_config_manager(None)
    yield
    set_default_client(None)
    set_config_manager(None)


@pytest.fixture
def setenv(monkeypatch):
    """Sets variables as if they had been there when the process began."""

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        set_config_manager(None)

    return set_variables


@pytest.fixture(params=["memory", "postgres", "redis"])
def client(request):
    """A client on each backend in its turn."""
    address = None
    if request.param == "postgres":
        address = request.getfixturevalue("postgres_server").dsn
    if request.param == "redis":
        address = request.getfixturevalue("valkey_server").url
    with create_pubsub_client(request.param, address) as client:
        yield client


class Listening:
    """A thread that listens, for the length of a block."""

    def __init__(self, client, channel="runs", callback=None):
        self.seen, self.stop, ready = [], threading.Event(), threading.Event()
        self.thread = threading.Thread(
            target=client.listen,
            args=(channel, callback or self.seen.append, self.stop),
            kwargs={"on_ready": ready.set},
        )
        self.thread.start()
        self.is_ready = ready.wait

    def __enter__(self):
        assert self.is_ready(10)
        return self

    def __exit__(self, *details):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def wait(self, count):
        ends = time.monotonic() + 10
        while len(self.seen) < count and time.monotonic() < ends:
            time.sleep(0.005)
        return self.seen


def test_publish_and_listen(client):
    """As in the seed: `publish` says True, and the callback gets the payload in the listening thread."""
    with Listening(client) as listener:
        assert client.publish("runs", {"thread_id": "abc123", "status": "running"}) is True
        assert [{"thread_id": "abc123", "status": "running"}] == listener.wait(1)


def test_threads_share_a_client(client):
    """Eight threads publish at once; each listener gets everything."""
    with Listening(client) as one, Listening(client) as two:
        threads = [
            threading.Thread(target=lambda number=number: [client.publish("runs", number) for _ in range(25)])
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sorted(list(range(8)) * 25)
        assert expected == sorted(one.wait(200)) == sorted(two.wait(200))


def test_stop_flag_and_close_end_listening(client):
    """A listener returns soon after its flag is set, or its client closed."""
    with Listening(client) as first:
        asked = time.monotonic()
        first.stop.set()
        first.thread.join(10)
        assert 3 > time.monotonic() - asked
    with Listening(client) as second:
        client.close()
        second.thread.join(10)
        assert not second.thread.is_alive()
    client.close()
    with pytest.raises(ServiceUnavailableError, match="closed"):
        client._call(None)


def test_close_at_any_moment_ends_listening_without_an_error(valkey_server):
    """A listener that was just connecting when its client was closed returns like any other."""
    for moment in range(8):
        client = create_pubsub_client("redis", valkey_server.url)
        thread = threading.Thread(target=client.listen, args=("runs", print))
        thread.start()
        time.sleep(moment * 0.003)
        client.close()
        thread.join(10)
        assert not thread.is_alive()


def test_callback_that_raises_is_called_again(client):
    """Its error is logged; the next message comes."""
    seen = []

    def shaky(payload):
        seen.append(payload)
        raise RuntimeError("no")

    with Listening(client, callback=shaky) as listener:
        listener.seen = seen
        client.publish("runs", 1)
        client.publish("runs", 2)
        assert [1, 2] == listener.wait(2)


def test_wrong_use_is_raised(client):
    """Only trouble with the server is a False."""
    with pytest.raises(ChannelNameError):
        client.publish("", 1)


@pytest.mark.parametrize("backend", ["postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1/0"])
def test_server_that_is_away_is_a_false(backend):
    """`publish` logs and returns False; `listen` keeps trying until it is told to stop."""
    with create_pubsub_client(backend.partition(":")[0], backend) as client:
        assert client.publish("runs", 1) is False
        stop = threading.Event()
        thread = threading.Thread(target=client.listen, args=("runs", print, stop))
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def test_listener_waits_for_its_server(valkey_server):
    """A listener that was begun without a server hears as soon as there is one."""
    valkey_server.kill()
    with create_pubsub_client("redis", valkey_server.url) as client:
        listener = Listening(client)
        time.sleep(0.1)
        valkey_server.restart()
        with listener:
            assert client.publish("runs", "there")
            assert ["there"] == listener.wait(1)


# --- environment ----------------------------------------------------------------------------------------


def test_backend_comes_from_the_environment(setenv, postgres_server, valkey_server):
    """PUBSUB_BACKEND chooses, DATABASE_URL and REDIS_HOST, REDIS_PORT, REDIS_PASSWORD say where."""
    setenv(DATABASE_URL=postgres_server.dsn)
    with create_pubsub_client() as client, Listening(client) as listener:
        assert client.publish("runs", "postgres is the default")
        assert 1 == len(listener.wait(1))
    setenv(PUBSUB_BACKEND="redis")
    setenv(REDIS_HOST="127.0.0.1")
    setenv(REDIS_PORT=str(valkey_server.port))
    setenv(REDIS_PASSWORD=valkey_server.server.url.split(":")[2].split("@")[0])
    with create_pubsub_client() as client, Listening(client) as listener:
        assert ("redis", "postgres") == (client._config.backend, client._config.fallback)
        assert client.publish("runs", "redis")
        assert ["redis"] == listener.wait(1)


def test_redis_falls_back_to_postgres(setenv, postgres_server):
    """With DATABASE_URL set, a Redis that is away at the start is no trouble."""
    setenv(DATABASE_URL=postgres_server.dsn)
    with create_pubsub_client("redis", "redis://127.0.0.1:1/0") as client, Listening(client) as listener:
        assert client.publish("runs", "by PostgreSQL") is True
        assert ["by PostgreSQL"] == listener.wait(1)


def test_unknown_backend_is_refused():
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match="backend"):
        create_pubsub_client("carrier pigeon")


def test_default_client_is_one(setenv):
    """It is made once, and tests may set another one."""
    setenv(PUBSUB_BACKEND="memory")
    client = get_default_client()
    assert isinstance(client, PubSubClient)
    assert client is get_default_client()
    assert client.publish("runs", 1)
    other = object()
    set_default_client(other)
    assert other is get_default_client()
    client.close()


def test_client_that_nobody_closed_is_collected():
    """Its thread ends with it."""
    client = create_pubsub_client("memory")
    client.publish("runs", 1)
    thread = client._loop._thread
    del client
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_client_survives_a_fork(postgres_server):
    """A child process connects anew; the parent's connection is its own."""
    with create_pubsub_client("postgres", postgres_server.dsn) as client, Listening(client) as listener:
        client.publish("runs", "parent")
        child = os.fork()
        if child == 0:
            os._exit(0 if client.publish("runs", "child") else 1)
        assert 0 == os.waitpid(child, 0)[1]
        assert ["parent", "child"] == listener.wait(2)
        assert client.publish("runs", "parent")


# --- the command ----------------------------------------------------------------------------------------


def test_command_tries_both(setenv, capsys, postgres_server, valkey_server):
    """It publishes and listens on the configured servers, says what happens, and exits with 0."""
    setenv(DATABASE_URL=postgres_server.dsn)
    setenv(REDIS_URL=valkey_server.url)
    assert 0 == main(["both"])
    shown = capsys.readouterr().out
    assert "postgres: passed" in shown
    assert "redis: passed" in shown


def test_command_starts_a_server_of_its_own(capsys):
    """Without an address it needs nothing installed."""
    assert 0 == main(["redis"])
    assert "starting a server of our own" in capsys.readouterr().out


def test_command_tells_failure(setenv, monkeypatch, capsys):
    """Exit code 1 when messages don't come, 2 for wrong arguments."""
    setenv(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr("svcframework_pubsub.__main__._PATIENCE", 0.5)
    assert 1 == main(["postgres"])
    assert "can't be reached" in capsys.readouterr().out
    assert 2 == main(["nonsense"])
    assert "usage" in capsys.readouterr().out
