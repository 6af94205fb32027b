"""RedisStore: a cache's entries in Redis."""

# ruff: noqa: D102 - the protocol, in `store`, says what each method does
from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

from svcframework_redis.caching.entries import EXPIRES_AT, MARK
from svcframework_redis.caching.store import Ears, News
from svcframework_redis.errors import DRIVER_ERRORS, translate
from svcframework_redis.link import Value
from svcframework_redis.service import RedisService

# GETRANGE of a missing key is empty, and a mark never is.
_SWAP = """
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""
_TOUCH = f"""
local kind = redis.call('GETRANGE', KEYS[1], 0, 0)
if kind ~= 'v' and kind ~= 'n' then return 0 end
redis.call('SETRANGE', KEYS[1], {MARK}, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
_SCANNED = 1_000  # keys that one SCAN looks at, and that leave in one write


class RedisStore:
    """A cache's entries in Redis; lives as long as its owner. Errors as `RedisService.execute`.

    Each command has one key, so that a cluster can hold them; what belongs together leaves in one write.
    """

    def __init__(self, redis: RedisService) -> None:
        self._redis = redis

    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        if len(names) == 1:
            return [await self._redis.get(names[0])]
        return await self._redis.mget(names)

    async def write(self, entries: Mapping[str, tuple[bytes, float]], news: News | None = None) -> None:
        commands = [_set(name, data, seconds) for name, (data, seconds) in entries.items()]
        await self._redis.execute_many([*commands, *_publish(news)])

    async def write_new(self, name: str, data: bytes, seconds: float) -> bool:
        return bool(await self._redis.execute(*_set(name, data, seconds), "NX"))

    async def swap(self, name: str, mark: bytes, data: bytes, seconds: float) -> bool:
        return bool(await self._redis.evaluate(_SWAP, [name], [mark, data, _milliseconds(seconds)]))

    async def touch(self, name: str, expires_at: float, seconds: float) -> bool:
        return bool(await self._redis.evaluate(_TOUCH, [name], [EXPIRES_AT.pack(expires_at), _milliseconds(seconds)]))

    async def versions(self, names: Mapping[str, bytes], seconds: float) -> list[bytes]:
        commands = [(*_set(name, fresh, seconds), "NX", "GET") for name, fresh in names.items()]
        held = cast("list[bytes | None]", await self._redis.execute_many(commands))
        return [fresh if old is None else old for old, fresh in zip(held, names.values(), strict=True)]

    async def extend(self, names: Sequence[str], seconds: float) -> None:
        await self._redis.execute_many([("PEXPIRE", name, _milliseconds(seconds), "GT") for name in names])

    async def remove(self, names: Sequence[str], news: News | None = None) -> int:
        removed = await self._redis.execute_many([*(("UNLINK", name) for name in names), *_publish(news)])
        return sum(removed[: len(names)])

    async def remove_below(self, prefix: str, news: News | None = None) -> int:
        removed, names = await self.remove([prefix]), list[bytes]()
        try:
            # The driver's own way, for it asks every node of a cluster.
            async for name in self._redis.client.scan_iter(match=f"{_literal(prefix)}:*", count=_SCANNED):
                names.append(name)
                if len(names) == _SCANNED:
                    removed += await self._unlink(names)
                    names = []
        except DRIVER_ERRORS as error:
            raise translate(error, "SCAN", self._redis.config.timeout) from error
        removed += await self._unlink(names)
        for command in _publish(news):
            await self._redis.execute(*command)
        return removed

    async def _unlink(self, names: Sequence[bytes]) -> int:
        return sum(await self._redis.execute_many([("UNLINK", name) for name in names]))

    async def ping(self, seconds: float) -> None:
        await self._redis.ping(timeout=seconds)

    def listen(
        self, channel: str, heard: Callable[[bytes], None], deaf: Callable[[], None]
    ) -> AbstractAsyncContextManager[Ears]:
        return self._listening(channel, heard, deaf)

    @asynccontextmanager
    async def _listening(
        self, channel: str, heard: Callable[[bytes], None], deaf: Callable[[], None]
    ) -> AsyncGenerator[Ears]:
        subscriber = self._redis.subscriber(
            lambda _pattern, _channel, data: heard(data), on_gap=lambda _seconds: deaf()
        )
        async with subscriber:
            await subscriber.subscribe(channel)
            yield subscriber


def _set(name: str, data: bytes, seconds: float) -> tuple[Value, ...]:
    return ("SET", name, data, "PX", _milliseconds(seconds))


def _publish(news: News | None) -> list[tuple[Value, ...]]:
    return [] if news is None else [("PUBLISH", *news)]


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _literal(text: str) -> str:
    """Text that a glob pattern takes as it is."""
    return "".join(f"\\{letter}" if letter in "*?[]^\\" else letter for letter in text)
