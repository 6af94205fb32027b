"""Routing: which host a call is injected from.

All wrappers share one cell. It holds the services of the one host that runs; the router while there are several; and
what sends every call on its slow path while there is none.
"""

from __future__ import annotations

import os
from contextvars import ContextVar
from types import CellType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from svcframework.resolver import Resolver


class NoHost:
    """What wrappers read from while no host runs: nothing is there, so every call takes its slow path."""

    def __getattr__(self, attribute: str) -> Any:
        raise AttributeError(attribute)


class Router:
    """What wrappers read from while several hosts run: the host of this context, else the first one started."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(_current().space, attribute)


CURRENT: ContextVar[Resolver | None] = ContextVar("svcframework.current", default=None)
"""The resolver of the host that this context has entered."""
_RUNNING: list[Resolver] = []
_FALLBACK: list[Callable[[], Resolver | None]] = []
MAIN: Final = CellType(NoHost())
"""What compiled wrappers read from; all of them share the cell."""


def activate(resolver: Resolver) -> None:
    """From now on this host's services are injected: the only one running pays nothing for there being others."""
    _RUNNING[:] = [each for each in _RUNNING if not each.is_forked]
    if resolver not in _RUNNING:
        _RUNNING.append(resolver)
    _point()


def deactivate(resolver: Resolver) -> None:
    """This host's services are injected no longer."""
    if resolver in _RUNNING:
        _RUNNING.remove(resolver)
    _point()


def _in_child() -> None:
    """What runs in the parent process must not be used by its fork."""
    for resolver in _RUNNING:
        resolver.fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def set_fallback(find: Callable[[], Resolver | None]) -> None:
    """Tell who answers while no host runs: the default host, once there is one."""
    _FALLBACK[:] = [find]


def _point() -> None:
    MAIN.cell_contents = _RUNNING[0].space if len(_RUNNING) == 1 else Router() if _RUNNING else NoHost()


def current_resolver() -> Resolver | None:
    """The resolver that a call in this context is injected from; None when there is no host at all."""
    if _RUNNING:
        return _current()
    return _FALLBACK[0]() if _FALLBACK else None


def is_sole(resolver: Resolver) -> bool:
    """Whether this host runs and no other: then it is everybody's, and no context need be told."""
    return MAIN.cell_contents is resolver.space


def _current() -> Resolver:
    mine = CURRENT.get()
    return mine if mine is not None and mine in _RUNNING else _RUNNING[0]
