"""The commands of `svc`. Each is a plain function that prints and returns an exit code; needs the extra `cli`."""

from __future__ import annotations

import sys
from typing import Any

from cyclopts import App

import svcframework
from svcframework.cli import running, scaffold, showing, stubs
from svcframework.errors import ServiceFrameworkError

app = App(
    name="svc",
    help="Check, show and run the services of a project.",
    version=svcframework.__version__,
    result_action="return_value",
)
for _command in (
    running.run,
    showing.check,
    showing.graph,
    showing.explain,
    showing.config,
    stubs.stubs,
    showing.plugins,
    running.health,
    running.doctor,
    scaffold.new,
):
    app.command(_command)


def run_command(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments name.

    Args:
        arguments: Those of the process when not given.

    Raises:
        SystemExit: Always: 0, 1 after a failure, 2 after wrong use, or what the host's process ends with.
    """
    try:
        code: Any = app(sys.argv[1:] if arguments is None else arguments)
    except ServiceFrameworkError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(code if isinstance(code, int) else 0)
