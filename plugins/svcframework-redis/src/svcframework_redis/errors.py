"""Errors of links and of redis-py as the framework's. Messages name command and address, never a value or secret."""

from __future__ import annotations

from collections.abc import Sequence

from redis import exceptions as driver

from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DatabaseError,
    RateLimitedError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)
from svcframework_redis.link import LateReplyError, LinkError, Refusal, Value
from svcframework_redis.transport import ConnectTimeoutError, NoRoomError

LINK_ERRORS = (LinkError, Refusal, OSError)
"""What a transport raises; `TimeoutError` is an `OSError`."""

DRIVER_ERRORS = (driver.RedisError, OSError, EOFError)
"""What redis-py raises."""

_CREDENTIALS = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
_PASSING = frozenset(
    {"ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "TRYAGAIN", "UNBLOCKED"}
)


class TransactionConflictError(DatabaseError):
    """A watched key was changed by somebody else; nothing was done, and trying again can help."""

    retryable = True


class ScriptMissingError(DatabaseError):
    """The server doesn't know the script of an EVALSHA."""


class LockNotAcquiredError(ServiceTimeoutError):
    """Somebody else held the lock for as long as the caller would wait."""


class LockLostError(ServiceFrameworkError):
    """The lease of a lock ended before its block did; somebody else may hold it.

    Args:
        name: The lock's.
        reason: Why it couldn't be renewed.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        super().__init__(f"The lock {name!r} was lost: {reason}.")


def translate(error: BaseException, operation: str, seconds: float) -> ServiceFrameworkError:
    """The error of ours that says what one of a link, of the network or of redis-py means.

    Args:
        error: What was raised.
        operation: What was tried, for messages.
        seconds: Its limit, for messages.
    """
    text = _first_line(error)
    if isinstance(error, Refusal):
        return refused(error, operation)
    if isinstance(error, NoRoomError):
        return ServiceTimeoutError(operation, seconds, hint=f"{text}; raise max_connections or max_in_flight")
    if isinstance(error, ConnectTimeoutError):
        return ServiceTimeoutError(operation, seconds, hint=text)
    if isinstance(error, (LateReplyError, TimeoutError, driver.TimeoutError)):
        return ServiceTimeoutError(operation, seconds)
    if isinstance(error, (LinkError, OSError, EOFError)):
        return ConnectionFailedError(f"{operation}: {text}")
    return _of_driver(error, operation, seconds)


def refused(refusal: Refusal, operation: str, command: Sequence[Value] = ()) -> ServiceFrameworkError:
    """The error that an error reply means, with its text but for what the caller has sent.

    Args:
        refusal: The reply.
        operation: What was tried, for messages.
        command: The command; no argument of it is shown.
    """
    code, text = refusal.code, _shown(refusal, command)
    if code in _CREDENTIALS:
        return AuthenticationFailedError(f"{operation}: the server refused the credentials or the right to do it")
    if code == "OOM":
        return RateLimitedError(f"{operation}: the server is out of memory (maxmemory)")
    if code in _PASSING:
        return ConnectionFailedError(f"{operation}: {text}")
    return (ScriptMissingError if code == "NOSCRIPT" else DatabaseError)(f"{operation}: {text}")


def _shown(refusal: Refusal, command: Sequence[Value]) -> str:
    text = _first_line(refusal).partition(", with args beginning with")[0]
    for value in sorted(map(_text, command[1:]), key=len, reverse=True):
        if len(value) > 2:  # noqa: PLR2004 - a digit is found in any text
            text = text.replace(value, "…")
    return text


def _text(value: Value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _of_driver(error: BaseException, operation: str, seconds: float) -> ServiceFrameworkError:
    text = _first_line(error)
    if isinstance(
        error, (driver.AuthenticationError, driver.AuthorizationError, driver.NoPermissionError)
    ) or text.startswith(("WRONGPASS", "NOAUTH", "invalid username-password")):
        return AuthenticationFailedError(f"{operation}: the server refused the credentials or the right to do it")
    if isinstance(error, driver.MaxConnectionsError) or text == "No connection available.":
        hint = "every connection is in use; raise max_connections or hold them shorter"
        return ServiceTimeoutError(operation, seconds, hint=hint)
    if isinstance(error, driver.OutOfMemoryError):
        return RateLimitedError(f"{operation}: the server is out of memory (maxmemory)")
    if isinstance(error, (driver.ConnectionError, driver.InvalidResponse, driver.ReadOnlyError)):
        return ConnectionFailedError(f"{operation}: {text}")
    return DatabaseError(f"{operation}: {text}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
