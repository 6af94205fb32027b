"""A pool's books are right after any sequence of calls, cancellations, dead backends and changes of its size."""

import asyncio

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from svcframework.errors import ConnectionFailedError, ExternalServiceError, ServiceTimeoutError
from svcframework_postgres import PostgresConfig, PostgresService

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "call",
                "call",
                "hold",
                "dirty",
                "slow",
                "release",
                "cancel",
                "kill",
                "shrink",
                "renew",
                "retire",
                "revive",
                "turn",
                "wait",
            ]
        ),
        st.integers(0, 7),
    ),
    max_size=40,
)
BACKENDS = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'svc_model'"
KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'svc_model' ORDER BY pid"
    " OFFSET $1 LIMIT 1"
)


class Play:
    """One sequence of steps on a pool, and what came of it."""

    def __init__(self, service, outside):
        self.service, self.outside = service, outside
        self.tasks, self.events, self.wrong = [], [], []

    async def call(self, key, query="SELECT $1::int AS n", timeout=20):
        row = await self.service.execute_one(query, key, timeout=timeout)
        if row["n"] != key:
            self.wrong.append((key, row["n"]))

    async def hold(self, released):
        async with self.service.pool.acquire(timeout=20) as connection:
            await released.wait()
            await connection.fetchval("SELECT 1")

    def start(self, work):
        self.tasks.append(asyncio.create_task(work))

    async def step(self, what, number):
        pool = self.service.pool
        if what == "call":
            self.start(self.call(len(self.tasks)))
        elif what == "dirty":
            self.start(self.call(len(self.tasks), "SELECT $1::int AS n, set_config('work_mem', '7MB', false)"))
        elif what == "slow":
            self.start(self.call(len(self.tasks), "SELECT $1::int AS n, pg_sleep(0.05)", timeout=0.005))
        elif what == "hold":
            self.events.append(asyncio.Event())
            self.start(self.hold(self.events[-1]))
        elif what == "release" and self.events:
            self.events.pop(0).set()
        elif what == "cancel" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        elif what == "kill":
            await self.outside.fetch(KILL, number % 3)
        elif what in {"shrink", "renew", "retire"}:
            getattr(pool, what)()
        elif what == "revive":
            pool.retire(retired=False)
        else:
            await asyncio.sleep(0 if what == "turn" else 0.001 * number)

    async def finish(self):
        for event in self.events:
            event.set()
        found = await asyncio.gather(*self.tasks, return_exceptions=True)
        # A backend that was killed may be found out by any later call; everything else is an error of the pool.
        known = (type(None), asyncio.CancelledError, ExternalServiceError, ServiceTimeoutError)
        known += (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)  # of what was lent
        assert [] == [result for result in found if not isinstance(result, known)]
        self.service.pool.retire(retired=False)
        await self.books_are_right()

    async def books_are_right(self):
        async with asyncio.timeout(60):
            while True:
                numbers = self.service.pool.statistics
                settled = numbers.size == numbers.idle == numbers.opened - numbers.closed
                if settled and numbers.size == await self.outside.fetchval(BACKENDS):
                    break
                await asyncio.sleep(0.002)
                # Dead connections that are idle are found out when somebody needs them.
                await asyncio.gather(*(self.call(number) for number in range(3)), return_exceptions=True)
        assert (0, 0, []) == (numbers.in_use, numbers.waiting, self.wrong)
        assert numbers.size <= numbers.limit
        assert not self.service.pool._outdated
        found = (await asyncio.gather(self.service.execute_one("SHOW work_mem"), return_exceptions=True))[0]
        assert isinstance(found, ConnectionFailedError) or "4MB" == found["work_mem"]  # killed at the last moment


def test_books_of_a_pool_are_right_after_anything(postgres_server):
    """No place is lost or used twice, no answer another's, nothing left behind, and no connection forgotten."""
    with asyncio.Runner() as runner:
        config = PostgresConfig(pool_max_size=3, application_name="svc_model", acquire_timeout=20, command_timeout=20)
        service = PostgresService(config, server=postgres_server)
        runner.run(service.on_startup())
        other = PostgresService(PostgresConfig(application_name="svc_watcher"), server=postgres_server)
        runner.run(other.on_startup())
        outside = runner.run(other.open_connection())

        async def play(steps):
            game = Play(service, outside)
            for what, number in steps:
                await game.step(what, number)
            await game.finish()

        @given(STEPS)
        def check(steps):
            runner.run(play(steps))

        try:
            check()
        finally:
            runner.run(service.on_shutdown())
            runner.run(other.on_shutdown())
