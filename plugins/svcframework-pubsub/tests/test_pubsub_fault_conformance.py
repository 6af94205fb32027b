"""Every fault on real servers, and what the service promises under it; `make faults` writes the results down."""

import itertools

import anyio
import pytest

from svcframework.errors import ConnectionFailedError, ServiceTimeoutError
from svcframework.testing import FaultConformance
from svcframework_embedded.testing import own_postgres, own_valkey
from svcframework_pubsub import PubSubService

LIMITS = {
    "timeout": 0.9,
    "connect_timeout": 0.4,
    "heartbeat_interval": 0.2,
    "heartbeat_timeout": 0.2,
    "reconnect_delay": 0.02,
    "drain_timeout": 0.2,
}
NO_CALLS = {
    "overloaded": "no HTTP is spoken",
    "pool_exhausted": "all publish on one connection and listen on another; long messages use PostgresService's pool",
    "disk_full": "messages aren't written to a disk; what PostgresService does then is in its own row",
    "process_killed": "a message is one step: it was sent or it was not",
}
PATIENCE = 1.0  # seconds in which a message that was taken is heard
SENDINGS = 5
_numbers = itertools.count()


class Heard(FaultConformance):
    """A call is a message that comes back. After a gap that was told it is sent again, as a careful caller would."""

    service = PubSubService
    limits = LIMITS
    limit = 2.0
    not_applicable = NO_CALLS
    fuzz_calls = 400
    silences = 0  # how often a message may be lost without a word: a gap is told when it is over

    async def call(self, service, key):
        channel, heard, happened = f"faults.{next(_numbers)}", [], anyio.Event()

        def hear(message):
            heard.append(message.payload)
            happened.set()

        async with await service.on(channel, hear, on_gap=lambda _: happened.set(), on_error=lambda *_: happened.set()):
            silences = 0
            for _ in range(SENDINGS):
                await service.publish(channel, key)
                with anyio.move_on_after(PATIENCE) as waiting:
                    await happened.wait()
                silences += waiting.cancelled_caught
                if heard:
                    return heard[0]
                if silences > self.silences:
                    raise ServiceTimeoutError(f"a message on {channel}", PATIENCE)
                happened = anyio.Event()
        raise ConnectionFailedError(f"{channel}: one gap or loss after the other was told")


del FaultConformance  # pytest would collect it here as well


@pytest.fixture(scope="module")
def mortal_postgres_server():
    """A server that only these tests kill."""
    with own_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def mortal_valkey_server():
    """A server that only these tests kill."""
    with own_valkey() as server:
        yield server


class TestPubSubOnPostgresFaults(Heard):
    server = "mortal_postgres_server"
    settings = {"backend": "postgres"}


class TestPubSubOnRedisFaults(Heard):
    server = "mortal_valkey_server"
    settings = {"backend": "redis"}


class TestPubSubWithFallbackFaults(Heard):
    """Redis fails, and nobody notices but health."""

    server = "mortal_valkey_server"
    settings = {"backend": "redis", "fallback": "postgres"}
    degrades = True
    silences = 1  # what was on its way when Redis failed; sent again, it goes the other way
    log_limit = 60  # two services of ours tell of the same server
    not_applicable = {**NO_CALLS, "reset_in_answer": "what Redis took and can't deliver is a gap, which is told"}

    @pytest.fixture(autouse=True)
    def _other_server(self, postgres_server):
        type(self).settings = {"backend": "redis", "fallback": "postgres", "fallback_url": postgres_server.dsn}
