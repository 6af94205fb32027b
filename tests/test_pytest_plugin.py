"""The pytest plugin runs a project's host for a test, and fails tests that leave something behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONTAINER = """
from svcframework import BaseService, ServiceContainer, ServiceHost, inject_service, providers

class Mailer(BaseService):
    def __init__(self):
        super().__init__()
        self.sent = []

class SignupService(BaseService):
    @inject_service("mailer")
    async def register(self, address, mailer):
        mailer.sent.append((address, "welcome"))

class AppContainer(ServiceContainer):
    mailer = providers.Service(Mailer)
    signup_service = providers.Service(SignupService)

host = ServiceHost(AppContainer)
"""


def session(folder: Path, tests: str, *, ini: str = 'svc_host = "shop:host"') -> subprocess.CompletedProcess[str]:
    """Run a project's tests as its developer would."""
    (folder / "shop.py").write_text(CONTAINER)
    (folder / "test_shop.py").write_text(tests)
    (folder / "pyproject.toml").write_text(f'[tool.pytest.ini_options]\nanyio_mode = "auto"\n{ini}\n')
    plugin = "svcframework.testing.pytest_plugin"
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        plugin,
        "-p",
        "anyio",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
    ]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_host_runs_for_a_test(tmp_path: Path) -> None:
    """Services are the project's, overrides hold within their block, and each test has instances of its own."""
    ended = session(
        tmp_path,
        """
import pytest
from shop import Mailer, SignupService, host

class FakeMailer:
    def __init__(self):
        self.sent = []

async def test_signup(svc_host):
    with svc_host.override(mailer=FakeMailer()) as fakes:
        await svc_host[SignupService].register("a@b.c")
        assert [("a@b.c", "welcome")] == fakes.mailer.sent

@pytest.mark.parametrize("time", [1, 2])
async def test_instances_are_fresh(svc_host, time):
    assert svc_host is host and host.is_running
    await svc_host[SignupService].register("a@b.c")
    assert 1 == len(svc_host[Mailer].sent)

def test_nothing_runs_between():
    assert not host.is_running
""",
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr
    assert "7 passed" in ended.stdout  # on two back ends


def test_fixture_of_the_project_wins(tmp_path: Path) -> None:
    """A fixture named svc_host replaces ours, e.g. to override before the start."""
    ended = session(
        tmp_path,
        """
import pytest
from shop import host

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def svc_host():
    with host.override(mailer="fake"):
        async with host:
            yield host

async def test_it(svc_host):
    assert "fake" == svc_host["mailer"]
""",
        ini="",
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_missing_option_is_explained(tmp_path: Path) -> None:
    """Without the option the fixture says what to write."""
    ended = session(tmp_path, "async def test_it(svc_host): pass", ini="")
    assert 1 == ended.returncode
    assert 'svc_host = "app.container:host"' in ended.stdout


def test_left_override_fails_its_test(tmp_path: Path) -> None:
    """The test that leaves it is named, the next one is not harmed, and fixtures of a wider scope may override."""
    ended = session(
        tmp_path,
        """
import pytest
from shop import Mailer, host

@pytest.fixture(scope="module")
def fake_signup():
    with host.override(signup_service="fake"):
        yield

@pytest.fixture
def anyio_backend():
    return "asyncio"

left = []

async def test_leaves(svc_host):
    left.append(svc_host.override(mailer="fake"))
    left[0].__enter__()

async def test_next(svc_host):
    assert isinstance(svc_host["mailer"], Mailer)

async def test_wider(fake_signup, svc_host):
    assert "fake" == svc_host["signup_service"]
""",
    )
    assert 1 == ended.returncode, ended.stdout + ended.stderr
    assert "test_shop.py::test_leaves: it left an override of 'mailer' behind" in ended.stdout
    assert "3 passed, 1 error" in ended.stdout


def test_default_host_is_reset_when_a_test_has_made_it(tmp_path: Path) -> None:
    """Registrations of one test are gone in the next; a default host left running fails its test."""
    ended = session(
        tmp_path,
        """
import pytest
from shop import Mailer
from svcframework import register_singleton, startup_all_services

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def registered():
    register_singleton(Mailer, name="mailer")

def test_one(registered): pass

def test_two(registered): pass

async def test_three(registered):
    await startup_all_services()

def test_four(registered): pass
""",
    )
    assert 1 == ended.returncode, ended.stdout + ended.stderr
    assert "test_three: it left the default host running" in ended.stdout
    assert "4 passed, 1 error" in ended.stdout


def test_registrations_of_an_import_are_kept(tmp_path: Path) -> None:
    """What a module registers once, when it is imported, every test finds."""
    ended = session(
        tmp_path,
        """
import pytest
from shop import Mailer
from svcframework import get_service, register_singleton

register_singleton(Mailer, name="mailer")

@pytest.mark.parametrize("time", [1, 2])
def test_it(time):
    assert isinstance(get_service("mailer"), Mailer)
""",
    )
    assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_session_without_services_loads_nothing(tmp_path: Path) -> None:
    """An installed plugin costs projects that don't use it no import."""
    ended = session(tmp_path, "import sys\ndef test_it(): assert 'svcframework.host' not in sys.modules", ini="")
    assert 0 == ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("group", ["pytest11", "console_scripts"])
def test_entry_points_are_declared(group: str) -> None:
    """An installation registers the plugin and the command."""
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    declared = {
        "pytest11": project["entry-points"]["pytest11"]["svcframework"],
        "console_scripts": project["scripts"]["svc"],
    }
    module, _, attribute = declared[group].partition(":")
    import importlib

    assert not attribute or hasattr(importlib.import_module(module), attribute)
