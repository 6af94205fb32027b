"""PostgresPool: statements on one database, each on a connection of its own and with a deadline.

asyncpg's own pool pays a round trip at every release to reset the connection; this one only after a statement
that may have changed the session. A call that was cut off never gives its connection back (it is closed).
"""

# ruff: noqa: ASYNC109 - a statement's own limit is part of the contract
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from svcframework.deadlines import effective_timeout, has_deadline
from svcframework.errors import ConnectionFailedError, DeadlineExceededError, ServiceTimeoutError
from svcframework_postgres import driver
from svcframework_postgres.connections import Connection
from svcframework_postgres.errors import DRIVER_ERRORS, ReadOnlyServerError, translate, was_never_sent
from svcframework_postgres.failover import is_refused_write
from svcframework_postgres.lending import ConnectionLender
from svcframework_postgres.sessions import changes_session
from svcframework_postgres.statements import PostgresStatements, T, Work

_REPEATABLE = (driver.fetch, driver.fetch_one, driver.execute)  # others may have used up what they were given
_SHORTEST = 0.001  # seconds; the driver takes 0 for an error of its own


class PostgresPool(ConnectionLender, PostgresStatements):
    """Connections to one database, opened as needed; lives as long as its service.

    It survives its server: what died is replaced at the next call. Users get it from
    `PostgresService.get_org_pool` and hand it to the service's methods, or call its own.

    Args:
        opener: Opens a connection; raises our errors.
        address: Where the connections lead, for messages.
        max_size: Connections at most.
        min_size: Idle ones that are kept whatever their age.
        idle_lifetime: Seconds after which an idle one is closed.
        acquire_timeout: Seconds to wait for a free one.
        command_timeout: Seconds of one call, waiting included.
        always_reset: Reset after every use, whatever the statement was.
        accepts_writes: The server is meant to; False for a pool that only reads.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Connection]],
        *,
        address: str,
        max_size: int = 10,
        min_size: int = 0,
        idle_lifetime: float = 300.0,
        acquire_timeout: float = 5.0,
        command_timeout: float = 5.0,
        always_reset: bool = False,
        accepts_writes: bool = True,
    ) -> None:
        super().__init__(
            opener,
            address=address,
            max_size=max_size,
            min_size=min_size,
            idle_lifetime=idle_lifetime,
            acquire_timeout=acquire_timeout,
            always_reset=always_reset,
        )
        self.command_timeout, self._accepts_writes = command_timeout, accepts_writes

    async def run(self, operation: str, query: str, work: Work[T], args: Any, timeout: float | None) -> T:
        """As `PostgresStatements.run`, on a connection of the call's own."""
        own = self.command_timeout if timeout is None else timeout
        limit = effective_timeout(own) if has_deadline() else own
        connection = self._take_idle()
        if connection is None:
            clock = asyncio.get_running_loop().time
            until = clock() + limit
            connection = await self.take(limit, cut=limit < own)
            limit = until - clock()
        limit = max(limit, _SHORTEST)
        try:
            result = await work(connection, query, args, limit)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # The server (or the driver, before it sent anything) refused: the session is in a known state.
            if self._give_up_dead(connection, work, error):
                return await self.run(operation, query, work, args, timeout)
            ours = self._ours(error, operation, own)
            if self._accepts_writes and is_refused_write(error, connection):
                ours = ReadOnlyServerError(f"{operation} on {self.address}")
                self.renew()
            connection.is_changed = connection.is_changed or changes_session(query)
            await self.give_back(connection, reusable=not isinstance(ours, ConnectionFailedError))
            raise ours from error
        except DRIVER_ERRORS as error:
            if self._give_up_dead(connection, work, error):
                return await self.run(operation, query, work, args, timeout)
            self.discard(connection)
            raise self._ours(error, operation, own, cut=limit < own) from error
        except BaseException:
            self.discard(connection)
            raise
        if self._always_reset or changes_session(query):
            connection.is_changed = True
            await self.give_back(connection)
        else:
            self._put_idle(connection)
        return result

    def _give_up_dead(self, connection: Connection, work: Work[Any], error: BaseException) -> bool:
        """Whether a call may go on with another connection, since this one had died while it was idle."""
        if not (connection.used_at and work in _REPEATABLE and was_never_sent(error)):
            return False
        self.discard(connection)  # so that each time there is one fewer of those
        self.suspect_others()
        return True

    def _ours(self, error: BaseException, operation: str, seconds: float, *, cut: bool = False) -> Exception:
        """Our error; what it says about the other connections is noted."""
        ours = translate(error, f"{operation} on {self.address}", seconds)
        if isinstance(ours, (ConnectionFailedError, ServiceTimeoutError)):
            self.suspect_others()
        if isinstance(ours, ServiceTimeoutError) and cut:
            return DeadlineExceededError(ours.operation, ours.seconds, hint="the caller's deadline was shorter")
        return ours

    @asynccontextmanager
    async def acquire(self, *, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Hold one of the driver's connections for a block; its session is reset afterwards.

        For what the methods here can't do. Its calls keep `command_timeout`, and raise the driver's own errors.

        Args:
            timeout: Seconds to wait for a connection; None for `acquire_timeout`.
        """
        connection = await self.take_now(self._acquire_timeout if timeout is None else timeout)
        connection.is_changed = True
        try:
            yield connection
        except (asyncio.CancelledError, TimeoutError, GeneratorExit):
            self.discard(connection)
            raise
        except BaseException:
            await self.give_back(connection, reusable=not connection.is_closed())
            raise
        await self.give_back(connection, reusable=not connection.is_closed())
