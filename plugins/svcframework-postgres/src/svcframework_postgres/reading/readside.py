"""The read side of a service: its replicas and its reader, put together from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import SecretStr

from svcframework.metrics import ServiceMetrics
from svcframework_postgres.codecs import Codec
from svcframework_postgres.config import PostgresConfig, address_of, replica_arguments
from svcframework_postgres.connections import Connection, connect
from svcframework_postgres.hosts import hosts_of, wanted_kind
from svcframework_postgres.manager import HasDsn
from svcframework_postgres.pool import PostgresPool
from svcframework_postgres.reading.replicas import Opener, Replica, ReplicaSet
from svcframework_postgres.reading.routing import ReadRouter
from svcframework_postgres.reading.servers import ReadServer

Arguments = Callable[[str | None], dict[str, Any]]
"""Where to connect to for a database; asked anew each time, since a restarted server may have moved."""


@dataclass(frozen=True)
class ReadSide:
    """What the read side is made of; makes a router each time that the service starts.

    Args:
        config: The service's settings.
        server: The primary, when another service runs it.
        replicas: Replicas that other services run, beside those of the settings.
        codecs: The service's.
        metrics: The service's.
        on_new_primary: Called when another server has taken over.
        on_change: Called when a replica goes out or comes back, with its address and the reason.
    """

    config: PostgresConfig
    server: HasDsn | None
    replicas: Sequence[HasDsn]
    codecs: Sequence[Codec]
    metrics: ServiceMetrics
    on_new_primary: Callable[[], None]
    on_change: Callable[[str, str], None]

    def router(self) -> ReadRouter:
        """A router that has opened nothing yet."""
        config = self.config
        limit = config.max_databases
        replicas = [
            (Replica(self._pools(arguments), max_databases=limit, on_change=self.on_change), self._opener(arguments))
            for arguments in self._replica_arguments()
        ]
        return ReadRouter(
            ReplicaSet(
                replicas,
                (ReadServer(self._pools(self._reading_primary), max_databases=limit), self._opener(self._primary)),
                max_lag=config.max_replica_lag,
                max_lag_in_failover=config.max_replica_lag_in_failover,
                check_interval=config.replica_check_interval,
                on_new_primary=self.on_new_primary,
            ),
            metrics=self.metrics,
            command_timeout=config.command_timeout,
        )

    def _primary(self, database: str | None = None) -> dict[str, Any]:
        return self.config.connect_arguments(None if self.server is None else self.server.dsn, database=database)

    def _reading_primary(self, database: str | None = None) -> dict[str, Any]:
        """The primary, in sessions that refuse to write: what a reader does must not depend on where it lands."""
        arguments = self._primary(database)
        settings = {**arguments["server_settings"], "default_transaction_read_only": "on"}
        if len(hosts_of(arguments)) > 1 and wanted_kind(arguments) in {None, "read-write"}:
            arguments["target_session_attrs"] = "primary"
        return {**arguments, "server_settings": settings}

    def _replica_arguments(self) -> list[Arguments]:
        configured = [partial(self._configured, replica) for replica in self.config.replicas]
        return [*configured, *(partial(self._given, replica) for replica in self.replicas)]

    def _configured(self, replica: SecretStr, database: str | None = None) -> dict[str, Any]:
        return replica_arguments(replica, self._primary(database))

    def _given(self, replica: HasDsn, database: str | None = None) -> dict[str, Any]:
        return {**self.config.connect_arguments(replica.dsn, database=database), "target_session_attrs": "any"}

    def _pools(self, arguments: Arguments) -> Callable[[str | None], PostgresPool]:
        config = self.config

        def new_pool(database: str | None) -> PostgresPool:
            return PostgresPool(
                self._opener(arguments, database, self.codecs),
                address=address_of(arguments(database)),
                max_size=config.pool_max_size,
                idle_lifetime=config.pool_idle_lifetime,
                acquire_timeout=config.acquire_timeout,
                command_timeout=config.command_timeout,
                always_reset=config.reset == "always",
                accepts_writes=False,
            )

        return new_pool

    def _opener(self, arguments: Arguments, database: str | None = None, codecs: Sequence[Codec] = ()) -> Opener:
        async def open_connection() -> Connection:
            found = arguments(database)
            return await connect(found, address=address_of(found), codecs=codecs)

        return open_connection
