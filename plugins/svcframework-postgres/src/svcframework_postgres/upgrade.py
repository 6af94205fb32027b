"""Mends one thing in asyncpg: a connect that is cancelled at the wrong moment leaves an error that nobody looks at.

Before TLS is agreed on, the driver's protocol holds a future for the server's answer. When the connect is cancelled
after the connection was made and before that future is awaited, the end of the connection becomes the future's error,
and the event loop reports it as never retrieved.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asyncpg import connect_utils


class LookedAfterUpgrade(connect_utils.TLSUpgradeProto):
    """The driver's protocol until TLS is agreed on; what becomes of its future is always looked at."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_data.add_done_callback(_look)


def _look(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()


def install() -> None:
    """Have the driver use it; calling it again changes nothing."""
    connect_utils.TLSUpgradeProto = LookedAfterUpgrade  # type: ignore[misc]  # that is what is mended
