"""Cancel fuzz (S19): whatever is cut off, wherever, every answer carries its own key."""

import asyncio
import os
import random

from svcframework.errors import ConnectionFailedError, DatabaseError, ServiceTimeoutError
from svcframework_postgres import PostgresConfig, PostgresService

SOAK = os.environ.get("SVC_HYPOTHESIS_PROFILE") == "soak"
COMMANDS = 400_000 if SOAK else 25_600  # a hundred thousand take 15 s of a quiet core
CALLERS = 16
CUT_OFF = 0.01  # of the commands; each costs a connection, as it must


class Caller:
    """One of many who ask for their own numbers, are interrupted at random, and note what they got instead."""

    def __init__(self, service, name, wrong):
        self.service, self.name, self.wrong = service, name, wrong
        self.chance = random.Random(name)
        self.asked = self.cut = 0

    def key(self):
        self.asked += 1
        return self.name * 100_000_000 + self.asked

    def check(self, key, found):
        if key != found:
            self.wrong.append((key, found))

    async def one(self):
        key = self.key()
        self.check(key, (await self.service.execute_one("SELECT $1::bigint AS k", key))["k"])

    async def several(self):
        key = self.key()
        rows = await self.service.execute_query("SELECT $1::bigint + n AS k FROM generate_series(0, 2) n", key)
        self.check([key, key + 1, key + 2], [row["k"] for row in rows])

    async def failing(self):
        key = self.key()
        try:
            await self.service.execute_one("SELECT $1::bigint / 0", key)
        except DatabaseError as error:
            self.check("22012", error.sqlstate)
        else:
            self.wrong.append((key, "no error"))

    async def dirty(self):
        key = self.key()
        await self.service.execute_one("SELECT set_config('svc.key', $1, false)", str(key))

    async def clean(self):
        key = self.key()
        row = await self.service.execute_one(
            "SELECT $1::bigint AS k, coalesce(current_setting('svc.key', true), '') AS left_behind", key
        )
        self.check((key, ""), (row["k"], row["left_behind"]))

    async def transaction(self):
        async with self.service.transaction() as tx:
            for _ in range(3):
                key = self.key()
                self.check(key, await tx.fetchval("SELECT $1::bigint", key))

    async def stream(self):
        key = self.key()
        query = "SELECT $1::bigint + n AS k FROM generate_series(0, 5) n"
        async with self.service.stream(query, key, batch=4) as rows:
            found = [row["k"] async for row in rows]
        self.check([key + number for number in range(6)], found)

    async def timing_out(self):
        key = self.key()
        row = await self.service.execute_one("SELECT $1::bigint AS k, pg_sleep(0.02)", key, timeout=0.002)
        self.check(key, row["k"])

    async def run(self, commands):
        ways = (self.one, self.several, self.failing, self.dirty, self.clean, self.transaction, self.stream)
        weights = (85, 6, 1, 1, 5, 1, 0.5)
        while self.asked < commands:
            way = self.chance.choices(ways, weights)[0]
            if self.chance.random() > CUT_OFF:
                await way()
            elif self.chance.random() < 0.1:
                await self.until_late()
            else:
                await self.interrupted(way)

    async def interrupted(self, way):
        call = asyncio.ensure_future(way())
        for _ in range(self.chance.randrange(10)):
            await asyncio.sleep(0)
        self.cut += call.cancel()
        await asyncio.wait([call])
        if not call.cancelled() and call.exception() is not None:
            raise call.exception()

    async def until_late(self):
        try:
            await self.timing_out()
        except ServiceTimeoutError:
            self.cut += 1
        except ConnectionFailedError as error:
            self.wrong.append((self.asked, error))


async def test_every_answer_carries_its_own_key(postgres):
    """Of tens of thousands of interleaved commands, hundreds cancelled or timed out, no answer is another's."""
    service = PostgresService(PostgresConfig(pool_max_size=12, command_timeout=60, acquire_timeout=60), server=postgres)
    await service.on_startup()
    wrong = []
    callers = [Caller(service, name, wrong) for name in range(1, CALLERS + 1)]
    await asyncio.gather(*(caller.run(COMMANDS // CALLERS) for caller in callers))
    assert [] == wrong
    assert COMMANDS <= sum(caller.asked for caller in callers)
    assert sum(caller.cut for caller in callers) > COMMANDS * CUT_OFF / 2
    async with asyncio.timeout(60):
        while service.pool.statistics.size != service.pool.statistics.idle:
            await asyncio.sleep(0.01)
    assert service.pool.statistics.discarded > COMMANDS * CUT_OFF / 10
    await service.on_shutdown()
