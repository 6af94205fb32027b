"""First use from many threads and tasks builds once (L12); the same order whatever the hash seed (L19)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from svcframework import INJECTED, BaseService, ServiceContainer, ServiceHost, inject_service, providers

THREADS = 8


class Slow:
    """Gives other threads every chance to build it a second time."""

    built = 0

    def __init__(self) -> None:
        for _ in range(50):
            time.sleep(0)
        Slow.built += 1


class User:
    built = 0

    def __init__(self, slow: Slow) -> None:
        User.built += 1
        self.slow = slow


class Session:
    """Lives as long as a scope."""


class Unit:
    def __init__(self, session: Session, user: User) -> None:
        self.session, self.user = session, user


def open_session() -> Iterator[Session]:
    yield Session()


class Container(ServiceContainer):
    """Two singletons and a scoped graph."""

    slow = providers.Service(Slow)
    user = providers.Service(User)
    session = providers.Scoped(open_session)
    unit = providers.Scoped(Unit)


def at_once(*asks: Callable[[], Any], times: int = 1) -> list[Any]:
    """The results of calls that threads of their own begin at the same moment."""
    barrier = threading.Barrier(THREADS)

    def run(ask: Callable[[], Any]) -> list[Any]:
        barrier.wait()
        return [ask() for _ in range(times)]

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run, asks[number % len(asks)]) for number in range(THREADS)]
        return [result for future in futures for result in future.result()]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Slow.built = User.built = 0


@pytest.mark.parametrize("_attempt", range(5))
def test_first_use_from_many_threads_builds_once(_attempt: int) -> None:
    """By name, by type, as an attribute: one instance for all, and its dependency too."""
    host = ServiceHost(Container, log_events=False)
    host.validate()
    found = at_once(lambda: host["user"], lambda: host[User], lambda: host.services.user, lambda: host.get(User))
    assert (1, 1, 1) == (len(set(map(id, found))), User.built, Slow.built)


@pytest.mark.parametrize("_attempt", range(5))
def test_first_use_of_an_unread_host_from_many_threads(_attempt: int) -> None:
    """Even reading the container is done once, and nobody sees the half of it."""

    class Large(Container):
        """Takes a while to read."""

    for number in range(200):
        setattr(Large, f"more_{number}", providers.Transient(Session))
    host = ServiceHost(Large, log_events=False)
    found = at_once(
        lambda: host["user"],
        lambda: host.services.user,
        lambda: host.graph.nodes["more_199"],
        lambda: "more_199" in host,
    )
    assert 3 == len(set(map(id, found)))
    assert (1, 1) == (User.built, Slow.built)


async def test_first_use_from_many_tasks_builds_once() -> None:
    """Tasks that ask for the same service before the start share one."""
    host = ServiceHost(Container, log_events=False)
    found: list[Any] = []

    async def ask() -> None:
        await anyio.lowlevel.checkpoint()
        found.append(host[User])

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
    assert (1, 1) == (len(set(map(id, found))), User.built)


async def test_injected_functions_serve_threads() -> None:
    """The first call compiles, and may be made by many threads at once; each call has a scope of its own."""

    @inject_service
    def single(*, user: User = INJECTED) -> Any:
        return user

    @inject_service
    def scoped(*, unit: Unit = INJECTED, session: Session = INJECTED) -> Any:
        assert unit.session is session
        return unit

    async with ServiceHost(Container, log_events=False) as host:
        users = await anyio.to_thread.run_sync(lambda: at_once(single, times=50))
        assert {id(host[User])} == set(map(id, users))
        units = await anyio.to_thread.run_sync(lambda: at_once(scoped, times=50))
        assert THREADS * 50 == len(set(map(id, units)))
        assert {host[User]} == {unit.user for unit in units}


async def test_overrides_that_come_and_go_disturb_no_other_thread() -> None:
    """While one thread overrides again and again, the others always see the real service."""

    @inject_service
    def single(*, user: User = INJECTED) -> Any:
        return user

    @inject_service
    def scoped(*, unit: Unit = INJECTED) -> Any:
        return unit.user

    async with ServiceHost(Container, log_events=False) as host:
        real = host[User]
        ended = threading.Event()

        def override() -> set[int]:
            seen = set()
            for number in range(200):
                with host.override(user=number):
                    seen |= {single() == number == scoped(), host["user"] == number}
            ended.set()
            return seen

        def look() -> set[Any]:
            seen = set()
            while not ended.is_set():
                seen |= {single(), scoped(), host[User], host.services.user, host["user"]}
            return seen

        with ThreadPoolExecutor(4) as pool:
            overriding = pool.submit(override)
            looking = [pool.submit(look) for _ in range(3)]
            results = await anyio.to_thread.run_sync(lambda: [overriding.result(), *[f.result() for f in looking]])
        assert {True} == results[0]
        assert [{real}] * 3 == results[1:]


async def test_scope_of_a_thread_is_its_own() -> None:
    """Threads that a task starts share its scope; scopes they open themselves they don't."""
    async with ServiceHost(Container, log_events=False) as host, host.scope() as scope:
        session = await scope.get(Session)

        def inside() -> tuple[bool, bool]:
            same = host[Session] is session
            with host.scope() as own:
                return same, own[Session] is session

        assert (True, False) == await anyio.to_thread.run_sync(inside)


# --- the same order each time ---------------------------------------------------------------------------

_PROGRAM = """
import anyio
from svcframework import BaseService, ServiceContainer, ServiceHost, inject_service, providers
from svcframework.events import ServiceStarting, ServiceStopping

class Base(BaseService): ...
kinds = {name: type(name.title(), (Base,), {}) for name in "zulu yankee xray whiskey victor uniform".split()}
class Last(Base):
    def __init__(self, all_of: list[Base], zulu: kinds["zulu"]): super().__init__()
body = {name: providers.Service(kind) for name, kind in kinds.items()}
body["last"] = providers.Service(Last, dependencies=["whiskey", "victor"], groups=["b", "a"])
host = ServiceHost(type("C", (ServiceContainer,), body), log_events=False)
seen = []
host.subscribe(lambda event: seen.append(f"{type(event).__name__} {getattr(event, 'service', '')}"))
async def main():
    async with host:
        print(list(host.graph.nodes), host.graph.edges(), host.all(Base)[-1].name, host.mermaid())
anyio.run(main)
print([event for event in seen if event.startswith(("ServiceStarting", "ServiceStopping"))])
"""


def test_order_is_the_same_whatever_the_hash_seed() -> None:
    """Graph, start and stop depend on the declaration alone (L19)."""
    outputs = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        outputs.add(done.stdout)
    assert 1 == len(outputs)
    assert "last" in outputs.pop()


def test_base_service_is_no_obstacle() -> None:
    """A service class is built once by threads as any other class is."""
    made: list[int] = []

    class Counting(BaseService):
        def __init__(self) -> None:
            super().__init__()
            made.append(1)

    host = ServiceHost(log_events=False)
    host.register(Counting, name="counting")
    assert 1 == len(set(map(id, at_once(lambda: host["counting"]))))
    assert [1] == made
