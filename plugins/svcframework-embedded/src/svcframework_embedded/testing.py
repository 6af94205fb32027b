"""Fixtures for pytest, found by themselves: `postgres_server`, `postgres_replica` and `valkey_server`.

There is one server of each per test run. They are plain (not async) fixtures, so tests of every kind can use them, on
any event loop.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:  # pytest imports this module in every run: what it costs is paid by those who use a fixture
    from anyio.from_thread import BlockingPortal

    from svcframework_embedded.postgres import EmbeddedPostgres
    from svcframework_embedded.server import EmbeddedServer


class ServerHandle:
    """A running server, driven from tests without an event loop; lives as long as the test run.

    A server that was killed stays dead until `restart`.

    Args:
        server: The service.
        portal: Where the service's event loop runs.
    """

    def __init__(self, server: EmbeddedServer[Any], portal: BlockingPortal) -> None:
        self.server, self._portal = server, portal

    @property
    def port(self) -> int:
        """The TCP port; the same after a restart."""
        return self.server.port

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ServiceUnavailableError: It was killed.
        """
        return self.server.pid

    @property
    def is_alive(self) -> bool:
        """It was not killed."""
        return self.server.is_alive

    def kill(self) -> None:
        """Kill it with SIGKILL; returns when it is dead."""
        self._portal.call(self.server.kill)

    @contextmanager
    def rotated_password(self) -> Iterator[None]:
        """For the length of a block the server takes another password than the one in its address.

        Every connection is ended at the beginning.
        """
        change = getattr(self.server, "change_password")  # noqa: B009 - the base class has none
        self._portal.call(change, secrets.token_hex(8))
        try:
            yield
        finally:
            self._portal.call(change)

    def restart(self) -> None:
        """Start it again on the same port and data, stopping it first if it runs; returns when it serves."""
        self._portal.call(self.server.relaunch)


class PostgresHandle(ServerHandle):
    """A running PostgreSQL; see `ServerHandle`."""

    @property
    def dsn(self) -> str:
        """The address, `postgresql://…`."""
        return str(getattr(self.server, "dsn"))  # noqa: B009 - the base class has none


class ValkeyHandle(ServerHandle):
    """A running Valkey; see `ServerHandle`."""

    @property
    def url(self) -> str:
        """The address, `redis://…`."""
        return str(getattr(self.server, "url"))  # noqa: B009 - the base class has none


@contextmanager
def served(server: EmbeddedServer[Any]) -> Iterator[BlockingPortal]:
    """Run a server on an event loop in another thread, and stop it after the block.

    Args:
        server: Not started yet; it isn't restarted when it is killed.
    """
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - see above

    from svcframework_embedded.running import running  # noqa: PLC0415 - see above

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running(server, restart=False)):
        yield portal


@contextmanager
def own_postgres(**settings: Any) -> Iterator[PostgresHandle]:
    """A throwaway PostgreSQL for the length of a block: for tests that kill it, or that need settings of their own.

    Args:
        **settings: Those of `EmbeddedPostgresConfig`.
    """
    from svcframework_embedded.config import EmbeddedPostgresConfig  # noqa: PLC0415 - see above
    from svcframework_embedded.postgres import EmbeddedPostgres  # noqa: PLC0415 - see above

    server = EmbeddedPostgres(EmbeddedPostgresConfig(**settings))
    with served(server) as portal:
        yield PostgresHandle(server, portal)


@contextmanager
def own_valkey(**settings: Any) -> Iterator[ValkeyHandle]:
    """A throwaway Valkey for the length of a block; see `own_postgres`.

    Args:
        **settings: Those of `EmbeddedValkeyConfig`.
    """
    from svcframework_embedded.config import EmbeddedValkeyConfig  # noqa: PLC0415 - see above
    from svcframework_embedded.valkey import EmbeddedValkey  # noqa: PLC0415 - see above

    server = EmbeddedValkey(EmbeddedValkeyConfig(**settings))
    with served(server) as portal:
        yield ValkeyHandle(server, portal)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresHandle]:
    """A throwaway PostgreSQL for the whole test run, with a `dsn`; tests may kill and restart it."""
    with own_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_replica(postgres_server: PostgresHandle) -> Iterator[PostgresHandle]:
    """A physical replica of `postgres_server` for the whole test run, with a `dsn`; tests may kill and restart it.

    It streams what is written there; a test that reads what it wrote waits until it has arrived.
    """
    from svcframework_embedded.config import EmbeddedPostgresReplicaConfig  # noqa: PLC0415 - see above
    from svcframework_embedded.replica import EmbeddedPostgresReplica  # noqa: PLC0415 - see above

    replica = EmbeddedPostgresReplica(EmbeddedPostgresReplicaConfig(), cast("EmbeddedPostgres", postgres_server.server))
    with served(replica) as portal:
        yield PostgresHandle(replica, portal)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyHandle]:
    """A throwaway Valkey for the whole test run, with a `url`; tests may kill and restart it."""
    with own_valkey() as server:
        yield server
