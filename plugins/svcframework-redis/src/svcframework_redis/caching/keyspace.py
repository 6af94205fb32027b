"""KeySpace: the names that one owner's keys have in Redis. Different keys, tags and owners never share one."""

from __future__ import annotations

from typing import Self

from svcframework_redis.caching.refusals import CacheKeyError, MissingTenantError

Key = str | tuple[str, ...]
"""A cache key: a word, or parts that stay apart, such as `("user", user_id)`; `("user",)` is `"user"`."""

# Names that are remembered; building one costs ten times as much as finding it.
_KEPT, _KEPT_OF_TENANT = 4_096, 256

# An escaped part has a percent sign only before 25 or 3A, so that no key can look like one of these.
_TENANT, _TAG, _REFRESH, _CHANNEL = "%T", "%t", "%r", "%c"


class KeySpace:
    """The keys and tags below one namespace, or of one tenant in it; lives as long as its cache.

    Args:
        namespace: What every name begins with. These keys belong to no tenant; `of_tenant` makes a tenant's.
    """

    def __init__(self, namespace: str) -> None:
        self._root = self.prefix = escaped(namespace)
        self._kept = _KEPT
        self.names: dict[Key, str] = {}
        """Names that have been built, by key; bounded. Others may read it, to save a call."""

    @classmethod
    def of_tenant(cls, namespace: str, tenant: str) -> Self:
        """The keys and tags of one tenant.

        Raises:
            MissingTenantError: The tenant is empty, or no text.
        """
        if not is_text(tenant) or not tenant.strip():
            raise MissingTenantError(tenant)
        space = cls(namespace)
        space.prefix = f"{space._root}:{_TENANT}:{escaped(tenant)}"
        space._kept = _KEPT_OF_TENANT
        return space

    def name(self, key: Key) -> str:
        """The name of a key.

        Raises:
            CacheKeyError: The key, or one of its parts, is empty or no text.
        """
        try:
            found = self.names.get(key)
        except TypeError:  # it can't be hashed
            found = None
        return self._built(key) if found is None else found

    def _built(self, key: Key) -> str:
        parts: object = (key,) if is_text(key) else key
        if not isinstance(parts, tuple) or not parts or not all(is_text(part) and part for part in parts):
            raise CacheKeyError(key)
        name = ":".join([self.prefix, *map(escaped, parts)])
        try:
            name.encode()
        except UnicodeEncodeError:  # half a surrogate pair
            raise CacheKeyError(key) from None
        if len(self.names) >= self._kept:
            self.names.clear()
        self.names[key] = name
        return name

    def tag(self, tag: str) -> str:
        """The name under which the version of a tag is kept.

        Raises:
            CacheKeyError: The tag is empty or no text.
        """
        if not is_text(tag) or not tag:
            raise CacheKeyError(tag, what="tag")
        return f"{self.prefix}:{_TAG}:{escaped(tag)}"

    @property
    def channel(self) -> str:
        """Where processes tell one another what has changed; one for all tenants."""
        return f"{self._root}:{_CHANNEL}"


def refresh_name(name: str) -> str:
    """Where the one who refreshes a value says so."""
    return f"{name}:{_REFRESH}"


def is_text(value: object) -> bool:
    """Whether a caller kept to the types; not all of them are checked."""
    return isinstance(value, str)


def escaped(part: str) -> str:
    """A part of a key without colons; different parts stay different."""
    if "%" in part or ":" in part:
        return part.replace("%", "%25").replace(":", "%3A")
    return part
