"""Virtual time: an event loop's clock that jumps to the next timer, so that tests wait for nothing."""

from __future__ import annotations

import asyncio
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock jumps to the next timer as soon as nothing else is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """Seconds since the loop was made."""
        selector: Any = self._selector  # type: ignore[attr-defined]  # the one place where asyncio waits
        select = selector.select

        def jump(timeout: float | None = None) -> list[Any]:
            found: list[Any] = select(0 if timeout is not None else None)
            self.now += 0.0 if found or timeout is None else timeout
            return found

        selector.select = jump

    def time(self) -> float:
        """Seconds on the loop's own clock."""
        return self.now


def virtual_backend(name: str) -> tuple[str, dict[str, Any]]:
    """What an `anyio_backend` fixture returns for tests in virtual time.

    Args:
        name: `asyncio` or `trio`.
    """
    if name == "trio":
        import trio.testing  # noqa: PLC0415 - optional

        return name, {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return name, {"loop_factory": VirtualLoop}
