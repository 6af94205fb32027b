"""Every error the framework raises. Each builds its own message: what, who asked, and the fix."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from svcframework._types import Location, ServiceState


class ServiceFrameworkError(Exception):
    """The root of the tree."""


# --- asking ---------------------------------------------------------------------------------------------


class ServiceNotFoundError(ServiceFrameworkError, LookupError):
    """No service has that name or type.

    Args:
        wanted: The name or type that was asked for.
        known: The names that exist.
        needed_by: Who asked: a function and its parameter, or a service.
        at: Where that is written.
    """

    def __init__(
        self,
        wanted: str | type,
        *,
        known: Iterable[str] = (),
        needed_by: str | None = None,
        at: Location | None = None,
    ) -> None:
        self.wanted, self.known, self.needed_by, self.at = wanted, tuple(known), needed_by, at
        what = f"named {wanted!r}" if isinstance(wanted, str) else f"of type {type_name(wanted)}"
        asked = f", needed by {needed_by}" if needed_by else ""
        place = f" ({at})" if at else ""
        super().__init__(f"No service is {what}{asked}{place}.{did_you_mean(wanted, self.known)}")


class AmbiguousServiceError(ServiceFrameworkError, LookupError):
    """Several services fit a type and nothing says which one is meant."""

    def __init__(self, wanted: type, candidates: Sequence[str], *, needed_by: str | None = None) -> None:
        self.wanted, self.candidates, self.needed_by = wanted, tuple(candidates), needed_by
        asked = f", needed by {needed_by}" if needed_by else ""
        super().__init__(
            f"{len(candidates)} services are a {type_name(wanted)}{asked}: {', '.join(candidates)}. "
            f"Name the one you mean, or ask for list[{type_name(wanted)}]."
        )


class HostNotRunningError(ServiceFrameworkError, RuntimeError):
    """Something needs a running host and there is none."""

    def __init__(self, what: str, *, fix: str = "enter it with `async with host:` first") -> None:
        self.what, self.fix = what, fix
        super().__init__(f"{what}, but no host is running: {fix}.")


class InjectionError(ServiceFrameworkError, RuntimeError):
    """A call could not be injected; the cause says why."""

    def __init__(self, function: str, parameter: str, service: str, reason: str) -> None:
        self.function, self.parameter, self.service, self.reason = function, parameter, service, reason
        super().__init__(f"{function}() was called without {parameter!r}, to be injected with {service}: {reason}")


class ServiceUnavailableError(ServiceFrameworkError, RuntimeError):
    """The service exists but can't be used now."""

    def __init__(self, service: str, reason: str, *, needed_by: str | None = None) -> None:
        self.service, self.reason, self.needed_by = service, reason, needed_by
        asked = f", needed by {needed_by}" if needed_by else ""
        super().__init__(f"{service!r} is unavailable{asked}: {reason}.")


class ScopeError(ServiceFrameworkError, RuntimeError):
    """A scoped service was asked for outside its scope, or a scope value is missing."""


class OverrideError(ServiceFrameworkError, RuntimeError):
    """An override can't take effect or was left behind."""


# --- declaring ------------------------------------------------------------------------------------------


class RegistrationError(ServiceFrameworkError, ValueError):
    """A declaration or registration is wrong by itself."""


class ConfigurationError(ServiceFrameworkError, ValueError):
    """A setting is missing or malformed. Never shows a value.

    Args:
        problems: One line each: the setting, what is wrong, and where it came from.
    """

    def __init__(self, title: str, problems: Sequence[str]) -> None:
        self.title, self.problems = title, tuple(problems)
        super().__init__("\n".join([title, *(f"  {problem}" for problem in self.problems)]))


class PluginError(ServiceFrameworkError):
    """A plugin can't be used.

    Args:
        plugin: Its entry-point name.
        reason: What went wrong.
        fix: What to do.
    """

    def __init__(self, plugin: str, reason: str, *, fix: str = "see `svc plugins`") -> None:
        self.plugin, self.reason, self.fix = plugin, reason, fix
        super().__init__(f"Plugin {plugin!r}: {reason}; {fix}.")


# --- living ---------------------------------------------------------------------------------------------


class LifecycleError(ServiceFrameworkError, RuntimeError):
    """The host can't do that in the state it is in."""


class StartupError(LifecycleError):
    """One or more services failed to start; what had started was stopped again.

    `__cause__` is the first error; `errors` has all of them by service, in the order they happened.

    Args:
        errors: Service name to what it raised.
        labels: Service name to how it is shown, with its type and the seconds it took.
        rolled_back: Services that had started and were stopped again.
        not_started: Services that were never tried because of it.
        stop_errors: Service name to what its stop raised during the rollback.
        hints: Service name to further lines: where it is configured, what to do.
    """

    def __init__(
        self,
        errors: dict[str, BaseException],
        *,
        total: int,
        labels: dict[str, str] | None = None,
        rolled_back: Sequence[str] = (),
        not_started: Sequence[str] = (),
        stop_errors: dict[str, BaseException] | None = None,
        hints: dict[str, Sequence[str]] | None = None,
    ) -> None:
        self.errors, self.total = errors, total
        self.rolled_back, self.not_started = tuple(rolled_back), tuple(not_started)
        self.stop_errors = stop_errors or {}
        plural = "service" if total == 1 else "services"
        undone = f"; the {len(rolled_back)} that had started were stopped again" if rolled_back else ""
        lines = [f"{len(errors)} of {total} {plural} failed to start{undone}"]
        for name, error in errors.items():
            lines.append(f"  {(labels or {}).get(name, name)}: {describe(error)}")
            lines += [f"    {hint}" for hint in (hints or {}).get(name, ())]
        lines += [f"  and while stopping {name}: {describe(error)}" for name, error in self.stop_errors.items()]
        if not_started:
            lines.append(f"  not started because of it: {', '.join(not_started)}")
        super().__init__("\n".join(lines))


class StartupCancelledError(LifecycleError):
    """The start was called off (stop, signal or cancellation) and undone."""


class ShutdownError(LifecycleError):
    """Every service was stopped, but some stops raised or hung.

    Args:
        errors: Service name to what its `on_shutdown` raised.
        hung: Service name to where it was last waiting.
    """

    def __init__(self, errors: dict[str, BaseException], hung: dict[str, str] | None = None) -> None:
        self.errors, self.hung = errors, hung or {}
        count = len(errors) + len(self.hung)
        lines = [f"{count} service{'s' if count != 1 else ''} did not stop cleanly"]
        lines += [f"  {name}: {describe(error)}" for name, error in errors.items()]
        lines += [f"  {name} hung, last waiting at {where}" for name, where in self.hung.items()]
        super().__init__("\n".join(lines))


class HostFailedError(LifecycleError):
    """A service crashed for good, so the host stopped. `__cause__` is its error."""

    def __init__(self, service: str, reason: str) -> None:
        self.service, self.reason = service, reason
        super().__init__(f"The host stopped because {service!r} failed: {reason}")


class IllegalStateError(LifecycleError):
    """The operation does not fit the state: it names both and what to do."""

    def __init__(self, operation: str, state: ServiceState | str, *, fix: str) -> None:
        self.operation, self.state = operation, state
        super().__init__(f"Can't {operation} while {getattr(state, 'value', state)}: {fix}.")


class EventLoopError(LifecycleError):
    """A host is used from another event loop than the one it was started on."""


class ForkError(LifecycleError):
    """A running host was carried into a forked child process."""


# --- calling --------------------------------------------------------------------------------------------


class ServiceTimeoutError(ServiceFrameworkError, TimeoutError):
    """An operation took longer than its own limit.

    Args:
        operation: What was tried.
        seconds: The limit.
    """

    def __init__(self, operation: str, seconds: float, *, hint: str = "") -> None:
        self.operation, self.seconds = operation, seconds
        super().__init__(f"{operation}: no answer within {seconds:g} s{f' ({hint})' if hint else ''}")


class DeadlineExceededError(ServiceTimeoutError):
    """The caller's deadline passed."""


class ExternalServiceError(ServiceFrameworkError):
    """Another system failed us; `retryable` says whether trying again can help."""

    retryable = False


class ConnectionFailedError(ExternalServiceError, ConnectionError):
    """The other side can't be reached or hung up."""

    retryable = True


class AuthenticationFailedError(ExternalServiceError):
    """The other side refused our credentials."""


class RateLimitedError(ExternalServiceError):
    """The other side asked us to slow down; `retry_after` in seconds, None when it did not say."""

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class HttpStatusError(ExternalServiceError):
    """The other side answered with an error status; 5xx and 408 are worth another try.

    Args:
        operation: What was tried; no query and no credentials.
        status: The HTTP status.
        body: The beginning of the answer's body. It may quote what was sent, so it is no part of the message.
        retry_after: Seconds the other side asked to wait, None when it did not say.
    """

    def __init__(self, operation: str, status: int, *, body: str = "", retry_after: float | None = None) -> None:
        self.operation, self.status, self.body, self.retry_after = operation, status, body, retry_after
        self.retryable = status >= 500 or status == 408  # noqa: PLR2004 - known by their numbers
        super().__init__(f"{operation}: the answer is HTTP {status}")


class CircuitOpenError(ExternalServiceError):
    """Too many calls failed lately, so this one was not tried; `retry_after` in seconds."""

    def __init__(self, name: str, *, retry_after: float) -> None:
        self.name, self.retry_after = name, retry_after
        super().__init__(f"The circuit of {name!r} is open; next try in {retry_after:.1f} s")


class DatabaseError(ExternalServiceError):
    """A statement failed; `sqlstate` is the five-character SQLSTATE where there is one."""

    def __init__(self, message: str, *, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


class DataValidationError(ServiceFrameworkError, ValueError):
    """Input did not pass validation; `problems` maps each field's path to what is wrong with it."""

    def __init__(self, subject: str, problems: dict[str, str]) -> None:
        self.subject, self.problems = subject, problems
        lines = [f"{subject}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"]
        super().__init__("\n".join(lines + [f"  {path}: {what}" for path, what in problems.items()]))


class UnsafePathError(ServiceFrameworkError, ValueError):
    """A path could lead out of its root, or is no plain name; `path` is what was given, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"The path {path!a} {reason}; give a relative path of plain names, e.g. 'reports/may.csv'.")


class FileTooLargeError(ServiceFrameworkError, ValueError):
    """A file holds, or would hold, more than `limit` bytes."""

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        super().__init__(f"{path!a} has more than the {limit:,} bytes that are allowed")


class CommandError(ServiceFrameworkError):
    """A command line names something that isn't there, or asks for what can't be done."""


# --- words ----------------------------------------------------------------------------------------------


_SHOWN = 8  # names that a message lists


def type_name(wanted: object) -> str:
    """A type as its user would write it."""
    return getattr(wanted, "__qualname__", None) or str(wanted)


def describe(error: BaseException) -> str:
    """An error on one line, without what looks like a secret; a bare class name where it has no message."""
    from svcframework._secrettext import redact_text  # noqa: PLC0415 - compiles its patterns for the first error told

    text = str(error).strip()
    return redact_text(text.splitlines()[0]) if text else type(error).__name__


def nearest(wanted: object, known: Iterable[str], *, most: int = 3) -> list[str]:
    """The known names that look like the wanted one, best first."""
    word = wanted if isinstance(wanted, str) else type_name(wanted)
    folded = {name.lower().replace("_", ""): name for name in known}
    matches = difflib.get_close_matches(word.lower().replace("_", ""), folded, n=most, cutoff=0.6)
    return [folded[match] for match in matches]


def did_you_mean(wanted: object, known: Iterable[str]) -> str:
    """A sentence with the nearest names, or with all there are, or that there are none; begins with a space."""
    names = sorted(known)
    close = nearest(wanted, names)
    if close:
        return f" Did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return " Nothing is registered yet."
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f" There are: {shown}."
