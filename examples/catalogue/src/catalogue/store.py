"""PackageStore: the packages in PostgreSQL, with a full-text index."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from catalogue.events import PACKAGES, Change, PackageEvent
from catalogue.packages import Hit, Package
from svcframework import BaseService, DatabaseOperationMixin, DatabaseService, HealthResult, service_method
from svcframework_pubsub import PubSubService

_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS packages (
        name        text PRIMARY KEY,
        version     text NOT NULL,
        summary     text NOT NULL,
        licence     text NOT NULL,
        description text NOT NULL,
        words       tsvector NOT NULL GENERATED ALWAYS AS (
            setweight(to_tsvector('english', name), 'A')
            || setweight(to_tsvector('english', summary), 'B')
            || setweight(to_tsvector('english', left(description, 50000)), 'D')
        ) STORED
    )
    """,
    "CREATE INDEX IF NOT EXISTS packages_words ON packages USING gin (words)",
)

_SAVE = """
    INSERT INTO packages (name, version, summary, licence, description) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (name) DO UPDATE SET
        version = excluded.version, summary = excluded.summary,
        licence = excluded.licence, description = excluded.description
"""

_VERSIONS = "SELECT name, version FROM packages WHERE name = ANY ($1)"

_DELETE_OTHERS = "DELETE FROM packages WHERE name <> ALL ($1) RETURNING name, version, summary"

_SEARCH = """
    SELECT name, version, summary, ts_rank(words, query) AS rank
    FROM packages, websearch_to_tsquery('english', $1) AS query
    WHERE words @@ query
    ORDER BY rank DESC, name LIMIT $2
"""


class PackageStore(DatabaseOperationMixin, BaseService):
    """Keeps the packages, and publishes what changes; lives as long as the host.

    It asks for a `DatabaseService`, the contract, and gets whichever one the container declares. The queries come
    from the mixin. Events are published in the transaction that they are about: they are sent if it commits, and only
    then.
    """

    def __init__(self, database: DatabaseService, pubsub: PubSubService) -> None:
        super().__init__()
        self.database, self.pubsub = database, pubsub

    async def on_startup(self) -> None:
        """Make the table. The database runs already: it is a dependency."""
        for statement in _SCHEMA:
            await self.query_all(statement)

    async def _service_health_check(self) -> HealthResult:
        count = await self.query_scalar("SELECT count(*) FROM packages")
        return HealthResult.healthy(f"{count} packages") if count else HealthResult.degraded("empty")

    @service_method
    async def save(self, packages: Sequence[Package]) -> None:
        """Add packages, or bring them up to date; all or none. Each is an event."""
        rows = [(p.name, p.version, p.summary, p.licence, p.description) for p in packages]
        async with self.transaction() as transaction:
            found = await transaction.execute_query(_VERSIONS, [p.name for p in packages])
            await transaction.execute_many(_SAVE, rows)
            before = {row["name"]: row["version"] for row in found}
            events = [_event(package, before.get(package.name)) for package in packages]
            await self.pubsub.publish_many(PACKAGES, events, transaction=transaction)

    @service_method
    async def keep_only(self, names: Collection[str]) -> None:
        """Forget every package that isn't named. Each that is forgotten is an event."""
        async with self.transaction() as transaction:
            gone = await transaction.execute_query(_DELETE_OTHERS, list(names))
            events = [PackageEvent(row["name"], row["version"], row["summary"], "gone") for row in gone]
            await self.pubsub.publish_many(PACKAGES, events, transaction=transaction)

    @service_method
    async def find(self, name: str) -> Package | None:
        """The package of that name, None if there is none."""
        row = await self.query_one(
            "SELECT name, version, summary, licence, description FROM packages WHERE name = $1", name
        )
        return None if row is None else Package(**row)

    @service_method
    async def search(self, text: str, limit: int) -> list[Hit]:
        """The packages whose name, summary or description has these words, the best first."""
        return [Hit(**row) for row in await self.query_all(_SEARCH, text, limit)]

    @service_method
    async def names(self) -> set[str]:
        """The names of all packages."""
        return {row["name"] for row in await self.query_all("SELECT name FROM packages")}


def _event(package: Package, before: str | None) -> PackageEvent:
    change: Change = "new" if before is None else "same" if before == package.version else "updated"
    return PackageEvent(package.name, package.version, package.summary, change, before)
