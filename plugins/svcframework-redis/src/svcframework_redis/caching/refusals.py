"""What the cache refuses: keys, tenants and values that can't be kept rightly."""

from __future__ import annotations

from svcframework.errors import ServiceFrameworkError, type_name


class CacheKeyError(ServiceFrameworkError, ValueError):
    """Something is no key or tag: it is empty, or not text."""

    def __init__(self, key: object, *, what: str = "key") -> None:
        self.key = key
        super().__init__(
            f"{key!a} is no cache {what}: an empty part would let different owners share it. Give a word, or a tuple "
            'of words: ("user", user_id).'
            if what == "key"
            else f"{key!a} is no cache {what}: give a word, such as 'user:42'."
        )


class MissingTenantError(ServiceFrameworkError, ValueError):
    """A tenant's cache was asked for without a tenant."""

    def __init__(self, tenant: object, *, needed_by: str = "for_tenant()") -> None:
        self.tenant = tenant
        super().__init__(f"{needed_by} got {tenant!r} for the tenant: give its id as text, never an empty one.")


class UncacheableArgumentError(ServiceFrameworkError, TypeError):
    """An argument of a cached function can't be part of a key.

    Args:
        function: The function.
        argument: The argument's name.
        value: The argument; only its type is shown.
    """

    def __init__(self, function: str, argument: str, value: object) -> None:
        self.function, self.argument = function, argument
        super().__init__(
            f"{function}(): the argument {argument!r} is a {type_name(type(value))}, of which no key can be made. "
            f'Say what the key is: @cached(key="user:{{user_id}}"), or key=lambda …: (…).'
        )


class UncacheableValueError(ServiceFrameworkError, TypeError):
    """A value can't be written, or a type can't be read.

    Args:
        what: Which value or type.
        reason: What the format says.
    """

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        super().__init__(f"{what} can't be cached: {reason}. Plain values, dataclasses, structs and models can.")


class ValueTooLargeError(ServiceFrameworkError, ValueError):
    """A value is larger than `max_value_bytes`, and was not stored.

    Args:
        size: Its bytes, as written.
        limit: The bytes that are allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(
            f"The value has {size:,} bytes, of which the cache takes {limit:,} at most. Keep less, or raise "
            "cache.max_value_bytes."
        )
