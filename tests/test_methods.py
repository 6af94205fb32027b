"""service_method on every kind of function."""

import asyncio
import functools
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import anyio
import pytest
import structlog.testing

from svcframework import methods, retry
from svcframework._repeats import Repeats
from svcframework.config import ServiceConfig
from svcframework.errors import RegistrationError, ServiceTimeoutError
from svcframework.methods import service_method
from svcframework.retry import retry_on_failure
from svcframework.service import BaseService


class Users(BaseService):
    """Has one method of each kind."""

    @service_method
    async def get(self, user_id: str, *, password: str = "") -> str:
        if not user_id:
            raise KeyError(password)
        return user_id

    @service_method(name="renamed")
    def count(self) -> int:
        return 3

    @service_method
    def lines(self) -> Iterator[int]:
        yield 1
        return 2

    @service_method
    async def stream(self, items: int) -> AsyncIterator[int]:
        for item in range(items):
            got = yield item
            if got == "fail":
                raise KeyError(got)

    @service_method(timeout=0.01)
    async def hang(self) -> None:
        await anyio.sleep_forever()

    @service_method(timeout=0.01)
    async def stall(self) -> AsyncIterator[int]:
        yield 1
        await anyio.sleep_forever()

    @service_method
    async def wait(self) -> None:
        await anyio.sleep_forever()

    @service_method
    async def outer(self) -> str:
        return await self.get("")

    @service_method
    @staticmethod
    def plain(value: int) -> int:
        return value

    @service_method
    @classmethod
    def of_class(cls, value: int) -> int:
        return value


def outcome(service: BaseService, operation: str) -> tuple[int, int, int, int]:
    """Successes, errors, cancellations and calls in flight."""
    found = service.metrics.operation(operation)
    return found.success, found.error, found.cancelled, found.in_flight


async def test_calls_are_counted_by_instance() -> None:
    """Each instance has its own figures."""
    one, other = Users(), Users()
    assert "1" == await one.get("1")
    assert "2" == await one.get("2")

    assert (2, 0, 0, 0) == outcome(one, "get")
    assert (0, 0, 0, 0) == outcome(other, "get")


async def test_every_kind_of_function_is_counted() -> None:
    """Sync, generator and async generator methods, by their own or a given name."""
    users = Users()

    assert 3 == users.count()
    assert [1] == list(users.lines())
    assert [0, 1, 2] == [item async for item in users.stream(3)]
    assert (7, 8) == (Users.plain(7), Users.of_class(8))

    assert [(1, 0, 0, 0)] * 3 == [outcome(users, name) for name in ("renamed", "lines", "stream")]


async def test_a_failure_is_logged_once_with_names_but_no_values() -> None:
    """Two service methods on the error's way up make one event, and it holds no argument."""
    users = Users()
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(KeyError):
            await users.outer()
        with pytest.raises(KeyError):
            await users.get("", password="hunter2")

    assert [("get", ["user_id"]), ("get", ["user_id", "password"])] == [
        (event["operation"], event["arguments"]) for event in logs
    ]
    assert ["KeyError", "KeyError"] == [event["error_type"] for event in logs]
    assert (0, 2, 0, 0) == outcome(users, "get")
    assert (0, 1, 0, 0) == outcome(users, "outer")


async def test_failures_of_a_kind_are_logged_ten_times_a_minute() -> None:
    """However often a call fails, its log stays short; another instance, method or type of error has its own ten."""
    users, others = Users(), Users()
    with structlog.testing.capture_logs() as logs:
        for service in (users, others):
            for _ in range(50):
                with pytest.raises(KeyError):
                    await service.get("")
    assert 20 == len(logs)
    assert (0, 50, 0, 0) == outcome(users, "get")


async def test_next_line_says_how_many_were_suppressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute later the failure is logged again, with the number of those that were not."""
    now = 1000.0
    monkeypatch.setattr(methods, "Repeats", functools.partial(Repeats, clock=lambda: now))
    users = Users()
    with structlog.testing.capture_logs() as logs:
        for _ in range(13):
            with pytest.raises(KeyError):
                await users.get("")
        now += 60.0
        with pytest.raises(KeyError):
            await users.get("")
    assert [None] * 10 + [3] == [event.get("suppressed") for event in logs]


async def test_a_cancelled_call_is_neither_success_nor_error() -> None:
    """It is counted apart and not logged."""
    users = Users()
    with structlog.testing.capture_logs() as logs, anyio.move_on_after(0.01):
        await users.wait()

    assert (0, 0, 1, 0) == outcome(users, "wait")
    assert [] == logs


async def test_a_call_in_flight_is_seen() -> None:
    """Between begin and end it counts as in flight."""
    users = Users()
    async with anyio.create_task_group() as group:
        group.start_soon(users.wait)
        await anyio.wait_all_tasks_blocked()
        assert (0, 0, 0, 1) == outcome(users, "wait")
        group.cancel_scope.cancel()


async def test_the_timeout_is_a_typed_error() -> None:
    """A call that takes too long is cut off, and counted as an error."""
    users = Users()
    with pytest.raises(ServiceTimeoutError, match=r"Users.hang\(\): no answer within 0.01 s"):
        await users.hang()

    assert (0, 1, 0, 0) == outcome(users, "hang")


async def test_the_timeout_of_a_stream_is_for_each_item() -> None:
    """Items that come in time are delivered; the one that doesn't ends the stream."""
    items = []
    with pytest.raises(ServiceTimeoutError):
        async for item in Users().stall():
            items.append(item)

    assert [1] == items


async def test_a_stream_can_be_sent_to_thrown_into_and_closed() -> None:
    """The wrapped generator gets what its caller sends, and a closed one is a normal end."""
    users = Users()
    failing = users.stream(3)
    assert 0 == await anext(failing)
    with pytest.raises(KeyError, match="fail"):
        await failing.asend("fail")  # type: ignore[attr-defined]
    thrown = users.stream(3)
    await anext(thrown)
    with pytest.raises(OSError, match="full"):
        await thrown.athrow(OSError("full"))  # type: ignore[attr-defined]
    closed = users.stream(3)
    await anext(closed)
    await closed.aclose()  # type: ignore[attr-defined]

    assert (1, 2, 0, 0) == outcome(users, "stream")


def test_a_timeout_on_sync_code_is_refused() -> None:
    """It could not be kept, so the decorator says what can."""
    with pytest.raises(RegistrationError, match="sync code can't be cut off"):
        service_method(timeout=1.0)(lambda: None)
    with pytest.raises(RegistrationError, match="more than 0 seconds"):
        service_method(timeout=0.0)(anyio.sleep)


async def test_metrics_can_be_switched_off() -> None:
    """With metrics_enabled=False nothing is counted, and the call works."""
    users = Users(ServiceConfig(metrics_enabled=False))

    assert "1" == await users.get("1")
    assert 0 == users.metrics.snapshot()["count"]


async def test_plain_functions_count_for_themselves() -> None:
    """A function without a service has metrics of its own, also when it is called with a service."""

    @service_method
    async def get(users: Users) -> str:
        return await users.get("1")

    users = Users()
    assert "1" == await get(users)

    assert 1 == get.metrics.snapshot()["count"]  # type: ignore[attr-defined]
    assert (1, 0, 0, 0) == outcome(users, "get")


async def test_it_goes_above_and_below_retry() -> None:
    """Below it counts attempts, above it counts calls; signature and coroutine-ness stay."""
    failures = iter([True, False] * 2)

    class Service(BaseService):
        @retry_on_failure
        @service_method
        async def below(self) -> str:
            return self.answer()

        @service_method
        @retry_on_failure
        async def above(self) -> str:
            return self.answer()

        def answer(self) -> str:
            if next(failures):
                raise ConnectionError
            return "done"

    service = Service()
    with retry.testing():
        assert ["done", "done"] == [await service.below(), await service.above()]

    assert (1, 1, 0, 0) == outcome(service, "below")
    assert (1, 0, 0, 0) == outcome(service, "above")
    assert inspect.iscoroutinefunction(Service.above)
    assert ["self"] == list(inspect.signature(Service.below).parameters)


async def test_a_marked_function_counts_as_async() -> None:
    """A plain function that returns a coroutine and is marked, as the injector makes them, is awaited."""

    async def fetch() -> int:
        return 1

    def marked() -> object:
        return fetch()

    if hasattr(inspect, "markcoroutinefunction"):
        inspect.markcoroutinefunction(marked)
    else:
        marked._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    wrapped = service_method(marked)

    assert inspect.iscoroutinefunction(wrapped)
    assert 1 == await wrapped()  # type: ignore[misc]


async def test_each_call_runs_in_a_span_of_each_factory() -> None:
    """Factories get service and operation; one that raises breaks no call."""
    seen: list[str] = []

    @contextmanager
    def span(service: str, operation: str) -> Iterator[None]:
        seen.append(f"{service}.{operation}")
        try:
            yield
        except KeyError:
            seen.append("failed")
            raise

    def broken(service: str, operation: str) -> object:
        raise OSError("collector is down")

    users = Users()
    methods.span_factories.extend([span, broken])  # type: ignore[list-item]
    try:
        with structlog.testing.capture_logs():
            assert 3 == users.count()
            with pytest.raises(KeyError):
                await users.get("")
    finally:
        methods.span_factories.clear()

    assert ["users.renamed", "users.get", "failed"] == seen


async def test_opentelemetry_spans_start_and_end() -> None:
    """With the API alone there is nothing to see, and nothing breaks; the function that is returned ends it."""
    pytest.importorskip("opentelemetry.trace")
    stop = methods.use_opentelemetry()
    try:
        assert "1" == await Users().get("1")
        with structlog.testing.capture_logs(), pytest.raises(KeyError):
            await Users().get("")
    finally:
        stop()

    assert [] == methods.span_factories


def test_an_instance_is_not_kept_alive() -> None:
    """Decorated methods hold nothing of the instances that they were called on."""
    import weakref

    users = Users()
    users.count()
    gone = weakref.ref(users)
    del users
    gc.collect()

    assert None is gone()
