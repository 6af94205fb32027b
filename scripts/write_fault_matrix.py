"""Run the fault suites of all plugins and write what they found to docs/reference/faults.md.

    python scripts/write_fault_matrix.py [pytest arguments]

The page is a result of the run, also when a suite fails: then it says so, and the exit code isn't 0.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from svcframework.testing._trials import FAULTS, PROMISES, RECORD

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "faults.md"
ROUNDS = "50"  # times the work of an ordinary run: the cancel fuzz then has 100,000 calls

INTRODUCTION = """# Faults

<!-- Written by scripts/write_fault_matrix.py (`make faults`). Don't edit it. -->

What each service does when something breaks, as found by `FaultConformance` on real servers. [How to have a service of
your own tested so](../how-to/write-plugin.md#let-it-be-broken).

Measured on {date} with {versions}.

## What is promised

{promises}

The limits of the services under test are short (a part of a second for a call, 0.2 s between health checks), so
that a row takes seconds; one row is measured at the default limits. A fault comes while calls are under way; then 80
further calls meet it, 40 at a time. When it has ended, 30 calls at once must each get their own answer, and the fault
returns for the stop. Figures are those of one run on a busy machine, and of the slowest call.
"""

Cell = Mapping[str, str]


def page(cells: Iterable[Cell], *, date: str, versions: str) -> str:
    """The text of the page.

    Args:
        cells: As the suites recorded them; of a cell that was judged twice the last verdict counts.
        date: When.
        versions: Of what.
    """
    found: dict[str, dict[tuple[str, str], Cell]] = {}
    for cell in cells:
        found.setdefault(cell["subject"], {})[cell["fault"], cell["promise"]] = cell
    promises = "\n".join(f"- **{letter}**: {words}" for letter, words in PROMISES.items())
    parts = [INTRODUCTION.format(date=date, versions=versions, promises=promises)]
    return "\n".join([*parts, *(_section(subject, found[subject]) for subject in sorted(found))])


def _section(subject: str, cells: Mapping[tuple[str, str], Cell]) -> str:
    notes: list[str] = []
    rows = [f"## {subject}", "", "| Fault | " + " | ".join(PROMISES) + " |", "|---" * (1 + len(PROMISES)) + "|"]
    for fault, words in FAULTS.items():
        judged = [_text(cells.get((fault, promise)), notes) for promise in PROMISES]
        rows.append(f"| {words} | " + " | ".join(judged) + " |")
    reasons = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([*rows, "", *reasons, ""])


def _text(cell: Cell | None, notes: list[str]) -> str:
    if cell is None:
        return "not run"
    if cell["outcome"] == "passed":
        return cell["note"].replace("|", "\\|") or "yes"
    if cell["note"] not in notes:
        notes.append(cell["note"].replace("\n", " "))
    number = notes.index(cell["note"].replace("\n", " ")) + 1
    return f"**failed** ({number})" if cell["outcome"] == "failed" else f"n/a ({number})"


def versions() -> str:
    """What the run was of: Python, our packages and what they need."""
    names: dict[str, None] = {}
    for manifest in [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]:
        project = tomllib.loads(manifest.read_text(encoding="utf-8"))["project"]
        needed = project.get("dependencies", []) if "plugins" in manifest.parts else ["anyio"]
        names |= dict.fromkeys(re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in (project["name"], *needed))
    known = [f"{name} {importlib.metadata.version(name)}" for name in names if _is_installed(name)]
    return ", ".join([f"Python {platform.python_version()}", *known])


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Run the suites and write the page."""
    suites = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/tests/test_*_fault_conformance.py"))
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "cells"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--timeout",
            "600",
            *suites,
            *arguments,
        ]
        environ = {"SVC_FAULT_ROUNDS": ROUNDS, **os.environ, RECORD: str(record)}
        code = subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode
        cells = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    PAGE.write_text(page(cells, date=now, versions=versions()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}: {len(cells)} cells")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
