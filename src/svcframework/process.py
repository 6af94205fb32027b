"""Owning the process: signals in every phase, the exit code, and the last resort when a stop never ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Self

import anyio
from anyio.lowlevel import current_token

from svcframework import _backend
from svcframework._secrettext import redact_text
from svcframework.errors import LifecycleError, ServiceFrameworkError, StartupCancelledError
from svcframework.events import Event, HostStopped, HostStopping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType, TracebackType

    from anyio.abc import TaskGroup

    from svcframework.host import ServiceHost

_HURRY = 1.0  # seconds that a second signal leaves
_MAIN_GRACE = 5.0  # seconds that `main` has to end once it is cancelled; then the services stop under it
_LAST_RESORT = 5.0  # seconds past all budgets before the process is killed from a thread
_GLANCE = 0.1  # seconds between two looks at the clock while that thread waits


class Signals:
    """Takes SIGINT and SIGTERM for the length of a block and counts them.

    Args:
        on_signal: Called at each signal, in the main thread between any two steps of its code.

    Raises:
        LifecycleError: This isn't the main thread, where alone Python takes signals.
    """

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self.received: list[int] = []
        self._on_signal = on_signal
        self._wake: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise LifecycleError("host.run() takes the process's signals: call it in the main thread.")
        self._before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._wake = lambda: None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def exit_code(self) -> int | None:
        """143 after SIGTERM, 130 after SIGINT: that of the first one; None without any."""
        return 128 + self.received[0] if self.received else None

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) >= 3:  # noqa: PLR2004 - the third one kills
            os._exit(128 + self.received[0])
        self._on_signal(len(self.received))
        self._wake()

    def listen(self, listener: Callable[[int], None]) -> None:
        """Call `listener` in the event loop with how many signals there were so far, now and at each further one."""
        token = current_token().native_token

        def wake() -> None:
            _backend.call_soon(token, lambda: listener(len(self.received)))

        self._wake = wake
        if self.received:
            listener(len(self.received))


class LastResort:
    """Kills the process from a thread when its end takes longer than all budgets together; lives as long as a block.

    Args:
        budget: Seconds from the beginning of the end.
        exit_code: The code to exit with; None while nobody has asked for the end from outside.
    """

    def __init__(self, budget: float, exit_code: Callable[[], int | None]) -> None:
        self._budget, self._exit_code = budget, exit_code
        self._end: float | None = None
        self._armed, self._over = threading.Lock(), threading.Lock()  # bare locks: a signal handler may release them
        self._armed.acquire()
        self._over.acquire()
        self._thread = threading.Thread(target=self._watch, name="svcframework last resort", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.arm(_LAST_RESORT)
        if self._may_linger():
            return  # it stays until the process has ended
        self._over.release()
        self._thread.join()

    def arm(self, budget: float | None = None) -> None:
        """The end has begun; or it has to be sooner, in `budget` seconds."""
        end = time.monotonic() + (self._budget if budget is None else budget)
        self._end = end if self._end is None else min(self._end, end)
        with contextlib.suppress(RuntimeError):  # it is released already
            self._armed.release()

    def disarm(self) -> None:
        """It was no end after all: the services may be started again."""
        self._end = float("inf") if self._end is not None else None

    def _watch(self) -> None:
        self._armed.acquire()
        while not self._over.acquire(timeout=_GLANCE):
            if self._end is not None and time.monotonic() > self._end:
                print("svcframework: the end takes too long, the process is killed. Where it is:", file=sys.stderr)  # noqa: T201 - last words
                faulthandler.dump_traceback(all_threads=True)
                os._exit(self._exit_code() or 1)

    def _may_linger(self) -> bool:
        """Somebody's thread may keep a process from ending that was told to end."""
        mine = {threading.main_thread(), self._thread}
        others = any(not thread.daemon for thread in threading.enumerate() if thread not in mine)
        return others and self._exit_code() is not None


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
        backend: `asyncio`, `uvloop` or `trio`.
        health_port: Where the probes are served; None serves none.
    """
    resort = LastResort(host.drain_delay + _MAIN_GRACE + host.stop_timeout + _LAST_RESORT, lambda: signals.exit_code)

    def on_signal(count: int) -> None:
        resort.arm(None if count == 1 else _HURRY + _LAST_RESORT)

    signals = Signals(on_signal)

    async def own() -> int:
        return await _Owner(host, main, signals, resort).own(health_port)

    options = {"use_uvloop": True} if backend == "uvloop" else {}
    with resort, signals:
        return anyio.run(own, backend="asyncio" if backend == "uvloop" else backend, backend_options=options)


class _Owner:
    """One life of the process, in the event loop."""

    def __init__(
        self, host: ServiceHost, main: Callable[[], Awaitable[Any]] | None, signals: Signals, resort: LastResort
    ) -> None:
        self._host, self._main, self._signals, self._resort = host, main, signals, resort
        self._scope = anyio.CancelScope()

    async def own(self, health_port: int | None) -> int:
        """Live until `main` has ended, a service failed for good or a signal came; the exit code."""
        failed: BaseException | None = None
        forget = self._host.subscribe(self._note)
        async with anyio.create_task_group() as tasks:
            self._signals.listen(lambda count: self._on_signal(count, tasks))
            try:
                with self._scope:
                    if health_port is not None:
                        from svcframework.probes import serve_probes  # noqa: PLC0415 - only when asked for

                        await tasks.start(serve_probes, self._host.health, health_port)
                    await self._live()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a boundary: told below, and in the exit code
                failed = error
            self._resort.arm(_LAST_RESORT)
            tasks.cancel_scope.cancel()
        forget()
        return self._exit_code(failed)

    async def _live(self) -> None:
        async with self._host:
            if self._main is None:
                await self._host.wait_failed()
            else:
                await self._main()

    def _note(self, event: Event) -> None:
        if isinstance(event, HostStopping):
            self._resort.arm()
        elif isinstance(event, HostStopped) and not self._signals.received:
            self._resort.disarm()

    def _on_signal(self, count: int, tasks: TaskGroup) -> None:
        if not self._scope.cancel_called:
            self._host.stop_reason = signal.Signals(self._signals.received[0]).name
            self._scope.cancel()
            tasks.start_soon(self._stop_under_main)
        if count > 1:
            self._host.hurry(_HURRY)

    async def _stop_under_main(self) -> None:
        """A `main` that won't be cancelled doesn't keep the services from being stopped."""
        await anyio.sleep(_MAIN_GRACE)
        if self._host.is_running and self._host.health.phase == "started":
            try:
                await self._host.stop(reason=signal.Signals(self._signals.received[0]).name)
            except LifecycleError as error:
                _tell(error)
            self._resort.arm(_LAST_RESORT)

    def _exit_code(self, failed: BaseException | None) -> int:
        code = self._signals.exit_code
        if isinstance(failed, SystemExit):
            if isinstance(failed.code, str):
                print(failed.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
            asked = failed.code if isinstance(failed.code, int) else int(failed.code is not None)
            return asked if code is None else code
        if failed is not None and not (code is not None and isinstance(failed, StartupCancelledError)):
            _tell(failed)
        return (0 if failed is None else 1) if code is None else code


def _tell(error: BaseException) -> None:
    """Our own errors say what to do; others need their traceback."""
    if isinstance(error, ServiceFrameworkError):
        words = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
        print(words, file=sys.stderr)  # noqa: T201 - the process's last words
    else:
        print(redact_text("".join(traceback.format_exception(error))), end="", file=sys.stderr)  # noqa: T201 - likewise
