"""Which of several servers is the primary, and the sign that a server has stopped being one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg

from svcframework_postgres.hosts import hosts_of, shown, wanted_kind

_HEAD_START = 0.25  # seconds that one server has before the next one is asked as well
_GRACE = 0.05  # seconds; a connect that isn't through by then waits for the server, where it can be cut off
_PRIMARY = ("read-write", "primary")
READ_ONLY = "25006"
"""The sqlstate of a statement that writes in a transaction, or on a server, that only reads."""
_NOT_SUPPORTED = "0A000"

ConnectionT = TypeVar("ConnectionT", bound=asyncpg.Connection)


async def open_primary(kind: type[ConnectionT], arguments: Mapping[str, Any]) -> ConnectionT:
    """Connect to the only server of the arguments, or to the one of several that accepts writes.

    Several are asked almost at once, so that a silent one costs a quarter of a second and not the whole limit. An
    address that asks for another kind of server (`target_session_attrs`) is the driver's own matter.

    Args:
        kind: The class of the connection.
        arguments: From `PostgresConfig.connect_arguments`.

    Raises:
        TargetServerAttributeNotMatched: None that answers is a primary.
        OSError: None answers, or not in time.
        PostgresError: One that may be the primary refuses us.
    """
    hosts, wanted = hosts_of(arguments), wanted_kind(arguments)
    if len(hosts) < 2 or wanted not in {None, *_PRIMARY}:  # noqa: PLR2004 - several
        return await _connect(kind, arguments)
    rest = {key: value for key, value in arguments.items() if key not in {"host", "port"}}
    rest["target_session_attrs"] = wanted or "read-write"
    async with asyncio.timeout(arguments["timeout"]):
        attempts = [lambda host=host: _connect(kind, {**rest, "host": host[0], "port": host[1]}) for host in hosts]
        return await _first(attempts, [shown([host]) for host in hosts])


async def _connect(kind: type[ConnectionT], arguments: Mapping[str, Any]) -> ConnectionT:
    """Connect to one server.

    The driver leaves a future with an error that nobody fetches if it is cancelled in the very turn of the loop in
    which the socket is connected, so it is left alone for a moment first.
    """
    opening: asyncio.Task[ConnectionT] = asyncio.ensure_future(asyncpg.connect(connection_class=kind, **arguments))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_give_up)
        try:
            await asyncio.wait([opening], timeout=_GRACE)
        finally:
            opening.cancel()
        raise


async def _first(
    attempts: Sequence[Callable[[], Coroutine[Any, Any, ConnectionT]]], names: Sequence[str]
) -> ConnectionT:
    """The connection of the attempt that succeeds first; the others are given up."""
    running: dict[asyncio.Task[ConnectionT], str] = {}
    errors: list[tuple[str, BaseException]] = []
    left = list(zip(attempts, names, strict=True))
    try:
        while left or running:
            if left:
                attempt, name = left.pop(0)
                running[asyncio.ensure_future(attempt())] = name
            limit = _HEAD_START if left else None
            done, _ = await asyncio.wait(running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    name = running.pop(task)
                    return task.result()
                errors.append((running.pop(task), task.exception() or OSError()))
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_give_up)
    raise _verdict(errors)


def _give_up(task: asyncio.Task[ConnectionT]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()


def _verdict(errors: Sequence[tuple[str, BaseException]]) -> BaseException:
    """The error that says most: a server's own refusal, else what each of them said."""
    away = (asyncpg.InternalClientError, asyncpg.CannotConnectNowError, OSError)
    for _, error in errors:
        if not isinstance(error, away):
            return error
    told = "; ".join(f"{name}: {_reason(error)}" for name, error in errors)
    return OSError(f"none of these accepts writes: {told}")


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return "it is a standby"
    if isinstance(error, asyncpg.PostgresError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return getattr(error, "strerror", None) or type(error).__name__


def is_refused_write(error: BaseException, connection: asyncpg.Connection) -> bool:
    """Whether a statement failed because its server accepts no writes, which is no fault of the statement's.

    The server has reported that when it changed, so it isn't asked for it. PostgreSQL before 14 reports nothing, and a
    write that is refused there counts.
    """
    if not isinstance(error, asyncpg.PostgresError) or connection.is_closed():
        return False
    # Serializable transactions can't even begin on a standby, which has a code that means much else.
    if error.sqlstate != READ_ONLY and not (error.sqlstate == _NOT_SUPPORTED and "hot standby" in str(error)):
        return False
    settings = connection.get_settings()
    standby = getattr(settings, "in_hot_standby", None)
    return standby is None or "on" in {standby, getattr(settings, "default_transaction_read_only", "off")}
