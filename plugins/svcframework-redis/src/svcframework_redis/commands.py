"""What the names of commands say: which only read, which wait, which change the connection they are sent on. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from svcframework_redis.link import Value


class Nature(Enum):
    """How a command may be sent."""

    READ = "read"
    """Changes nothing, so one that was lost with its connection may be sent once more."""
    ORDINARY = "ordinary"
    BLOCKING = "blocking"
    """May wait on the server: it gets a connection of its own."""
    BOUND = "bound"
    """Changes the connection it is sent on, which others share."""


_READS = frozenset(
    {"BITCOUNT", "BITPOS", "DBSIZE", "ECHO", "EXISTS", "EXPIRETIME", "GET", "GETBIT", "GETRANGE", "HEXISTS", "HGET"}
    | {"HGETALL", "HKEYS", "HLEN", "HMGET", "HSTRLEN", "HVALS", "LINDEX", "LLEN", "LPOS", "LRANGE", "MGET"}
    | {"PEXPIRETIME", "PFCOUNT", "PING", "PTTL", "SCARD", "SDIFF", "SINTER", "SISMEMBER", "SMEMBERS", "SMISMEMBER"}
    | {"STRLEN", "SUNION", "TIME", "TTL", "TYPE", "XINFO", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "ZCARD"}
    | {"ZCOUNT", "ZLEXCOUNT", "ZMSCORE", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE"}
    | {"ZREVRANGEBYSCORE", "ZREVRANK", "ZSCORE"}
)
_BLOCKING: Final = {  # where the seconds to wait are, counted in arguments; the end of the command is -1
    **dict.fromkeys(("BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX", "BLMOVE", "BRPOPLPUSH"), (-1, 1.0)),
    **dict.fromkeys(("BLMPOP", "BZMPOP"), (1, 1.0)),
    **dict.fromkeys(("WAIT", "WAITAOF"), (-1, 0.001)),
}
_MAY_BLOCK = frozenset({"XREAD", "XREADGROUP"})
_BOUND = frozenset(
    {"ASKING", "AUTH", "DISCARD", "EXEC", "HELLO", "MONITOR", "MULTI", "PSUBSCRIBE", "PSYNC", "PUNSUBSCRIBE"}
    | {"QUIT", "READONLY", "READWRITE", "RESET", "SELECT", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "SYNC"}
    | {"UNSUBSCRIBE", "UNWATCH", "WATCH"}
)
_BOUND_CLIENT = frozenset({"CACHING", "REPLY", "TRACKING"})

_known: dict[Value, Nature | None] = {}  # by the spelling that was used; None: it depends on the arguments


def nature_of(command: Sequence[Value]) -> Nature:
    """How a command may be sent.

    Raises:
        ValueError: There is no command.
    """
    try:
        found = _known[command[0]]
    except KeyError:
        found = _look_up(command)
    except IndexError:
        raise ValueError("a command needs a name: execute('GET', key)") from None
    return _by_arguments(command) if found is None else found


def find_unshared(commands: Sequence[Sequence[Value]]) -> Sequence[Value] | None:
    """A command among many that needs a connection for itself; None if they may share one.

    Raises:
        ValueError: One of them is empty.
    """
    try:
        examples = {command[0]: command for command in commands}  # names are few, whatever the commands
    except IndexError:
        raise ValueError("a command needs a name: execute_many([('GET', key), …])") from None
    for name, example in examples.items():
        nature = nature_of(example)
        same = [example] if _known.get(name) is not None else [other for other in commands if other[0] == name]
        unshared = {Nature.BLOCKING, Nature.BOUND}
        if nature in unshared or len(same) > 1:
            found = next((other for other in same if nature_of(other) in unshared), None)
            if found is not None:
                return found
    return None


def _look_up(command: Sequence[Value]) -> Nature | None:
    name = name_of(command)
    if name in _BLOCKING:
        found: Nature | None = Nature.BLOCKING
    elif name in _BOUND:
        found = Nature.BOUND
    elif name in _MAY_BLOCK or name == "CLIENT":
        found = None
    else:
        found = Nature.READ if name in _READS else Nature.ORDINARY
    if len(_known) < 1000:  # noqa: PLR2004 - more spellings than there are commands
        _known[command[0]] = found
    return found


def _by_arguments(command: Sequence[Value]) -> Nature:
    if name_of(command) == "CLIENT":
        return Nature.BOUND if len(command) > 1 and _text(command[1]) in _BOUND_CLIENT else Nature.ORDINARY
    return Nature.ORDINARY if _block_of(command) is None else Nature.BLOCKING


def name_of(command: Sequence[Value]) -> str:
    """The command's name in capitals."""
    return _text(command[0])


def waiting_time(command: Sequence[Value]) -> float | None:
    """Seconds that a blocking command may wait on the server; None when it would wait for ever, or doesn't say."""
    name = name_of(command)
    if name in _MAY_BLOCK:
        value, unit = _block_of(command), 0.001
    else:
        place, unit = _BLOCKING[name]
        value = command[place] if len(command) > 1 else None
    try:
        seconds = float(value if value is not None else 0) * unit
    except ValueError:  # the server will refuse it
        return None
    return seconds if seconds > 0 else None


def _block_of(command: Sequence[Value]) -> Value | None:
    """What follows BLOCK among the options of XREAD and XREADGROUP, which end where STREAMS begins."""
    start = 4 if name_of(command) == "XREADGROUP" else 1  # GROUP and two names, which may be any words
    for place in range(start, len(command) - 1):
        word = _text(command[place])
        if word == "BLOCK":
            return command[place + 1]
        if word == "STREAMS":
            return None
    return None


def _text(value: Value) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.upper()
