"""PostgreSQL for svcframework, on asyncpg: a pool with deadlines, transactions and errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_postgres.codecs import Codec
    from svcframework_postgres.config import PostgresConfig
    from svcframework_postgres.connections import Connection
    from svcframework_postgres.copying import CopyOptions
    from svcframework_postgres.errors import (
        ReadOnlyServerError,
        TransactionConflictError,
        TransactionOutcomeUnknownError,
    )
    from svcframework_postgres.findings import Finding, FindingKind, Severity
    from svcframework_postgres.identifiers import Identifier
    from svcframework_postgres.indexing import IndexingStrategy
    from svcframework_postgres.manager import ConnectionManager, HasDsn, PoolHealth
    from svcframework_postgres.migrationconfig import MigrationConfig
    from svcframework_postgres.migrationerrors import (
        IrreversibleMigrationError,
        MigrationError,
        MigrationFailedError,
        MigrationFilesError,
        MigrationHistoryError,
        MigrationLockedError,
        MigrationsPendingError,
    )
    from svcframework_postgres.migrationfiles import MigrationFile
    from svcframework_postgres.migrations import AppliedMigration, Migrations, MigrationStatus
    from svcframework_postgres.migrationservice import MigrationService
    from svcframework_postgres.optimization import OptimizationService
    from svcframework_postgres.optimizationconfig import OptimizationConfig
    from svcframework_postgres.optimizer import QueryOptimizer, QueryPlan
    from svcframework_postgres.plans import PlanNode
    from svcframework_postgres.pool import PostgresPool
    from svcframework_postgres.poolstatistics import PoolStatistics
    from svcframework_postgres.proposals import (
        AnalyzeTable,
        CreateIndex,
        CreateStatistics,
        DropIndex,
        Proposal,
        RebuildIndex,
    )
    from svcframework_postgres.reader import PostgresReader
    from svcframework_postgres.recording import Recording
    from svcframework_postgres.replicas import ReplicaStatus
    from svcframework_postgres.report import OptimizationReport, UnknownProposalError
    from svcframework_postgres.schemachanges import AppliedChange
    from svcframework_postgres.service import AuroraService, PostgresService
    from svcframework_postgres.statementstatistics import StatementStatistics, StatementStatisticsError
    from svcframework_postgres.streaming import PostgresStream
    from svcframework_postgres.transaction import PostgresTransaction

__all__ = [
    "AnalyzeTable",
    "AppliedChange",
    "AppliedMigration",
    "AuroraService",
    "Codec",
    "Connection",
    "ConnectionManager",
    "CopyOptions",
    "CreateIndex",
    "CreateStatistics",
    "DropIndex",
    "Finding",
    "FindingKind",
    "HasDsn",
    "Identifier",
    "IndexingStrategy",
    "IrreversibleMigrationError",
    "MigrationConfig",
    "MigrationError",
    "MigrationFailedError",
    "MigrationFile",
    "MigrationFilesError",
    "MigrationHistoryError",
    "MigrationLockedError",
    "MigrationService",
    "MigrationStatus",
    "Migrations",
    "MigrationsPendingError",
    "OptimizationConfig",
    "OptimizationReport",
    "OptimizationService",
    "PlanNode",
    "PoolHealth",
    "PoolStatistics",
    "PostgresConfig",
    "PostgresPool",
    "PostgresReader",
    "PostgresService",
    "PostgresStream",
    "PostgresTransaction",
    "Proposal",
    "QueryOptimizer",
    "QueryPlan",
    "ReadOnlyServerError",
    "RebuildIndex",
    "Recording",
    "ReplicaStatus",
    "Severity",
    "StatementStatistics",
    "StatementStatisticsError",
    "TransactionConflictError",
    "TransactionOutcomeUnknownError",
    "UnknownProposalError",
]

_HOME = {
    "AnalyzeTable": "proposals",
    "AppliedChange": "schemachanges",
    "AppliedMigration": "migrations",
    "AuroraService": "service",
    "Codec": "codecs",
    "Connection": "connections",
    "ConnectionManager": "manager",
    "CopyOptions": "copying",
    "CreateIndex": "proposals",
    "CreateStatistics": "proposals",
    "DropIndex": "proposals",
    "Finding": "findings",
    "FindingKind": "findings",
    "HasDsn": "manager",
    "Identifier": "identifiers",
    "IndexingStrategy": "indexing",
    "IrreversibleMigrationError": "migrationerrors",
    "MigrationConfig": "migrationconfig",
    "MigrationError": "migrationerrors",
    "MigrationFailedError": "migrationerrors",
    "MigrationFile": "migrationfiles",
    "MigrationFilesError": "migrationerrors",
    "MigrationHistoryError": "migrationerrors",
    "MigrationLockedError": "migrationerrors",
    "MigrationService": "migrationservice",
    "MigrationStatus": "migrations",
    "Migrations": "migrations",
    "MigrationsPendingError": "migrationerrors",
    "OptimizationConfig": "optimizationconfig",
    "OptimizationReport": "report",
    "OptimizationService": "optimization",
    "PlanNode": "plans",
    "PoolHealth": "manager",
    "PoolStatistics": "poolstatistics",
    "PostgresConfig": "config",
    "PostgresPool": "pool",
    "PostgresReader": "reader",
    "PostgresService": "service",
    "PostgresStream": "streaming",
    "PostgresTransaction": "transaction",
    "ReadOnlyServerError": "errors",
    "ReplicaStatus": "replicas",
    "Proposal": "proposals",
    "QueryOptimizer": "optimizer",
    "QueryPlan": "optimizer",
    "RebuildIndex": "proposals",
    "Recording": "recording",
    "Severity": "findings",
    "StatementStatistics": "statementstatistics",
    "StatementStatisticsError": "statementstatistics",
    "TransactionConflictError": "errors",
    "TransactionOutcomeUnknownError": "errors",
    "UnknownProposalError": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
