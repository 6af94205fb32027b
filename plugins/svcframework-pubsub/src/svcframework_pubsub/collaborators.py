"""What is needed of the services of other plugins, so that none of them has to be installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Transaction(Protocol):
    """An open transaction, such as `PostgresTransaction`."""

    async def execute_query(self, query: str, *args: Any) -> Any:
        """Run a statement in it."""
        ...


class Postgres(Protocol):
    """A `PostgresService`."""

    async def open_connection(self) -> Any:
        """A connection of the driver's, outside the pool."""
        ...

    async def execute_query(self, query: Any, *args: Any) -> Any:
        """Run a statement."""
        ...

    def transaction(self) -> Any:
        """Run several together."""
        ...


class Redis(Protocol):
    """A `RedisService`."""

    async def publish(self, channel: str, data: bytes | str) -> int:
        """`PUBLISH`."""
        ...

    async def publish_many(self, channel: str, messages: Sequence[bytes | str]) -> list[int]:
        """Many of them in one write."""
        ...

    async def execute(self, *args: Any) -> Any:
        """Any command."""
        ...

    async def execute_many(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Many commands in one write."""
        ...

    def subscriber(self, on_message: Any, *, on_gap: Any = None) -> Any:
        """A connection that is told what is published."""
        ...
