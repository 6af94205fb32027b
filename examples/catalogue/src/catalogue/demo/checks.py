"""Checks: what the demo claims, each with what was expected and what was found. They decide the exit code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, and whether it is true."""

    claim: str
    is_true: bool
    found: str


class Checks:
    """The claims so far; lives as long as the demo."""

    def __init__(self) -> None:
        self.made: list[Check] = []

    def equal(self, claim: str, expected: object, actual: object) -> None:
        """Claim that two values are the same."""
        found = _shown(actual) if expected == actual else f"expected {_shown(expected)}, found {_shown(actual)}"
        self.made.append(Check(claim, expected == actual, found))

    def true(self, claim: str, is_true: bool, found: object) -> None:
        """Claim anything, and say what was seen."""
        self.made.append(Check(claim, is_true, _shown(found)))

    @property
    def all_true(self) -> bool:
        """Everything that was claimed holds, and something was."""
        return bool(self.made) and all(check.is_true for check in self.made)


def _shown(value: object) -> str:
    if isinstance(value, (list, set)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def out_of_order(stopped: Sequence[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The services that stopped after one that they need; none if each stopped before its dependencies."""
    place = {name: number for number, name in enumerate(stopped)}
    return [name for name in stopped if any(place[needed] < place[name] for needed in needs[name] if needed in place)]


def alive(pids: Iterable[int]) -> list[int]:
    """Those of the processes that still exist."""
    return [pid for pid in pids if _exists(pid)]


def has_children() -> bool:
    """Whether this process has any child process, also one that has ended and was not collected."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def left_behind(paths: Iterable[Path]) -> list[str]:
    """Those of the files and directories that still exist."""
    return [str(path) for path in paths if path.exists()]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
