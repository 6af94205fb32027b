"""tenacity: a retry decorator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tenacity import retry, stop_after_attempt, wait_exponential_jitter

from benchmarks.workloads import Adapter, Operation, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def decorated() -> AsyncIterator[Operation]:
    """Four attempts, exponential waits with jitter."""
    graph = fresh_graph("tenacity")
    work = retry(stop=stop_after_attempt(4), wait=wait_exponential_jitter())(graph.work)
    yield Operation("await worker.work()", {"worker": graph.worker(work)}, graph)


ADAPTER = Adapter("tenacity", "tenacity", rows={"retry": decorated})
