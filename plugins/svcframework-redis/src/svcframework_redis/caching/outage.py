"""Outage: goes without the store while it is away, and makes up for what it could not be told meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from svcframework.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    DeadlineExceededError,
    ExternalServiceError,
    ServiceTimeoutError,
    ServiceUnavailableError,
)

T = TypeVar("T")

AWAY = (AuthenticationFailedError, ConnectionFailedError, ServiceTimeoutError, ServiceUnavailableError)
"""What a store raises when it can't be had; the last: it has not been started."""

_QUIET = 10.0  # seconds between two reports of refusals
_DEBTS = 10_000  # names that are remembered; past them everything is removed


class Outage:
    """Stands between a cache and its store; lives as long as the cache.

    After a failure the store is left alone for `retry_interval`. What should have been removed meanwhile, or may not
    have been, is removed before anything else is asked of it: no value outlives a removal that a caller was told of.
    A store that refuses a single call, because it is full or the key holds something else, is not away.

    Args:
        degrade: Whether to go without the store; its errors are raised otherwise.
        retry_interval: Seconds without it after it failed.
        clock: Seconds that only grow.
        root: The prefix of all names.
        remove: Removes names from the store, and all below a prefix when it is given.
        on_change: Told the reason when an outage begins, and None when it is over.
        on_refusal: Told of a call that the store refused, now and then.
    """

    def __init__(
        self,
        *,
        degrade: bool,
        retry_interval: float,
        clock: Callable[[], float],
        root: str,
        remove: Callable[[list[str], str | None], Awaitable[Any]],
        on_change: Callable[[str | None], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        self._degrade, self._retry_interval, self._clock = degrade, retry_interval, clock
        self._root, self._remove, self._on_change = root, remove, on_change
        self._on_refusal = on_refusal
        self._until = self._quiet_until = 0.0
        self._owed: dict[str, int] = {}
        self._debts = 0
        self._owed_below: str | None = None
        self._below_debt = 0
        self._paying = False
        self.reason = ""
        """Why the store is away; empty while it isn't."""
        self.skipped = 0
        """Calls that went without it since then."""
        self.refused = 0
        """Calls that it refused."""

    @property
    def owed(self) -> int:
        """Names that are yet to be removed."""
        return len(self._owed)

    def owe(self, *names: str) -> None:
        """Remove names when the store is back."""
        for name in names:
            self._debts += 1
            self._owed[name] = self._debts
        if len(self._owed) > _DEBTS:
            self._owed.clear()
            self.owe_below(self._root)

    def owe_below(self, prefix: str) -> None:
        """Remove all below a prefix when the store is back; of several prefixes it becomes all there is."""
        self._debts += 1
        self._owed_below = prefix if self._owed_below in {None, prefix} else self._root
        self._below_debt = self._debts

    async def call(self, call: Awaitable[T], otherwise: T) -> T:
        """What `call` returns; `otherwise` while the store is away and that is to be borne."""
        if self._clock() < self._until or self._paying:
            self.skipped += 1
            _close(call)
            return otherwise
        begun = False
        try:
            if self._owed or self._owed_below is not None:
                await self._pay()
            begun = True
            result = await call
        except DeadlineExceededError:
            raise  # the caller's time is up, for the source as well
        except AWAY as error:
            if not self._degrade:
                raise
            self._away(error)
            return otherwise
        except ExternalServiceError as error:
            if not self._degrade:
                raise
            if begun:
                self._refused(error)
            else:  # while it can't be told what to remove, nothing that it has is to be believed
                self._away(error)
            return otherwise
        finally:
            if not begun:
                _close(call)
        self.back()
        return result

    def back(self) -> None:
        """The store answers."""
        if self.reason:
            self.reason, self.skipped, self._until = "", 0, 0.0
            self._on_change(None)

    async def make_up(self) -> bool:
        """Remove now what is owed, for a store that answers; whether nothing is owed any more."""
        if self._paying:
            return False
        try:
            if self._owed or self._owed_below is not None:
                await self._pay()
        except (*AWAY, ExternalServiceError) as error:
            self._away(error)
            return False
        self.back()
        return True

    async def _pay(self) -> None:
        names, below, debt = dict(self._owed), self._owed_below, self._below_debt
        self._paying = True
        try:
            await self._remove(list(names), below)
        finally:
            self._paying = False
        for name, number in names.items():
            if self._owed.get(name) == number:  # not owed once more meanwhile
                del self._owed[name]
        if self._below_debt == debt:
            self._owed_below = None

    def _refused(self, error: Exception) -> None:
        self.refused += 1
        if self._clock() >= self._quiet_until:
            self._quiet_until = self._clock() + _QUIET
            self._on_refusal(error)

    def _away(self, error: Exception) -> None:
        self._until = self._clock() + self._retry_interval
        self.skipped += 1
        if not self.reason:
            self.reason = str(error)
            self._on_change(self.reason)


def _close(call: Awaitable[Any]) -> None:
    """Drop a coroutine that was never begun, without the interpreter's warning."""
    close = getattr(call, "close", None)
    if close is not None:
        close()
