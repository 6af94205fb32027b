"""ServiceInitializationMixin: once, shared, and part of the start in any order of bases."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from svcframework.mixins import ServiceInitializationMixin
from svcframework.service import BaseService


class Notes(ServiceInitializationMixin):
    """Notes what happened; `gate` holds the initialization up."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self.notes, self.gate, self.error = [], None, None  # type: ignore[attr-defined]
        return self

    async def on_initialize(self) -> None:
        self.notes.append("initialize")  # type: ignore[attr-defined]
        if self.gate is not None:  # type: ignore[attr-defined]
            await self.gate.wait()  # type: ignore[attr-defined]
        if self.error is not None:  # type: ignore[attr-defined]
            raise self.error  # type: ignore[attr-defined]


class ServiceFirst(BaseService, Notes):  # type: ignore[type-arg,misc]
    async def on_startup(self) -> None:
        self.notes.append("startup")


class MixinFirst(Notes, BaseService):  # type: ignore[type-arg]
    async def on_startup(self) -> None:
        self.notes.append("startup")


class WithSuper(BaseService, Notes):  # type: ignore[type-arg,misc]
    async def on_startup(self) -> None:
        await super().on_startup()
        self.notes.append("startup")


class Inherits(ServiceFirst):
    pass


@pytest.mark.parametrize("kind", [ServiceFirst, MixinFirst, WithSuper, Inherits])
async def test_start_initializes_first_and_stop_forgets(kind: type[Any]) -> None:
    """A start initializes before on_startup, once; after a stop the next start does it again."""
    service = kind()
    assert not service.is_initialized
    await service.on_startup()
    assert service.is_initialized
    assert ["initialize", "startup"] == service.notes
    await service.on_shutdown()
    assert not service.is_initialized
    await service.on_startup()
    assert ["initialize", "startup"] * 2 == service.notes


async def test_initialized_by_hand_is_not_done_again() -> None:
    """initialize() before the start is enough, however often it is called."""
    service = MixinFirst()
    await service.initialize()
    await service.initialize()
    await service.on_startup()
    assert ["initialize", "startup"] == service.notes


async def test_tasks_share_one_initialization() -> None:
    """Tasks that come meanwhile wait for the one that runs."""
    service = MixinFirst()
    service.gate = anyio.Event()
    done: list[bool] = []

    async def ask() -> None:
        await service.initialize()
        done.append(service.is_initialized)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert [] == done
        service.gate.set()
    assert ([True] * 5, ["initialize"]) == (done, service.notes)


async def test_failure_reaches_all_who_wait_and_can_be_repaired() -> None:
    """Everybody gets the error of the one attempt; the next call tries again."""
    service = MixinFirst()
    service.gate, service.error = anyio.Event(), ValueError("broken")
    errors: list[str] = []

    async def ask() -> None:
        try:
            await service.initialize()
        except ValueError as error:
            errors.append(str(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        service.gate.set()
    assert (["broken"] * 3, ["initialize"]) == (errors, service.notes)
    service.error = None
    await service.initialize()
    assert service.is_initialized


async def test_cancelled_leader_hands_over() -> None:
    """If the task that runs it is cancelled, one that waits runs it."""
    service = MixinFirst()
    service.gate = anyio.Event()
    scope = anyio.CancelScope()

    async def lead() -> None:
        with scope:
            await service.initialize()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lead)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(service.initialize)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        service.gate.set()
    assert service.is_initialized
    assert ["initialize", "initialize"] == service.notes
