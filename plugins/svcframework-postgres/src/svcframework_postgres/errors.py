"""The driver's errors as the framework's. Messages name the operation and the address, never a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from svcframework.errors import (
    AuthenticationFailedError,
    ConfigurationError,
    ConnectionFailedError,
    DatabaseError,
    ServiceFrameworkError,
    ServiceTimeoutError,
)

# 08 connection, 57P0x shutdown, crash and start-up, 53300 no connection left
_AWAY = ("08", "57P01", "57P02", "57P03", "53300")
_AUTHENTICATION = ("28",)
# serialization failure and deadlock: the transaction is rolled back, the whole of it may succeed when it runs again
_CONFLICT = ("40001", "40P01")
# 40 rolled back for another reason, 55P03 lock not available: the same again may succeed
_WORTH_RETRYING = ("40", "55P03")

_BAD_VALUE = ("22",)
_ARGUMENT = re.compile(r"invalid input for query argument \$\d+")
_REASON = re.compile(  # words about types, at the end; others quote the value
    r" \((?:expected [\w .]+, got [\w .]+|'[\w.]+' object [\w -]+|[\w -]+ \(got type '?[\w.]+'?\)"
    r"|value out of \w+ range|[\w -]+, not '[\w.]+')\)$"
)
_QUOTED = re.compile(r'".*"', re.DOTALL)

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    ValueError,
    EOFError,
)
"""What asyncpg raises; `TimeoutError` is an `OSError`."""


class TransactionConflictError(DatabaseError):
    """Another transaction was in the way (serialization failure, deadlock) and this one is rolled back.

    `run_in_transaction` runs the whole of it again; a single statement can't be repeated in it.
    """

    retryable = True


class ReadOnlyServerError(ConnectionFailedError):
    """A write reached a server that only reads: a standby, most often after a failover. Nothing was changed.

    The pool has closed its connections, so the next call finds the new primary, if the address leads there.

    Args:
        operation: What was tried.
    """

    def __init__(self, operation: str) -> None:
        self.operation = operation
        super().__init__(
            f"{operation}: the server has become read-only, as after a failover; its connections are renewed, try again"
        )


class TransactionOutcomeUnknownError(DatabaseError):
    """COMMIT was sent and no answer came: the transaction may have been committed or not.

    Not retryable: look for its effects first, or make it safe to repeat (a unique key, ON CONFLICT).

    Args:
        operation: What was tried.
        reason: Why there is no answer.
    """

    def __init__(self, operation: str, reason: str) -> None:
        self.operation, self.reason = operation, reason
        super().__init__(
            f"{operation}: {reason}, so nobody knows whether it happened; look for its effects before trying again",
            sqlstate="08007",
        )


@contextmanager
def translated(operation: str, seconds: float, *, connecting: bool = False) -> Iterator[None]:
    """Raise ours in place of the driver's errors.

    Args:
        operation: What is tried, for messages.
        seconds: Its limit, for messages.
        connecting: The settings, and not a statement, are to blame for what the driver refuses.
    """
    try:
        yield
    except ServiceFrameworkError:
        raise
    except DRIVER_ERRORS as error:
        if connecting and isinstance(error, (asyncpg.ClientConfigurationError, asyncpg.InterfaceError, ValueError)):
            # The driver quotes parts of the address, so neither its text nor the error itself is passed on.
            raise ConfigurationError(f"{operation}: the driver refuses the settings", [type(error).__name__]) from None
        raise translate(error, operation, seconds) from error


def was_never_sent(error: BaseException) -> bool:
    """Whether the driver refused before it sent anything, because the connection had ended, or was about to."""
    text = str(error)
    closed = isinstance(error, asyncpg.InterfaceError) and "connection is closed" in text
    # A dying server has said so on an idle connection, whose end hasn't arrived yet.
    return closed or (isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in text)


def translate(error: BaseException, operation: str, seconds: float) -> ServiceFrameworkError:
    """The error of ours that says what a driver's error means."""
    if isinstance(error, TimeoutError):
        return ServiceTimeoutError(operation, seconds)
    if isinstance(error, asyncpg.PostgresError):
        return _from_server(error, operation)
    if isinstance(error, (OSError, EOFError)):
        return ConnectionFailedError(f"{operation}: {_reason(error)}")
    if was_never_sent(error):
        return ConnectionFailedError(f"{operation}: the connection was closed; nothing was sent")
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return ConnectionFailedError(f"{operation}: the server is not of the kind that target_session_attrs asks for")
    return DatabaseError(f"{operation}: {error}")  # wrong arguments, most often


def _from_server(error: asyncpg.PostgresError, operation: str) -> ServiceFrameworkError:
    sqlstate: str = error.sqlstate or ""
    if sqlstate.startswith(_BAD_VALUE) and error.args:
        # In the error itself, which is the cause of ours and logged with it, and not in that error's own cause
        error.args = (without_values(str(error.args[0])), *error.args[1:])
        error.__cause__ = error.__context__ = None
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if sqlstate.startswith(_AWAY):
        return ConnectionFailedError(f"{operation}: {text}")
    if sqlstate.startswith(_AUTHENTICATION):
        return AuthenticationFailedError(f"{operation}: {text}")
    if sqlstate in _CONFLICT:
        return TransactionConflictError(f"{operation}: {text}", sqlstate=sqlstate)
    ours = DatabaseError(f"{operation}: {text}", sqlstate=sqlstate or None)
    ours.retryable = sqlstate.startswith(_WORTH_RETRYING)
    return ours


def without_values(text: str) -> str:
    """What the server or driver says of a value that doesn't fit, without the value: it may be a secret.

    >>> without_values('invalid input syntax for type integer: "hunter2"')
    'invalid input syntax for type integer: "…"'
    >>> without_values("invalid input for query argument $1: 'hunter2' (expected bytes, got str)")
    'invalid input for query argument $1 (expected bytes, got str)'
    """
    argument, reason = _ARGUMENT.match(text), _REASON.search(text)
    if argument is None:
        return _QUOTED.sub('"…"', text)
    return argument[0] + ("" if reason is None else reason[0])


def _reason(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused; is the server running?"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
