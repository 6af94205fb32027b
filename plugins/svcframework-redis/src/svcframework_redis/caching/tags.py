"""TagVersions: what was current when a computation began, so that what it makes can be stored truthfully."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TagVersions:
    """The versions of some tags at one moment; `CacheService.tag_versions` reads them, `set(tags=…)` takes them.

    A value stored with them is gone as soon as one of the tags has been invalidated since that moment, also when
    that was before the value was stored.
    """

    versions: tuple[tuple[str, bytes], ...]


Tags = Iterable[str] | TagVersions
"""Tags of a value: their names, or the versions that were read before it was computed."""


def names_of(tags: Tags) -> tuple[str, ...]:
    """The tags' names, each once.

    Raises:
        TypeError: They are one text, whose letters nobody means.
    """
    if isinstance(tags, TagVersions):
        return tuple(name for name, _ in tags.versions)
    if isinstance(tags, str):
        raise TypeError(f"tags={tags!r} is one text; give a list: tags=[{tags!r}]")
    return tuple(dict.fromkeys(tags))
