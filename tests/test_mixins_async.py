"""AsyncOperationMixin: bounded, shared, in time. Time is virtual on both backends."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from svcframework.deadlines import deadline
from svcframework.errors import DeadlineExceededError, ServiceTimeoutError
from svcframework.mixins import AsyncOperationMixin
from svcframework.service import BaseService
from svcframework.testing.virtualtime import virtual_backend


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with clocks that jump."""
    return virtual_backend(request.param)


class Worker(BaseService, AsyncOperationMixin):  # type: ignore[type-arg]
    """Counts how much runs at once."""

    running = most = calls = cancelled = 0

    async def work(self, result: Any = None, *, takes: float = 1.0) -> Any:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(takes)
            if isinstance(result, Exception):
                raise result
            return result
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


async def test_gather_keeps_the_order() -> None:
    """Results come in the order of the calls, whoever ends first; coroutines and functions both count as calls."""
    worker = Worker()
    assert ["a", "b", "c"] == await worker.gather(
        worker.work("a", takes=3), lambda: worker.work("b", takes=1), worker.work("c", takes=2)
    )
    assert [] == await worker.gather()


async def test_gather_is_bounded() -> None:
    """No more than the limit run at once."""
    worker = Worker()
    before = anyio.current_time()
    assert list(range(10)) == await worker.map_concurrently(worker.work, range(10), limit=4)
    assert (4, 3.0) == (worker.most, anyio.current_time() - before)
    with pytest.raises(ValueError, match="limit=0"):
        await worker.gather(limit=0)


async def test_first_failure_ends_the_others() -> None:
    """Its own error is raised, not a group; what runs is cancelled and what has not begun is closed."""
    worker = Worker()
    with pytest.raises(ValueError, match="broken"):
        await worker.gather(
            worker.work(takes=100), worker.work(ValueError("broken")), worker.work(), worker.work(), limit=2
        )
    assert (2, 1) == (worker.calls, worker.cancelled)


async def test_errors_can_be_results() -> None:
    """With return_errors every call ends, and an error stands where its result would."""
    worker = Worker()
    first, second, third = await worker.gather(
        worker.work(1), worker.work(ValueError("broken")), worker.work(3), return_errors=True
    )
    assert (1, "broken", 3) == (first, str(second), third)


async def test_cancelled_gather_leaves_nothing_running() -> None:
    """When the caller is cancelled, so are its calls, and no coroutine is left unawaited."""
    worker = Worker()
    with anyio.move_on_after(0.5):
        await worker.gather(*(worker.work() for _ in range(5)), limit=2)
    assert (0, 2) == (worker.running, worker.cancelled)


async def test_timeout_is_a_typed_error() -> None:
    """A call that takes too long is cancelled after its limit; the error names it."""
    worker = Worker()
    assert 1 == await worker.with_timeout(worker.work(1), 2.0)
    with pytest.raises(ServiceTimeoutError, match=r"Worker\.work: no answer within 2 s"):
        await worker.with_timeout(worker.work(takes=9), 2.0)
    with pytest.raises(DeadlineExceededError), deadline(1.0):
        await worker.with_timeout(lambda: worker.work(takes=9), 2.0)
    assert 2 == worker.cancelled


async def test_first_of_takes_the_first_success() -> None:
    """A failure doesn't count, and the slower calls are cancelled."""
    worker = Worker()
    result = await worker.first_of(
        worker.work(ValueError(), takes=1), worker.work("quick", takes=2), worker.work("slow", takes=9)
    )
    assert ("quick", 1) == (result, worker.cancelled)


async def test_first_of_reports_all_failures() -> None:
    """If nobody succeeds all errors are raised together."""
    worker = Worker()
    with pytest.raises(ExceptionGroup) as raised:
        await worker.first_of(worker.work(ValueError("a")), worker.work(KeyError("b")))
    assert {ValueError, KeyError} == {type(error) for error in raised.value.exceptions}
    with pytest.raises(ValueError, match="at least one"):
        await worker.first_of()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # a thread takes real time
async def test_thread(anyio_backend: str) -> None:
    """The function runs in another thread and its result comes back."""
    assert threading.get_ident() != await Worker().run_in_thread(threading.get_ident)


async def test_identical_calls_are_one() -> None:
    """Tasks with the same key share one call, None as a result included; another key is another call."""
    worker = Worker()
    results: list[Any] = []

    async def ask(key: str) -> None:
        results.append(await worker.single_flight(key, worker.work))

    async with anyio.create_task_group() as tasks:
        for key in ["a", "a", "a", "b"]:
            tasks.start_soon(ask, key)
    assert ([None] * 4, 2) == (results, worker.calls)
    await ask("a")
    assert 3 == worker.calls


async def test_shared_failure_and_cancelled_leader() -> None:
    """All who share a failed call get its error; if its caller is cancelled, another one makes the call."""
    worker = Worker()
    errors: list[str] = []
    scope = anyio.CancelScope()

    async def lead() -> None:
        with scope:
            await worker.single_flight("k", lambda: worker.work(ValueError("lead")))

    async def follow() -> None:
        try:
            await worker.single_flight("k", lambda: worker.work(ValueError("follow")))
        except ValueError as error:
            errors.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.sleep(0.1)
        tasks.start_soon(follow)
        tasks.start_soon(follow)
        await anyio.sleep(0.1)
        scope.cancel()
    assert (["follow", "follow"], 2) == (errors, worker.calls)
