"""Runs one service as a host would, without a host: its hooks in one task, each within its time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio.abc import TaskGroup

from svcframework._types import ServiceState
from svcframework.service import BaseService


class DrivenService:
    """One life of a service: `start`, then `stop`. Its hooks run in a task of their own, as under a host.

    So a service may open a cancel scope or task group in `on_startup` and close it in `on_shutdown`.

    Args:
        service: Not running.
        tasks: Where its task lives.
    """

    def __init__(self, service: BaseService[Any], tasks: TaskGroup) -> None:
        self.service = service
        self._start_error: BaseException | None = None
        self._stop_error: BaseException | None = None
        self._started, self._asked, self._stopped = anyio.Event(), anyio.Event(), anyio.Event()
        self._start_scope = anyio.CancelScope()
        tasks.start_soon(self._live)

    async def start(self, within: float | None = None) -> None:
        """Wait until `on_startup` has returned.

        Args:
            within: Seconds; the default is the config's `start_timeout`.

        Raises:
            AssertionError: It took longer.
            BaseException: What `on_startup` raised.
        """
        limit = self.service.config.start_timeout if within is None else within
        with anyio.move_on_after(limit):
            await self._started.wait()
        assert self._started.is_set(), f"on_startup of {self.service!r} took longer than {limit:g} s"  # noqa: S101
        if self._start_error is not None:
            raise self._start_error

    async def stop(self, within: float | None = None) -> None:
        """Have `on_shutdown` called, also in the middle of `on_startup`, and wait for its end.

        Args:
            within: Seconds; the default is the config's `stop_timeout`.

        Raises:
            AssertionError: It took longer.
            BaseException: What `on_shutdown` raised.
        """
        limit = self.service.config.stop_timeout if within is None else within
        self._asked.set()
        if not self._started.is_set():
            self._start_scope.cancel()
        with anyio.move_on_after(limit):
            await self._stopped.wait()
        assert self._stopped.is_set(), f"on_shutdown of {self.service!r} took longer than {limit:g} s"  # noqa: S101
        if self._stop_error is not None:
            raise self._stop_error

    async def _live(self) -> None:
        # Two scopes around it all, so that none is opened between the hooks: one to cancel a start, and one whose
        # shield then lets on_shutdown run undisturbed in the same task.
        with self._start_scope, anyio.CancelScope() as shelter:
            try:
                self.service.state = ServiceState.STARTING
                await self.service.on_startup()
            except BaseException as error:  # noqa: BLE001 - on_shutdown is owed whatever happened
                self._start_error = error
                shelter.shield = True
            self._started.set()
            if self._start_error is None:
                await self._run()
            await self._shut_down()

    async def _run(self) -> None:
        self.service.state = ServiceState.RUNNING
        try:
            async with anyio.create_task_group() as background:
                background.start_soon(self._run_hook)
                await self._asked.wait()
                background.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001 - same
            self._stop_error = error

    async def _run_hook(self) -> None:
        with contextlib.suppress(Exception):  # what a crash means is the host's affair
            await self.service.on_run()

    async def _shut_down(self) -> None:
        self.service.state = ServiceState.STOPPING
        try:
            await self.service.on_shutdown()
        except BaseException as error:  # noqa: BLE001 - told by stop()
            self._stop_error = error
        self.service.state = ServiceState.STOPPED if self._start_error is None else ServiceState.FAILED
        self._stopped.set()


@contextlib.asynccontextmanager
async def driven(service: BaseService[Any]) -> AsyncIterator[DrivenService]:
    """Drive a service for the length of the block; it is stopped at the end, if it has not been before."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        life = DrivenService(service, tasks)
        try:
            yield life
        except Exception as error:  # noqa: BLE001 - raised below, bare and not in the group's wrapping
            failure = error
        try:
            await life.stop()
        except Exception as error:  # noqa: BLE001 - the first failure is the one to tell
            failure = failure or error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def started(service: BaseService[Any]) -> AsyncIterator[DrivenService]:
    """Drive a service that runs in the block.

    Raises:
        BaseException: What its hooks raised.
    """
    async with driven(service) as life:
        await life.start()
        yield life
