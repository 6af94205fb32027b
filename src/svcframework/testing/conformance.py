"""ServiceConformance: what every plugin's service must pass. A plugin inherits it and adds tests of its own.

class TestRedisConformance(ServiceConformance):
    service = RedisService
    server = "valkey_server"                       # the name of a fixture with a `url` or `dsn`
"""

# ruff: noqa: S101, SIM300, ASYNC110 - these are tests: they assert, expected == actual, and wait for other processes

from __future__ import annotations

import gc
import importlib
import importlib.resources
import inspect
import logging
import os
import secrets
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from pydantic import SecretStr

from svcframework._types import HealthResult
from svcframework.config import SecretUrl, ServiceConfig, describe_config
from svcframework.errors import ServiceFrameworkError
from svcframework.service import BaseService
from svcframework.testing._driving import driven, started
from svcframework.testing._sideeffects import side_effects
from svcframework.testing._subject import ADDRESS_SETTINGS, FunctionT, Subject, deviates
from svcframework.testing.faults import FaultProxy

__all__ = ["ServiceConformance", "deviates"]

PATIENCE = 5.0  # seconds in which a service must say that its server can't be reached
RECOVERY = 10.0  # seconds in which health must turn after a fault has ended
_SLACK = 0.5  # seconds a busy machine may add


def _with_server(function: FunctionT) -> FunctionT:
    """A test that is only there for a service with a server."""
    function.__needs_server__ = True  # type: ignore[attr-defined]  # read below
    return function


class ServiceConformance(Subject):
    """The tests that every service of every plugin passes, on each event loop it supports.

    Set `service`, and `server` when the service talks to one; override `make_service` when it needs more. A test
    may be replaced only with `@deviates("reason")`. A plugin that runs on asyncio only overrides pytest's
    `anyio_backend` fixture, as for any other test.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in vars(ServiceConformance).items():
            if hasattr(test, "__needs_server__") and name not in vars(cls):
                setattr(cls, name, test if cls.server is not None else None)  # None: pytest doesn't see it

    # --- life -------------------------------------------------------------------------------------------

    def test_constructor_does_no_io(self, address: str | None) -> None:
        """Making a service writes no file and opens no socket and no process."""
        with side_effects() as found:
            self.make_service(address)
        assert [] == found

    async def test_starts_and_stops(self, address: str | None) -> None:
        """It starts and stops within the times of its own config."""
        async with started(self.make_service(address)) as life:
            await life.stop()

    async def test_starts_again_after_a_stop(self, address: str | None) -> None:
        """The same instance can be started again, and works."""
        service = self.make_service(address)
        for _ in range(2):
            async with started(service):
                assert await service.health_check()

    async def test_stop_without_a_start_is_harmless(self, address: str | None) -> None:
        """`on_shutdown` undoes whatever there is, which may be nothing; also twice."""
        service = self.make_service(address)
        await service.on_shutdown()
        await service.on_shutdown()

    async def test_leaves_nothing_open(self, address: str | None) -> None:
        """After a stop there are no more file descriptors and children than before the start."""
        if sys.platform == "win32":
            pytest.skip("descriptors can't be counted here")
        service = self.make_service(address)
        async with started(service):  # a first life warms up what is made once: threads, caches
            await service.health_check()
        before = _open_descriptors()
        async with started(service):
            await service.health_check()
        with anyio.move_on_after(PATIENCE):
            while _open_descriptors() > before:  # the kernel and the loop close some in their next turns
                await anyio.sleep(0.01)
        assert _open_descriptors() <= before

    # --- health -----------------------------------------------------------------------------------------

    async def test_is_healthy_while_it_runs(self, address: str | None) -> None:
        """The health check answers with a healthy HealthResult, within its own timeout."""
        service = self.make_service(address)
        async with started(service):
            result = await _checked(service)
            assert isinstance(result, HealthResult)
            assert result, f"unhealthy: {result}"

    async def test_is_not_healthy_unless_it_runs(self, address: str | None) -> None:
        """Before the start and after the stop the health check says so, and raises nothing."""
        service = self.make_service(address)
        assert not await service.health_check()
        async with started(service):
            pass
        assert not await service.health_check()

    @_with_server
    async def test_health_turns_when_the_server_is_silent_and_recovers(self, server_address: str) -> None:
        """A black hole is found within the check's timeout; afterwards the service recovers without a restart."""
        async with FaultProxy(server_address) as proxy:
            service = self.make_service(proxy.through(server_address))
            async with started(service):
                assert await service.health_check()
                await proxy.black_hole()
                assert not await _checked(service)
                await proxy.pass_on()
                with anyio.fail_after(RECOVERY):
                    while not await service.health_check():
                        await anyio.sleep(0.05)

    @_with_server
    async def test_recovers_after_a_reset(self, server_address: str) -> None:
        """Broken connections are replaced: the service is healthy again without a restart."""
        async with FaultProxy(server_address) as proxy:
            service = self.make_service(proxy.through(server_address))
            async with started(service):
                assert await service.health_check()
                await proxy.drop_connections()
                with anyio.fail_after(RECOVERY):
                    while not await service.health_check():
                        await anyio.sleep(0.05)

    # --- faults -----------------------------------------------------------------------------------------

    @_with_server
    @pytest.mark.parametrize("fault", ["black_hole", "refuse", "reset"])
    async def test_start_fails_in_time_when_the_server_cannot_be_reached(self, server_address: str, fault: str) -> None:
        """A typed error within 5 s, and a stop that cleans up after it."""
        async with FaultProxy(server_address) as proxy:
            await getattr(proxy, fault)()
            async with driven(self.make_service(proxy.through(server_address))) as life:
                with pytest.raises(ServiceFrameworkError):
                    await life.start(within=PATIENCE + _SLACK)

    @_with_server
    async def test_start_can_be_cancelled(self, server_address: str) -> None:
        """A start that hangs is given up at once when it is asked to stop."""
        async with FaultProxy(server_address) as proxy:
            await proxy.black_hole()
            service = self.make_service(proxy.through(server_address))
            async with driven(service) as life:
                with anyio.fail_after(PATIENCE):
                    while not proxy.accepted:
                        await anyio.sleep(0.005)
                await life.stop()

    @_with_server
    @pytest.mark.parametrize("fault", ["black_hole", "refuse", "reset"])
    async def test_stop_during_a_fault_stays_in_budget(self, server_address: str, fault: str) -> None:
        """The stop ends within the config's `stop_timeout` though the server doesn't cooperate."""
        async with (
            FaultProxy(server_address) as proxy,
            started(self.make_service(proxy.through(server_address))) as life,
        ):
            await getattr(proxy, fault)()
            await life.stop()

    # --- secrets ----------------------------------------------------------------------------------------

    def test_secrets_do_not_print(self, address: str | None) -> None:
        """No text of the service or its config shows a secret setting."""
        canary = _canary()
        service = self.make_service(address, **self._secret_settings(canary, address))
        shown = [repr(service), str(service), repr(service.config), str(service.config)]
        assert [] == [text for text in shown if canary in text]

    @_with_server
    async def test_secrets_stay_out_of_errors_and_logs(
        self, server_address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A failed start and an unhealthy check show no password: not in the traceback, the log or the output."""
        canary = _canary()
        caplog.set_level(logging.DEBUG)
        async with FaultProxy(server_address) as proxy:
            await proxy.reset()
            service = self.make_service(self.without_credentials(proxy.through(server_address), canary))
            async with driven(service) as life:
                with pytest.raises(ServiceFrameworkError) as caught:
                    await life.start(within=PATIENCE + _SLACK)
                health = await service.health_check()
        shown = [*traceback.format_exception(caught.value), str(health), repr(health), caplog.text, *capfd.readouterr()]
        assert [] == [text for text in shown if canary in text]

    # --- the distribution -------------------------------------------------------------------------------

    def test_settings_are_described(self) -> None:
        """Every setting has a description, and no default needs the environment."""
        model = self.service.config_type
        assert issubclass(model, ServiceConfig)
        assert [] == [name for name, field in model.model_fields.items() if not (field.description or "").strip()]

    def test_configuration_page_is_current(self, root: Path) -> None:
        """CONFIGURATION.md has what `describe_config` generates from the model."""
        page = (root / "CONFIGURATION.md").read_text(encoding="utf-8")
        assert describe_config(self.service.config_type).strip() in page, f"run scripts/write_configuration.py {root}"

    def test_class_is_documented(self) -> None:
        """The class says what it is for, and so does every public method."""
        public = {name: member for name, member in inspect.getmembers(self.service, callable) if name[0] != "_"}
        undocumented = [name for name, member in public.items() if not inspect.getdoc(member)]
        assert [] == undocumented
        assert (self.service.__doc__ or "").strip()

    def test_entry_point_loads(self, root: Path) -> None:
        """pyproject.toml declares the service in `svcframework.services`, and it can be imported from there."""
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        declared = project.get("entry-points", {}).get("svcframework.services", {})
        loaded = {name: _load(value) for name, value in declared.items()}
        assert self.service in loaded.values(), f"{self.service.__name__} is not among {sorted(declared)}"
        assert all(name.isidentifier() and name.islower() for name in declared)

    def test_package_is_typed(self) -> None:
        """The package says that it is typed."""
        package = self.service.__module__.partition(".")[0]
        assert importlib.resources.files(package).joinpath("py.typed").is_file()

    def test_readme_shows_how_to_use_it(self, root: Path) -> None:
        """The README has a Python example with the service in it."""
        readme = (root / "README.md").read_text(encoding="utf-8")
        examples = [block.partition("```")[0] for block in readme.split("```python")[1:]]
        assert any(self.service.__name__ in example for example in examples)

    # --- helpers ----------------------------------------------------------------------------------------

    def _secret_settings(self, canary: str, address: str | None) -> dict[str, Any]:
        """Each secret setting with the canary as its value; addresses have it as their password."""
        url = self.without_credentials(address or "http://user@localhost", canary)
        found: dict[str, Any] = {}
        for name, field in self.service.config_type.model_fields.items():
            kinds = list(_kinds(field.annotation))
            is_address = name == self.address_setting or name in ADDRESS_SETTINGS
            if SecretUrl in kinds or (SecretStr in kinds and is_address):
                found[name] = url
            elif SecretStr in kinds:
                found[name] = canary
        return found


async def _checked(service: BaseService[Any]) -> HealthResult:
    """The health as the monitor sees it, who ends a check that takes too long."""
    with anyio.move_on_after(service.config.health_check_timeout):
        return await service.health_check()
    return HealthResult.unhealthy("timeout")


def _kinds(annotation: Any) -> Iterator[Any]:
    """A type and all the types in it."""
    yield annotation
    for argument in get_args(annotation):
        yield from _kinds(argument)


def _load(value: str) -> Any:
    module, _, name = value.partition(":")
    return getattr(importlib.import_module(module), name)


def _canary() -> str:
    return f"canary{secrets.token_hex(12)}"  # letters and digits, so that no quoting changes it


def _open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - its own descriptor is counted each time
