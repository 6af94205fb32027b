"""SearchService: full-text search over the catalogue, answered from the cache where it can be."""

from __future__ import annotations

from catalogue.packages import Hit
from catalogue.store import PackageStore
from svcframework import BaseService, service_method
from svcframework_redis import CacheService


class SearchService(BaseService):
    """Searches the catalogue; lives as long as the host. An answer may be a minute old."""

    def __init__(self, store: PackageStore, cache: CacheService) -> None:
        super().__init__()
        self.store, self.cache = store, cache

    @service_method(timeout=3.0)
    async def search(self, text: str, limit: int = 5) -> list[Hit]:
        """The packages that have these words, the best first.

        Args:
            text: Words, as in a search box: `http client -async "type checking"`.
            limit: At most so many.
        """

        async def ask_the_store() -> list[Hit]:
            return await self.store.search(text, limit)

        return await self.cache.get_or_set(("search", text, str(limit)), ask_the_store, ttl=60.0, type=list[Hit])
