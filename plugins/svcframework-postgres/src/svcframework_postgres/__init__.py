"""PostgreSQL for svcframework, on asyncpg: pools with deadlines, transactions, COPY, streams and errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_postgres.codecs import Codec
    from svcframework_postgres.config import PostgresConfig
    from svcframework_postgres.connections import Connection
    from svcframework_postgres.copying import CopyOptions
    from svcframework_postgres.errors import TransactionConflictError, TransactionOutcomeUnknownError
    from svcframework_postgres.identifiers import Identifier
    from svcframework_postgres.manager import ConnectionManager, HasDsn, PoolHealth
    from svcframework_postgres.pool import PostgresPool
    from svcframework_postgres.poolstatistics import PoolStatistics
    from svcframework_postgres.service import AuroraService, PostgresService
    from svcframework_postgres.streaming import PostgresStream
    from svcframework_postgres.transaction import PostgresTransaction

__all__ = [
    "AuroraService",
    "Codec",
    "Connection",
    "ConnectionManager",
    "CopyOptions",
    "HasDsn",
    "Identifier",
    "PoolHealth",
    "PoolStatistics",
    "PostgresConfig",
    "PostgresPool",
    "PostgresService",
    "PostgresStream",
    "PostgresTransaction",
    "TransactionConflictError",
    "TransactionOutcomeUnknownError",
]

_HOME = {
    "AuroraService": "service",
    "Codec": "codecs",
    "Connection": "connections",
    "ConnectionManager": "manager",
    "CopyOptions": "copying",
    "HasDsn": "manager",
    "Identifier": "identifiers",
    "PoolHealth": "manager",
    "PoolStatistics": "poolstatistics",
    "PostgresConfig": "config",
    "PostgresPool": "pool",
    "PostgresService": "service",
    "PostgresStream": "streaming",
    "PostgresTransaction": "transaction",
    "TransactionConflictError": "errors",
    "TransactionOutcomeUnknownError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
