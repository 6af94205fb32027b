"""ReadServer: one server that reads are tried on, and that can be given up on while they wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakSet

from svcframework.errors import ConnectionFailedError
from svcframework_postgres.pool import PostgresPool

T = TypeVar("T")
Read = Callable[[PostgresPool, float], Awaitable[T]]
"""Reads from a pool's server within so many seconds."""


class ReadServer:
    """A server's pools that only read, one for each database; lives as long as its service.

    Args:
        new_pool: Makes the pool of a database, of the configured one when it is given None. Opens nothing.
        max_databases: Databases, beside the configured one, whose pools keep idle connections.
    """

    def __init__(self, new_pool: Callable[[str | None], PostgresPool], *, max_databases: int) -> None:
        self._new_pool, self._max_databases = new_pool, max_databases
        self._main = new_pool(None)
        self._recent: OrderedDict[str, PostgresPool] = OrderedDict()
        self._all: WeakSet[PostgresPool] = WeakSet([self._main])
        self._calls: set[asyncio.Timeout] = set()
        self.given_up = 0
        """How often it was given up on."""

    @property
    def address(self) -> str:
        """Where it is, as `host:port/database` of the configured database."""
        return self._main.address

    @property
    def busy(self) -> int:
        """Reads that are under way."""
        return len(self._calls)

    def pool(self, database: str | None) -> PostgresPool:
        """The pool of a database. One that was pushed out by others still works for who holds it."""
        if database is None:
            return self._main
        found = self._recent.get(database)
        if found is None:
            found = self._recent[database] = self._new_pool(database)
            self._all.add(found)
            while len(self._recent) > self._max_databases:
                self._recent.popitem(last=False)[1].retire()
        self._recent.move_to_end(database)
        return found

    async def attempt(self, read: Read[T], seconds: float, database: str | None) -> T:
        """Read from it, until it is given up on.

        Args:
            read: What is done with its pool.
            seconds: The limit.
            database: As in `pool`.

        Raises:
            ConnectionFailedError: It was given up on, or is away.
        """
        call = asyncio.timeout(None)
        try:
            async with call:
                self._calls.add(call)
                try:
                    return await read(self.pool(database), seconds)
                finally:
                    self._calls.discard(call)
        except TimeoutError as error:
            if not call.expired():
                raise
            raise ConnectionFailedError(f"{self.address} has fallen silent") from error

    def give_up(self) -> None:
        """Let what waits for it fail now, so that it can be tried elsewhere, or on a new connection."""
        self.given_up += 1
        now = asyncio.get_running_loop().time()
        for call in self._calls:
            call.reschedule(now)
        self._calls.clear()

    def renew(self) -> None:
        """Close its connections and give up on what waits: they lead to a server that isn't the right one any more."""
        for pool in list(self._all):
            pool.renew()
        self.give_up()

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109 - how long running calls have
        """Close every connection.

        Args:
            timeout: Seconds that running reads have to end.
        """
        self._recent.clear()
        await asyncio.gather(*(pool.close(timeout=timeout) for pool in list(self._all)))
