"""The commands of svc check, show and run a project, and say what is wrong in a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from svcframework.cli import run_command
from svcframework.config import set_config_manager

CONTAINER = """
from pydantic import SecretStr
from svcframework import (
    BaseService, HealthResult, ServiceConfig, ServiceContainer, ServiceHost, inject_service, providers
)

class MailConfig(ServiceConfig, prefix="mail"):
    sender: str = "nobody@example.org"
    password: SecretStr = SecretStr("hunter2-canary")

class Mailer(BaseService[MailConfig]):
    async def on_startup(self):
        if self.config.sender == "broken":
            raise OSError("the mail server is away")

    async def _service_health_check(self):
        return HealthResult.unhealthy("bounced") if self.config.sender == "sick" else HealthResult.healthy("fine")

class Signup(BaseService):
    def __init__(self, mailer: Mailer):
        super().__init__()

    @inject_service("mailer")
    async def register(self, address, mailer):
        return mailer

class AppContainer(ServiceContainer):
    mailer = providers.Service(Mailer)
    signup = providers.Service(Signup)

class Wrong(ServiceContainer):
    signup = providers.Service(Signup)

host = ServiceHost(AppContainer)

def make_host():
    return ServiceHost(AppContainer, name="made")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in the working directory."""
    (tmp_path / "svc_shop.py").write_text(CONTAINER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    structlog.reset_defaults()  # whatever a test of another folder has left
    yield tmp_path
    sys.modules.pop("svc_shop", None)
    set_config_manager(None)


@pytest.fixture
def svc(capsys: pytest.CaptureFixture[str]):
    """Run a command; its exit code, what it printed and what it complained about."""

    def run(*arguments: str) -> tuple[object, str, str]:
        set_config_manager(None)  # as in a process of its own
        with pytest.raises(SystemExit) as ended:
            run_command(list(arguments))
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


@pytest.mark.parametrize("target", ["svc_shop:host", "svc_shop", "svc_shop:AppContainer", "svc_shop:make_host"])
def test_check_of_a_good_project(project: Path, svc, target: str) -> None:
    """A host, the module of one, a container and a function that makes a host can be named."""
    code, out, _ = svc("check", target)
    assert 0 == code
    assert out.endswith(": 2 services, no problems\n")


def test_check_of_a_wrong_project(project: Path, svc) -> None:
    """The whole report, and exit code 1."""
    code, _, err = svc("check", "svc_shop:Wrong")
    assert 1 == code
    assert err.startswith("WiringError: 2 problems in Wrong\n")
    assert "No service provides Mailer" in err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("svc_shop:hots", "Did you mean svc_shop:host?"),
        ("svc_nowhere:host", "There is no module 'svc_nowhere'"),
        ("svc_shop:Mailer.service_name", "is a str: name a ServiceHost"),
        (":host", "write module:attribute"),
    ],
)
def test_wrong_targets(project: Path, svc, target: str, said: str) -> None:
    """The message says what was looked for and what to write."""
    code, _, err = svc("check", target)
    assert 1 == code
    assert said in err
    assert "Traceback" not in err


def test_error_of_the_project_is_not_hidden(project: Path) -> None:
    """A module that the project itself fails to import is told with its own traceback."""
    (project / "svc_broken.py").write_text("import svc_missing_library\n")
    with pytest.raises(ModuleNotFoundError, match="svc_missing_library"):
        run_command(["check", "svc_broken:host"])


def test_graph(project: Path, svc) -> None:
    """As a tree or as Mermaid."""
    assert (0, "· signup (Signup) registered\n└─ · mailer (Mailer) registered\n", "") == svc("graph", "svc_shop:host")
    assert "signup --> mailer" in svc("graph", "svc_shop:host", "--mermaid")[1]


def test_explain(project: Path, svc) -> None:
    """The generated wrapper is shown; what isn't injected is an error."""
    code, out, _ = svc("explain", "svc_shop:Signup.register")
    assert 0 == code
    assert "def register(" in out
    assert "mailer is INJECTED" in out
    code, _, err = svc("explain", "svc_shop:make_host")
    assert (1, "is not injected" in err) == (code, True)


def test_config(project: Path, svc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting with where it comes from; secrets are hidden."""
    monkeypatch.setenv("MAIL__SENDER", "a@b.c")
    code, out, _ = svc("config", "svc_shop:make_host", "mailer")
    assert 0 == code
    line = next(line for line in out.splitlines() if "mailer.sender" in line)
    assert "a@b.c" in line
    assert "environment MAIL__SENDER" in line
    assert "hunter2" not in out
    assert "MAILER__PASSWORD" in out
    assert "signup" not in out


def test_stubs_type_the_names(project: Path, svc) -> None:
    """The written class has every service's type, the host fits it, and `--check` tells when it is out of date."""
    target = project / "svc_shop_services.py"
    assert (0, "", "") == svc("stubs", "svc_shop:host", "--output", str(target))
    assert (0, target.read_text(), "") == svc("stubs", "svc_shop:host")
    assert "import svc_shop\n" in target.read_text()
    assert "    mailer: svc_shop.Mailer\n    signup: svc_shop.Signup\n" in target.read_text()

    space: dict[str, Any] = {}
    exec(compile(target.read_text(), str(target), "exec", dont_inherit=True), space)
    host = sys.modules["svc_shop"].host
    assert host["signup"] is host.services_as(space["Services"]).signup

    assert (0, "", "") == svc("stubs", "svc_shop:host", "--output", str(target), "--check")
    target.write_text("stale")
    code, printed, complained = svc("stubs", "svc_shop:host", "--output", str(target), "--check")
    assert (1, "") == (code, printed)
    assert "is not up to date: run `svc stubs svc_shop:host --output" in complained
    assert "stale" == target.read_text()
    assert 1 == svc("stubs", "svc_shop:Wrong")[0]


def test_plugins(svc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported until asked for; one that fails is shown with its reason, and the exit code is 1."""
    fixtures = Path(__file__).parent / "fixtures" / "plugins"
    for name in ("good", "raising"):
        monkeypatch.syspath_prepend(str(fixtures / name))
    before = set(sys.modules)
    code, out, _ = svc("plugins", "good_service", "raising_service")
    assert (0, 2) == (code, out.count("not imported"))
    assert not any(name.startswith("fixture_") for name in set(sys.modules) - before)
    code, out, _ = svc("plugins", "--load", "good_service", "raising_service")
    for name in set(sys.modules) - before:
        if name.startswith("fixture_"):
            del sys.modules[name]
    assert 1 == code
    assert "works" in next(line for line in out.splitlines() if "good_service" in line)
    assert "raised" in next(line for line in out.splitlines() if "raising_service" in line)


def test_doctor_starts_one_service_with_what_it_needs(project: Path, svc) -> None:
    """It starts, is checked and stopped; others are left alone."""
    code, out, _ = svc("doctor", "svc_shop:make_host", "mailer")
    assert 0 == code
    assert "healthy" in next(line for line in out.splitlines() if "mailer" in line)
    assert "signup" not in out
    assert "signup" in svc("doctor", "svc_shop:make_host")[1]


def test_doctor_of_a_broken_service(project: Path, svc, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raised and where it is configured."""
    monkeypatch.setenv("MAIL__SENDER", "broken")
    code, _, err = svc("doctor", "svc_shop:make_host", "mailer")
    assert 1 == code
    assert "the mail server is away" in err
    assert "MAIL__SENDER" in err
    code, _, err = svc("doctor", "svc_shop:make_host", "mialer")
    assert (1, True) == (code, "Did you mean 'mailer'?" in err)


def test_health_of_a_host(project: Path, svc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every service is checked once; one that is ill makes the exit code 1."""
    code, out, _ = svc("health", "svc_shop:make_host")
    assert (0, 2) == (code, out.count("healthy"))
    monkeypatch.setenv("MAIL__SENDER", "sick")
    code, out, _ = svc("health", "svc_shop:make_host")
    assert (1, True) == (code, "bounced" in out)
    code, _, err = svc("health")
    assert (1, True) == (code, "--port 8080" in err)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to send")
def test_run_and_health_by_port(project: Path, svc) -> None:
    """A host runs until SIGTERM, logs its life, and is asked by its port meanwhile."""
    port = free_port()
    command = [sys.executable, "-m", "svcframework", "run", "svc_shop:host", "--health-port", str(port)]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "host has started" in line:
                break
        answer = [svc("health", "--port", str(port))]
        while answer[-1][0] != 0 and len(answer) < 300:  # until the first checks are in
            time.sleep(0.1)
            answer.append(svc("health", "--port", str(port)))
        process.send_signal(signal.SIGTERM)
        lines += list(process.stderr)
    assert 0 == answer[-1][0]
    assert answer[-1][1].startswith("pass")
    assert 143 == process.returncode
    assert '"reason":"SIGTERM"' in "".join(lines)
    code, _, err = svc("health", "--port", str(port))
    assert (1, True) == (code, f"Nothing answers on port {port}" in err)


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_in_the_middle_of_an_import(tmp_path: Path, number: signal.Signals, expected: int) -> None:
    """Nothing runs yet: the exit code is the signal's, without a traceback."""
    (tmp_path / "slow.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(30)\n")
    command = [sys.executable, "-m", "svcframework", "run", "slow:host"]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=30)
    assert (expected, "") == (ended.returncode, ended.stderr)


def test_new_project_runs(tmp_path: Path, svc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wiring is right, its tests pass, and it is written once only."""
    monkeypatch.chdir(tmp_path)
    assert 0 == svc("new", "my-shop")[0]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "my-shop" / "src")}
    for command in (
        ["svcframework", "check", "my_shop.container:host"],
        ["pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir=.", "-c", "pyproject.toml"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path / "my-shop",
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert 0 == ended.returncode, ended.stdout + ended.stderr
    code, _, err = svc("new", "my-shop")
    assert (1, True) == (code, "exists already" in err)
    for bad in ("1shop", "my shop", "../shop", "schön"):
        assert 1 == svc("new", bad)[0]
    assert ["my-shop"] == [path.name for path in tmp_path.iterdir()]


def test_without_the_extra(tmp_path: Path) -> None:
    """The command says what to install, and exits with 2."""
    (tmp_path / "cyclopts.py").write_text("raise ModuleNotFoundError('No module named cyclopts', name='cyclopts')\n")
    ended = subprocess.run(
        [sys.executable, "-m", "svcframework", "check", "x:y"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (2, 'svc needs its extra: pip install "svcframework[cli]"\n') == (ended.returncode, ended.stderr)


def test_wrong_use(svc) -> None:
    """An unknown command is answered with the nearest one."""
    code, out, err = svc("chek")
    assert 2 == code
    assert 'Did you mean "check"?' in out + err
