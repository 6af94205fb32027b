"""A real PostgreSQL and Valkey that run as services, with nothing to install."""

from svcframework_embedded.config import EmbeddedPostgresConfig, EmbeddedPostgresReplicaConfig, EmbeddedValkeyConfig
from svcframework_embedded.errors import ServerCrashedError, ServerStartError
from svcframework_embedded.postgres import EmbeddedPostgres
from svcframework_embedded.replica import EmbeddedPostgresReplica
from svcframework_embedded.running import running
from svcframework_embedded.server import EmbeddedServer
from svcframework_embedded.valkey import EmbeddedValkey

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresConfig",
    "EmbeddedPostgresReplica",
    "EmbeddedPostgresReplicaConfig",
    "EmbeddedServer",
    "EmbeddedValkey",
    "EmbeddedValkeyConfig",
    "ServerCrashedError",
    "ServerStartError",
    "running",
]
