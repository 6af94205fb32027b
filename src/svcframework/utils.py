"""Small functions for services: ids, times, dictionaries, lists, file names. None changes what it is given."""

from __future__ import annotations

import itertools
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from svcframework.errors import DataValidationError

T = TypeVar("T")

_ABSENT: Any = object()


def generate_unique_id(prefix: str = "") -> str:
    """A new id that sorts by the time it was made: a UUID of version 7 (RFC 9562).

    Args:
        prefix: Put before the id, with an underscore between.

    >>> generate_unique_id("user").startswith("user_")
    True
    >>> generate_unique_id() < generate_unique_id()
    True
    """
    if sys.version_info >= (3, 14):
        from uuid import uuid7  # noqa: PLC0415 - as below
    else:
        from uuid_utils.compat import uuid7  # noqa: PLC0415 - loads with the first id

    return f"{prefix}_{uuid7()}" if prefix else str(uuid7())


def format_timestamp(
    moment: datetime | float | None = None,
    *,
    timespec: Literal["seconds", "milliseconds", "microseconds"] = "milliseconds",
) -> str:
    """A moment as RFC 3339 text in UTC.

    Args:
        moment: A datetime, taken as UTC when it has no zone; or seconds since 1970; now when not given.
        timespec: How fine.

    >>> format_timestamp(0)
    '1970-01-01T00:00:00.000Z'
    >>> format_timestamp(datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC), timespec="seconds")
    '2026-05-04T03:02:01Z'
    """
    if moment is None:
        moment = datetime.now(UTC)
    elif not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return _in_utc(moment).replace(tzinfo=None).isoformat(timespec=timespec) + "Z"


def calculate_duration(start: datetime | float, end: datetime | float | None = None) -> float:
    """The seconds from `start` to `end`; negative when the end comes first.

    Args:
        start: A datetime, taken as UTC when it has no zone, or seconds since 1970.
        end: The same kind as `start`; now when not given.

    Raises:
        TypeError: One is a datetime and the other a number.

    >>> calculate_duration(10.0, 12.5)
    2.5
    >>> calculate_duration(datetime(2026, 1, 1), datetime(2026, 1, 2))
    86400.0
    """
    if isinstance(start, datetime):
        end = datetime.now(UTC) if end is None else end
        if isinstance(end, datetime):
            return (_in_utc(end) - _in_utc(start)).total_seconds()
    elif not isinstance(end, datetime):
        return float((time.time() if end is None else end) - start)
    msg = f"start and end must be of one kind, not {type(start).__name__} and {type(end).__name__}"
    raise TypeError(msg)


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


# --- dictionaries and lists -----------------------------------------------------------------------------


def safe_get_dict_value(data: Any, path: str | Sequence[str | int], default: Any = None) -> Any:
    """The value at a path in nested mappings and lists, or `default` where the path leads nowhere.

    Args:
        data: Mappings and lists, in any nesting.
        path: Keys and list indexes between dots, or a sequence of them for keys that have dots in them.
        default: What to return instead.

    >>> order = {"items": [{"sku": "a"}, {"sku": "b"}], "total.net": 5}
    >>> safe_get_dict_value(order, "items.1.sku")
    'b'
    >>> safe_get_dict_value(order, "items.-1.sku"), safe_get_dict_value(order, "total.net")
    ('b', 5)
    >>> safe_get_dict_value(order, "items.7.sku", "none")
    'none'
    """
    if isinstance(path, str) and isinstance(data, Mapping) and path in data:
        return data[path]
    for step in path.split(".") if isinstance(path, str) else path:
        data = _child(data, step)
        if data is _ABSENT:
            return default
    return data


def _child(node: Any, step: str | int) -> Any:
    if isinstance(node, Mapping):
        if step in node:
            return node[step]
        # A number in a dotted path may be an integer key.
        index = _index(step)
        return node[index] if index is not None and index in node else _ABSENT
    index = _index(step)
    if index is None or not isinstance(node, Sequence) or isinstance(node, (str, bytes, bytearray)):
        return _ABSENT
    return node[index] if -len(node) <= index < len(node) else _ABSENT


def _index(step: str | int) -> int | None:
    if isinstance(step, int):
        return step
    return int(step) if re.fullmatch(r"-?[0-9]{1,18}", step) else None


def merge_dicts(*dicts: Mapping[str, Any], lists: Literal["replace", "append"] = "replace") -> dict[str, Any]:
    """All dictionaries joined at every level, the later winning. The result shares no container with them.

    Args:
        dicts: Any number of them.
        lists: What happens where two have a list: the later `replace`s the earlier, or is `append`ed.

    >>> merge_dicts({"db": {"host": "a", "port": 1}}, {"db": {"port": 2}})
    {'db': {'host': 'a', 'port': 2}}
    >>> merge_dicts({"tags": [1]}, {"tags": [2]}, lists="append")
    {'tags': [1, 2]}
    """
    from deepmerge import Merger  # noqa: PLC0415 - loads with the first merge

    strategy = "append" if lists == "append" else "override"
    merger = Merger([(dict, ["merge"]), (list, [strategy])], ["override"], ["override"])
    result: dict[str, Any] = {}
    for one in dicts:
        # deepmerge changes its first argument, and keeps parts of the second: both must be ours.
        result = merger.merge(result, _own(one))
    return result


def _own(tree: Any) -> Any:
    """The same with containers of its own; what isn't a container is shared."""
    if isinstance(tree, Mapping):
        return {key: _own(value) for key, value in tree.items()}
    if type(tree) in {list, tuple}:
        return type(tree)(map(_own, tree))
    return set(tree) if type(tree) is set else tree


def chunk_list(items: Iterable[T], size: int) -> list[list[T]]:
    """The items in lists of `size`; the last may be shorter.

    Raises:
        ValueError: The size is below 1.

    >>> chunk_list([1, 2, 3, 4, 5], 2)
    [[1, 2], [3, 4], [5]]
    """
    if size < 1:
        msg = f"size must be at least 1, not {size}"
        raise ValueError(msg)
    return list(_chunks(iter(items), size))


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def validate_required_fields(data: Mapping[str, Any], fields: Iterable[str], *, subject: str = "Input") -> None:
    """Make sure that all fields have a value. None and blank text are none; 0, False and empty lists are.

    Args:
        data: What was given.
        fields: Names or dotted paths.
        subject: What the data is, for the message.

    Raises:
        DataValidationError: Some are missing; `problems` has all of them.

    >>> validate_required_fields({"user": {"email": "a@b.c"}}, ["user.email"])
    >>> validate_required_fields({"name": " "}, ["name", "age"], subject="User")
    Traceback (most recent call last):
        ...
    svcframework.errors.DataValidationError: User: 2 problems
      name: must not be empty
      age: is required
    """
    problems: dict[str, str] = {}
    for name in [fields] if isinstance(fields, str) else fields:
        value = safe_get_dict_value(data, name)
        if value is None:
            problems[name] = "is required"
        elif isinstance(value, str) and not value.strip():
            problems[name] = "must not be empty"
    if problems:
        raise DataValidationError(subject, problems)


# --- file names -----------------------------------------------------------------------------------------


def sanitize_filename(name: str, *, replacement: str = "_", max_bytes: int = 255, fallback: str = "file") -> str:
    """A name that is one file in its directory on Linux, macOS and Windows, whatever was given.

    Separators, drives, control and invisible characters, device names (`NUL`), and dots and spaces at the ends
    are gone, so it can't leave the directory or hide in it. A clean name stays as it is.

    Args:
        name: Any text, from a stranger's upload for example.
        replacement: Put where a character was taken out; itself a clean one.
        max_bytes: Bytes of UTF-8 that the result may have; the extension is kept. No file system takes over 255.
        fallback: The name when nothing is left.

    Raises:
        ValueError: The replacement has a character that no name may have.

    >>> sanitize_filename("../../etc/passwd")
    'etc_passwd'
    >>> sanitize_filename("Bericht: Q1/Q2.pdf"), sanitize_filename("nul.txt"), sanitize_filename("..")
    ('Bericht_ Q1_Q2.pdf', 'nul_.txt', 'file')
    """
    from pathvalidate import sanitize_filename as sanitized  # noqa: PLC0415 - loads with the first name

    if re.search(r'[/\\:*?"<>|.\x00-\x1f]', replacement):
        msg = "the replacement must itself be fit for a file name"
        raise ValueError(msg)
    text = "".join(char for char in unicodedata.normalize("NFC", name) if unicodedata.category(char) not in _INVISIBLE)
    text = re.sub(r"\s", " ", text)  # other spaces look the same and aren't trimmed by all systems
    # pathvalidate lets '..' pass, and drops separators so that the parts of a path would run together.
    text = replacement.join(part for part in re.split(r"[/\\]+", text) if part.strip(". "))
    most = min(max_bytes, _MOST_BYTES)
    text = _shortened(text.strip(". "), most)  # by ourselves, since pathvalidate cuts the extension off
    text = str(sanitized(text, replacement_text=replacement, platform="universal"))
    stem, dot, rest = text.partition(".")
    if _DEVICE.fullmatch(stem):
        text = f"{stem.rstrip()}{replacement or '_'}{dot}{rest}"
    text = _shortened(text.strip(". "), most).strip(". ")
    return fallback if not text or _DEVICE.fullmatch(text.partition(".")[0]) else text


_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])\s*", re.IGNORECASE)
_LONGEST_EXTENSION = 20
_MOST_BYTES = 255


def _shortened(text: str, most: int) -> str:
    """Cut to so many bytes before the extension, never inside a character."""
    if len(text.encode()) <= most:
        return text
    stem, dot, extension = text.rpartition(".")
    tail = f"{dot}{extension}" if stem and len(extension) <= _LONGEST_EXTENSION else ""
    room = most - len(tail.encode())
    if room < 1:
        stem, tail, room = text, "", most
    return (stem if tail else text).encode()[:room].decode(errors="ignore").rstrip(". ") + tail
