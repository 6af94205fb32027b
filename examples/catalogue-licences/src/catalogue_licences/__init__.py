"""LicenceService: which licences the packages of a catalogue have. A plugin, found by its entry point."""

from __future__ import annotations

from svcframework import BaseService, DatabaseOperationMixin, DatabaseService, service_method


class LicenceService(DatabaseOperationMixin, BaseService):
    """Counts licences; lives as long as the host that lists it."""

    def __init__(self, database: DatabaseService) -> None:
        super().__init__()
        self.database = database

    @service_method
    async def most_used(self, limit: int = 5) -> list[tuple[str, int]]:
        """The licences that most packages have, each with their number."""
        rows = await self.query_all(
            "SELECT licence, count(*) FROM packages GROUP BY licence ORDER BY count DESC, licence LIMIT $1", limit
        )
        return [(row["licence"], row["count"]) for row in rows]
