"""CacheEngine: entries by name, in this process and in the store, with their tags. Knows no source and no caller."""

from __future__ import annotations

import os
import random
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from svcframework_redis.caching.counts import CacheCounts
from svcframework_redis.caching.entries import Entry, pack_value, unpack
from svcframework_redis.caching.keyspace import KeySpace
from svcframework_redis.caching.local import LocalCache
from svcframework_redis.caching.outage import Outage
from svcframework_redis.caching.refusals import ValueTooLargeError
from svcframework_redis.caching.store import CacheStore, Ears, News
from svcframework_redis.caching.values import MISSING, Codec
from svcframework_redis.config import CacheConfig

_NOTHING: list[bytes | None] = []
_NO_VERSIONS: Mapping[str, bytes | None] = types.MappingProxyType({})
_NEWS = msgspec.msgpack.Decoder(tuple[bytes, list[str], list[str], list[str]])


class Look(msgspec.Struct, frozen=True):
    """What was found for a name."""

    value: Any = MISSING
    entry: Entry | None = None
    versions: Mapping[str, bytes | None] = _NO_VERSIONS
    """The versions that tags had before the look ended; None for one that has none."""
    is_reachable: bool = True
    """Whether the store answered."""


class CacheEngine:
    """Lives as long as its cache.

    Args:
        store: Where entries are kept.
        settings: The cache's.
        clock: Seconds that only grow.
        wall: Seconds since 1970.
        on_change: Told the reason when the store goes away, and None when it is back.
        on_refusal: Told of a call that the store refused, now and then.
    """

    def __init__(
        self,
        store: CacheStore,
        settings: CacheConfig,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_change: Callable[[str | None], None],
        on_refusal: Callable[[Exception], None],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.store, self.settings, self.clock, self.wall = store, settings, clock, wall
        self.root = KeySpace(settings.namespace)
        self.codec = Codec(settings.format)
        self.counts = CacheCounts()
        self.local = LocalCache(size=settings.local_size, limit=settings.local_bytes, codec=self.codec, clock=clock)
        self.outage = Outage(
            degrade=settings.degrade,
            retry_interval=settings.retry_interval,
            clock=clock,
            root=self.root.prefix,
            remove=self._make_up,
            on_change=self._store_changed,
            on_refusal=on_refusal,
        )
        self.on_forget: Callable[[Forgotten], None] = lambda _forgotten: None
        """Told what is forgotten here, as soon as it is known."""
        self.ears: Ears | None = None
        """What hears the news of other processes; None while nobody listens."""
        self._tell, self._draw = on_change, draw
        self._origin = os.urandom(8)
        self._announces = settings.announce or settings.local_size > 0

    # --- reading ----------------------------------------------------------------------------------------

    async def look(self, space: KeySpace, name: str, kind: Any, tags: Sequence[str] = ()) -> Look:
        """What the store has for a name, and the versions of `tags`; a value is then kept in this process too."""
        ticket = self.local.begin(name)
        try:
            found = await self.outage.call(self.store.read([name, *map(space.tag, tags)] if tags else [name]), _NOTHING)
            if not found:
                return Look(is_reachable=False)
            versions = dict(zip(tags, found[1:], strict=True)) if tags else {}
            if found[0] is None:
                return Look(versions=versions)
            entry = unpack(found[0])
            if entry.tags:
                await self._learn(space, entry.tags, versions)
            value = self._value(entry, versions, kind)
            if value is not MISSING:
                self._keep(space, name, ticket, entry)
            return Look(value, entry, versions)
        finally:
            self.local.end(name, ticket)

    async def look_at_many(self, space: KeySpace, names: Sequence[str], kind: Any) -> list[Any]:
        """The values of many names, `MISSING` for each that has none."""
        tickets = [self.local.begin(name) for name in names]
        try:
            nothing: list[bytes | None] = [None] * len(names)
            found = await self.outage.call(self.store.read(names), nothing)
            entries = [None if data is None else unpack(data) for data in found]
            versions: dict[str, bytes | None] = {}
            await self._learn(space, {tag for entry in entries if entry for tag in entry.tags}, versions)
            values = [self._value(entry, versions, kind) for entry in entries]
            for name, ticket, entry, value in zip(names, tickets, entries, values, strict=True):
                if entry is not None and value is not MISSING:
                    self._keep(space, name, ticket, entry)
            return values
        finally:
            for name, ticket in zip(names, tickets, strict=True):
                self.local.end(name, ticket)

    async def _learn(self, space: KeySpace, tags: Iterable[str], versions: dict[str, bytes | None]) -> None:
        """Add the versions that aren't known yet; a tag whose version can't be had has none."""
        unknown = [tag for tag in tags if tag not in versions]
        if unknown:
            nothing: list[bytes | None] = [None] * len(unknown)
            found = await self.outage.call(self.store.read([space.tag(tag) for tag in unknown]), nothing)
            versions.update(zip(unknown, found, strict=True))

    def _value(self, entry: Entry | None, versions: Mapping[str, bytes | None], kind: Any) -> Any:
        if entry is None or entry.kind in {"lease", "foreign"}:
            return MISSING
        if entry.tags and any(versions[tag] != version for tag, version in entry.tags.items()):
            return MISSING
        return None if entry.kind == "none" else self.codec.decode(entry.body, kind)

    def _keep(self, space: KeySpace, name: str, ticket: object, entry: Entry) -> bool:
        """Keep an entry in this process; False if the name was dropped since the ticket was taken."""
        if not self.settings.local_size:
            return True
        if self.ears is not None and not self.ears.is_connected:  # it might change, and nobody could tell us
            self.local.clear()
            return False
        now = self.wall()
        seconds = min(self.settings.local_ttl, entry.expires_at - now)
        if entry.refresh_at > now:  # the first one after that is to notice
            seconds = min(seconds, entry.refresh_at - now)
        return self.local.fill(name, ticket, entry, seconds, map(space.tag, entry.tags))

    def _keep_own(self, space: KeySpace, name: str, ticket: object, data: bytes) -> bool:
        """The same for what was written here: without tags, for one may have been invalidated since it was read."""
        entry = unpack(data)
        return not entry.tags and self._keep(space, name, ticket, entry)

    # --- tags -------------------------------------------------------------------------------------------

    async def pin(
        self, space: KeySpace, tags: Sequence[str], known: Mapping[str, bytes | None], seconds: float
    ) -> dict[str, bytes] | None:
        """The versions of tags, made for those that have none; None while the store is away.

        Args:
            space: Whose tags they are.
            tags: The tags.
            known: Versions that were seen before; they win, for what is made now may rest on what was so then.
            seconds: How long new versions live at least.
        """
        versions = {tag: version for tag in tags if (version := known.get(tag)) is not None}
        fresh = {space.tag(tag): os.urandom(8) for tag in tags if tag not in versions}
        if fresh:
            nothing: list[bytes] | None = None
            made = await self.outage.call(self.store.versions(fresh, seconds), nothing)
            if made is None:
                return None
            versions.update(zip([tag for tag in tags if tag not in versions], made, strict=True))
        return versions

    # --- writing ----------------------------------------------------------------------------------------

    def encoded(self, value: Any) -> bytes | None:
        """A value as it is written; None for None.

        Raises:
            UncacheableValueError: The format has no form for it.
            ValueTooLargeError: It has more than `max_value_bytes`.
        """
        if value is None:
            return None
        body = self.codec.encode(value)
        if len(body) > self.settings.max_value_bytes:
            raise ValueTooLargeError(len(body), self.settings.max_value_bytes)
        return body

    def packed(
        self,
        body: bytes | None,
        ttl: float | None,
        *,
        versions: Mapping[str, bytes] | None = None,
        refresh_after: float | None = None,
    ) -> tuple[bytes, float]:
        """A value as the store takes it, and the seconds for which, by chance a few less than `ttl`."""
        seconds = self.seconds(ttl) * (1 - self.settings.ttl_jitter * self._draw())
        now = self.wall()
        refresh_at = 0.0 if refresh_after is None else now + refresh_after
        return pack_value(body, expires_at=now + seconds, refresh_at=refresh_at, tags=versions), seconds

    def seconds(self, ttl: float | None) -> float:
        """A ttl, or the configured one.

        Raises:
            ValueError: It is not above 0.
        """
        seconds = self.settings.ttl if ttl is None else ttl
        if not seconds > 0:
            raise ValueError(f"a ttl of {seconds!r} seconds keeps nothing; give more than 0, or delete the key")
        return seconds

    async def write(self, space: KeySpace, entries: Mapping[str, tuple[bytes, float]], tags: Sequence[str]) -> bool:
        """Store entries, whatever their names hold; whether they were."""
        self.forget(Forgotten(names=list(entries)))
        tickets = {name: self.local.begin(name) for name in entries}
        written = False
        try:
            written = await self.outage.call(self._written(space, entries, tags), otherwise=False)
        finally:
            for name, (data, _) in entries.items():
                # Dropped if it wasn't written, or if someone who read the old value got in between.
                if not written or not self._keep_own(space, name, tickets[name], data):
                    self.local.drop(name)
        if not written:
            self.outage.owe(*entries)  # what they held is outdated
        return written

    async def _written(self, space: KeySpace, entries: Mapping[str, tuple[bytes, float]], tags: Sequence[str]) -> bool:
        if tags:
            await self.store.extend(list(map(space.tag, tags)), max(seconds for _, seconds in entries.values()))
        await self.store.write(entries, self._news(Forgotten(names=list(entries))))
        return True

    async def lease(self, name: str, entry: Entry | None, lease: bytes) -> bool | None:
        """Claim to make the value of a name, in the place of `entry`; whether that was accepted, None if nobody can."""
        seconds, unknown = self.settings.lease_ttl, cast("bool | None", None)
        if entry is None:
            return await self.outage.call(self.store.write_new(name, lease, seconds), unknown)
        if entry.kind == "foreign":
            return await self.outage.call(self._overwritten(name, lease, seconds), unknown)
        return await self.outage.call(self.store.swap(name, entry.mark, lease, seconds), unknown)

    async def _overwritten(self, name: str, data: bytes, seconds: float) -> bool:
        await self.store.write({name: (data, seconds)})
        return True

    async def settle(
        self,
        space: KeySpace,
        name: str,
        mark: bytes,
        *,
        packed: tuple[bytes, float],
        tags: Sequence[str],
        ticket: object,
    ) -> bool:
        """Store a value in the place of the entry with that mark, if it is still there; whether it was."""
        settled = False
        try:
            settled = await self.outage.call(self._settled(space, name, mark, packed, tags), otherwise=False)
        finally:
            if not settled or not self._keep_own(space, name, ticket, packed[0]):
                self.local.drop(name)
        return settled

    async def _settled(
        self, space: KeySpace, name: str, mark: bytes, packed: tuple[bytes, float], tags: Sequence[str]
    ) -> bool:
        if tags:
            await self.store.extend(list(map(space.tag, tags)), packed[1])
        return await self.store.swap(name, mark, *packed)

    async def renew(self, name: str, lease: bytes) -> bool:
        """Hold a lease for longer, if it is still ours; whether it is."""
        return await self.outage.call(self.store.swap(name, lease, lease, self.settings.lease_ttl), otherwise=False)

    async def release(self, name: str, mark: bytes) -> None:
        """Remove a lease or a value, if it is still the one with that mark."""
        await self.outage.call(self.store.swap(name, mark, b"", 1.0), otherwise=False)

    async def touch(self, space: KeySpace, name: str, seconds: float) -> bool:
        """Let a value, and its tags, live for `seconds` from now; whether there is one."""
        look = await self.look(space, name, Any)
        if look.entry is None or look.value is MISSING:
            return False
        touched = await self.outage.call(self._touched(space, name, look.entry.tags, seconds), otherwise=False)
        self.local.drop(name)
        return touched

    async def _touched(self, space: KeySpace, name: str, tags: Iterable[str], seconds: float) -> bool:
        if tags:
            await self.store.extend(list(map(space.tag, tags)), seconds)
        return await self.store.touch(name, self.wall() + seconds, seconds)

    # --- forgetting -------------------------------------------------------------------------------------

    async def remove(self, what: Forgotten) -> int | None:
        """Remove names, tags and all below some prefixes; how many there were, None while the store is away.

        What can't be removed now is removed before the store is next asked for anything.
        """
        self.forget(what)
        try:
            nothing: int | None = None
            removed = await self.outage.call(self._removed(what), nothing)
        finally:
            self.forget(what)  # what was read meanwhile may have been the old value
        if removed is None:
            self.outage.owe(*what.names, *what.tags)
            for prefix in what.below:
                self.outage.owe_below(prefix)
        return removed

    async def _removed(self, what: Forgotten) -> int:
        news, removed = self._news(what), 0
        for prefix in what.below:
            removed += await self.store.remove_below(prefix, news)
        if what.names or what.tags:
            removed += await self.store.remove([*what.names, *what.tags], news)
        return removed

    async def _make_up(self, names: list[str], below: str | None) -> None:
        await self._removed(Forgotten(names, names, [] if below is None else [below]))

    def forget(self, what: Forgotten) -> None:
        """Forget in this process."""
        for name in what.names:
            self.local.drop(name)
        for tag in what.tags:
            self.local.drop_tag(tag)
        for prefix in what.below:
            self.local.drop_below(prefix)
        self.on_forget(what)

    def forget_all(self) -> None:
        """Forget everything in this process: it may have missed that something changed."""
        self.local.clear()
        self.on_forget(Forgotten(below=[self.root.prefix]))

    # --- news -------------------------------------------------------------------------------------------

    def heard(self, message: bytes) -> None:
        """Another process has changed something."""
        try:
            origin, names, tags, below = _NEWS.decode(message)
        except msgspec.MsgspecError:  # not one of ours
            return
        if origin != self._origin:
            self.forget(Forgotten(names, tags, below))

    def _news(self, what: Forgotten) -> News | None:
        if not self._announces:
            return None
        return self.root.channel, msgspec.msgpack.encode((self._origin, what.names, what.tags, what.below))

    def _store_changed(self, reason: str | None) -> None:
        if reason is None:
            self.forget_all()
        self._tell(reason)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What is no longer so: names, names of tags, and prefixes below which nothing is."""

    names: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
