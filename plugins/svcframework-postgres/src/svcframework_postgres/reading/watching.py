"""ServerWatch: asks one server the same question again and again, on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from svcframework.errors import ServiceFrameworkError
from svcframework_postgres.connections import Connection
from svcframework_postgres.errors import DRIVER_ERRORS, translate


class ServerWatch:
    """Tells what a server answers, and when it stops answering; lives as long as `run` does.

    The question is asked every `period`, and no answer within `period` is one: so within two of them everything is
    known that can be.

    Args:
        opener: Connects; raises our errors.
        question: A statement with one row.
        period: Seconds.
        on_answer: Called with the row, and the loop's time when the question was sent.
        on_silence: Called with the reason, each time that there is no answer.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Connection]],
        question: str,
        *,
        period: float,
        on_answer: Callable[[asyncpg.Record, float], None],
        on_silence: Callable[[str], None],
    ) -> None:
        self._opener, self._question, self._period = opener, question, period
        self._on_answer, self._on_silence = on_answer, on_silence
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Ask until cancelled. Whatever is wrong with the server is an answer, and never an error."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                begun = clock()
                await self._ask_once(clock)
                await asyncio.sleep(max(0.0, begun + self._period - clock()))
        finally:
            self._hang_up()

    async def _ask_once(self, clock: Callable[[], float]) -> None:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._opener()
            asked_at = clock()
            row = await self._connection.fetchrow(self._question, timeout=self._period)
        except ServiceFrameworkError as error:
            self._hang_up()
            self._on_silence(str(error))
        except DRIVER_ERRORS as error:
            self._hang_up()
            self._on_silence(str(translate(error, "ask the server how it is", self._period)))
        else:
            if row is not None:
                self._on_answer(row, asked_at)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def run_all(watches: Sequence[ServerWatch]) -> Any:
    """Run every watch until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for watch in watches:
            tasks.create_task(watch.run())
