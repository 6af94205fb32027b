"""The program of a process that is killed at work: `python -m svcframework.testing._victim FILE SUITE ROUNDS`.

It reads the server's address from its input, loads the suite, forks once per round, and kills the child with SIGKILL
at a random moment of its work.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import anyio

_LONGEST = 0.06  # seconds that a child works, counted from its first change


def load_suite(file: Path, name: str) -> Any:
    """An instance of the suite `name` in the test file."""
    spec = importlib.util.spec_from_file_location("svc_victim_suite", file)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = module
    for part in name.split("."):
        found = getattr(found, part)
    suite: Any = found
    return suite()


async def work(suite: Any, address: str, ready: int) -> None:
    """Change things until the end; say when the first change is done."""
    services = suite.make_services(address)
    for service in services:
        await service.on_startup()
    count = 0
    while True:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                count += 1
                tasks.start_soon(suite.change, services[-1], f"{os.getpid()}-{count}")
        if ready:
            os.write(ready, b"x")
            ready = 0


async def warm_up(suite: Any, address: str) -> None:
    """Change one thing, so that whatever is imported late is there before the children are."""
    services = suite.make_services(address)
    for service in services:
        await service.on_startup()
    await suite.change(services[-1], "warm")
    for service in reversed(services):
        await service.on_shutdown()


def one_round(suite: Any, address: str, chance: random.Random) -> bool:
    """Fork, let the child work, kill it.

    Returns:
        Whether it was at work when it was killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            anyio.run(work, suite, address, writer)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    at_work = os.read(reader, 1) == b"x"
    os.close(reader)
    time.sleep(chance.random() * _LONGEST)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return at_work and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main() -> int:
    """Print how many children were killed at work."""
    file, name, rounds = sys.argv[1:]
    suite, chance = load_suite(Path(file), name), random.Random(7)  # noqa: S311 - moments, not secrets
    address = sys.stdin.read().strip()  # not an argument, which everybody can see
    anyio.run(warm_up, suite, address)
    sys.stdout.write(str(sum(one_round(suite, address, chance) for _ in range(int(rounds)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
