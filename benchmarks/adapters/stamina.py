"""stamina: a retry decorator on top of tenacity."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import stamina

from benchmarks.workloads import Adapter, Operation, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def decorated() -> AsyncIterator[Operation]:
    """Four attempts, its own waits."""
    graph = fresh_graph("stamina")
    work = stamina.retry(on=Exception, attempts=4)(graph.work)
    yield Operation("await worker.work()", {"worker": graph.worker(work)}, graph)


ADAPTER = Adapter("stamina", "stamina", rows={"retry": decorated})
