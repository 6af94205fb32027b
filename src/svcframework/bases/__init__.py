"""Bases for services of a kind: over a database, over an HTTP API, with background work."""

from svcframework.bases.background import AsyncService, AsyncServiceConfig, BackgroundTask
from svcframework.bases.database import DatabaseService, Record, Statements, Transaction

__all__ = [
    "AsyncService",
    "AsyncServiceConfig",
    "BackgroundTask",
    "DatabaseService",
    "Record",
    "Statements",
    "Transaction",
]
