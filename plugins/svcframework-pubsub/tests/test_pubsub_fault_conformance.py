"""Every fault on real servers, and what the service promises under it; `make faults` writes the results down."""

import itertools

import pytest

from svcframework import deadline
from svcframework.errors import ConnectionFailedError
from svcframework.testing import FaultConformance
from svcframework_embedded.testing import own_postgres, own_valkey
from svcframework_pubsub import PubSubService

LIMITS = {
    "timeout": 0.6,
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
    """A call is a message that comes back; a gap while it is waited for is an error."""

    service = PubSubService
    limits = LIMITS
    limit = 2.0
    not_applicable = NO_CALLS
    fuzz_calls = 400

    async def call(self, service, key):
        channel = f"faults.{next(_numbers)}"
        gaps = []
        with deadline(self.limit, operation=f"a message on {channel}"):
            async with service.subscribe(channel, on_gap=gaps.append) as messages:
                await service.publish(channel, key)
                async for message in messages:
                    return message.payload
        raise ConnectionFailedError(f"{channel}: the service was stopped")


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
