"""`make new-plugin` makes a plugin that passes its own tests and the house's checks as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "new_plugin.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="only in the repository")


def run(*command: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=100
    )


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new plugin outside of the repository."""
    folder = tmp_path_factory.mktemp("plugins")
    result = run(sys.executable, SCRIPT, "text-search", folder, folder=folder)
    assert 0 == result.returncode, result.stderr
    return folder / "svcframework-text-search"


def test_new_plugin_has_what_a_plugin_has(plugin: Path) -> None:
    """All files are there, and no placeholder is left."""
    files = {str(path.relative_to(plugin)) for path in plugin.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    package = "src/svcframework_text_search"
    expected = {
        "CONFIGURATION.md",
        "README.md",
        "pyproject.toml",
        f"{package}/__init__.py",
        f"{package}/config.py",
        f"{package}/py.typed",
        f"{package}/service.py",
        "tests/test_text_search_conformance.py",
        "tests/test_text_search_service.py",
    }
    assert expected == files
    assert not [name for name in files if "{{" in (plugin / name).read_text()]
    assert (
        'text_search_service = "svcframework_text_search:TextSearchService"' in (plugin / "pyproject.toml").read_text()
    )


def test_new_plugin_passes_its_tests(plugin: Path) -> None:
    """Its tests pass without a change and without being installed, and none is skipped."""
    result = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        ROOT / "pyproject.toml",
        f"--rootdir={plugin}",
        "-p",
        "no:cacheprovider",
        plugin / "tests",
        folder=plugin,
        PYTHONPATH=str(plugin / "src"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert 0 == result.returncode, result.stdout + result.stderr
    assert " passed in " in result.stdout
    assert "skipped" not in result.stdout


@pytest.mark.parametrize(
    "check",
    [
        ["ruff", "check", "--config", "{root}/pyproject.toml", "src"],
        ["ruff", "format", "--check", "--config", "{root}/pyproject.toml", "."],
        ["mypy", "--strict", "--config-file", "{root}/pyproject.toml", "src"],
    ],
    ids=["lint", "format", "types"],
)
def test_new_plugin_passes_the_checks(plugin: Path, check: list[str]) -> None:
    """Linter, formatter and type checker have nothing to say."""
    pytest.importorskip(check[0])
    arguments = [part.format(root=ROOT) for part in check]
    cache = str(plugin.parent / "mypy")
    variables = {"MYPYPATH": str(plugin / "src"), "MYPY_CACHE_DIR": cache, "RUFF_NO_CACHE": "true"}
    result = run(sys.executable, "-m", *arguments, folder=plugin, **variables)
    assert 0 == result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["Mail", "1mail", "ma il", "mail--x", "class", "../mail", ""])
def test_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing is written, and the message shows a good name."""
    result = run(sys.executable, SCRIPT, name, tmp_path, folder=tmp_path)
    assert 2 == result.returncode
    assert "text-search" in result.stdout
    assert [] == list(tmp_path.iterdir())


def test_existing_plugin_is_left_alone(plugin: Path) -> None:
    """A second time is refused."""
    before = (plugin / "README.md").read_text()
    result = run(sys.executable, SCRIPT, "text_search", plugin.parent, folder=plugin)
    assert 2 == result.returncode
    assert "exists already" in result.stdout
    assert before == (plugin / "README.md").read_text()
