"""Where errors are reported to: one handler, its hooks, and the decorator and context manager that call it."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, overload

from svcframework._callables import Kind, argument_names, is_method, parameter_names
from svcframework._repeats import Repeats
from svcframework.errors import RegistrationError, describe
from svcframework.log import ServiceLogger, context_fields, error_fields, first_sight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextvars import Token
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, init=False)
class ErrorContext:
    """Where an error happened; never holds the values of arguments.

    Args:
        service: The service's name.
        operation: The method; `method=` is the same.
        argument_names: The names of the arguments it was called with.
        user_id: Who it was done for; the one bound by `service_context` when not given.
        correlation_id: Ties the events of one request together; taken from the context when not given.
        extra: Whatever else helps. It is redacted before it is logged.
        at: When, in UTC.
    """

    service: str
    operation: str
    argument_names: tuple[str, ...]
    user_id: str | None
    correlation_id: str | None
    extra: Mapping[str, Any]
    at: datetime

    def __init__(
        self,
        service: str = "application",
        operation: str = "",
        *,
        method: str | None = None,
        argument_names: Sequence[str] = (),
        user_id: str | None = None,
        correlation_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        bound = context_fields()
        values = {
            "service": service,
            "operation": operation or method or "",
            "argument_names": tuple(argument_names),
            "user_id": bound.get("user_id") if user_id is None else user_id,
            "correlation_id": bound.get("correlation_id") if correlation_id is None else correlation_id,
            "extra": MappingProxyType(dict(extra or {})),
            "at": datetime.now(UTC) if at is None else at,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def method(self) -> str:
        """The operation, by its other name."""
        return self.operation

    def __str__(self) -> str:
        return f"{self.service}.{self.operation}" if self.operation else self.service


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """What hooks get: an error, where it happened, and how many like it were held back since the last report."""

    error: BaseException
    context: ErrorContext
    suppressed: int = 0


class ErrorHook(Protocol):
    """Gets the errors that are reported; it must not wait."""

    def __call__(self, report: ErrorReport, /) -> None:
        """Take note of `report`."""


def log_hook(report: ErrorReport) -> None:
    """Log the error with its context, unless it was logged further down already."""
    if not first_sight(report.error):
        return
    context = report.context
    fields = {**context.extra, "operation": context.operation, "arguments": list(context.argument_names)}
    who = {"user_id": context.user_id, "correlation_id": context.correlation_id}
    fields.update({name: value for name, value in who.items() if value is not None})
    if report.suppressed:
        fields["suppressed"] = report.suppressed
    ServiceLogger(context.service).error("error", **{**fields, **error_fields(report.error)})


class CentralizedErrorHandler:
    """Takes every error of a host: calls the handler for its type, then the hooks. Never raises an error itself.

    Handlers are called for every error. Hooks are called for the first `limit` errors of one type in one operation
    within `window` seconds; the rest are counted, and the next report says how many there were. An error that passes
    several layers on its way up is taken once.

    Args:
        hooks: Called in this order; logging alone when not given.
        window: Seconds.
        limit: Reports per window, error type and operation.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        hooks: Sequence[ErrorHook] = (log_hook,),
        window: float = 60.0,
        limit: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hooks: tuple[ErrorHook, ...] = tuple(hooks)
        self._handlers: dict[type[BaseException], Callable[[Any, ErrorContext], object]] = {}
        self._seen: Repeats[tuple[type[BaseException], str]] = Repeats(window=window, limit=limit, clock=clock)

    def add_hook(self, hook: ErrorHook) -> Callable[[], None]:
        """Call `hook` with every report from now on; the result takes it away again."""
        self._hooks = (*self._hooks, hook)

        def remove() -> None:
            self._hooks = tuple(known for known in self._hooks if known is not hook)

        return remove

    def register_handler(
        self, error_type: type[BaseException], handler: Callable[[Any, ErrorContext], object | Awaitable[object]]
    ) -> None:
        """Call `handler(error, context)` for errors of that type; the most specific type wins.

        An async handler is awaited by `handle_error` and async code; errors of sync code go to the most specific
        handler that needn't be awaited. A second registration of a type replaces the first.

        Raises:
            RegistrationError: That is no type of exception.
        """
        given: object = error_type
        if not (isinstance(given, type) and issubclass(given, BaseException)):
            raise RegistrationError(f"register_handler({error_type!r}): give an exception class")
        self._handlers[error_type] = handler

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many errors there were, by type's name and operation; of the 1024 kinds that were seen last."""
        return {(kind.__qualname__, operation): count for (kind, operation), count in self._seen.counts.items()}

    async def handle_error(self, error: BaseException, context: ErrorContext | None = None) -> None:
        """Take an error of async code."""
        taken = self._take(error, context)
        if taken is None:
            return
        handler = self._handler_for(error, sync_only=False)
        try:
            result = None if handler is None else handler(error, taken)
            if inspect.isawaitable(result):
                await result
        except Exception:  # noqa: BLE001 - a boundary: a broken handler must not hide the error
            _complain(handler, error)

    def report(self, error: BaseException, context: ErrorContext | None = None) -> None:
        """Take an error of sync code."""
        taken = self._take(error, context)
        if taken is None:
            return
        handler = self._handler_for(error, sync_only=True)
        try:
            if handler is not None:
                handler(error, taken)
        except Exception:  # noqa: BLE001 - a boundary: a broken handler must not hide the error
            _complain(handler, error)

    def _take(self, error: BaseException, context: ErrorContext | None) -> ErrorContext | None:
        """Count the error and tell the hooks; None when it was taken before, further down."""
        if not self._is_new(error):
            return None
        context = ErrorContext() if context is None else context
        report = self._admit(error, context)
        if report is not None:
            for hook in self._hooks:
                try:
                    hook(report)
                except Exception:  # noqa: BLE001 - a boundary: a broken hook prevents no other
                    _complain(hook, error)
        return context

    def _is_new(self, error: BaseException) -> bool:
        if getattr(error, "_svcframework_taken_by", None) is self:
            return False
        try:
            error._svcframework_taken_by = self  # type: ignore[attr-defined]  # noqa: SLF001 - a mark of ours
        except AttributeError:  # a frozen error class
            return True
        return True

    def _admit(self, error: BaseException, context: ErrorContext) -> ErrorReport | None:
        """The report to make, or None when there were enough in this window."""
        suppressed = self._seen.admit((type(error), str(context)))
        return None if suppressed is None else ErrorReport(error, context, suppressed)

    def _handler_for(
        self, error: BaseException, *, sync_only: bool
    ) -> Callable[[Any, ErrorContext], object | Awaitable[object]] | None:
        for kind in type(error).__mro__:
            handler = self._handlers.get(kind)
            if handler is not None and not (sync_only and Kind.of(handler) is Kind.ASYNC):
                return handler
        return None


def _complain(culprit: object, about: BaseException) -> None:
    """By the standard library, in case our own logging is what is broken."""
    log = logging.getLogger("svcframework")
    log.error("%r raised while it handled %s", culprit, type(about).__qualname__, exc_info=True)  # noqa: LOG014


# --- the current handler --------------------------------------------------------------------------------

_current: ContextVar[CentralizedErrorHandler | None] = ContextVar("svcframework_error_handler", default=None)


@functools.cache
def _default_handler() -> CentralizedErrorHandler:
    return CentralizedErrorHandler()


def get_error_handler() -> CentralizedErrorHandler:
    """The handler of this context; one of the process where none was set."""
    return _current.get() or _default_handler()


def set_error_handler(handler: CentralizedErrorHandler | None) -> Token[CentralizedErrorHandler | None]:
    """Use `handler` in this context and the tasks it starts; None goes back to the process's.

    Returns:
        What `reset_error_handler` needs to undo it.
    """
    return _current.set(handler)


def reset_error_handler(token: Token[CentralizedErrorHandler | None]) -> None:
    """Undo one `set_error_handler`."""
    _current.reset(token)


# --- the context manager --------------------------------------------------------------------------------


class ErrorHandlingContext:
    """Reports an error that leaves the block, and lets it go on; `with` or `async with`. One per block.

    Args:
        context: An `ErrorContext`, or the service's name.
        operation: What the block does.
        handler: The current handler when not given.
        **extra: More for the report; redacted before it is logged.
    """

    def __init__(
        self,
        context: ErrorContext | str = "application",
        operation: str = "",
        *,
        handler: CentralizedErrorHandler | None = None,
        **extra: Any,
    ) -> None:
        self._given, self._operation, self._extra, self._handler = context, operation, extra, handler
        self.error: Exception | None = None
        """What the block raised."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if isinstance(error, Exception):  # a cancellation is no error
            self.error = error
            (self._handler or get_error_handler()).report(error, self._context())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if isinstance(error, Exception):
            self.error = error
            await (self._handler or get_error_handler()).handle_error(error, self._context())

    def _context(self) -> ErrorContext:
        given = self._given
        return ErrorContext(given, self._operation, extra=self._extra) if isinstance(given, str) else given


# --- the decorator --------------------------------------------------------------------------------------


@overload
def handle_errors(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def handle_errors(
    *,
    reraise: bool = True,
    default: Any = None,
    mapping: Mapping[type[Exception], type[Exception]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def handle_errors(
    function: Callable[..., Any] | None = None,
    /,
    *,
    reraise: bool = True,
    default: Any = None,
    mapping: Mapping[type[Exception], type[Exception]] | None = None,
) -> Any:
    """Report what a function raises to the current error handler; sync, async and async generator functions.

    The report names the service, the function and the arguments it was given, never their values. A cancellation is
    no error.

    Args:
        function: What is decorated, in the bare form.
        reraise: False returns `default` in place of raising; a generator ends.
        default: What is returned then.
        mapping: Raise the error as another type, with the same message and the error as its cause; the most
            specific type wins. Such an error is raised whatever `reraise` says.

    Raises:
        RegistrationError: `mapping` holds something that is no exception class. Raised by the decorator.
    """
    rules = _Rules(reraise, default, dict(mapping or {}))
    rules.check()

    def decorate(target: Callable[..., Any]) -> Callable[..., Any]:
        wrapped: Callable[..., Any] = _WRAPPERS[Kind.of(target)](target, rules, _describer(target))
        return wrapped

    return decorate if function is None else decorate(function)


@dataclass(frozen=True, slots=True)
class _Rules:
    """The decorator's arguments."""

    reraise: bool
    default: Any
    mapping: Mapping[type[Exception], type[Exception]]

    def check(self) -> None:
        kinds: tuple[object, ...] = (*self.mapping, *self.mapping.values())
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise RegistrationError(f"@handle_errors(mapping=…): {kind!r} is no subclass of Exception")

    def settle(self, error: Exception) -> Any:
        """What the call comes to: another error, the same one, or the default."""
        for kind in type(error).__mro__:
            wanted = self.mapping.get(kind)
            if wanted is not None:
                raise wanted(describe(error)) from error
        if self.reraise:
            raise error
        return self.default


def _describer(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], dict[str, Any]], ErrorContext]:
    """Makes the context of one failed call."""
    names, method = parameter_names(function), is_method(function)
    operation = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", None) or "application"

    def described(args: tuple[Any, ...], kwargs: dict[str, Any]) -> ErrorContext:
        service = module
        if method and args:
            service = str(getattr(args[0], "name", None) or type(args[0]).__name__)
        return ErrorContext(service, operation, argument_names=argument_names(names, args, kwargs))

    return described


def _wrap_sync(function: Callable[..., Any], rules: _Rules, describer: Callable[..., ErrorContext]) -> Any:
    @functools.wraps(function)
    def handling(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - reported, then raised or replaced as declared
            get_error_handler().report(error, describer(args, kwargs))
            return rules.settle(error)

    return handling


def _wrap_async(function: Callable[..., Any], rules: _Rules, describer: Callable[..., ErrorContext]) -> Any:
    @functools.wraps(function)
    async def handling(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - reported, then raised or replaced as declared
            await get_error_handler().handle_error(error, describer(args, kwargs))
            return rules.settle(error)

    return handling


def _wrap_generator(function: Callable[..., Any], rules: _Rules, describer: Callable[..., ErrorContext]) -> Any:
    @functools.wraps(function)
    def handling(*args: Any, **kwargs: Any) -> Any:
        try:
            return (yield from function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - reported, then raised or replaced as declared
            get_error_handler().report(error, describer(args, kwargs))
            return rules.settle(error)

    return handling


def _wrap_async_generator(function: Callable[..., Any], rules: _Rules, describer: Callable[..., ErrorContext]) -> Any:
    @functools.wraps(function)
    async def handling(*args: Any, **kwargs: Any) -> Any:
        source = function(*args, **kwargs)
        step = source.asend(None)
        while True:
            try:
                item = await step
            except StopAsyncIteration:
                return
            except Exception as error:  # noqa: BLE001 - reported, then raised or replaced as declared
                await get_error_handler().handle_error(error, describer(args, kwargs))
                rules.settle(error)
                return
            try:
                step = source.asend((yield item))
            except GeneratorExit:
                await source.aclose()
                raise
            except BaseException as thrown:  # noqa: BLE001 - goes into the function, as if it were called directly
                step = source.athrow(thrown)

    return handling


_WRAPPERS: dict[Kind, Callable[..., Any]] = {
    Kind.SYNC: _wrap_sync,
    Kind.ASYNC: _wrap_async,
    Kind.GENERATOR: _wrap_generator,
    Kind.ASYNC_GENERATOR: _wrap_async_generator,
}
