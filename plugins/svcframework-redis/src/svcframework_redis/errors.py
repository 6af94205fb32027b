"""redis-py's errors as the framework's. Messages name the command and the address, never a value or secret."""

from __future__ import annotations

from redis import exceptions as driver

from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DatabaseError,
    RateLimitedError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)

DRIVER_ERRORS = (driver.RedisError, OSError, EOFError)
"""What redis-py raises; `TimeoutError` is an `OSError`."""

_AUTHENTICATION = (driver.AuthenticationError, driver.AuthorizationError, driver.NoPermissionError)


def translate(error: BaseException, operation: str, seconds: float) -> ServiceFrameworkError:
    """The error of ours that says what a driver's error means.

    Args:
        error: What the driver raised.
        operation: What was tried, for messages.
        seconds: Its limit, for messages.
    """
    text = _first_line(error)
    if isinstance(error, _AUTHENTICATION) or text.startswith(("WRONGPASS", "NOAUTH", "invalid username-password")):
        return AuthenticationFailedError(f"{operation}: the server refused the credentials or the right to do it")
    if isinstance(error, driver.MaxConnectionsError) or text == "No connection available.":
        hint = "every connection is in use; raise max_connections or hold them shorter"
        return ServiceTimeoutError(operation, seconds, hint=hint)
    if isinstance(error, (driver.TimeoutError, TimeoutError)):
        return ServiceTimeoutError(operation, seconds)
    if isinstance(error, driver.OutOfMemoryError):
        return RateLimitedError(f"{operation}: the server is out of memory (maxmemory)")
    if isinstance(error, (driver.ConnectionError, driver.InvalidResponse, driver.ReadOnlyError, OSError, EOFError)):
        return ConnectionFailedError(f"{operation}: {text}")
    return DatabaseError(f"{operation}: {text}")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
