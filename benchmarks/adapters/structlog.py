"""structlog: an event below the level of a filtering logger."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from benchmarks.workloads import Adapter, Operation, fresh_graph

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def filtered() -> AsyncIterator[Operation]:
    """A bound logger with one field of the caller's."""
    logger = structlog.wrap_logger(
        structlog.PrintLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    ).bind(service="orders")
    names = {"debug": logger.debug}
    yield Operation('debug("order read", order=1)', names, fresh_graph("structlog"), is_statement=True)


ADAPTER = Adapter("structlog", "structlog", rows={"log": filtered})
