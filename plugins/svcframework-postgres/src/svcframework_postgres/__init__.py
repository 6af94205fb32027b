"""PostgreSQL for svcframework, on asyncpg: a pool with deadlines, transactions and errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_postgres.config import PostgresConfig
    from svcframework_postgres.identifiers import Identifier
    from svcframework_postgres.pool import PoolStatistics, PostgresPool
    from svcframework_postgres.service import AuroraService, HasDsn, PostgresService
    from svcframework_postgres.transaction import PostgresTransaction

__all__ = [
    "AuroraService",
    "HasDsn",
    "Identifier",
    "PoolStatistics",
    "PostgresConfig",
    "PostgresPool",
    "PostgresService",
    "PostgresTransaction",
]

_HOME = {
    "AuroraService": "service",
    "HasDsn": "service",
    "Identifier": "identifiers",
    "PoolStatistics": "pool",
    "PostgresConfig": "config",
    "PostgresPool": "pool",
    "PostgresService": "service",
    "PostgresTransaction": "transaction",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
