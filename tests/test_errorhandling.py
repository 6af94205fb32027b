"""The central error handler, its decorator and its context manager."""

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
import structlog.testing

from svcframework.errorhandling import (
    CentralizedErrorHandler,
    ErrorContext,
    ErrorHandlingContext,
    ErrorReport,
    get_error_handler,
    handle_errors,
    reset_error_handler,
    set_error_handler,
)
from svcframework.errors import RegistrationError
from svcframework.log import bind_context, reset_context
from svcframework.methods import service_method
from svcframework.service import BaseService


@pytest.fixture
def reports() -> list[ErrorReport]:
    """What the hooks of the current handler were told."""
    return []


@pytest.fixture
def handler(reports: list[ErrorReport]) -> CentralizedErrorHandler:
    """A handler that reports to `reports` only."""
    return CentralizedErrorHandler(hooks=[reports.append])


class Clock:
    """Stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_form_of_the_seeds_works(handler: CentralizedErrorHandler, reports: list[ErrorReport]) -> None:
    """handle_error is awaited with error= and context=, and the context has method= and user_id=."""
    error = KeyError("x")
    await handler.handle_error(error=error, context=ErrorContext(service="s", method="m", user_id="123"))

    (report,) = reports

    assert (error, "s.m", "m", "123") == (
        report.error,
        str(report.context),
        report.context.operation,
        report.context.user_id,
    )


def test_a_context_is_frozen_and_knows_who_asked() -> None:
    """Correlation id and user come from the context of the call."""
    token = bind_context(correlation_id="r-1", user_id="7")
    context = ErrorContext("s", "m", argument_names=["a"], extra={"b": 1})
    reset_context(token)

    assert ("r-1", "7", ("a",), {"b": 1}) == (
        context.correlation_id,
        context.user_id,
        context.argument_names,
        dict(context.extra),
    )
    with pytest.raises(AttributeError):
        context.service = "other"  # type: ignore[misc]


async def test_the_most_specific_handler_is_called(handler: CentralizedErrorHandler) -> None:
    """By the error's own order of base classes, sync or async."""
    called: list[str] = []

    async def lookups(error: LookupError, context: ErrorContext) -> None:
        called.append(f"lookup {context.service}")

    handler.register_handler(Exception, lambda _error, _context: called.append("any"))
    handler.register_handler(LookupError, lookups)

    await handler.handle_error(KeyError(), ErrorContext("s"))
    await handler.handle_error(OSError(), ErrorContext("s"))
    handler.report(KeyError(), ErrorContext("s"))

    assert ["lookup s", "any", "any"] == called


def test_only_exception_types_have_handlers(handler: CentralizedErrorHandler) -> None:
    """Anything else is refused at once."""
    with pytest.raises(RegistrationError, match="give an exception class"):
        handler.register_handler("KeyError", print)  # type: ignore[arg-type]


async def test_it_never_raises(reports: list[ErrorReport]) -> None:
    """A broken hook or handler neither hides the error nor stops the next hook."""

    def broken(*_arguments: object) -> None:
        raise RuntimeError

    handler = CentralizedErrorHandler(hooks=[broken, reports.append])
    handler.register_handler(Exception, broken)

    handler.report(KeyError())
    await handler.handle_error(KeyError())

    assert 2 == len(reports)


def test_repeated_errors_are_held_back_and_counted(reports: list[ErrorReport]) -> None:
    """Only so many of a kind per window; the next report says how many there were."""
    clock = Clock()
    handler = CentralizedErrorHandler(hooks=[reports.append], window=60.0, limit=2, clock=clock)
    for _ in range(5):
        handler.report(KeyError(), ErrorContext("s", "get"))
    handler.report(KeyError(), ErrorContext("s", "set"))
    handler.report(OSError(), ErrorContext("s", "get"))
    clock.now = 60.0
    handler.report(KeyError(), ErrorContext("s", "get"))

    assert [0, 0, 0, 0, 3] == [report.suppressed for report in reports]
    assert {("KeyError", "s.get"): 6, ("KeyError", "s.set"): 1, ("OSError", "s.get"): 1} == handler.counts


def test_memory_is_bounded(handler: CentralizedErrorHandler) -> None:
    """However many operations fail, the kinds that are remembered are limited."""
    for number in range(3000):
        handler.report(KeyError(), ErrorContext("s", str(number)))

    assert 1024 == len(handler.counts)


def test_an_error_is_taken_once(handler: CentralizedErrorHandler, reports: list[ErrorReport]) -> None:
    """On its way up through several layers, the innermost one reports it."""
    error = KeyError()
    handler.report(error, ErrorContext("inner"))
    handler.report(error, ErrorContext("outer"))

    assert ["inner"] == [report.context.service for report in reports]


def test_hooks_can_be_added_and_taken_away(handler: CentralizedErrorHandler) -> None:
    """add_hook returns what undoes it."""
    seen: list[ErrorReport] = []
    remove = handler.add_hook(seen.append)
    handler.report(KeyError())
    remove()
    handler.report(KeyError())

    assert 1 == len(seen)


def test_the_current_handler_is_of_the_context(handler: CentralizedErrorHandler) -> None:
    """Without one, a handler of the process is made once."""
    token = set_error_handler(handler)
    assert handler is get_error_handler()
    reset_error_handler(token)

    assert get_error_handler() is get_error_handler() is not handler


def test_the_context_manager_records_and_reraises(handler: CentralizedErrorHandler, reports: list[ErrorReport]) -> None:
    """Its error goes on, and is kept."""
    handling = ErrorHandlingContext("s", "load", handler=handler, path="a.txt")
    with pytest.raises(KeyError), handling:
        raise KeyError

    assert isinstance(handling.error, KeyError)
    assert ("s.load", {"path": "a.txt"}) == (str(reports[0].context), dict(reports[0].context.extra))


async def test_the_async_context_manager_awaits_handlers(handler: CentralizedErrorHandler) -> None:
    """An async handler has run when the block is left."""
    done: list[bool] = []

    async def handle(error: KeyError, context: ErrorContext) -> None:
        await anyio.sleep(0)
        done.append(True)

    handler.register_handler(KeyError, handle)
    with pytest.raises(KeyError):
        async with ErrorHandlingContext(ErrorContext("s"), handler=handler):
            raise KeyError

    assert [True] == done


async def test_a_cancellation_is_no_error(handler: CentralizedErrorHandler, reports: list[ErrorReport]) -> None:
    """It is neither reported nor swallowed."""
    token = set_error_handler(handler)

    @handle_errors(reraise=False)
    async def wait() -> None:
        async with ErrorHandlingContext("s"):
            await anyio.sleep_forever()

    with anyio.move_on_after(0.01) as scope:
        await wait()
    reset_error_handler(token)

    assert scope.cancelled_caught
    assert [] == reports


class Service(BaseService):
    """Has a failing method of each kind."""

    @handle_errors
    async def fetch(self, user_id: str, *rest: int, password: str = "") -> None:
        raise KeyError("missing")

    @handle_errors(reraise=False, default=7)
    def count(self) -> int:
        raise KeyError

    @handle_errors(reraise=False)
    def lines(self) -> Iterator[int]:
        yield 1
        raise KeyError

    @handle_errors(reraise=False)
    async def stream(self) -> AsyncIterator[int]:
        yield 1
        raise KeyError

    @handle_errors(mapping={LookupError: ValueError, OSError: RuntimeError})
    async def mapped(self, error: Exception) -> None:
        raise error


@pytest.fixture
def current(handler: CentralizedErrorHandler) -> Iterator[CentralizedErrorHandler]:
    """The handler, as the one of the process."""
    from svcframework import errorhandling

    original = errorhandling._default_handler
    errorhandling._default_handler = lambda: handler  # type: ignore[assignment]
    yield handler
    errorhandling._default_handler = original


@pytest.mark.usefixtures("current")
async def test_the_report_names_arguments_and_never_values(reports: list[ErrorReport]) -> None:
    """Service, method and the names of what was given."""
    with pytest.raises(KeyError, match="missing"):
        await Service().fetch("7", 1, 2, password="hunter2")

    (report,) = reports

    assert ("service.fetch", ("user_id", "*2", "*3", "password")) == (
        str(report.context),
        report.context.argument_names,
    )
    assert "hunter2" not in repr(report)


@pytest.mark.usefixtures("current")
async def test_every_kind_of_function_can_go_on(reports: list[ErrorReport]) -> None:
    """With reraise=False a function returns the default and a generator ends."""
    service = Service()

    assert 7 == service.count()
    assert [1] == list(service.lines())
    assert [1] == [item async for item in service.stream()]
    assert ["count", "lines", "stream"] == [report.context.operation for report in reports]


@pytest.mark.usefixtures("current")
@pytest.mark.parametrize(
    ("error", "wanted"), [(KeyError("k"), ValueError), (OSError("o"), RuntimeError), (TypeError("t"), TypeError)]
)
async def test_errors_are_mapped(error: Exception, wanted: type[Exception]) -> None:
    """By the most specific type; the original is the cause, and what isn't mapped is raised as it is."""
    with pytest.raises(wanted) as caught:
        await Service().mapped(error)

    assert error is (caught.value.__cause__ or caught.value)


def test_a_wrong_mapping_is_refused() -> None:
    """The decorator raises, not the first error."""
    with pytest.raises(RegistrationError, match="no subclass of Exception"):
        handle_errors(mapping={KeyError: "ValueError"})  # type: ignore[dict-item]


def test_the_function_keeps_its_face() -> None:
    """It stays a coroutine function, an async generator function, and has its signature."""
    assert inspect.iscoroutinefunction(Service.fetch)
    assert inspect.isasyncgenfunction(Service.stream)
    assert ["self", "user_id", "rest", "password"] == list(inspect.signature(Service.fetch).parameters)


async def test_an_error_is_logged_once_by_method_and_handler() -> None:
    """service_method below handle_errors, and the default hook: one event."""

    class Twice(BaseService):
        @handle_errors
        @service_method
        async def fail(self) -> None:
            raise KeyError

    token = set_error_handler(CentralizedErrorHandler())
    with structlog.testing.capture_logs() as logs, pytest.raises(KeyError):
        await Twice().fail()
    reset_error_handler(token)

    assert ["service method failed"] == [event["event"] for event in logs]


def test_the_default_hook_logs_with_context() -> None:
    """Operation, arguments, correlation id, extra fields redacted, and how many were held back."""
    clock = Clock()
    handler = CentralizedErrorHandler(limit=1, clock=clock)
    context: dict[str, Any] = {"argument_names": ["a"], "correlation_id": "r-1", "extra": {"password": "hunter2"}}
    with structlog.testing.capture_logs() as logs:
        handler.report(KeyError("x"), ErrorContext("s", "get", **context))
        handler.report(KeyError("x"), ErrorContext("s", "get"))
        clock.now = 100.0
        handler.report(KeyError("x"), ErrorContext("s", "get"))

    assert [("s", "get", ["a"], "r-1", "***")] == [
        (e["service"], e["operation"], e["arguments"], e["correlation_id"], e["password"]) for e in logs[:1]
    ]
    assert 1 == logs[1]["suppressed"]
