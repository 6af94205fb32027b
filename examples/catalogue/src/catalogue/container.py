"""What the catalogue is made of. Read this file first: everything else is one service each."""

from __future__ import annotations

from catalogue.ingest import IngestService
from catalogue.reader import PackageReader
from catalogue.search import SearchService
from catalogue.store import PackageStore
from svcframework import ServiceContainer, ServiceHost, providers
from svcframework_embedded import EmbeddedPostgres, EmbeddedValkey
from svcframework_postgres import PostgresService
from svcframework_pubsub import PubSubService
from svcframework_redis import CacheService, RedisService

PLUGINS = ["licence_service"]
"""Services of other distributions, found by entry point. They are named here, never implied."""


class CatalogueContainer(ServiceContainer):
    """The services, in any order: who needs whom is in their constructors."""

    # Real servers that start with the host. In production set EMBEDDED_POSTGRES__DSN and EMBEDDED_VALKEY__URL, and
    # your own are used instead.
    postgres = providers.Service(EmbeddedPostgres)
    valkey = providers.Service(EmbeddedValkey)

    # Ready-made services of the plugins
    database_service = providers.Service(PostgresService, server=postgres)
    pubsub_service = providers.Service(PubSubService, postgres=database_service)
    redis_service = providers.Service(RedisService, server=valkey)
    cache_service = providers.Service(CacheService, redis=redis_service)

    # Our own: constructor arguments are wired by type
    package_store = providers.Service(PackageStore)
    ingest_service = providers.Service(IngestService)
    search_service = providers.Service(SearchService)
    package_reader = providers.Service(PackageReader)


host = ServiceHost(CatalogueContainer, plugins=PLUGINS)
