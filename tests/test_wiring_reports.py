"""What the report says of each mistake: one small container and one snapshot for each.

`SNAPSHOT_UPDATE=1` rewrites the snapshots; read every message aloud before committing it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from svcframework import ServiceHost
from svcframework.config import ConfigManager
from svcframework.discovery import PluginCatalogue
from svcframework.problems import Kind, WiringError

HERE = Path(__file__).resolve().parent
MISTAKES = HERE / "fixtures" / "mistakes"
SNAPSHOTS = HERE / "snapshots"
NAMES = sorted(path.stem for path in MISTAKES.glob("*.py"))


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a fixture by its path, so that its file and lines are found."""
    spec = importlib.util.spec_from_file_location(name, MISTAKES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def report(name: str, monkeypatch: pytest.MonkeyPatch) -> WiringError:
    """What validation says of a fixture; nothing may come from this machine's environment or plugins."""
    monkeypatch.chdir(MISTAKES)
    module = load(name, monkeypatch)
    host = module.host() if hasattr(module, "host") else ServiceHost(module.App, catalogue=PluginCatalogue([]))
    host._config = ConfigManager(environ={}, root=MISTAKES)
    with pytest.raises(WiringError) as caught:
        host.validate()
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_report_is_as_it_was_read_aloud(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What, who asked, the drawn path and the fix, with file and line."""
    found = f"{report(name, monkeypatch)}\n"
    snapshot = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("SNAPSHOT_UPDATE"):
        snapshot.write_text(found, encoding="utf-8")
    assert snapshot.read_text(encoding="utf-8") == found


def test_every_snapshot_has_its_mistake() -> None:
    """None is left over."""
    assert NAMES == sorted(path.stem for path in SNAPSHOTS.glob("*.txt"))


def test_every_kind_of_problem_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures make every mistake that there is a word for."""
    kinds = {problem.kind for name in NAMES for problem in report(name, monkeypatch).problems}
    assert set(get_args(Kind)) == kinds


def test_no_line_is_wider_than_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """120 columns, with the short paths of the fixtures."""
    wide = [line for name in NAMES for line in str(report(name, monkeypatch)).splitlines() if len(line) > 120]
    assert [] == wide
