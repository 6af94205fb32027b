"""KeyTable: where the keys of commands are, as a server tells. No I/O; it only knows what it has been given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from redis.crc import key_slot

from svcframework_redis.link import Value

_COUNTED = frozenset({"EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"})  # script, number of keys, keys
_STREAMS = frozenset({"XREAD", "XREADGROUP"})
_SPLIT: Mapping[str, Callable[[list[Any]], Any]] = {  # what many keys in many places add up to
    **dict.fromkeys(("DEL", "EXISTS", "TOUCH", "UNLINK"), sum),
    "MGET": lambda parts: [value for part in parts for value in part],
}


class KeyTable:
    """Finds the key that decides where a command goes; lives as long as its transport.

    Args:
        described: The answer to COMMAND.
    """

    def __init__(self, described: Iterable[Sequence[Any]]) -> None:
        self._first: dict[str, int] = {}
        self._movable: set[str] = set()
        for entry in described:
            self._learn(entry)
            for inner in entry[9] if len(entry) > 9 else ():  # noqa: PLR2004 - the tenth has the subcommands
                self._learn(inner)

    def _learn(self, entry: Sequence[Any]) -> None:
        name = entry[0].decode().upper()
        self._first[name] = entry[3]
        if b"movablekeys" in entry[2]:
            self._movable.add(name)

    def first_key(self, command: Sequence[Value]) -> Value | None:
        """The key of a command, or the first of several; None if it has none.

        Raises:
            LookupError: Only the server can tell, when asked with COMMAND GETKEYS.
        """
        name = _text(command[0])
        if name in _COUNTED:
            return command[3] if len(command) > 3 and int(command[2]) > 0 else None  # noqa: PLR2004 - see above
        if name in _STREAMS:
            words = [_text(word) for word in command[:-1]]
            return command[words.index("STREAMS") + 1] if "STREAMS" in words else None
        if name == "WATCH":
            return command[1]
        whole = f"{name}|{_text(command[1])}" if len(command) > 1 else name
        first = self._first.get(whole, self._first.get(name, 0))
        if first == 0 and name in self._movable:
            raise LookupError(name)
        return command[first] if 0 < first < len(command) else None


def slot_of(key: Value) -> int:
    """The slot of a key: what is between its first braces decides, if there is anything."""
    found: int = key_slot(key if isinstance(key, bytes) else str(key).encode())
    return found


def split(command: Sequence[Value]) -> tuple[list[Sequence[Value]], Callable[[list[Any]], Any]] | None:
    """A command on keys of several slots as one for each key, and what makes one answer of theirs.

    None for one that can't be split, or needn't be.
    """
    name = _text(command[0])
    if name not in _SPLIT or len({slot_of(key) for key in command[1:]}) < 2:  # noqa: PLR2004 - several
        return None
    return [(command[0], key) for key in command[1:]], _SPLIT[name]


def _text(value: Value) -> str:
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).upper()
