"""Where a host's services are read: as attributes by compiled callers, by name or type by everyone else.

What is special (not built yet, overridden, scoped, unknown) is not there, and asking for it is the resolver's matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svcframework.errors import type_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcframework._signatures import Want
    from svcframework.resolver import Resolver


class Unresolved(AttributeError):  # noqa: N818 - a message to compiled callers, never seen by a user
    """The attribute is not there: take the slow path."""


class Namespace:
    """One host's services as attributes. Compiled callers read it; `__getattr__` is their slow path."""

    def __init__(self, resolver: Resolver) -> None:
        self.__dict__["_resolver"] = resolver

    def __getattr__(self, attribute: str) -> Any:
        return self.__dict__["_resolver"].attribute(attribute)


class Table(dict[Any, Any]):
    """One host's services by name and by type; `__missing__` is the slow path."""

    __slots__ = ("_resolver", "factories")

    def __init__(self, resolver: Resolver) -> None:
        super().__init__()
        self._resolver = resolver
        self.factories: dict[Any, Callable[[], Any]] = {}

    def __missing__(self, key: Any) -> Any:
        factory = self.factories.get(key)
        return self._resolver.lookup(key) if factory is None else factory()


def attribute_of(want: Want) -> str:
    """The namespace's attribute for a wish: the service's own name where that is one."""
    if isinstance(want.key, str) and want.how == "one":
        return want.key if "." not in want.key else want.key.replace(".", "__dot__")
    word = want.key if isinstance(want.key, str) else f"{type_name(want.key)}_{id(want.key):x}"
    return f"_{want.how}_{''.join(letter if letter.isalnum() else '_' for letter in word)}"
