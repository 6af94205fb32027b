"""retry_on_failure and its budget; the only file that imports tenacity, and only once something has failed."""

from __future__ import annotations

import functools
import random
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

import anyio

from svcframework._callables import Kind
from svcframework._wrappers import written_for
from svcframework.deadlines import deadline, remaining
from svcframework.errors import RegistrationError, ServiceTimeoutError
from svcframework.events import EventBus, RetryScheduled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from tenacity import RetryCallState

P = ParamSpec("P")
R = TypeVar("R")

on_retry = EventBus()
"""Tells of every retry of the process: `on_retry.subscribe(listener)`; listeners get a `RetryScheduled`."""


# --- the budget -----------------------------------------------------------------------------------------


class RetryBudget:
    """Keeps retries from multiplying the load on a backend that is down; lives as long as its decorated function.

    A token bucket. Each call puts `ratio` of a token in, each retry takes one out, and a call that succeeds after
    retries puts back what it took. So a backend that always fails sees at most `1 + ratio` times the calls, after a
    burst, while one that needs a second attempt now and then is never short of retries.

    Args:
        ratio: Retries per call that a backend must bear that never succeeds.
        burst: Retries that are allowed at once; the bucket's size. It starts full.
    """

    __slots__ = ("_lock", "_seen", "_tokens", "burst", "calls", "ratio")

    def __init__(self, *, ratio: float = 0.1, burst: float = 10.0) -> None:
        if ratio < 0 or burst < 0:
            raise RegistrationError(f"RetryBudget(ratio={ratio}, burst={burst}): neither may be negative")
        self.ratio, self.burst = ratio, float(burst)
        self.calls = 0
        """Calls so far. Only counted on the hot path; what they put in is worked out when a retry asks."""
        self._seen = 0
        self._tokens = self.burst
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """Retries that may be made now."""
        with self._lock:
            return self._fill()

    def take(self) -> bool:
        """Take one token for a retry; False when there is none."""
        with self._lock:
            # 1e-9: ten times a tenth is a little less than one
            if self._fill() < 1 - 1e-9:
                return False
            self._tokens -= 1
            return True

    def give_back(self, tokens: int) -> None:
        """The retries that took `tokens` led to a success."""
        with self._lock:
            self._tokens = min(self.burst, self._fill() + tokens)

    def _fill(self) -> float:
        calls, self._seen = self.calls - self._seen, self.calls
        self._tokens = min(self.burst, self._tokens + calls * self.ratio)
        return self._tokens


# --- test mode ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _TestMode:
    """Read after a failure only. Of the process and not of a context, so that a fixture reaches all tasks."""

    active: bool = False
    attempts: int | None = None


_test_mode = _TestMode()


@contextmanager
def testing(attempts: int | None = None) -> Generator[None, None, None]:  # noqa: PT028 - no test, but for tests
    """For tests: within the block no retry waits and no budget runs out, in the whole process.

    Args:
        attempts: At most so many attempts in all, the first included; None leaves what each function declares.

    Raises:
        ValueError: Fewer than one attempt.
    """
    if attempts is not None and attempts < 1:
        raise ValueError(f"testing(attempts={attempts}): the first attempt is always made; give 1 or more")
    before = _test_mode.active, _test_mode.attempts
    _test_mode.active, _test_mode.attempts = True, attempts
    try:
        yield
    finally:
        _test_mode.active, _test_mode.attempts = before


# --- the decorator --------------------------------------------------------------------------------------


@overload
def retry_on_failure(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def retry_on_failure(
    max_retries: int = 3,
    *,
    delay: float = 1.0,
    backoff: float = 2.0,
    max_delay: float = 60.0,
    jitter: bool | float = True,
    exceptions: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    timeout: float | None = None,
    budget: RetryBudget | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def retry_on_failure(
    max_retries: int | Callable[..., Any] = 3,
    *,
    delay: float = 1.0,
    backoff: float = 2.0,
    max_delay: float = 60.0,
    jitter: bool | float = True,
    exceptions: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    timeout: float | None = None,
    budget: RetryBudget | None = None,
) -> Any:
    """Call a function again when it fails; sync and async functions, bare or with arguments.

    No retry follows a cancellation, an error whose `retryable` is False, or an empty budget; none is made whose wait
    would pass `timeout` or the caller's deadline. An error's `retry_after` is waited for; when it is longer than
    `max_delay`, the error is raised at once.

    Args:
        max_retries: Attempts after the first one.
        delay: Seconds before the first retry.
        backoff: What the delay is multiplied with for each further retry.
        max_delay: Seconds that no wait exceeds.
        jitter: True draws each wait between 0 and the delay ("full jitter"); a share between 0 and 1 draws only
            that share of it; False waits for exactly the delay.
        exceptions: What is retried; subclasses of `Exception`.
        timeout: Seconds for all attempts and waits together. An async attempt is cancelled when they are over.
        budget: Shared with other functions that call the same backend; of this function alone when not given.

    Raises:
        RegistrationError: An argument is wrong, or the function is a generator. Raised by the decorator.
        Exception: What the last attempt raised, with a note on the number of attempts and the seconds they took.
        ServiceTimeoutError: `timeout` was over in the middle of an async attempt.
    """
    if callable(max_retries):
        return retry_on_failure()(max_retries)
    given = (exceptions,) if isinstance(exceptions, type) else tuple(exceptions)
    policy = _Policy(max_retries, delay, backoff, max_delay, float(jitter), given, timeout)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = getattr(function, "__qualname__", repr(function))
        policy.check(name)
        kind = Kind.of(function)
        if kind in {Kind.GENERATOR, Kind.ASYNC_GENERATOR}:
            raise RegistrationError(
                f"@retry_on_failure can't repeat {name}(), which is a {kind.value}: what it has yielded is with the "
                f"caller already. Put the part that may fail into a function and retry that."
            )
        return _WRAPPERS[kind](function, name, policy, RetryBudget() if budget is None else budget)

    return decorate


_ASYNC = """
async def retrying({parameters}):
    budget.calls += 1
    begun = clock()
    try:
        return await run({call})
    except exceptions as error:
        attempts = attempts_after(begun, error)
    return await attempts.run_async(partial(run, {call}))
"""
_SYNC = _ASYNC.replace("async def", "def").replace("await ", "").replace("run_async", "run_sync")


def _names(function: Callable[..., Any], name: str, policy: _Policy, budget: RetryBudget) -> dict[str, Any]:
    """What the templates refer to."""
    return {
        "budget": budget, "clock": time.monotonic, "run": function, "exceptions": policy.exceptions,
        "attempts_after": functools.partial(_Attempts, name, policy, budget), "partial": functools.partial,
    }  # fmt: skip


def _wrap_async(
    function: Callable[..., Awaitable[Any]], name: str, policy: _Policy, budget: RetryBudget
) -> Callable[..., Awaitable[Any]]:
    timeout = policy.timeout

    retrying = written_for(function, _ASYNC, _names(function, name, policy, budget))

    @functools.wraps(function)
    async def retrying_in_time(*args: Any, **kwargs: Any) -> Any:
        limit = cast("float", timeout)
        with anyio.move_on_after(limit) as scope:
            return await retrying(*args, **kwargs)
        if scope.cancelled_caught:
            raise ServiceTimeoutError(f"{name}()", limit, hint="all attempts together")
        return None  # pragma: no cover - the block returns, raises or is cancelled

    return retrying if timeout is None else retrying_in_time


def _wrap_sync(function: Callable[..., Any], name: str, policy: _Policy, budget: RetryBudget) -> Callable[..., Any]:
    timeout = policy.timeout

    retrying = written_for(function, _SYNC, _names(function, name, policy, budget))

    @functools.wraps(function)
    def retrying_in_time(*args: Any, **kwargs: Any) -> Any:
        with deadline(timeout, operation=f"{name}()"):  # known to what it calls; a thread can't be cancelled
            return retrying(*args, **kwargs)

    return retrying if timeout is None else retrying_in_time


_WRAPPERS: dict[Kind, Callable[..., Callable[..., Any]]] = {Kind.ASYNC: _wrap_async, Kind.SYNC: _wrap_sync}


@dataclass(frozen=True, slots=True)
class _Policy:
    """The decorator's arguments."""

    max_retries: int
    delay: float
    backoff: float
    max_delay: float
    jitter: float
    exceptions: tuple[type[Exception], ...]
    timeout: float | None

    def check(self, function: str) -> None:
        """Refuse what can't work, with all that is wrong.

        Raises:
            RegistrationError: Something is.
        """
        exceptions: tuple[object, ...] = self.exceptions
        retries: object = self.max_retries
        wrong = [
            f"exceptions has {exception!r}, which is no subclass of Exception: a cancellation would be swallowed"
            for exception in exceptions
            if not (isinstance(exception, type) and issubclass(exception, Exception))
        ]
        if not self.exceptions:
            wrong.append("exceptions is empty, so nothing would be retried")
        if not isinstance(retries, int) or retries < 0:
            wrong.append(f"max_retries={self.max_retries!r} must be a whole number, 0 or more")
        if self.delay < 0 or self.max_delay < 0:
            wrong.append(f"delay={self.delay} and max_delay={self.max_delay} are seconds and can't be negative")
        if self.backoff < 1:
            wrong.append(f"backoff={self.backoff} would shorten the waits; give 1 or more")
        if not 0 <= self.jitter <= 1:
            wrong.append(f"jitter={self.jitter} must be True, False or a share between 0 and 1")
        if self.timeout is not None and self.timeout <= 0:
            wrong.append(f"timeout={self.timeout} must be more than 0 seconds, or None")
        if wrong:
            raise RegistrationError(f"@retry_on_failure on {function}(): {'; '.join(wrong)}")

    def wait(self, retry: int) -> float:
        """Seconds before retry number `retry` (from 1), drawn anew each time."""
        try:
            full = min(self.max_delay, self.delay * self.backoff ** (retry - 1))
        except OverflowError:
            full = self.max_delay
        return full - full * self.jitter * random.random()  # noqa: S311 - spreads load, keeps no secret


class _Attempts:
    """The attempts of one call whose first one has failed; lives as long as the call."""

    __slots__ = ("_begun", "_budget", "_first", "_name", "_policy", "_taken", "_why")

    def __init__(self, name: str, policy: _Policy, budget: RetryBudget, begun: float, first: Exception) -> None:
        self._name, self._policy, self._budget, self._begun = name, policy, budget, begun
        self._first: Exception | None = first
        self._taken = 0
        self._why = ""

    async def run_async(self, call: Callable[[], Awaitable[Any]]) -> Any:
        from tenacity import AsyncRetrying  # noqa: PLC0415 - loads with the first failure

        async def attempt() -> Any:
            self._replay_first()
            return await call()

        try:
            result: Any = await AsyncRetrying(sleep=anyio.sleep, reraise=True, **self._strategy())(attempt)
        finally:
            self._first = None  # an error that holds its own frames would live until the garbage collector comes
        self._succeeded()
        return result

    def run_sync(self, call: Callable[[], Any]) -> Any:
        from tenacity import Retrying  # noqa: PLC0415 - loads with the first failure

        def attempt() -> Any:
            self._replay_first()
            return call()

        try:
            result = Retrying(sleep=time.sleep, reraise=True, **self._strategy())(attempt)
        finally:
            self._first = None
        self._succeeded()
        return result

    def _replay_first(self) -> None:
        """What tenacity takes for the first attempt has happened before tenacity was loaded."""
        if self._first is not None:
            first, self._first = self._first, None
            raise first

    def _strategy(self) -> dict[str, Any]:
        return {"retry": self._may_retry, "wait": self._wait, "stop": self._must_stop, "before_sleep": self._tell}

    def _may_retry(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None:
            return False
        if isinstance(error, self._policy.exceptions) and getattr(error, "retryable", True) is not False:
            return True
        if state.attempt_number > 1 and isinstance(error, Exception):
            self._annotate(error, state.attempt_number, "this error isn't retried")
        return False

    def _wait(self, state: RetryCallState) -> float:
        if _test_mode.active:
            return 0.0
        asked = _retry_after(state)
        own = self._policy.wait(state.attempt_number)
        return own if asked is None else max(own, asked)

    def _must_stop(self, state: RetryCallState) -> bool:
        """Whether the error is raised; the last question, the budget's, takes a token."""
        why = self._reason_to_stop(state.attempt_number, state.upcoming_sleep)
        if why is None:
            self._taken += 1
            return False
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._annotate(error, state.attempt_number, why)
        return True

    def _reason_to_stop(self, attempts: int, wait: float) -> str | None:
        policy, most = self._policy, self._policy.max_retries + 1
        if _test_mode.active and _test_mode.attempts is not None:
            most = min(most, _test_mode.attempts)
        if attempts >= most:
            return "no retries are left"
        if wait > policy.max_delay and not _test_mode.active:
            return f"the other side asked for {wait:.3g} s, more than max_delay={policy.max_delay:g}"
        if policy.timeout is not None and time.monotonic() - self._begun + wait >= policy.timeout:
            return f"the next wait of {wait:.3g} s does not fit timeout={policy.timeout:g}"
        left = remaining()
        if left is not None and wait >= left:
            return f"the next wait of {wait:.3g} s does not fit the deadline"
        if not _test_mode.active and not self._budget.take():
            return "the retry budget is empty"
        return None

    def _tell(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            on_retry.emit(RetryScheduled(self._name, state.attempt_number, state.upcoming_sleep, error))

    def _succeeded(self) -> None:
        if self._taken and not _test_mode.active:
            self._budget.give_back(self._taken)

    def _annotate(self, error: BaseException, attempts: int, why: str) -> None:
        """Say in a note what was tried; in place of the note of an earlier call, when an error is raised again."""
        start = f"{self._name}(): "
        plural = "attempt" if attempts == 1 else "attempts"
        seconds = time.monotonic() - self._begun
        notes: list[str] | None = getattr(error, "__notes__", None)
        if notes is not None:
            notes[:] = [note for note in notes if not note.startswith(start)]
        error.add_note(f"{start}{attempts} {plural} over {seconds:.3g} s, {why}")


def _retry_after(state: RetryCallState) -> float | None:
    """The seconds that the error asks to wait for, as `RateLimitedError` does."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = getattr(error, "retry_after", None)
    return float(asked) if isinstance(asked, (int, float)) and asked > 0 else None
