"""The promises of the house: its floors, its doors, what an import costs, and that every promised name is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import svcframework

ROOT = Path(__file__).resolve().parent.parent

# The core's contract: every name that a user may import from `svcframework`, as the seeds and the design ask for them.
CORE_NAMES = (
    "AsyncOperationMixin",
    "AsyncService",
    "BaseService",
    "CentralizedErrorHandler",
    "CommonServiceBase",
    "ConfigurationMixin",
    "DatabaseOperationMixin",
    "DatabaseService",
    "ErrorContext",
    "ErrorHandlingContext",
    "ExternalService",
    "FileOperationMixin",
    "HealthResult",
    "INJECTED",
    "MetricsMixin",
    "Restart",
    "ServiceConfig",
    "ServiceContainer",
    "ServiceFactory",
    "ServiceHost",
    "ServiceInitializationMixin",
    "ServiceLogger",
    "ServiceMetrics",
    "ServiceRegistry",
    "ValidationMixin",
    "calculate_duration",
    "chunk_list",
    "deadline",
    "discover_services",
    "every",
    "format_timestamp",
    "generate_unique_id",
    "get_config_manager",
    "get_config_value",
    "get_service",
    "get_service_metrics",
    "get_service_summary",
    "get_services_by_group",
    "handle_errors",
    "health_check_all_services",
    "inject_service",
    "merge_dicts",
    "providers",
    "register_discovered_services",
    "register_instance",
    "register_scoped",
    "register_service_group",
    "register_singleton",
    "register_transient",
    "require_service",
    "reset_default_host",
    "retry_on_failure",
    "safe_get_dict_value",
    "sanitize_filename",
    "service_container",
    "service_context",
    "service_factory",
    "service_health_monitor",
    "service_manager",
    "service_method",
    "service_registry",
    "shutdown_all_services",
    "startup_all_services",
    "unregister",
    "validate_required_fields",
)

# Constants and accessors, which have the docstring of their type at best.
WITHOUT_DOCSTRING = {"INJECTED"}

# What `import svcframework` must not load: it would cost every user, and every command line, up to half a second.
HEAVY = ("dependency_injector", "django", "fastapi", "flask", "litestar", "pydantic", "starlette", "structlog")

IMPORT_EVERYTHING = """
import importlib, os, pkgutil, sys
import importlib.metadata

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
FORBIDDEN = ("socket.bind", "socket.connect", "socket.sendto", "subprocess.", "os.system", "os.exec", "os.posix_spawn",
             "os.fork", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.", "tempfile.", "pty.")
seen = []
importing = "svcframework"

def hook(event, args):
    if event == "open":
        path, mode, flags = args
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITING)
        if writes and str(path) != os.devnull:
            seen.append(f"{importing}: open({path!r}) for writing")
    elif event.startswith(FORBIDDEN):
        seen.append(f"{importing}: {event}{args!r}")

package = importlib.import_module(sys.argv[1])
modules = [sys.argv[1]] + [
    found.name for found in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".", onerror=lambda name: None)
    if not found.name.endswith("__main__")
]
for name in list(sys.modules):   # the first import above only found the names; what counts happens under the hook
    if name == sys.argv[1] or name.startswith(sys.argv[1] + "."):
        del sys.modules[name]
sys.addaudithook(hook)
missing = []
for importing in modules:
    try:
        importlib.import_module(importing)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == sys.argv[1]:
            raise
        missing.append(f"{importing} needs {error.name}")
print(len(modules), file=sys.stderr)
print("\\n".join(seen))
"""


def _run(code: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter that writes no bytecode and reports no warning as an error; its output."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _packages() -> list[str]:
    """Return the core's package and each plugin's."""
    plugins = sorted(path.parent.name for path in ROOT.glob("plugins/*/src/*/__init__.py"))
    return ["svcframework", *plugins]


def test_import_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every import points down the floors of the house, and each third-party library has one door."""
    monkeypatch.chdir(ROOT)
    outcome = lint_imports(no_cache=True)
    assert outcome == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_facade_is_lazy() -> None:
    """`import svcframework` loads none of the heavy libraries."""
    code = "import sys, svcframework; print(*sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])))"
    assert _run(code, *HEAVY) == ""


@pytest.mark.parametrize("package", _packages())
def test_importing_has_no_effects(package: str) -> None:
    """Importing any module opens no file for writing, no socket and no process (S23)."""
    assert _run(IMPORT_EVERYTHING, package) == ""


@pytest.mark.parametrize("name", CORE_NAMES)
def test_promised_name_is_there(name: str) -> None:
    """Every promised name imports from `svcframework`, is listed in `__all__` and says what it is for."""
    value = getattr(svcframework, name)
    assert name in svcframework.__all__
    if name not in WITHOUT_DOCSTRING:
        assert (inspect.getdoc(value) or "").strip()


@pytest.mark.parametrize("name", sorted({*CORE_NAMES, *getattr(svcframework, "__all__", ())}))
def test_public_name_is_in_the_reference(name: str) -> None:
    """Every public name is on a page of the reference."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs/reference").glob("*.md")))
    assert re.search(rf"\b{re.escape(name)}\b", pages), f"add {name} to a page in docs/reference"


def test_every_module_says_what_it_is_for() -> None:
    """Every module of the core opens with a docstring."""
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "src").rglob("*.py"))
        if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert [] == silent


def test_modules_stay_readable() -> None:
    """No module of the core grows far past 600 lines: a second idea gets a second module."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / "src").rglob("*.py"))
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 620
    }
    assert {} == long


def _asynchronous_fixtures_that_last(path: Path) -> list[str]:
    """Return where a file has asynchronous fixtures of a scope wider than one test."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.AsyncFunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("fixture")
        for keyword in decorator.keywords
        if keyword.arg == "scope" and ast.unparse(keyword.value) != "'function'"
    ]


def test_no_asynchronous_fixture_outlives_its_test() -> None:
    """Later tests would run on the loop that such a fixture holds open, whatever back end they ask for."""
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    assert [] == [place for path in sorted(files) for place in _asynchronous_fixtures_that_last(path)]


def test_the_package_is_typed() -> None:
    """Type checkers are told that the package has annotations."""
    package = Path(inspect.getfile(importlib.import_module("svcframework"))).parent
    assert (package / "py.typed").exists()
