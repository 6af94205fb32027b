"""PackageReader: one package by its name, whatever the database is going through."""

from __future__ import annotations

from catalogue.packages import Package, canonical_name
from catalogue.store import PackageStore
from svcframework import BaseService, inject_service, retry_on_failure, service_method
from svcframework.errors import ConnectionFailedError
from svcframework.retry import RetryBudget


class PackageReader(BaseService):
    """Reads single packages; lives as long as the host."""

    @service_method
    @retry_on_failure(
        max_retries=12,
        delay=0.2,  # seconds, then 0.3, 0.45, …: twelve retries outlast a restart of the database
        backoff=1.5,
        max_delay=1.0,
        jitter=0.5,
        exceptions=ConnectionFailedError,
        budget=RetryBudget(burst=50),  # at most 50 retries in a burst, so that a dead database isn't hammered
    )
    @inject_service("package_store")
    async def read(self, name: str, package_store: PackageStore) -> Package | None:
        """The package of that name in any spelling, None if there is none.

        Raises:
            ConnectionFailedError: The database was away for longer than the retries last.
        """
        return await package_store.find(canonical_name(name))
