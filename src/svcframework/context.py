"""What surrounds a call: who makes it, until when, and which services must run for it."""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from svcframework._types import HealthStatus, ServiceState
from svcframework.deadlines import deadline
from svcframework.errors import HostNotRunningError, RegistrationError, ServiceNotFoundError, ServiceUnavailableError
from svcframework.log import bind_context, context_fields, reset_context
from svcframework.routing import current_resolver
from svcframework.utils import generate_unique_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

F = TypeVar("F", bound="Callable[..., Any]")


class _ServiceContext:
    """One use of `service_context`: a decorator, or a context manager for sync and async code."""

    def __init__(self, fields: dict[str, Any], seconds: float | None) -> None:
        self._fields, self._seconds = fields, seconds
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise RegistrationError("This service_context is entered already: make one for each block.")
        stack = ExitStack()
        fields = {**self._fields}
        if fields.get("correlation_id") is None:
            fields["correlation_id"] = _inherited() or generate_unique_id()
        token = bind_context(**fields)
        stack.callback(reset_context, token)
        if self._seconds is not None:
            stack.enter_context(deadline(self._seconds))
        self._stack = stack
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        stack, self._stack = self._stack, None
        return None if stack is None else stack.__exit__(kind, error, trace)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        return self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Each call of `function` runs in a context of its own."""
        again = functools.partial(_ServiceContext, self._fields, self._seconds)
        return cast("F", _around(function, again))


@overload
def service_context(function: F, /) -> F: ...
@overload
def service_context(
    *,
    correlation_id: str | None = None,
    user_id: str | None = None,
    tenant: str | None = None,
    deadline: float | None = None,
    **fields: Any,
) -> _ServiceContext: ...
def service_context(
    function: Any = None,
    /,
    *,
    correlation_id: str | None = None,
    user_id: str | None = None,
    tenant: str | None = None,
    deadline: float | None = None,
    **fields: Any,
) -> Any:
    """Bind who makes a call, and until when, to its logs, errors, traces and all calls below it.

    A decorator, bare or with arguments, and a context manager: `with service_context(user_id="42", deadline=1.5):`,
    `async with` as well.

    Args:
        function: The decorated function, when used bare.
        correlation_id: Which request this belongs to; the surrounding one, else a new one, when not given.
        user_id: Who asks.
        tenant: For whom.
        deadline: Seconds that everything within may take; a surrounding deadline is never extended.
        fields: Anything else that logs should carry.
    """
    given = {"correlation_id": correlation_id, "user_id": user_id, "tenant": tenant, **fields}
    context = _ServiceContext({key: value for key, value in given.items() if value is not None}, deadline)
    return context if function is None else context(function)


def require_service(*names: str, healthy: bool = False) -> Callable[[F], F]:
    """Refuse a call unless these services run.

    Args:
        names: Names of services.
        healthy: They must be healthy too, by the monitor's last result.

    Raises:
        RegistrationError: No name is given.
        ServiceUnavailableError: Raised by the call: names the service and the state it is in.
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise RegistrationError('require_service() takes names of services: @require_service("database_service").')

    def decorate(function: F) -> F:
        def check() -> None:
            for name in names:
                _require(name, needed_by=f"{function.__qualname__}()", healthy=healthy)

        return cast("F", _before(function, check))

    return decorate


def _require(name: str, *, needed_by: str, healthy: bool) -> None:
    resolver = current_resolver()
    if resolver is None:
        raise HostNotRunningError(f"{needed_by} requires {name!r}")
    host = resolver.host
    if name not in resolver.graph.nodes:
        raise ServiceNotFoundError(name, known=resolver.graph.nodes, needed_by=needed_by)
    state: ServiceState = host.states.get(name, ServiceState.RUNNING)
    if not state.is_running:
        raise ServiceUnavailableError(name, f"it is {state.value}", needed_by=needed_by)
    result = host.health.last_results.get(name) if healthy else None
    if result is not None and result.status is not HealthStatus.HEALTHY:
        raise ServiceUnavailableError(name, f"it is {result}", needed_by=needed_by)


def _before(function: Any, check: Callable[[], None]) -> Any:
    """The function with a check in front; an async function's check runs when it is awaited."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            check()
            return await function(*args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check()
        return function(*args, **kwargs)

    return call


def _around(function: Any, enter: Callable[[], _ServiceContext]) -> Any:
    if inspect.isasyncgenfunction(function):
        raise RegistrationError(
            f"service_context can't decorate the async generator {function.__qualname__}(): its context would leak "
            "into whoever iterates. Use `with service_context():` where it is iterated."
        )
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with enter():
                return await function(*args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with enter():
            return function(*args, **kwargs)

    return call


def _inherited() -> str | None:
    found = context_fields().get("correlation_id")
    return None if found is None else str(found)
