"""The conformance suite itself: it passes good services, and finds each kind of bad one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from svcframework.config import ServiceConfig
from svcframework.service import BaseService
from svcframework.testing import ServiceConformance, deviates
from svcframework.testing._sideeffects import side_effects

pytest_plugins = ["pytester"]

PROJECT = """
[project]
name = "svcframework-tried"
[project.entry-points."svcframework.services"]
tried_service = "tried:TriedService"
"""

GOOD = '''
"""A service on a TCP server that answers each line with `ok`."""
import anyio
from pydantic import Field
from svcframework._types import HealthResult
from svcframework.config import SecretUrl, ServiceConfig
from svcframework.errors import ConnectionFailedError
from svcframework.service import BaseService
from urllib.parse import urlsplit

class TriedConfig(ServiceConfig, prefix="tried"):
    """Settings."""
    url: SecretUrl = Field(default="tcp://localhost:1", description="Address.")

class TriedService(BaseService[TriedConfig]):
    """Talks to a server. Lives as long as the host."""
    connected = False
    async def on_startup(self) -> None:
        """Try the server."""
        await self.ask()
        self.connected = True
    async def on_shutdown(self) -> None:
        """Forget the server."""
        self.connected = False
    async def ask(self) -> None:
        """One line there and back."""
        parts = urlsplit(self.config.url.get_secret_value())
        try:
            with anyio.fail_after(0.5):
                async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
                    await stream.send(b"x")
                    await stream.receive()
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise ConnectionFailedError("no answer") from error
    async def _service_health_check(self) -> HealthResult:
        if not self.connected:
            return HealthResult.unhealthy("not connected")
        await self.ask()
        return HealthResult.healthy()
'''

TESTS = """
import socketserver, threading
import pytest
from svcframework.testing.conformance import ServiceConformance
from tried import TriedService

class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while self.request.recv(100):
                self.request.sendall(b"ok")
        except OSError:
            pass

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

@pytest.fixture(scope="session")
def line_server():
    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"tcp://user@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()

@pytest.fixture
def anyio_backend():
    return "asyncio"

class TestTried(ServiceConformance):
    service = TriedService
    server = "line_server"
"""

INI = "[pytest]\nanyio_mode = auto\nfilterwarnings =\n    error\n    default::pytest.PytestAssertRewriteWarning\n"


@pytest.fixture
def plugin(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A small plugin that passes."""
    pytester.makefile(".toml", pyproject=PROJECT)
    pytester.makefile(".ini", pytest=INI)
    package = pytester.mkpydir("tried")
    (package / "py.typed").touch()
    write(pytester, GOOD)
    (pytester.path / "README.md").write_text("```python\nTriedService()\n```\n")
    pytester.makepyfile(test_tried=TESTS)
    make_page(pytester)
    return pytester


def write(pytester: pytest.Pytester, source: str) -> None:
    (pytester.path / "tried" / "__init__.py").write_text(source)


def make_page(pytester: pytest.Pytester) -> None:
    result = pytester.runpython_c("import tried, svcframework.config as c; print(c.describe_config(tried.TriedConfig))")
    assert 0 == result.ret
    (pytester.path / "CONFIGURATION.md").write_text(result.stdout.str())


def failures(pytester: pytest.Pytester, *options: str) -> set[str]:
    """The names of the tests that failed, without their parameters."""
    result = pytester.runpytest_inprocess("-q", "-rfE", "-p", "no:cacheprovider", *options)
    found = {line.split("::")[-1].split()[0] for line in result.outlines if line.startswith(("FAILED", "ERROR"))}
    return {name.partition("[")[0] for name in found}


def test_good_service_passes(plugin: pytest.Pytester) -> None:
    """A service that keeps the rules passes every test, with none skipped."""
    result = plugin.runpytest_inprocess("-q", "-p", "no:cacheprovider")
    outcomes = result.parseoutcomes()
    assert {"passed"} == set(outcomes), result.stdout.str()
    assert outcomes["passed"] >= 24


@pytest.mark.parametrize(
    ("old", "new", "test"),
    [
        (
            "    connected = False",
            "    def __init__(self, config):\n        super().__init__(config)\n        open('x', 'w').close()",
            "test_constructor_does_no_io",
        ),
        (
            'raise ConnectionFailedError("no answer") from error',
            "raise",
            "test_start_fails_in_time_when_the_server_cannot_be_reached",
        ),
        (
            'ConnectionFailedError("no answer")',
            "ConnectionFailedError(str(self.config.url.get_secret_value()))",
            "test_secrets_stay_out_of_errors_and_logs",
        ),
        ("url: SecretUrl = Field(", 'token: str = "t"\n    url: SecretUrl = Field(', "test_settings_are_described"),
        (
            "        await self.ask()\n        return HealthResult.healthy()",
            "        return HealthResult.healthy()",
            "test_health_turns_when_the_server_is_silent_and_recovers",
        ),
        (
            "        self.connected = False",
            "        await anyio.sleep(0.2)\n        raise ValueError",
            "test_starts_and_stops",
        ),
        ('        """One line there and back."""', "        pass", "test_class_is_documented"),
        (
            "        self.connected = True",
            "        self.connected = __import__('os').dup(0) >= 0  # never closed",
            "test_leaves_nothing_open",
        ),
    ],
)
def test_bad_service_is_found(plugin: pytest.Pytester, old: str, new: str, test: str) -> None:
    """Each broken rule fails the test that is named after it."""
    assert old in GOOD
    write(plugin, GOOD.replace(old, new))
    assert test in failures(plugin, "-k", test)


@pytest.mark.parametrize(
    ("file", "text", "test"),
    [
        ("CONFIGURATION.md", "old", "test_configuration_page_is_current"),
        ("README.md", "none", "test_readme_shows_how_to_use_it"),
        ("pyproject.toml", "[project]\nname = 'x'\n", "test_entry_point_loads"),
    ],
)
def test_bad_distribution_is_found(plugin: pytest.Pytester, file: str, text: str, test: str) -> None:
    """So does each file that is missing its part."""
    (plugin.path / file).write_text(text)
    assert {test} == failures(plugin, "-k", test)


def test_untyped_package_is_found(plugin: pytest.Pytester) -> None:
    """A package without py.typed fails."""
    (plugin.path / "tried" / "py.typed").unlink()
    assert {"test_package_is_typed"} == failures(plugin, "-k", "test_package_is_typed")


class Plain(BaseService[ServiceConfig]):
    """A service without a server."""


def test_replacing_a_test_silently_is_refused() -> None:
    """The error names the test, when the class is defined."""
    with pytest.raises(TypeError, match=r"Sly\.test_starts_and_stops replaces"):

        class Sly(ServiceConformance):
            service = Plain
            test_starts_and_stops = None  # type: ignore[assignment]


def test_replacing_a_test_with_a_reason_is_allowed() -> None:
    """The reason is kept."""

    class Open(ServiceConformance):
        service = Plain

        @deviates("it can't")
        async def test_starts_and_stops(self, address: str | None) -> None:
            """Nothing."""

    assert "it can't" == Open.test_starts_and_stops.__deviates__  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="reason"):
        deviates(" ")


def test_tests_of_a_server_are_there_when_there_is_one() -> None:
    """A service without a server has no tests that it would skip."""

    class Serverless(ServiceConformance):
        service = Plain

    class Served(Serverless):
        server = "valkey_server"

    assert Serverless.test_start_can_be_cancelled is None
    assert Served.test_start_can_be_cancelled is ServiceConformance.test_start_can_be_cancelled


def test_side_effects_are_noticed(tmp_path: Path) -> None:
    """Writing counts, reading doesn't, and nothing counts after the block."""
    with side_effects() as found:
        (tmp_path / "x").write_text(textwrap.dedent("x"))
        (tmp_path / "x").read_text()
    (tmp_path / "y").write_text("y")
    assert 1 == len(found)
    assert "x" in found[0]
