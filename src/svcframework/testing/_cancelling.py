"""Cancelling: the part of FaultConformance in which callers give up, at each step and by the thousand."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Iterator

import anyio
import anyio.lowlevel

from svcframework.testing._driving import driven
from svcframework.testing._enduring import AFTER, RECOVERY, Enduring, rounds
from svcframework.testing._stage import SLACK, Stage
from svcframework.testing._stepping import cancelled_after_turns, cancelled_at_wait
from svcframework.testing.faults import FaultProxy

_FURTHEST = 3_000  # steps after which a call that has not ended is not cancelled later any more
_LONGEST = 2.0  # seconds after which the steps of a slow call come further and further apart
_LONGER = 4  # times at most that a long test takes so long
_LINES_PER_FAULT = 4  # log lines: a connection is lost, health turns, both come back

_CANCELLATIONS = (
    cancelled_after_turns,
    functools.partial(cancelled_at_wait, moment="waiting"),
    functools.partial(cancelled_at_wait, moment="answered"),
)


class Cancelling(Enduring):
    """What cancelled calls must not do to others."""

    async def test_call_is_cancelled_at_each_await(self, server_address: str) -> None:
        """Wherever a call is cancelled, the next one gets its own answer, and nothing stays behind."""
        self._need_asyncio("cancelled")
        with self._trial("cancelled") as trial:
            trial.excuse("ab", "the caller itself gave up, and nothing is wrong with the server")
            async with (
                self._observed(trial, server_address),
                FaultProxy(server_address) as proxy,
                self._staged(trial, proxy.through(server_address)) as stage,
            ):
                await stage.ask_many(3, must="answer")
                steps = await self._cancel_everywhere(stage, proxy)
                await stage.ask_many(AFTER, must="answer")
                trial.keep("c", f"{steps} steps, {stage.answers} answers")
                trial.keep("e")

    async def _cancel_everywhere(self, stage: Stage, proxy: FaultProxy) -> int:
        """Cancel a call on an open connection, and one that must connect first; how often that was."""
        steps = 0
        for is_cold in (False, True):
            for cancelled in _CANCELLATIONS:
                for step in _steps():
                    if is_cold:
                        await proxy.drop_connections()
                        stage.trial.more_lines += _LINES_PER_FAULT
                    reached, _ = await cancelled(stage.ask, step)
                    await stage.ask(must="answer")
                    steps += 1
                    if not reached:
                        break
        return steps

    async def test_start_is_cancelled_at_each_await(self, server_address: str) -> None:
        """Wherever a start is cancelled, the stop that follows closes everything."""
        self._need_asyncio("start_cancelled")
        with self._trial("start_cancelled") as trial:
            trial.excuse("abc", "the caller itself gave up, and nothing is wrong with the server")
            async with self._observed(trial, server_address), FaultProxy(server_address) as proxy:
                *needed, service = self.make_services(proxy.through(server_address), **self._short)
                steps = 0
                async with contextlib.AsyncExitStack() as lives:
                    for other in needed:
                        await (await lives.enter_async_context(driven(other))).start()
                    for cancelled in _CANCELLATIONS:
                        for step in _steps():
                            reached, _ = await cancelled(service.on_startup, step)
                            with anyio.move_on_after(service.config.stop_timeout + SLACK) as limit:
                                await service.on_shutdown()
                            trial.expect("e", not limit.cancelled_caught, f"the stop hangs after step {step}")
                            steps += 1
                            if not reached:
                                break
                with anyio.move_on_after(RECOVERY):
                    while proxy.connections:  # noqa: ASYNC110 - the proxy tells nobody
                        await anyio.sleep(0.01)
                trial.expect("d", not proxy.connections, f"{proxy.connections} connections are still open")
                trial.keep("e", f"{steps} steps")

    async def test_cancelled_calls_mix_up_no_answers(self, server_address: str) -> None:
        """After thousands of interleaved calls, cancelled anywhere, each answer was that of its own question."""
        with self._trial("cancel_fuzz") as trial:
            trial.excuse("abe", "the callers themselves gave up, and nothing is wrong with the server")
            trial.more_lines = self.log_limit * rounds()  # it is long, and health may turn back and forth
            async with self._observed(trial, server_address), self._staged(trial, server_address) as stage:
                cancelled = await self._fuzz(stage, rounds() * self.fuzz_calls)
                await stage.ask_many(AFTER, must="answer")
                trial.expect("c", cancelled > 0, "no call was cancelled")
                trial.keep("c", f"{stage.answers:,} answers, {cancelled:,} calls cancelled")

    async def _fuzz(self, stage: Stage, calls: int) -> int:
        chance = random.Random(7)  # noqa: S311 - moments, not secrets
        begun = cancelled = 0

        async def caller() -> None:
            nonlocal begun, cancelled
            while begun < calls:
                begun += 1
                with anyio.CancelScope() as scope:
                    if chance.random() < 0.4:  # noqa: PLR2004 - most calls live
                        turns.start_soon(cancel, scope, chance.randrange(12))
                    await stage.ask()
                cancelled += scope.cancelled_caught

        async def cancel(scope: anyio.CancelScope, after: int) -> None:
            for _ in range(after):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as turns, anyio.create_task_group() as callers:
            for _ in range(16):
                callers.start_soon(caller)
        return cancelled

    def _need_asyncio(self, fault: str) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._skip(fault, "the steps are counted on asyncio")


def _steps() -> Iterator[int]:
    """Every step of a call, from the first; of a call with very many, or slow ones, only some of the later ones."""
    step, began = 0, time.monotonic()
    while step < _FURTHEST:
        is_late = time.monotonic() - began > _LONGEST * min(rounds(), _LONGER)
        step += 1 + step // (2 if is_late else 50)
        yield step
