"""A publisher in a process of its own, so that its CPU time isn't the subscriber's.

Reads lines of JSON: {"channel": …, "payloads": […]} once, then {"count": n}; prints "ready" or "sent".
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from benchmarks.data.resp import Resp

CHUNK = 1_000


class Feeder:
    """The other end, in the benchmark: starts the process and talks to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str) -> Feeder:
        """Start a publisher to that server."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.data.feeder",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        feeder = cls(process)
        await feeder._ask({"url": url})  # by the pipe: an argument could be read by others
        return feeder

    async def load(self, channel: str, payloads: list[bytes]) -> None:
        """What to send from now on, and where to."""
        await self._ask({"channel": channel, "payloads": [payload.decode("latin-1") for payload in payloads]})

    async def send(self, count: int) -> None:
        """Publish that many, as fast as it can."""
        await self._ask({"count": count})

    async def stop(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _ask(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        if not await self._process.stdout.readline():
            raise RuntimeError("the publisher of the benchmark has died")


# --- in the process -------------------------------------------------------------------------------------

Send = Callable[[str, list[bytes]], Awaitable[Any]]


async def redis_sender(url: str) -> Send:
    connection = await Resp.connect(url)

    async def send(channel: str, payloads: list[bytes]) -> None:
        where = channel.encode()
        await connection.call_many([(b"PUBLISH", where, payload) for payload in payloads])

    return send


async def postgres_sender(url: str) -> Send:
    connection = await asyncpg.connect(url)

    async def send(channel: str, payloads: list[bytes]) -> None:
        texts = [payload.decode() for payload in payloads]
        await connection.execute("SELECT pg_notify($1, x) FROM unnest($2::text[]) x", channel, texts)

    return send


async def main() -> None:
    """Answer questions until there are no more."""
    url = json.loads(sys.stdin.readline())["url"]
    send = await (redis_sender if url.startswith("redis") else postgres_sender)(url)
    print("ready", flush=True)
    channel, payloads = "", [b""]
    for line in sys.stdin:  # nothing else runs in this loop
        question = json.loads(line)
        if "channel" in question:
            channel = question["channel"]
            payloads = [payload.encode("latin-1") for payload in question["payloads"]]
        else:
            left = question["count"]
            while left:
                chunk = payloads[: min(left, CHUNK)]
                await send(channel, chunk)
                left -= len(chunk)
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
