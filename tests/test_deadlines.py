"""Deadlines: what is left, for whom, and what happens when nothing is."""

import asyncio
import contextvars
import time

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from svcframework.deadlines import deadline, effective_timeout, has_deadline, remaining
from svcframework.errors import DeadlineExceededError


def test_without_a_deadline_nothing_limits_the_caller() -> None:
    """remaining() is then its default, and a timeout its own."""
    assert None is remaining()
    assert 7.0 == remaining(7.0)
    assert 3.0 == effective_timeout(3.0)


async def test_only_a_block_is_a_deadline() -> None:
    """A block counts until it ends, also in a copy of its context; a cancel scope doesn't, for it acts by itself."""
    assert not has_deadline()
    with deadline(60.0):
        assert has_deadline()
        copied = contextvars.copy_context()
    assert not has_deadline()
    assert not copied.run(has_deadline)
    with anyio.fail_after(60.0):
        assert not has_deadline()


def test_sync_code_reads_the_deadline_around_it() -> None:
    """Outside an event loop the block only says how long there is."""
    with deadline(60.0) as limit:
        left = remaining(0.0)
        assert 59 < left <= 60
        assert limit.at > time.monotonic()
        assert effective_timeout(300.0) <= 60
        assert 2.0 == effective_timeout(2.0)

    assert None is remaining()


def test_an_inner_deadline_never_extends_an_outer_one() -> None:
    """The shorter one counts, whichever is inside."""
    with deadline(1.0):
        with deadline(60.0):
            assert remaining(99.0) <= 1.0
        with deadline(0.01):
            assert remaining(99.0) <= 0.01
        assert remaining(99.0) <= 1.0


def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    """A timeout is 0 then, never negative; sync code isn't interrupted."""
    with deadline(-1.0):
        assert remaining(1.0) < 0
        assert 0.0 == effective_timeout(5.0)


def test_none_sets_no_limit() -> None:
    """Code that has an optional deadline needs no second branch."""
    with deadline(None):
        assert None is remaining()


def test_nan_is_refused() -> None:
    """Seconds that compare with nothing would be no limit at all."""
    with pytest.raises(ValueError, match="give the seconds from now"):
        deadline(float("nan"))


def test_a_deadline_is_entered_once() -> None:
    """Entering it twice at the same time is a mistake and says so."""
    limit = deadline(1.0)
    with limit, pytest.raises(RuntimeError, match="make one for each block"), limit:
        pass


async def test_async_code_is_cut_off() -> None:
    """What runs in the block is cancelled and the error names operation and seconds."""
    with pytest.raises(DeadlineExceededError, match=r"fetch: no answer within 0.01 s"):
        with deadline(0.01, operation="fetch"):
            await anyio.sleep_forever()


async def test_the_outer_deadline_is_the_one_that_is_raised() -> None:
    """An inner, longer deadline doesn't claim the outer one's cancellation."""
    with pytest.raises(DeadlineExceededError) as caught:
        with deadline(0.01, operation="outer"), deadline(60.0, operation="inner"):
            await anyio.sleep_forever()

    assert "outer" == caught.value.operation


async def test_errors_pass_through() -> None:
    """An error of the block's own is not replaced."""
    with pytest.raises(KeyError):
        with deadline(60.0):
            raise KeyError


async def test_a_cancel_scope_around_the_call_counts() -> None:
    """remaining() knows anyio's scopes, on the clock of either backend."""
    with anyio.move_on_after(5.0):
        assert 4 < remaining(99.0) <= 5
        with deadline(60.0):
            assert remaining(99.0) <= 5


async def test_threads_know_the_deadline_of_their_caller() -> None:
    """A worker thread has no event loop, but its context holds the deadline."""
    with deadline(5.0):
        left = await anyio.to_thread.run_sync(lambda: remaining(99.0))

    assert 0 < left <= 5


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_callbacks_of_the_event_loop_are_like_sync_code() -> None:
    """Nothing can be cancelled there, so the deadline is only known."""
    found: list[float] = []

    def callback() -> None:
        with deadline(5.0):
            found.append(remaining(99.0))

    asyncio.get_running_loop().call_soon(callback)
    await anyio.wait_all_tasks_blocked()
    await anyio.lowlevel.checkpoint()

    assert [True] == [0 < left <= 5 for left in found]


async def test_a_task_that_outlives_the_block_is_free_of_it() -> None:
    """A background task started inside is bound only as long as the block lasts."""
    found: list[float | None] = []
    closed = anyio.Event()

    async def background() -> None:
        await closed.wait()
        found.append(remaining())

    async with anyio.create_task_group() as group:
        with deadline(5.0):
            group.start_soon(background)
            await anyio.lowlevel.checkpoint()
        closed.set()

    assert [None] == found
