"""Bases for services of a kind: over a database, over an HTTP API, with background work."""

from svcframework.bases.background import AsyncService, AsyncServiceConfig, BackgroundTask
from svcframework.bases.cache import Cache, CacheKey
from svcframework.bases.circuit import CircuitBreaker, ConsecutiveBreaker
from svcframework.bases.database import DatabaseService, Record, Statements, Transaction
from svcframework.bases.external import ExternalService, ExternalServiceConfig
from svcframework.bases.throttle import TokenBucket

__all__ = [
    "AsyncService",
    "AsyncServiceConfig",
    "BackgroundTask",
    "Cache",
    "CacheKey",
    "CircuitBreaker",
    "ConsecutiveBreaker",
    "DatabaseService",
    "ExternalService",
    "ExternalServiceConfig",
    "Record",
    "Statements",
    "TokenBucket",
    "Transaction",
]
