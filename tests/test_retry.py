"""Retries: how many, how long between them, and when there are none."""

import inspect
import subprocess
import sys
from collections.abc import Iterator

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework import retry
from svcframework.deadlines import deadline
from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    RateLimitedError,
    RegistrationError,
    ServiceTimeoutError,
)
from svcframework.events import Event, RetryScheduled
from svcframework.retry import RetryBudget, _Policy, retry_on_failure


class Flaky:
    """Fails `failures` times, then succeeds; counts its calls."""

    def __init__(self, failures: float, error: Exception | None = None) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error or ConnectionFailedError(f"attempt {self.calls}")
        return "done"


@pytest.fixture
def told() -> Iterator[list[Event]]:
    """Every retry that was scheduled during the test."""
    events: list[Event] = []
    unsubscribe = retry.on_retry.subscribe(events.append)
    yield events
    unsubscribe()


async def test_async_calls_are_repeated_until_they_succeed(told: list[Event]) -> None:
    """The result is that of the attempt that succeeded; listeners hear of each retry."""
    backend = Flaky(2)

    @retry_on_failure(max_retries=3, delay=0.0)
    async def fetch() -> str:
        return backend()

    assert "done" == await fetch()
    assert 3 == backend.calls
    assert [1, 2] == [event.attempt for event in told if isinstance(event, RetryScheduled)]


def test_sync_calls_are_repeated_until_they_succeed() -> None:
    """A sync function waits in the thread of its caller."""
    backend = Flaky(2)

    assert "done" == retry_on_failure(max_retries=2, delay=0.0)(backend)()
    assert 3 == backend.calls


async def test_the_last_error_is_raised_with_a_note() -> None:
    """The note says how many attempts there were and why there is no further one."""
    backend = Flaky(99)

    @retry_on_failure(max_retries=2, delay=0.0)
    async def fetch() -> str:
        return backend()

    with pytest.raises(ConnectionFailedError, match="attempt 3") as caught:
        await fetch()

    (note,) = caught.value.__notes__
    assert "fetch(): 3 attempts over" in note
    assert note.endswith("no retries are left")


def test_an_error_that_is_raised_again_keeps_one_note() -> None:
    """The note of an earlier call is replaced."""
    call = retry_on_failure(max_retries=1, delay=0.0)(Flaky(99, ConnectionFailedError("same")))
    for _ in range(3):
        with pytest.raises(ConnectionFailedError) as caught:
            call()

    assert 1 == len(caught.value.__notes__)


def test_the_bare_form_and_arguments_work() -> None:
    """Arguments reach every attempt, and the bare decorator has the defaults."""
    seen: list[tuple[int, int]] = []

    @retry_on_failure
    def add(first: int, *, second: int) -> int:
        seen.append((first, second))
        if len(seen) == 1:
            raise ConnectionFailedError("once")
        return first + second

    with retry.testing():
        assert 3 == add(1, second=2)
    assert [(1, 2), (1, 2)] == seen


async def test_it_stays_a_coroutine_function_with_its_signature() -> None:
    """Frameworks that look at the function see the one that was decorated."""

    async def fetch(user_id: str, *, fresh: bool = False) -> str:
        return user_id

    wrapped = retry_on_failure(max_retries=1)(fetch)

    assert inspect.iscoroutinefunction(wrapped)
    assert inspect.signature(fetch) == inspect.signature(wrapped)
    assert fetch is wrapped.__wrapped__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [AuthenticationFailedError("refused"), KeyError("not listed")], ids=["not retryable", "not listed"]
)
def test_what_trying_again_cannot_help_is_raised_at_once(error: Exception) -> None:
    """Errors that say so, and errors that aren't listed, are raised by the first attempt."""
    backend = Flaky(1, error)

    with pytest.raises(type(error)):
        retry_on_failure(delay=0.0, exceptions=(ConnectionError, AuthenticationFailedError))(backend)()

    assert 1 == backend.calls


async def test_a_cancellation_is_never_retried() -> None:
    """A cancelled attempt ends the call, and nothing calls the backend again."""
    calls = 0

    @retry_on_failure(max_retries=5, delay=0.0)
    async def fetch() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionFailedError("first")
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await fetch()

    assert scope.cancelled_caught
    assert 2 == calls


async def test_a_cancelled_wait_ends_the_call() -> None:
    """While it waits for the next attempt, a call can be cancelled like any other."""
    backend = Flaky(99)

    @retry_on_failure(delay=50.0, jitter=False)
    async def fetch() -> str:
        return backend()

    async with anyio.create_task_group() as group:
        group.start_soon(fetch)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    assert 1 == backend.calls


async def test_no_wait_exceeds_the_callers_deadline() -> None:
    """When the next wait would not fit, the error is raised now and not after the deadline."""
    backend = Flaky(99)

    @retry_on_failure(max_retries=3, delay=50.0, jitter=False)
    async def fetch() -> str:
        return backend()

    with pytest.raises(ConnectionFailedError) as caught, deadline(10.0):
        await fetch()

    assert 1 == backend.calls
    assert "does not fit the deadline" in caught.value.__notes__[0]


def test_sync_waits_fit_the_deadline_and_the_timeout_too() -> None:
    """Neither the caller's time nor the function's own is slept away."""
    backend = Flaky(99)
    with pytest.raises(ConnectionFailedError), deadline(10.0):
        retry_on_failure(delay=50.0, jitter=False)(backend)()
    with pytest.raises(ConnectionFailedError) as caught:
        retry_on_failure(delay=50.0, jitter=False, timeout=10.0)(backend)()

    assert 2 == backend.calls
    assert "does not fit timeout=10" in caught.value.__notes__[0]


async def test_the_timeout_cuts_off_a_hanging_attempt() -> None:
    """All attempts together take no longer, even when one never returns."""

    @retry_on_failure(max_retries=3, delay=0.0, timeout=0.02)
    async def fetch() -> None:
        await anyio.sleep_forever()

    with pytest.raises(ServiceTimeoutError, match="all attempts together"):
        await fetch()


async def test_a_timeout_of_the_functions_own_is_an_error_like_others() -> None:
    """A TimeoutError that it raised itself is not taken for the decorator's."""

    @retry_on_failure(max_retries=1, delay=0.0, timeout=30.0)
    async def fetch() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await fetch()


def test_retry_after_is_waited_for(told: list[Event]) -> None:
    """The other side's wish is longer than our own delay, and so it counts."""
    backend = Flaky(1, RateLimitedError("slow down", retry_after=0.01))

    assert "done" == retry_on_failure(delay=0.0)(backend)()
    assert [0.01] == [event.delay for event in told if isinstance(event, RetryScheduled)]


def test_a_retry_after_beyond_max_delay_is_raised() -> None:
    """Neither sleeping for an hour nor asking too early is what the caller wants."""
    backend = Flaky(1, RateLimitedError("slow down", retry_after=3600.0))

    with pytest.raises(RateLimitedError) as caught:
        retry_on_failure(delay=0.0, max_delay=60.0)(backend)()

    assert "asked for 3.6e+03 s, more than max_delay=60" in caught.value.__notes__[0]


def test_a_dead_backend_sees_a_tenth_more_calls() -> None:
    """At 100 % errors, 1000 calls make at most 1100 attempts and the burst."""
    backend = Flaky(float("inf"))
    call = retry_on_failure(max_retries=3, delay=0.0)(backend)

    for _ in range(1000):
        with pytest.raises(ConnectionFailedError):
            call()

    assert 1000 + 100 <= backend.calls <= 1000 * 1.1 + 10


def test_retries_that_help_cost_no_budget() -> None:
    """A backend that always needs a second attempt gets it, however long it goes on."""
    calls = 0

    @retry_on_failure(max_retries=1, delay=0.0)
    def fetch() -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ConnectionFailedError("every other call")

    for _ in range(100):
        fetch()

    assert 200 == calls


def test_a_budget_can_be_shared() -> None:
    """Two functions that call the same backend draw on one bucket."""
    budget = RetryBudget(ratio=0.0, burst=3)
    backends = [Flaky(99), Flaky(99)]
    for backend in backends:
        with pytest.raises(ConnectionFailedError):
            retry_on_failure(max_retries=2, delay=0.0, budget=budget)(backend)()

    assert [3, 2] == [backend.calls for backend in backends]
    assert 0.0 == budget.tokens


def test_full_jitter_draws_from_the_whole_delay() -> None:
    """True draws between nothing and the delay, a share only that share, False nothing; all grow to max_delay."""

    def waits(jitter: float) -> list[float]:
        policy = _Policy(99, 1.0, 2.0, 8.0, jitter, (Exception,), None)
        return [policy.wait(4) for _ in range(500)]

    assert 0 <= min(waits(1.0)) < 2
    assert 6 < max(waits(1.0)) <= 8
    assert 6 <= min(waits(0.25)) <= max(waits(0.25)) <= 8
    assert {8.0} == set(waits(0.0))
    assert [1.0, 2.0, 4.0, 8.0, 8.0] == [_Policy(9, 1.0, 2.0, 8.0, 0.0, (), None).wait(n) for n in (1, 2, 3, 4, 5000)]


def test_test_mode_switches_waiting_off() -> None:
    """A test neither waits for an hour nor makes more attempts than it wants to."""
    backend = Flaky(99)
    call = retry_on_failure(max_retries=20, delay=3600.0, max_delay=3600.0, jitter=False)(backend)

    with retry.testing(attempts=2), pytest.raises(ConnectionFailedError):
        call()
    assert 2 == backend.calls
    with retry.testing(), pytest.raises(ConnectionFailedError):
        call()
    assert 2 + 21 == backend.calls
    with pytest.raises(ValueError, match="give 1 or more"), retry.testing(attempts=0):
        pass


@given(st.integers(0, 6), st.integers(0, 8), st.integers(0, 5), st.booleans())
def test_attempts_never_exceed_what_is_allowed(max_retries: int, failures: int, burst: int, retryable: bool) -> None:
    """However many failures, retries and tokens: no attempt too many, none too few, and the budget adds up."""
    budget = RetryBudget(ratio=0.0, burst=burst)
    backend = Flaky(failures, ConnectionFailedError("down") if retryable else AuthenticationFailedError("refused"))
    call = retry_on_failure(max_retries=max_retries, delay=0.0, budget=budget)(backend)
    allowed = min(max_retries, burst) if retryable else 0
    if failures <= allowed:
        assert "done" == call()
    else:
        with pytest.raises((ConnectionFailedError, AuthenticationFailedError)):
            call()

    assert min(failures, allowed) + 1 == backend.calls
    assert float(burst if failures <= allowed else burst - allowed) == budget.tokens


def test_generators_are_refused() -> None:
    """What was yielded can't be taken back, so the decorator says what to do in its place."""

    async def stream() -> object:
        yield 1

    with pytest.raises(RegistrationError, match=r"can't repeat .*stream.*async generator"):
        retry_on_failure()(stream)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"exceptions": (BaseException,)}, "no subclass of Exception"),
        ({"exceptions": ()}, "exceptions is empty"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"delay": -1.0}, "can't be negative"),
        ({"backoff": 0.5}, "backoff=0.5"),
        ({"jitter": 2.0}, "jitter=2.0"),
        ({"timeout": 0.0}, "timeout=0.0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: dict[str, object], problem: str) -> None:
    """The decorator raises, not the thousandth call."""
    with pytest.raises(RegistrationError, match=problem):
        retry_on_failure(**arguments)(lambda: None)  # type: ignore[call-overload]


def test_tenacity_loads_with_the_first_failure() -> None:
    """Success on the first attempt neither needs nor imports it."""
    program = (
        "import sys; from svcframework.retry import retry_on_failure\n"
        "assert 1 == retry_on_failure(lambda: 1)(); print('tenacity' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert "False" == done.stdout.strip()
