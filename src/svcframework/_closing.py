"""Closing: generators that were opened for a scope or a call end in reverse order, told the error if there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterable
from types import coroutine
from typing import Any, cast

from svcframework.errors import ScopeError

Exit = tuple[Any, bool]
"""An open generator, and whether it is an async one."""

Exits = tuple[Any, bool, "Exits | None"]
"""What is open in a scope, newest first: generator, whether it is an async one, and what was opened before it."""


def newest_first(exits: Exits | None) -> list[Exit]:
    """What is open, in the order in which it is closed."""
    found: list[Exit] = []
    while exits is not None:
        generator, is_async, exits = exits
        found.append((generator, is_async))
    return found


def _ended() -> Awaitable[None]:
    @coroutine
    def nothing() -> Generator[None, None, None]:
        return
        yield

    ended = nothing()
    next(cast("Generator[None, None, None]", ended), None)
    return ended


NOTHING_TO_AWAIT = _ended()
"""Done already, and to be awaited by anybody, as often as they like.

Only a coroutine can't be awaited again. A generator that has ended can, and CPython awaits it without looking up and
calling an `__await__`, as it would for a class of ours.
"""


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
