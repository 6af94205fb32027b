"""Enduring: the ground of FaultConformance. What a plugin says of its service, and one life with a fault in it."""

# ruff: noqa: S101 - it is part of tests

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from svcframework.errors import ShutdownError
from svcframework.service import BaseService
from svcframework.testing._stage import SLACK, Stage, staged
from svcframework.testing._subject import Subject
from svcframework.testing._trials import (
    FAULTS,
    PROMISES,
    Cell,
    Surroundings,
    Trial,
    disguises,
    journal,
    left_behind,
    record,
)

PATIENCE = 5.0  # seconds in which a call must have ended at the default settings
RECOVERY = 10.0  # seconds in which a service must be well again after a fault
AFTER = 30  # calls at a time once a fault is over
_WATCHED: Mapping[str, Any] = {"health_check_interval": 0.2, "health_check_timeout": 0.3, "stop_timeout": 0.6}
BURST, _WAVES = 40, 2  # calls at a time during a fault, and how often


class Enduring(Subject):
    """A service that has to endure faults; the suites are subclasses."""

    limits: ClassVar[Mapping[str, Any]] = {}
    """Settings that shorten what a call may take, so that a fault costs no 5 s; each below one second."""
    limit: ClassVar[float] = PATIENCE
    """Seconds in which a call must end with these `limits`."""
    degrades: ClassVar[bool] = False
    """Whether a call is answered during a fault as well, by other means; health then says that it is degraded."""
    pool_size: ClassVar[int] = 0
    """How many `slow_call`s at a time leave no connection for a call."""
    log_limit: ClassVar[int] = 40
    """Log lines, of level info and worse, that one fault may cost, however many calls fail."""
    fuzz_calls: ClassVar[int] = 2_000
    """Calls of the cancel fuzz."""
    not_applicable: ClassVar[Mapping[str, str]] = {}
    """Reasons by fault: `disk_full`, `overloaded`, `password_rotated`, `pool_exhausted`, `process_killed`, …; or by
    fault and promise: `pool_exhausted/b`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = sorted({key.partition("/")[0] for key in cls.not_applicable} - FAULTS.keys())
        if unknown:
            raise TypeError(f"{cls.__name__}.not_applicable names no fault: {unknown}; there are {', '.join(FAULTS)}")

    # --- what a plugin says of its service --------------------------------------------------------------

    async def call(self, service: Any, key: str) -> str:
        """A call that every fault must hit, and that gives `key` back from the server: an echo, a stored value."""
        raise NotImplementedError

    def make_services(self, address: str, **settings: Any) -> Sequence[BaseService[Any]]:
        """The service under test, which comes last, and before it those that it needs. None is started."""
        return [self.make_service(address, **settings)]

    async def slow_call(self, service: Any, seconds: float) -> object:
        """A call that holds a connection for so long, and may; for `pool_exhausted`."""
        raise NotImplementedError(_missing("slow_call", "pool_exhausted"))

    async def pooled_call(self, service: Any, key: str) -> str:
        """As `call`, of a kind that has to wait while there are `pool_size` slow ones."""
        return await self.call(service, key)

    async def change(self, service: Any, key: str) -> None:
        """A call that changes something on the server, in several steps that belong together."""
        raise NotImplementedError(_missing("change", "process_killed"))

    async def check_changes(self, service: Any) -> None:
        """Assert that no change is half done, and that none that never ended stands in the way of others."""
        raise NotImplementedError(_missing("check_changes", "process_killed"))

    def rotated_password(self, server: Any) -> AbstractAsyncContextManager[object]:
        """Give the server another password and cut every connection; the old one is back after the block.

        As it is, it takes the `rotated_password()` of the server itself, as those of svcframework-embedded have it.
        """
        if not hasattr(server, "rotated_password"):
            raise NotImplementedError(_missing("rotated_password", "password_rotated"))
        return _threaded(server.rotated_password())

    def server_on(self, folder: Path) -> AbstractContextManager[Any]:
        """A server of its own, as `server` gives it, whose data is in `folder`; for `disk_full`."""
        raise NotImplementedError(_missing("server_on", "disk_full"))

    def overloaded(self) -> AbstractAsyncContextManager[str]:
        """The address of an HTTP server that answers 429 or 503 with Retry-After, once the service has started.

        For `overloaded`. What comes after the `yield` can assert that the server was left alone meanwhile.
        """
        raise NotImplementedError(_missing("overloaded", "overloaded"))

    # --- how it is done ---------------------------------------------------------------------------------

    @property
    def _short(self) -> dict[str, Any]:
        return {**_WATCHED, **self.settings, **self.limits}

    @property
    def _during(self) -> str:
        return "answer" if self.degrades else "fail"

    @contextlib.contextmanager
    def _trial(self, fault: str) -> Iterator[Trial]:
        if fault in self.not_applicable:
            self._skip(fault, self.not_applicable[fault])
        with Trial(self._name, fault) as trial:
            for key, reason in self.not_applicable.items():
                if key.startswith(f"{fault}/"):
                    trial.excuse(key.partition("/")[2], reason)
            yield trial

    @property
    def _name(self) -> str:
        return type(self).__name__.removeprefix("Test").removesuffix("Faults") or self.service.__name__

    def _skip(self, fault: str, reason: str) -> NoReturn:
        record(Cell(self._name, fault, promise, "not applicable", reason) for promise in PROMISES)
        pytest.skip(f"{fault}: {reason}")

    def _server(self, request: pytest.FixtureRequest) -> Any:
        assert self.server is not None, "set `server`"
        return request.getfixturevalue(self.server)

    @contextlib.asynccontextmanager
    async def _staged(
        self, trial: Trial, address: str, call: Callable[[Any, str], Awaitable[str]] | None = None
    ) -> AsyncIterator[Stage]:
        services = self.make_services(address, **self._short)
        about: dict[str, Any] = {
            "call": call or self.call,
            "trial": trial,
            "limit": self.limit,
            "degrades": self.degrades,
        }
        async with staged(services, **about) as stage:
            yield stage
        trial.texts += stage.texts

    @contextlib.asynccontextmanager
    async def _observed(self, trial: Trial, address: str) -> AsyncIterator[None]:
        """Judge what the block leaves behind, what it logs, and whether anything that was said holds the password."""
        before = Surroundings.now()
        with journal() as logged:
            yield
            for what in await left_behind(before):
                trial.broke("d", what)
        for line in logged.stray:
            trial.broke("d", f"an error that nobody looked at: {line}")
        trial.keep("d")
        few = len(logged.lines) <= self.log_limit + trial.more_lines
        trial.expect("f", few, f"{len(logged.lines)} lines: {_most(logged.lines)}")
        password = urlsplit(address).password
        for secret in disguises(password) if password else []:
            found = [text for text in [logged.text, *trial.texts] if secret in text]
            trial.expect("f", not found, f"the password is in {found[:1]}")
        trial.keep("f", f"{len(logged.lines)} lines")

    async def _endure(
        self,
        trial: Trial,
        address: str,
        begin: Callable[[], Awaitable[object]],
        end: Callable[[], Awaitable[object]],
        *,
        call: Callable[[Any, str], Awaitable[str]] | None = None,
        seen: Callable[[Stage], object] = id,
    ) -> None:
        """One life with a fault in it, which comes back before the end, so that the stop falls into it."""
        async with self._staged(trial, address, call) as stage:
            seen(stage)
            assert await stage.await_health(RECOVERY, well=True) is not None, f"never healthy: {stage.health}"
            await stage.ask_many(3, must="answer")
            async with anyio.create_task_group() as tasks:  # calls that are under way when the fault begins
                for _ in range(3):
                    tasks.start_soon(stage.ask)
                await anyio.lowlevel.checkpoint()
                await begin()
                tasks.start_soon(self._watch_turn, stage)
                for _ in range(_WAVES):
                    await stage.ask_many(BURST, must=self._during)
            trial.keep("a", f"{stage.errors or stage.answers} calls, the slowest {seconds_text(stage.slowest)}")
            await end()
            await self._recover(stage)
            await stage.ask_many(AFTER, must="answer")
            trial.keep("c", f"{stage.answers} answers")
            await begin()
            await self._stop(stage)
            await end()

    async def _watch_turn(self, stage: Stage) -> None:
        """Health turns within one interval; the probes see it once a second check has confirmed it."""
        if stage.trial.is_excused("b"):
            return
        config = stage.service.config
        one = config.health_check_interval + config.health_check_timeout
        confirmed = config.health_check_interval / 4 + config.health_check_timeout
        turned = await stage.await_health(one + confirmed + SLACK, well=False)
        stage.trial.expect("b", turned is not None, f"health is still {stage.health}")
        if turned is not None:
            word = "degraded" if self.degrades else "unhealthy"
            is_so = stage.health["status"] == word or not self.degrades
            stage.trial.expect("b", is_so, f"health is {stage.health} and not {word}")
            stage.trial.keep("b", f"turns in {seconds_text(turned)}")

    async def _recover(self, stage: Stage) -> None:
        """It is well again, as probes and callers see it."""
        began = anyio.current_time()
        well = await stage.await_health(RECOVERY, well=True)
        stage.trial.expect("b", well is not None, f"after {RECOVERY:g} s health is still {stage.health}")
        answered = False
        while not answered and anyio.current_time() - began < RECOVERY:
            answered = await stage.ask()
        stage.trial.expect("b", answered, f"after {RECOVERY:g} s calls still fail")
        stage.trial.keep("b", f"recovers in {seconds_text(anyio.current_time() - began)}")

    async def _stop(self, stage: Stage) -> None:
        """Stop it while a call is under way."""
        budget = stage.service.config.stop_timeout
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(stage.ask)
            await anyio.sleep(0.05)
            began = anyio.current_time()
            try:
                await stage.host.stop(timeout=budget + 2 * SLACK)
            except ShutdownError as error:
                stage.trial.broke("e", str(error))
            seconds = anyio.current_time() - began
        stage.trial.expect("e", seconds <= budget + SLACK, f"the stop took {seconds:.1f} s, its budget is {budget:g} s")
        stage.trial.keep("e", seconds_text(seconds))


def _missing(hook: str, fault: str) -> str:
    return f"write {hook}(), or say in not_applicable[{fault!r}] why there is nothing to test"


@contextlib.asynccontextmanager
async def _threaded(manager: AbstractContextManager[object]) -> AsyncIterator[object]:
    """A context manager that blocks, as one that doesn't."""
    value = await anyio.to_thread.run_sync(manager.__enter__)
    try:
        yield value
    finally:
        await anyio.to_thread.run_sync(manager.__exit__, None, None, None)


def seconds_text(amount: float) -> str:
    return f"{amount:.2f} s"


def rounds() -> int:
    """How many times as long as usual a test of chance may take; the environment says so."""
    return int(os.environ.get("SVC_FAULT_ROUNDS", "1"))


def _most(lines: list[str]) -> str:
    """The beginning of some log lines, for a message."""
    return " | ".join(line[:160] for line in lines[:3])
