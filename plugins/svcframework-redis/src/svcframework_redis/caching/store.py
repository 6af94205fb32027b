"""CacheStore: where a cache keeps its entries, as it needs it. Bytes by name; knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class CacheStore(Protocol):
    """Bytes by name, each with a time to live; shared by all processes that name the same place."""

    async def read(self, names: Sequence[str]) -> list[bytes | None]:
        """What the names hold, in their order; None for each that holds nothing."""
        ...

    async def write(self, entries: Mapping[str, tuple[bytes, float]], news: News | None = None) -> None:
        """Let names hold bytes for some seconds, whatever they held, then tell the news."""
        ...

    async def write_new(self, name: str, data: bytes, seconds: float) -> bool:
        """Let a name hold bytes, if it holds nothing; whether it did."""
        ...

    async def swap(self, name: str, mark: bytes, data: bytes, seconds: float) -> bool:
        """Replace what a name holds if it begins with `mark`; whether it did. Without data it is removed."""
        ...

    async def touch(self, name: str, expires_at: float, seconds: float) -> bool:
        """Let a value live for `seconds` from now, and say so in its header; whether there is a value."""
        ...

    async def versions(self, names: Mapping[str, bytes], seconds: float) -> list[bytes]:
        """What the names hold; those that hold nothing get the bytes given, for `seconds`."""
        ...

    async def extend(self, names: Sequence[str], seconds: float) -> None:
        """Let names hold what they do for `seconds` at least."""
        ...

    async def remove(self, names: Sequence[str], news: News | None = None) -> int:
        """Empty the names, then tell the news; how many held something."""
        ...

    async def remove_below(self, prefix: str, news: News | None = None) -> int:
        """Empty a name and all that begin with it and a colon, then tell the news; how many held something."""
        ...

    async def ping(self, seconds: float) -> None:
        """Whether it answers in time; raises if not."""
        ...

    def listen(
        self, channel: str, heard: Callable[[bytes], None], deaf: Callable[[], None]
    ) -> AbstractAsyncContextManager[Ears]:
        """Hear the news of a channel for the length of the block; `deaf` says that some may have been missed."""
        ...


class Ears(Protocol):
    """What hears the news."""

    @property
    def is_connected(self) -> bool:
        """Whether news arrive now, as far as is known."""
        ...


News = tuple[str, bytes]
"""A channel and a message on it."""
