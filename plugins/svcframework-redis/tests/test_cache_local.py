"""What a process keeps itself: within a bound, by ticket, shared only where nobody can change it."""

import dataclasses
import datetime as dt
import enum
import types
from typing import Any, NamedTuple

import msgspec
import pytest

from svcframework_redis.caching.entries import Entry, pack_lease, pack_value, unpack
from svcframework_redis.caching.local import LocalCache
from svcframework_redis.caching.values import MISSING, Codec, is_immutable

JSON = Codec("json")


def local_cache(size=10, limit=1_000_000):
    clock = types.SimpleNamespace(now=0.0)
    local = LocalCache(size=size, limit=limit, codec=JSON, clock=lambda: clock.now)
    return local, clock


def entry(value, tags=None):
    body = None if value is None else JSON.encode(value)
    return unpack(pack_value(body, expires_at=9e9, tags=tags))


def put(local, name, value, seconds=10, tags=()):
    return local.fill(name, local.begin(name), entry(value), seconds, tags)


def test_number_of_entries_is_bounded():
    """The least recently used value goes first."""
    local, _ = local_cache(size=2)
    put(local, "a", 1)
    put(local, "b", 2)
    assert 1 == local.peek("a", Any)
    put(local, "c", 3)
    assert [1, MISSING, 3] == [local.peek(name, Any) for name in "abc"]


def test_bytes_are_bounded():
    """Values go until the new one has room; one that is larger than all the room is not kept."""
    local, _ = local_cache(limit=10_000)
    for n in range(20):
        put(local, f"k{n}", "x" * 1_000)
        assert local.size_in_bytes <= 10_000
    assert 7 == len(local)
    put(local, "large", "x" * 20_000)
    assert MISSING is local.peek("large", Any)
    assert 7 == len(local)
    for n in range(20):
        local.drop(f"k{n}")
    assert (0, 0) == (len(local), local.size_in_bytes)
    local, _ = local_cache(size=0)
    put(local, "a", 1)
    assert 0 == len(local)


def test_value_that_was_overtaken_is_not_kept():
    """What was read before a name, a tag or a prefix was dropped, or before a later reading, is thrown away."""
    for drop in (
        lambda local: local.drop("n:a"),
        lambda local: local.drop_tag("t"),
        lambda local: local.drop_below("n"),
        lambda local: local.clear(),
        lambda local: local.begin("n:a"),
    ):
        local, _ = local_cache()
        ticket = local.begin("n:a")
        drop(local)
        assert not local.fill("n:a", ticket, entry(1), 10, ())
        assert MISSING is local.peek("n:a", Any)
    local, _ = local_cache()
    ticket = local.begin("a")
    local.end("a", ticket)
    assert not local.fill("a", ticket, entry(1), 10, ())


def test_tags_and_prefixes_drop_what_is_theirs():
    """Other values stay; nothing is left of the tags of dropped ones."""
    local, _ = local_cache()
    put(local, "n:a", 1, tags=["t", "u"])
    put(local, "n:a:b", 2, tags=["u"])
    put(local, "n:ab", 3, tags=["t"])
    local.drop_tag("t")
    assert ["n:a:b"] == list(local.entries)
    put(local, "n:a", 1)
    put(local, "n:ab", 3)
    local.drop_below("n:a")
    assert ["n:ab"] == list(local.entries)
    assert not local._tagged


def test_values_end_when_they_should():
    """A value is not given out from the moment that it ends."""
    local, clock = local_cache()
    put(local, "a", 1, seconds=5)
    put(local, "never", 1, seconds=0)
    clock.now = 4.9
    assert [1, MISSING] == [local.peek(name, Any) for name in ("a", "never")]
    clock.now = 5
    assert MISSING is local.peek("a", Any)
    assert 0 == len(local)


class Colour(enum.Enum):
    RED = "red"


class Frozen(msgspec.Struct, frozen=True):
    items: Any


class Thawed(msgspec.Struct):
    items: Any


@dataclasses.dataclass(frozen=True)
class FrozenData:
    items: Any


@dataclasses.dataclass
class Data:
    items: Any


class Pair(NamedTuple):
    items: Any


@pytest.mark.parametrize("value", [1, "a", None, 1.5, b"b", True, dt.date(2026, 1, 1), Colour.RED, (1, ("a",))])
@pytest.mark.parametrize("kind", [Frozen, FrozenData, Pair, lambda value: value])
def test_what_cannot_be_changed_is_shared(value, kind):
    """Plain values, and frozen ones that hold nothing else."""
    assert is_immutable(kind(value))


@pytest.mark.parametrize(
    "value", [[1], {}, {1}, ([1],), Frozen([1]), Frozen(Frozen({})), FrozenData([1]), Pair([1]), Thawed(1), Data(1)]
)
def test_what_can_be_changed_is_not_shared(value):
    """Also if only something deep within can."""
    assert not is_immutable(value)


def test_readers_of_other_types_get_theirs():
    """A value that was read as one type is read again for another, and None is None for all."""
    local, _ = local_cache()
    put(local, "a", {"items": 1})
    first = local.peek("a", Frozen)
    assert first is local.peek("a", Frozen)
    assert {"items": 1} == local.peek("a", Any) is not local.peek("a", Any)
    assert FrozenData(1) == local.peek("a", FrozenData)
    assert MISSING is local.peek("a", int)
    put(local, "none", None)
    assert [None, None] == [local.peek("none", kind) for kind in (int, Frozen)]


def test_entries_are_told_from_what_is_not_theirs():
    """Bytes of any kind are read without an error; marks of equal entries differ."""
    packed = pack_value(b"1", expires_at=5.0, refresh_at=3.0, tags={"t": b"v"})
    found = unpack(packed)
    assert ("value", 5.0, 3.0, {"t": b"v"}, b"1") == (
        found.kind, found.expires_at, found.refresh_at, found.tags, bytes(found.body),
    )  # fmt: skip
    assert "none" == unpack(pack_value(None, expires_at=5.0)).kind
    assert "lease" == unpack(pack_lease()).kind
    assert 3 == len({pack_lease() for _ in range(3)})
    for end in range(len(packed)):
        assert isinstance(unpack(packed[:end]), Entry)
    for odd in (b"", b"l", b"x" * 40, b"v" + b"\xff" * 40, b"lxxxxxxxxxx"):
        assert "foreign" == unpack(odd).kind
