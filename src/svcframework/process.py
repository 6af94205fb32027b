"""Owning the process: signals in every phase, the exit code, and the last resort when a stop never ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import current_token

from svcframework import _backend
from svcframework.errors import LifecycleError, ServiceFrameworkError, StartupCancelledError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

    from svcframework.host import ServiceHost

_LAST_RESORT = 5.0  # seconds past the stop's own budget before the process is killed from a thread
_HURRY = 1.0  # seconds that a second signal leaves


class Signals:
    """Counts signals from the first line of `run` on, and tells whoever listens. Lives as long as the process is owned.

    Raises:
        LifecycleError: This isn't the main thread, where alone Python takes signals.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._listener: Callable[[int], None] | None = None
        self._wake: Callable[[], None] = lambda: None
        if threading.current_thread() is not threading.main_thread():
            raise LifecycleError("host.run() takes the process's signals: call it in the main thread.")
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) >= 3:  # noqa: PLR2004 - the third one kills
            os._exit(128 + number)
        self._wake()

    def listen(self, listener: Callable[[int], None]) -> None:
        """Call `listener` in the event loop with how many signals there were so far, now and at each further one."""
        token = current_token().native_token

        def wake() -> None:
            _backend.call_soon(token, lambda: listener(len(self.received)))

        self._wake = wake
        if self.received:
            listener(len(self.received))

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        self._wake = lambda: None
        for number, handler in self._before.items():
            signal.signal(number, handler)


def own_process(
    host: ServiceHost,
    main: Callable[[], Awaitable[Any]] | None,
    *,
    backend: str = "asyncio",
    health_port: int | None = None,
) -> int:
    """Start, run and stop a host; returns the process's exit code.

    Args:
        host: The host.
        main: Called once everything runs; None waits for a signal or a failure.
        backend: `asyncio` or `trio`.
        health_port: Where the probes are served; None serves none.
    """
    signals = Signals()
    try:
        return anyio.run(_own, host, main, signals, health_port, backend=backend)
    finally:
        signals.restore()


async def _own(
    host: ServiceHost, main: Callable[[], Awaitable[Any]] | None, signals: Signals, health_port: int | None
) -> int:
    scope = anyio.CancelScope()

    def on_signal(count: int) -> None:
        if count == 1:
            scope.cancel()
        else:
            host.hurry(_HURRY)

    failed: BaseException | None = None
    async with anyio.create_task_group() as tasks:
        signals.listen(on_signal)
        if health_port is not None:
            from svcframework.probes import serve_probes  # noqa: PLC0415 - only when asked for

            await tasks.start(serve_probes, host.health, health_port)
        try:
            with scope:
                await _live(host, main)
        except Exception as error:  # noqa: BLE001 - a boundary: told below, and in the exit code
            failed = error
        with anyio.CancelScope(shield=True):
            failed = await _stop(host, signals) or failed
        tasks.cancel_scope.cancel()
    if failed is not None and not (signals.received and isinstance(failed, StartupCancelledError)):
        _tell(failed)
    if signals.received:
        return 128 + signals.received[0]
    return 0 if failed is None else 1


async def _live(host: ServiceHost, main: Callable[[], Awaitable[Any]] | None) -> None:
    async with host:
        if main is None:
            await host.wait_failed()
        else:
            await main()


async def _stop(host: ServiceHost, signals: Signals) -> BaseException | None:
    """The stop that `async with` began has ended; this one finds what is left, and nothing as a rule."""
    reason = signal.Signals(signals.received[0]).name if signals.received else "the end"
    resort = threading.Timer(host.stop_timeout + _LAST_RESORT, os._exit, (1,))
    resort.daemon = True
    resort.start()
    try:
        await host.stop(reason=reason)
    except LifecycleError as error:
        return error
    finally:
        resort.cancel()
    return None


def _tell(error: BaseException) -> None:
    """Our own errors say what to do; others need their traceback."""
    if isinstance(error, ServiceFrameworkError):
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - the process's last words
    else:
        traceback.print_exception(error)
