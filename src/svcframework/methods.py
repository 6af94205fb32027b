"""service_method: times, counts, traces and logs the calls of a method. What is counted where is up to `metrics`."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar, overload

import anyio

from svcframework._callables import Kind, argument_names, defaults_of, is_method, parameter_names
from svcframework._repeats import Repeats
from svcframework._wrappers import written_for
from svcframework.errors import RegistrationError, ServiceTimeoutError
from svcframework.log import ServiceLogger, error_fields, first_sight
from svcframework.metrics import OperationMetrics, ServiceMetrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType

P = ParamSpec("P")
R = TypeVar("R")

span_factories: list[Callable[[str, str], AbstractContextManager[Any]]] = []
"""Each is called with service and operation and returns a context manager for the call. Empty, they cost nothing."""


def use_opentelemetry(tracer_provider: Any = None) -> Callable[[], None]:
    """Trace every call of a service method from now on, by OpenTelemetry.

    A span has the name `service.operation` and, when the call fails, the type of the error; no arguments or messages.

    Args:
        tracer_provider: The one of the process when not given.

    Returns:
        A function that ends it.
    """
    from opentelemetry import trace  # noqa: PLC0415 - an optional package

    tracer = trace.get_tracer("svcframework", tracer_provider=tracer_provider)

    def span(service: str, operation: str) -> AbstractContextManager[Any]:
        return _Span(
            tracer.start_as_current_span(
                f"{service}.{operation}",
                attributes={"service.name": service, "code.function": operation},
                record_exception=False,  # the message and the frames may hold secrets
                set_status_on_exception=False,
            )
        )

    span_factories.append(span)
    return lambda: span_factories.remove(span) if span in span_factories else None


class _Span:
    """One OpenTelemetry span that learns the type of an error and nothing else."""

    __slots__ = ("_manager", "_span")

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._span: Any = None

    def __enter__(self) -> Any:
        self._span = self._manager.__enter__()
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        if isinstance(error, Exception):
            from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415 - an optional package

            self._span.set_attribute("error.type", type(error).__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        return self._manager.__exit__(kind, error, traceback)


# --- the decorator --------------------------------------------------------------------------------------


@overload
def service_method(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def service_method(
    *, name: str | None = None, timeout: float | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def service_method(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
) -> Any:
    """Time, count and trace the calls of a method, and log each failure once.

    Of the errors of one type, an instance logs ten per minute and method; the next line says how many were suppressed.
    Counts into `self.metrics` and logs to `self.logger`; a function that has no `self`, or one without metrics,
    counts into metrics of its own (`function.metrics`). A cancelled call is neither a success nor an error. The log
    names the arguments, never their values. Generators are timed from their first item to their end, and have no
    span: one must not stay open while the caller does something else. Goes above or below `@retry_on_failure` and
    `@inject_service`.

    Args:
        function: What is decorated, in the bare form: sync, async, a generator or an async generator.
        name: The operation's name; the function's when not given.
        timeout: Seconds one call may take; for an async generator, the seconds until its next item.

    Raises:
        RegistrationError: `timeout` is not positive, or the function isn't async and so can't be cut off. Raised by
            the decorator.
        ServiceTimeoutError: The call took longer than `timeout`.
    """

    def decorate(target: Any) -> Any:
        if isinstance(target, (staticmethod, classmethod)):
            return type(target)(decorate(target.__func__))
        kind = Kind.of(target)
        _check_timeout(target, kind, timeout)
        operation = name or str(getattr(target, "__name__", type(target).__name__))
        calls = _Calls(target, operation, timeout)
        wrapped = _WRAPPERS[kind](target, calls)
        wrapped.metrics = calls.own_metrics
        return wrapped

    return decorate if function is None else decorate(function)


def _check_timeout(target: Any, kind: Kind, timeout: float | None) -> None:
    if timeout is None:
        return
    shown = getattr(target, "__qualname__", repr(target))
    if timeout <= 0:
        raise RegistrationError(f"@service_method(timeout={timeout}) on {shown}(): give more than 0 seconds, or None")
    if kind in {Kind.SYNC, Kind.GENERATOR}:
        raise RegistrationError(
            f"@service_method(timeout={timeout:g}) on {shown}(): sync code can't be cut off. Make it async, or let "
            f"what it calls end in time: `with deadline({timeout:g}):`"
        )


class _Calls:
    """What the wrappers of one decorated function share; lives as long as the function."""

    __slots__ = (
        "_defaults",
        "_logged",
        "_method",
        "_names",
        "_operation",
        "_shown",
        "always",
        "key",
        "own",
        "own_metrics",
        "timeout",
    )

    def __init__(self, function: Callable[..., Any], operation: str, timeout: float | None) -> None:
        self.timeout = timeout
        self._operation = operation
        self._names, self._method = parameter_names(function), is_method(function)
        self._defaults = defaults_of(function)
        self._shown = getattr(function, "__qualname__", operation)
        self.own_metrics = ServiceMetrics(getattr(function, "__module__", None) or "functions")
        self.own = self.own_metrics.operation(operation)
        # Where an instance keeps this operation's metrics. No attribute and no other function can have the name.
        self.key = f"<metrics of {self._shown} {id(self):x}>"
        self.always = None if self._method else self.own
        self._logged: Repeats[type[BaseException]] = Repeats()

    def metrics_of(self, args: tuple[Any, ...]) -> OperationMetrics:
        """Where one call is counted. Slow: asked once per instance, whose `__dict__` keeps the answer under `key`."""
        owner = args[0] if self._method and args else None
        metrics = getattr(owner, "metrics", None)
        if not isinstance(metrics, ServiceMetrics):
            found = self.own
        else:
            # What isn't wanted is counted where nobody looks: cheaper than a question at every call
            found = metrics.operation(self._operation) if _wants_metrics(owner) else OperationMetrics()
        kept = getattr(owner, "__dict__", None)
        if isinstance(kept, dict):
            kept[self.key] = found
        return found

    def failed(self, error: BaseException, metrics: OperationMetrics, args: tuple[Any, ...], kwargs: Any) -> None:
        """Count what wasn't a success, and log it unless a method further down has."""
        if isinstance(error, GeneratorExit):  # the caller wanted no more, which is a normal end
            return
        if not isinstance(error, Exception):
            metrics.cancelled += 1
            return
        metrics.error += 1
        if not first_sight(error):
            return
        suppressed = self._repeats_of(args).admit(type(error))
        if suppressed is not None:
            names = argument_names(self._names, args, kwargs, self._defaults)
            fields = {**error_fields(error), "operation": self._operation, "arguments": list(names)}
            held_back = {"suppressed": suppressed} if suppressed else {}
            self._logger_of(args).error("service method failed", **fields, **held_back)

    def _repeats_of(self, args: tuple[Any, ...]) -> Repeats[type[BaseException]]:
        """What one instance has logged of this operation's errors, kept beside its metrics."""
        kept = getattr(args[0], "__dict__", None) if self._method and args else None
        if not isinstance(kept, dict):
            return self._logged
        repeats: Repeats[type[BaseException]] = kept.setdefault(f"{self.key} logged", Repeats())
        return repeats

    def names_for(self, run: Callable[..., Any], run_traced: Callable[..., Any]) -> dict[str, Any]:
        """What the templates of the wrappers refer to."""
        return {
            "always": self.always, "key": self.key, "metrics_of": self.metrics_of, "failed": self.failed,
            "clock": time.perf_counter_ns, "span_factories": span_factories, "run": run, "run_traced": run_traced,
        }  # fmt: skip

    def out_of_time(self) -> NoReturn:
        raise ServiceTimeoutError(f"{self._shown}()", self.timeout or 0.0)

    def spans(self, args: tuple[Any, ...]) -> _Spans:
        return _Spans(self._service_of(args), self._operation)

    def _service_of(self, args: tuple[Any, ...]) -> str:
        name = getattr(args[0], "name", None) if self._method and args else None
        return name if isinstance(name, str) else self.own_metrics.service

    def _logger_of(self, args: tuple[Any, ...]) -> Any:
        logger = getattr(args[0], "logger", None) if self._method and args else None
        return logger if hasattr(logger, "bind") else ServiceLogger(self._service_of(args))


def _wants_metrics(owner: Any) -> bool:
    """Whether the service's config wants metrics; one that can't be read fails where it is used, not here."""
    try:
        return bool(getattr(owner.config, "metrics_enabled", True))
    except Exception:  # noqa: BLE001 - a boundary: reading a config may run validation
        return True


class _Spans:
    """Runs one call inside a span of each factory; a factory that raises is left out."""

    __slots__ = ("_open", "_operation", "_service")

    def __init__(self, service: str, operation: str) -> None:
        self._service, self._operation = service, operation
        self._open: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        for factory in tuple(span_factories):
            try:
                span = factory(self._service, self._operation)
                span.__enter__()
            except Exception as error:  # noqa: BLE001 - a boundary: tracing must not break a call
                self._complain(error)
            else:
                self._open.append(span)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for span in reversed(self._open):
            try:
                span.__exit__(kind, error, traceback)
            except Exception as problem:  # noqa: BLE001 - a boundary: same
                if problem is not error:
                    self._complain(problem)

    def _complain(self, error: Exception) -> None:
        ServiceLogger(self._service).warning("tracing failed", operation=self._operation, **error_fields(error))


# --- one wrapper for each kind of function --------------------------------------------------------------
# They repeat one another, because a shared helper would cost a call, and the whole is to cost half a microsecond.


_ASYNC = """
async def measured({parameters}):
    try:
        metrics = always or {first}.__dict__[key]
    except (LookupError, AttributeError):
        metrics = metrics_of({args})
    metrics.started += 1
    begun = clock()
    try:
        if span_factories:
            return await run_traced({args}, {kwargs})
        return await run({call})
    except BaseException as error:
        failed(error, metrics, {args}, {kwargs})
        raise
    finally:
        metrics.finish(clock() - begun)
"""
_SYNC = _ASYNC.replace("async ", "").replace("await ", "")


def _wrap_async(function: Callable[..., Any], calls: _Calls) -> Any:
    timeout, run = calls.timeout, function
    if timeout is not None:

        @functools.wraps(function)
        async def run_in_time(*args: Any, **kwargs: Any) -> Any:
            with anyio.move_on_after(timeout) as scope:
                return await function(*args, **kwargs)
            if scope.cancelled_caught:
                calls.out_of_time()
            return None  # pragma: no cover - the block returns, raises or is cancelled

        run = run_in_time

    async def run_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with calls.spans(args):
            return await run(*args, **kwargs)

    return written_for(function, _ASYNC, calls.names_for(run, run_traced))


def _wrap_sync(function: Callable[..., Any], calls: _Calls) -> Any:
    def run_traced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with calls.spans(args):
            return function(*args, **kwargs)

    return written_for(function, _SYNC, calls.names_for(function, run_traced))


def _wrap_generator(function: Callable[..., Any], calls: _Calls) -> Any:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        metrics = calls.metrics_of(args)
        metrics.started += 1
        begun = time.perf_counter_ns()
        try:
            return (yield from function(*args, **kwargs))
        except BaseException as error:
            calls.failed(error, metrics, args, kwargs)
            raise
        finally:
            metrics.finish(time.perf_counter_ns() - begun)

    return measured


def _wrap_async_generator(function: Callable[..., Any], calls: _Calls) -> Any:
    async def in_time(step: Any) -> Any:
        """One item. The scope is closed before it is yielded: a cancel scope must not cross a yield."""
        if calls.timeout is None:
            return await step
        with anyio.move_on_after(calls.timeout) as scope:
            return await step
        if scope.cancelled_caught:
            calls.out_of_time()
        return None  # pragma: no cover - the block returns, raises or is cancelled

    @functools.wraps(function)
    async def measured(*args: Any, **kwargs: Any) -> Any:
        metrics = calls.metrics_of(args)
        metrics.started += 1
        begun = time.perf_counter_ns()
        source = function(*args, **kwargs)
        step = source.asend(None)
        try:
            while True:
                try:
                    item = await in_time(step)
                except StopAsyncIteration:
                    return
                try:
                    step = source.asend((yield item))
                except GeneratorExit:
                    await source.aclose()
                    raise
                except BaseException as thrown:  # noqa: BLE001 - goes into the function, as if called directly
                    step = source.athrow(thrown)
        except BaseException as error:
            calls.failed(error, metrics, args, kwargs)
            raise
        finally:
            metrics.finish(time.perf_counter_ns() - begun)

    return measured


_WRAPPERS: dict[Kind, Callable[..., Any]] = {
    Kind.SYNC: _wrap_sync,
    Kind.ASYNC: _wrap_async,
    Kind.GENERATOR: _wrap_generator,
    Kind.ASYNC_GENERATOR: _wrap_async_generator,
}
