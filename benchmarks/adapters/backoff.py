"""backoff: a retry decorator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import backoff

from benchmarks.workloads import Adapter, Operation, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def decorated() -> AsyncIterator[Operation]:
    """Four attempts, exponential waits with full jitter."""
    graph = fresh_graph("backoff")
    work = backoff.on_exception(backoff.expo, Exception, max_tries=4)(graph.work)
    yield Operation("await worker.work()", {"worker": graph.worker(work)}, graph)


ADAPTER = Adapter("backoff", "backoff", rows={"retry": decorated})
