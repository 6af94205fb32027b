"""Every fault on real servers, and what the service promises under it; `make faults` writes the results down."""

import itertools

import anyio
import pytest

from svcframework import deadline
from svcframework.errors import ConnectionFailedError
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
_numbers = itertools.count()


class Heard(FaultConformance):
    """A call is a message that comes back; it has failed when a gap is told first, for then it may be lost."""

    service = PubSubService
    limits = LIMITS
    limit = 2.0
    not_applicable = NO_CALLS
    fuzz_calls = 400
    is_gap_final = True

    async def call(self, service, key):
        channel, heard, happened = f"faults.{next(_numbers)}", [], anyio.Event()

        def hear(message):
            heard.append(message.payload)
            happened.set()

        with deadline(5.0, operation=f"a message on {channel}"):
            async with await service.on(
                channel,
                hear,
                on_gap=lambda _: self.is_gap_final and happened.set(),
                on_error=lambda *_: happened.set(),
            ):
                while not happened.is_set():
                    await service.publish(channel, key)
                    with anyio.move_on_after(1.0 if not self.is_gap_final else 10.0):
                        await happened.wait()
        if not heard:
            raise ConnectionFailedError(f"{channel}: a gap or a loss was told")
        return heard[0]


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
    is_gap_final = False  # the message may still come the other way; if not, it is sent again
    log_limit = 60  # two services of ours tell of the same server
    not_applicable = {**NO_CALLS, "reset_in_answer": "what Redis took and can't deliver is a gap, which is told"}

    @pytest.fixture(autouse=True)
    def _other_server(self, postgres_server):
        type(self).settings = {"backend": "redis", "fallback": "postgres", "fallback_url": postgres_server.dsn}
