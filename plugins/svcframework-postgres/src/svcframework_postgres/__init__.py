"""PostgreSQL for svcframework, on asyncpg: a pool with deadlines, transactions and errors of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework_postgres.advice.config import OptimizationConfig
    from svcframework_postgres.advice.findings import Finding, FindingKind, Severity
    from svcframework_postgres.advice.indexing import IndexingStrategy
    from svcframework_postgres.advice.optimizer import QueryOptimizer, QueryPlan
    from svcframework_postgres.advice.plans import PlanNode
    from svcframework_postgres.advice.proposals import (
        AnalyzeTable,
        CreateIndex,
        CreateStatistics,
        DropIndex,
        Proposal,
        RebuildIndex,
    )
    from svcframework_postgres.advice.recording import Recording
    from svcframework_postgres.advice.report import OptimizationReport, UnknownProposalError
    from svcframework_postgres.advice.schemachanges import AppliedChange
    from svcframework_postgres.advice.service import OptimizationService
    from svcframework_postgres.advice.statementstatistics import StatementStatistics, StatementStatisticsError
    from svcframework_postgres.bulk.copying import CopyOptions
    from svcframework_postgres.bulk.streaming import PostgresStream
    from svcframework_postgres.codecs import Codec
    from svcframework_postgres.config import PostgresConfig
    from svcframework_postgres.connections import Connection
    from svcframework_postgres.errors import (
        ReadOnlyServerError,
        TransactionConflictError,
        TransactionOutcomeUnknownError,
    )
    from svcframework_postgres.identifiers import Identifier
    from svcframework_postgres.manager import ConnectionManager, HasDsn, PoolHealth
    from svcframework_postgres.migrations.applying import AppliedMigration, Migrations, MigrationStatus
    from svcframework_postgres.migrations.config import MigrationConfig
    from svcframework_postgres.migrations.errors import (
        IrreversibleMigrationError,
        MigrationError,
        MigrationFailedError,
        MigrationFilesError,
        MigrationHistoryError,
        MigrationLockedError,
        MigrationsPendingError,
    )
    from svcframework_postgres.migrations.files import MigrationFile
    from svcframework_postgres.migrations.service import MigrationService
    from svcframework_postgres.pool import PostgresPool
    from svcframework_postgres.poolstatistics import PoolStatistics
    from svcframework_postgres.reading.reader import PostgresReader
    from svcframework_postgres.reading.replicas import ReplicaStatus
    from svcframework_postgres.service import AuroraService, PostgresService
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
    "AnalyzeTable": "advice.proposals",
    "AppliedChange": "advice.schemachanges",
    "AppliedMigration": "migrations.applying",
    "AuroraService": "service",
    "Codec": "codecs",
    "Connection": "connections",
    "ConnectionManager": "manager",
    "CopyOptions": "bulk.copying",
    "CreateIndex": "advice.proposals",
    "CreateStatistics": "advice.proposals",
    "DropIndex": "advice.proposals",
    "Finding": "advice.findings",
    "FindingKind": "advice.findings",
    "HasDsn": "manager",
    "Identifier": "identifiers",
    "IndexingStrategy": "advice.indexing",
    "IrreversibleMigrationError": "migrations.errors",
    "MigrationConfig": "migrations.config",
    "MigrationError": "migrations.errors",
    "MigrationFailedError": "migrations.errors",
    "MigrationFile": "migrations.files",
    "MigrationFilesError": "migrations.errors",
    "MigrationHistoryError": "migrations.errors",
    "MigrationLockedError": "migrations.errors",
    "MigrationService": "migrations.service",
    "MigrationStatus": "migrations.applying",
    "Migrations": "migrations.applying",
    "MigrationsPendingError": "migrations.errors",
    "OptimizationConfig": "advice.config",
    "OptimizationReport": "advice.report",
    "OptimizationService": "advice.service",
    "PlanNode": "advice.plans",
    "PoolHealth": "manager",
    "PoolStatistics": "poolstatistics",
    "PostgresConfig": "config",
    "PostgresPool": "pool",
    "PostgresReader": "reading.reader",
    "PostgresService": "service",
    "PostgresStream": "bulk.streaming",
    "PostgresTransaction": "transaction",
    "ReadOnlyServerError": "errors",
    "ReplicaStatus": "reading.replicas",
    "Proposal": "advice.proposals",
    "QueryOptimizer": "advice.optimizer",
    "QueryPlan": "advice.optimizer",
    "RebuildIndex": "advice.proposals",
    "Recording": "advice.recording",
    "Severity": "advice.findings",
    "StatementStatistics": "advice.statementstatistics",
    "StatementStatisticsError": "advice.statementstatistics",
    "TransactionConflictError": "errors",
    "TransactionOutcomeUnknownError": "errors",
    "UnknownProposalError": "advice.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - nothing loads until it is used

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
