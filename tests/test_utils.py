"""The small functions keep their contracts, and change nothing that they are given."""

from __future__ import annotations

import copy
import doctest
from datetime import UTC, datetime, timedelta, timezone
from pathlib import PurePosixPath, PureWindowsPath
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svcframework import utils
from svcframework.errors import DataValidationError
from svcframework.utils import (
    calculate_duration,
    chunk_list,
    format_timestamp,
    generate_unique_id,
    merge_dicts,
    safe_get_dict_value,
    sanitize_filename,
    validate_required_fields,
)

TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=8,
)
DICTS = st.dictionaries(st.text("abc", max_size=2), TREES, max_size=3)


def test_examples_in_docstrings_are_true():
    """Every doctest of the module gives what it says."""
    results = doctest.testmod(utils)

    assert 0 == results.failed
    assert results.attempted > 10


def test_ids_are_unique_and_ordered_by_time():
    """A later id sorts after an earlier one, also within one millisecond."""
    ids = [generate_unique_id() for _ in range(2000)]

    assert sorted(set(ids)) == ids
    assert 7 == UUID(ids[0]).version


def test_id_with_prefix_holds_a_uuid():
    """The prefix is told apart by an underscore."""
    prefix, _, rest = generate_unique_id("order").partition("_")

    assert "order" == prefix
    assert 7 == UUID(rest).version


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "2026-01-02T03:04:05.678Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:04:05.000Z"),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05.000Z"),  # noqa: DTZ001 - a naive one counts as UTC
        (1.5, "1970-01-01T00:00:01.500Z"),
    ],
)
def test_timestamp_is_rfc_3339_in_utc(moment, expected):
    """Whatever the zone, the text is UTC and ends in Z."""
    assert expected == format_timestamp(moment)


def test_timestamp_of_now_is_now():
    """Without an argument it is the present moment."""
    before = datetime.now(UTC)
    told = datetime.fromisoformat(format_timestamp(timespec="microseconds"))

    assert before <= told <= datetime.now(UTC)


def test_duration_is_in_seconds_across_zones():
    """Zones are taken into account, and an earlier end gives a negative duration."""
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    end = datetime(2026, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))

    assert -1800.0 == calculate_duration(start, end)
    assert calculate_duration(start - timedelta(days=365 * 100)) > 0


def test_duration_of_mixed_kinds_is_refused():
    """A datetime and a number can't be subtracted."""
    with pytest.raises(TypeError, match="of one kind, not datetime and float"):
        calculate_duration(datetime.now(UTC), 1.0)
    with pytest.raises(TypeError, match="of one kind, not float and datetime"):
        calculate_duration(1.0, datetime.now(UTC))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b.1", "y"),
        ("a.b.-2", "x"),
        ("a.b.2", "?"),
        ("a.b.x", "?"),
        ("a.none", None),
        ("a.none.deeper", "?"),
        ("text.0", "?"),
        ("numbers.1", "one"),
        (("dotted.key", "in"), 5),
        ("", "?"),
    ],
)
def test_path_leads_to_a_value_or_to_the_default(path, expected):
    """Mappings and lists are entered, text is not, and None that is there is None."""
    data = {"a": {"b": ["x", "y"], "none": None}, "text": "abc", "numbers": {1: "one"}, "dotted.key": {"in": 5}}

    assert expected == safe_get_dict_value(data, path, "?")


@given(TREES)
def test_every_value_is_reached_by_its_path(tree):
    """A sequence of the keys and indexes leads to each value of any tree, and to the default one step further."""
    for path, value in _paths(tree):
        assert value is safe_get_dict_value(tree, path)
        assert "?" == safe_get_dict_value(tree, (*path, "absent"), "?")


@given(TREES, st.text("abc.01-", max_size=6))
def test_any_dotted_path_leads_to_a_value_or_to_the_default(tree, path):
    """No path and no data makes it raise, and what it gives is in the tree or the default."""
    default = object()
    found = safe_get_dict_value(tree, path, default)

    assert found is default or any(found is value for _, value in _paths(tree))


def _paths(tree, above=()):
    yield above, tree
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for step, child in children:
        yield from _paths(child, (*above, step))


@given(DICTS, DICTS)
def test_merge_leaves_its_arguments_alone_and_shares_nothing(first, second):
    """What is merged afterwards into the result doesn't reach the originals."""
    before = copy.deepcopy((first, second))

    result = merge_dicts(first, second)
    _spoil(result)

    assert before == (first, second)


def _spoil(tree) -> None:
    children = tree.values() if isinstance(tree, dict) else tree
    for child in list(children):
        if isinstance(child, (dict, list)):
            _spoil(child)
    tree.clear()


def test_later_value_wins_at_every_level():
    """Tables are joined, lists and values replaced, also where the kinds differ."""
    merged = merge_dicts({"a": {"x": 1, "y": [1]}, "b": 1}, {"a": {"y": [2]}, "b": {"c": 2}}, {"a": {"z": 3}})

    assert {"a": {"x": 1, "y": [2], "z": 3}, "b": {"c": 2}} == merged
    assert {} == merge_dicts()


@given(st.lists(st.integers()), st.integers(1, 7))
def test_chunks_hold_all_items_in_order(items, size):
    """Joined they are the list again; only the last may be short."""
    chunks = chunk_list(items, size)

    assert items == [item for chunk in chunks for item in chunk]
    assert all(size == len(chunk) for chunk in chunks[:-1])
    assert all(chunks)


def test_chunk_size_below_one_is_refused():
    """There are no chunks of nothing."""
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        chunk_list([1], 0)


def test_all_missing_fields_are_told_at_once():
    """None and blank text are missing, 0 and False are not."""
    data = {"name": " ", "age": 0, "admin": False, "user": {"mail": None}}

    with pytest.raises(DataValidationError) as caught:
        validate_required_fields(data, ["name", "age", "admin", "user.mail", "gone"])

    assert {"name": "must not be empty", "user.mail": "is required", "gone": "is required"} == caught.value.problems


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("report.pdf", "report.pdf"),
        ("Ünï cödé.txt", "Ünï cödé.txt"),
        ("..", "file"),
        ("", "file"),
        (". . .", "file"),
        ("../../etc/passwd", "etc_passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\Windows\\x.dll", "C__Windows_x.dll"),
        ("a\x00b\nc.txt", "abc.txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("CON", "CON_"),
        ("aux .txt", "aux_.txt"),
        ("conin$", "conin$_"),
        ("trailing. ", "trailing"),
        (".htaccess", "htaccess"),
    ],
)
def test_file_names_become_harmless(name, expected):
    """Paths, drives, control and bidi characters and device names are gone; a clean name stays."""
    assert expected == sanitize_filename(name)


@given(
    st.text(st.sampled_from('.. /\\:*?"<>|\x00\u202eaCONnul1$é\ud7ff') | st.characters(), max_size=40),
    st.integers(4, 60),
)
@example("con" * 90, 4)
@example("nulx", 4)
def test_any_text_becomes_one_safe_name(name, most):
    """The result is one component on POSIX and Windows, within its length, and stays as it is the second time."""
    clean = sanitize_filename(name, max_bytes=most)

    assert clean == PurePosixPath(clean).name == PureWindowsPath(clean).name
    assert not PureWindowsPath(clean).drive
    assert clean not in {"", ".", ".."}
    assert not set('/\\:*?"<>|\x00') & set(clean)
    assert len(clean.encode()) <= most
    assert clean == sanitize_filename(clean, max_bytes=most)


def test_long_name_keeps_its_extension():
    """It is cut before the extension and never inside a character."""
    name = sanitize_filename("é" * 300 + ".tar")

    assert name.endswith("é.tar")
    assert len(name.encode()) <= 255


def test_replacement_must_be_harmless():
    """A replacement can't bring back what was taken out."""
    with pytest.raises(ValueError, match="replacement"):
        sanitize_filename("a/b", replacement="/")
