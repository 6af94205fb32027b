"""`python -m catalogue http client`: start everything, search, print, stop."""

from __future__ import annotations

import sys

from catalogue.container import host
from catalogue.ingest import IngestService
from catalogue.search import SearchService
from svcframework import INJECTED, configure_logging, inject_service


@inject_service
async def search(*, ingest: IngestService = INJECTED, finder: SearchService = INJECTED) -> None:
    """Print the packages that have the words of the command line."""
    await ingest.first_ingest.wait()
    for hit in await finder.search(" ".join(sys.argv[1:]) or "http client"):
        print(f"{hit.rank:.2f}  {hit.name} {hit.version}: {hit.summary}")


configure_logging("warning")
host.run(search)
