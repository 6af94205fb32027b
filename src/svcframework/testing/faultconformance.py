"""FaultConformance: what a service with a server must stand. A plugin inherits it and says how to call its service.

class TestRedisFaults(FaultConformance):
    service = RedisService
    server = "mortal_server"                       # a fixture with `url` or `dsn`, `kill()` and `restart()`
    limits = {"timeout": 0.4, "connect_timeout": 0.4}
    limit = 0.4

    async def call(self, service, key):
        return (await service.execute("ECHO", key)).decode()
"""

# ruff: noqa: S101 - these are tests: they assert, expected == actual, and are methods

from __future__ import annotations

import contextlib
import functools
import inspect
import secrets
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from svcframework.errors import ServiceFrameworkError
from svcframework.testing._cancelling import Cancelling
from svcframework.testing._driving import driven
from svcframework.testing._enduring import AFTER, BURST, PATIENCE, RECOVERY, rounds, seconds_text
from svcframework.testing._stage import SLACK, Names, Stage, staged
from svcframework.testing._subject import address_of
from svcframework.testing._trials import Trial
from svcframework.testing.disks import small_disk
from svcframework.testing.faults import FaultProxy

__all__ = ["FaultConformance"]

_DEATHS = 20  # times at most that a process of ours is killed
_CUT = 5_000  # bytes of an answer that come through before the connection breaks


class FaultConformance(Cancelling):
    """The faults that every service with a server stands, each on a real server, each judged by six promises.

    Set `service`, `server`, `limits` and `limit`, and write `call`; the other hooks are for faults that need more
    than a network. A hook that can't be written has its reason in `not_applicable`. The promises, and what a run of
    all suites found, are in the docs: `make faults` writes the table.
    """

    # --- the network ------------------------------------------------------------------------------------

    @pytest.mark.parametrize("fault", ["black_hole", "refuse", "reset", "slow"])
    async def test_network_fails(self, server_address: str, fault: str) -> None:
        """While the network fails calls end in time with an error of ours; then all is as before."""
        with self._trial(fault) as trial:
            async with self._observed(trial, server_address), FaultProxy(server_address) as proxy:
                await self._endure(trial, proxy.through(server_address), getattr(proxy, fault), proxy.pass_on)

    async def test_network_cuts_an_answer(self, server_address: str) -> None:
        """An answer that breaks off is an error, never a shorter answer."""
        with self._trial("reset_in_answer") as trial:
            trial.more_lines = self.log_limit // 2  # for a second life
            async with self._observed(trial, server_address), FaultProxy(server_address) as proxy:
                address = proxy.through(server_address)
                async with self._staged(trial, address) as stage:
                    await stage.ask_many(3, must="answer")
                    await proxy.reset_after(_CUT)
                    await stage.ask("x" * (20 * _CUT), must="" if self.degrades else "fail")
                    await proxy.pass_on()
                await self._endure(trial, address, functools.partial(proxy.reset_after, 1), proxy.pass_on)

    async def test_network_stops_answering(self, server_address: str) -> None:
        """Questions arrive and answers don't: half of a connection is dead, and nobody is told."""
        with self._trial("half_open") as trial:
            async with self._observed(trial, server_address), FaultProxy(server_address) as proxy:
                await self._endure(trial, proxy.through(server_address), proxy.half_open, proxy.pass_on)

    @pytest.mark.parametrize("fault", ["dns_failure", "dns_silent"])
    async def test_name_does_not_resolve(self, server_address: str, fault: str) -> None:
        """A host name that the DNS no longer knows, or can't tell about, is found again when it is back."""
        with self._trial(fault) as trial:
            names = Names(is_silent=fault == "dns_silent")
            async with self._observed(trial, server_address), FaultProxy(server_address) as proxy:
                address = names.in_address(proxy.through(server_address))
                if fault == "dns_failure":
                    await self._refused(trial, address)  # the real resolver says so, which needn't ask anybody

                async def strike_out() -> None:
                    names.strike_out()
                    await proxy.drop_connections()

                async def put_back() -> None:
                    names.put_back()

                with names.known():
                    await self._endure(trial, address, strike_out, put_back)

    async def test_black_hole_at_the_default_limits(self, server_address: str) -> None:
        """Without a setting a call ends within 5 s."""
        with self._trial("black_hole_defaults") as trial:
            trial.excuse("bcdef", "judged with short limits, in the line above")
            async with FaultProxy(server_address) as proxy:
                services = self.make_services(proxy.through(server_address))
                async with staged(services, call=self.call, trial=trial, limit=PATIENCE) as stage:
                    await stage.ask_many(3, must="answer")
                    await proxy.black_hole()
                    await stage.ask_many(3, must=self._during)
                    await proxy.pass_on()
            trial.keep("a", seconds_text(stage.slowest))

    # --- the server -------------------------------------------------------------------------------------

    async def test_server_is_killed_and_restarted(self, request: pytest.FixtureRequest) -> None:
        """After kill -9 calls fail at once; once the server is back they work, without a restart of ours."""
        with self._trial("server_killed") as trial:
            server = self._server(request)
            address = address_of(server, str(self.server))
            async with self._observed(trial, address):
                try:
                    await self._endure(trial, address, _waited(server.kill), _waited(server.restart))
                finally:
                    if not server.is_alive:
                        await _waited(server.restart)()

    async def test_credentials_are_wrong(self, server_address: str) -> None:
        """A refused password fails the start in time, and is shown nowhere."""
        with self._trial("wrong_password") as trial:
            trial.excuse("bc", "it never ran")
            canary = f"canary{secrets.token_hex(12)}"
            address = self.without_credentials(server_address, canary)
            async with self._observed(trial, address):
                began = anyio.current_time()
                await self._refused(trial, address)
                seconds = anyio.current_time() - began
                trial.expect("a", seconds <= self.limit + SLACK, f"the start took {seconds:.1f} s")
                trial.keep("a", seconds_text(seconds))
                trial.keep("e", "after a failed start")

    async def _refused(self, trial: Trial, address: str) -> None:
        async with contextlib.AsyncExitStack() as lives:
            for service in self.make_services(address, **self._short):
                life = await lives.enter_async_context(driven(service))
                try:
                    await life.start(within=self.limit + SLACK)
                except ServiceFrameworkError as error:
                    trial.texts += [str(error), repr(error), str(error.__cause__)]
                    return
                except Exception as error:  # noqa: BLE001 - that is what is looked for
                    trial.broke("a", f"the start raised {type(error).__qualname__}: {error}")
                    return
            trial.expect("a", self.degrades, "it started with a wrong password")

    async def test_password_is_rotated(self, request: pytest.FixtureRequest) -> None:
        """A password that the server no longer takes is an error of ours; when it does again all is well."""
        with self._trial("password_rotated") as trial:
            server = self._server(request)
            address = address_of(server, str(self.server))
            async with self._observed(trial, address), contextlib.AsyncExitStack() as rotation:

                async def rotate() -> None:
                    await rotation.enter_async_context(self.rotated_password(server))

                await self._endure(trial, address, rotate, rotation.aclose)

    async def test_pool_is_exhausted(self, server_address: str) -> None:
        """A call that gets no connection says so in time; when others have given theirs back, all is well."""
        with self._trial("pool_exhausted") as trial:
            async with self._observed(trial, server_address), anyio.create_task_group() as holding:
                scopes: list[anyio.CancelScope] = []
                stages: list[Stage] = []

                async def hold() -> None:
                    with anyio.CancelScope() as scope:
                        scopes.append(scope)
                        await self._keep_busy(stages[0])

                async def exhaust() -> None:
                    for _ in range(self.pool_size):
                        holding.start_soon(hold)
                    await anyio.sleep(0.1)

                async def let_go() -> None:
                    while scopes:
                        scopes.pop().cancel()

                await self._endure(trial, server_address, exhaust, let_go, call=self.pooled_call, seen=stages.append)
                await let_go()

    async def _keep_busy(self, stage: Stage) -> None:
        while stage.service.state.is_running:
            with contextlib.suppress(ServiceFrameworkError):
                await self.slow_call(stage.service, 60.0)
            await anyio.lowlevel.checkpoint()

    async def test_disk_is_full(self) -> None:
        """A change that finds no room is an error of ours, and works again once there is room."""
        with self._trial("disk_full") as trial, self._small_disk() as folder:
            trial.excuse("be", "the server still answers")
            with self.server_on(folder) as server:
                address = address_of(server, "server_on")
                async with self._observed(trial, address), self._staged(trial, address) as stage:
                    await self.change(stage.service, "before")
                    ballast = folder / "ballast"
                    await anyio.to_thread.run_sync(_fill, ballast)
                    failed = await self._change_until(stage, fails=True)
                    trial.expect("a", failed is not None, "no change failed on a full disk")
                    await anyio.to_thread.run_sync(ballast.unlink)
                    recovered = await self._change_until(stage, fails=False)
                    trial.expect("a", recovered is not None, "changes fail though there is room again")
                    await stage.ask_many(AFTER, must="answer")
                    await self.check_changes(stage.service)
                    trial.keep("a", f"well again after {seconds_text(recovered or 0.0)}")
                    trial.keep("c", f"{stage.answers} answers")

    @contextlib.contextmanager
    def _small_disk(self) -> Iterator[Path]:
        with contextlib.ExitStack() as stack:
            try:
                disk = stack.enter_context(small_disk())
            except PermissionError as error:
                self._skip("disk_full", str(error))
            yield disk

    async def _change_until(self, stage: Stage, *, fails: bool) -> float | None:
        """Change things until one change fails, or works; the seconds that took, None if it took too long."""
        began = anyio.current_time()
        while anyio.current_time() - began < RECOVERY:
            try:
                await self.change(stage.service, secrets.token_hex(20_000))
                has_failed = False
            except ServiceFrameworkError as error:
                stage.texts += [str(error), repr(error)]
                has_failed = True
            if has_failed is fails:
                return anyio.current_time() - began
            await anyio.sleep(0.01)
        return None

    async def test_server_is_overloaded(self) -> None:
        """A server that asks to be left alone is left alone for as long as it says."""
        with self._trial("overloaded") as trial:
            async with self.overloaded() as address, self._observed(trial, address):
                trial.excuse("b", "the server answers, and says when it will do more")
                async with self._staged(trial, address) as stage:
                    await stage.ask_many(BURST, must="fail")
                trial.keep("a", f"{stage.errors} calls, the slowest {seconds_text(stage.slowest)}")
                trial.keep("c", "no answers")
                trial.keep("e", "")

    # --- ourselves --------------------------------------------------------------------------------------

    async def test_our_process_is_killed(self, request: pytest.FixtureRequest, server_address: str) -> None:
        """Whenever a process dies at work, no change is half done, and the server serves the others."""
        with self._trial("process_killed") as trial:
            trial.excuse("be", "the server is well, and who was killed stops nothing")
            if sys.platform == "win32":
                self._skip("process_killed", "there is no fork and no SIGKILL here")
            async with self._observed(trial, server_address), self._staged(trial, server_address) as stage:
                await self.change(stage.service, "before")
                program = [sys.executable, "-m", "svcframework.testing._victim", str(request.path)]
                deaths = min(6 * rounds(), _DEATHS)
                done = await anyio.run_process(
                    [*program, type(self).__qualname__, str(deaths)],
                    input=server_address.encode(),
                    stderr=subprocess.STDOUT,
                    check=False,
                )
                assert str(deaths) == done.stdout.decode(), "a child did not work until it was killed"
                await self.change(stage.service, "after")
                await self.check_changes(stage.service)
                await stage.ask_many(AFTER, must="answer")
                trial.keep("a", f"{stage.answers} calls of others")
                trial.keep("c", f"{deaths} deaths, no change half done")


def _waited(function: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    """A function that may block, as one that doesn't."""
    if inspect.iscoroutinefunction(function):
        return function
    return functools.partial(anyio.to_thread.run_sync, function)


def _fill(ballast: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(65_536)):
            pass
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(bytes(512)):
            pass
