"""Closing: generators that were opened for a scope or a call end in reverse order, told the error if there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Any, cast

from svcframework.errors import ScopeError

Exit = tuple[Any, bool]
"""An open generator, and whether it is an async one."""


class _NothingToAwait(tuple[()]):
    """An awaitable that is done, without a coroutine: a tuple's iterator ends at once."""

    __slots__ = ()
    __await__ = tuple.__iter__


NOTHING_TO_AWAIT = cast("Awaitable[None]", _NothingToAwait())


async def unwind(exits: Iterable[Exit], error: BaseException | None, *failed: BaseException) -> bool:
    """Close generators in the given order, throwing the error into each; True when one of them swallowed it.

    Raises:
        BaseExceptionGroup: Closing itself failed; every generator was closed all the same.
    """
    failures = list(failed)
    current = error
    for generator, is_async in exits:
        if generator is None:
            continue
        try:
            if current is None:
                await _finish(generator) if is_async else _finish_now(generator)
            elif is_async:
                await generator.athrow(current)
                await generator.aclose()
            else:
                generator.throw(current)
                generator.close()
        except (StopIteration, StopAsyncIteration):
            current = None
        except BaseException as raised:  # noqa: BLE001 - the rest must be closed too; nothing is lost
            if raised is not current:
                failures.append(raised)
    return _outcome(error, current, failures)


def unwind_now(exits: Iterable[Exit], error: BaseException | None) -> bool:
    """`unwind` for generators that need not be awaited."""
    failures: list[BaseException] = []
    current = error
    for generator, _ in exits:
        if generator is None:
            continue
        try:
            if current is None:
                _finish_now(generator)
            else:
                generator.throw(current)
                generator.close()
        except StopIteration:
            current = None
        except BaseException as raised:  # noqa: BLE001 - as above
            if raised is not current:
                failures.append(raised)
    return _outcome(error, current, failures)


def _outcome(error: BaseException | None, current: BaseException | None, failures: list[BaseException]) -> bool:
    if len(failures) == 1 and error is None:
        raise failures[0]
    if failures:
        raise BaseExceptionGroup("closing a scope failed", failures) from error
    return error is not None and current is None


def did_not_start(generator: Any) -> None:
    """A factory that yields nothing."""
    name = getattr(generator, "__qualname__", "a generator factory")
    raise ScopeError(f"{name} ended without a value: a factory yields one value, then closes it.")


async def _finish(generator: Any) -> None:
    async for _ in generator:
        await generator.aclose()
        did_not_stop(generator)


def _finish_now(generator: Any) -> None:
    for _ in generator:
        generator.close()
        did_not_stop(generator)


def did_not_stop(generator: Any = None) -> None:
    """A factory that yields twice."""
    name = getattr(generator, "__qualname__", "a generator factory")
    raise ScopeError(f"{name} yielded more than once: a factory yields one value, then closes it.")
