"""Problems of a wiring and their one report: what, who asked, the drawn path and the fix."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from svcframework.errors import ServiceFrameworkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from svcframework._types import Location

Kind = Literal[
    "missing",
    "cycle",
    "captive",
    "mistyped",
    "ambiguous",
    "duplicate",
    "misconfigured",
    "argument",
    "abstract",
    "annotation",
    "scope",
    "group",
    "async",
    "unmet",
    "optional",
    "plugin",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the wiring.

    Args:
        kind: Which rule it breaks.
        headline: What is wrong, on one line.
        at: Where that is written.
        lines: The declaration, the drawn path, and the fix.
        services: The names of the services that are concerned.
    """

    kind: Kind
    headline: str
    at: Location | None = None
    lines: tuple[str, ...] = ()
    services: tuple[str, ...] = ()

    def render(self, number: int, *, root: str = "") -> str:
        """The problem as a numbered paragraph; paths below `root` are shown relative to it."""
        place = show(self.at, root=root)
        first = f"{number:2}. {self.kind:<10} {self.headline}"
        gap = " " * max(2, 66 - len(first))
        return "\n".join([f"{first}{gap}{place}".rstrip(), *(f"{'':15}{line}" for line in self.lines)])


class WiringError(ServiceFrameworkError):
    """The wiring is wrong. Nothing was built or started; `problems` holds all there is to mend.

    Args:
        problems: All of them.
        subject: What was validated: a container's name.
    """

    def __init__(self, problems: Sequence[Problem], *, subject: str = "the host") -> None:
        self.problems, self.subject = tuple(problems), subject
        root = os.getcwd()  # noqa: PTH109 - a string is what is compared
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        body = [problem.render(number, root=root) for number, problem in enumerate(problems, 1)]
        super().__init__("\n".join([f"{count} in {subject}", "", *body]))


def show(location: Location | None, *, root: str = "") -> str:
    """`app/users.py:14`, relative to `root` where it lies below it."""
    if location is None:
        return ""
    path = location.file
    if root and path.startswith(root + os.sep):
        path = path[len(root) + 1 :]
    return f"{path}:{location.line}"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last
