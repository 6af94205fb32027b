"""Finds what a command line names: `app.container:host`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Any

from svcframework.errors import CommandError, nearest
from svcframework.host import ServiceHost


def load_object(target: str, *, default: str = "") -> Any:
    """What `module:attribute` names, with the working directory on the path as in `python -m`.

    Args:
        target: The name.
        default: The attribute when only a module is named.

    Raises:
        CommandError: There is no such module or attribute.
    """
    module_name, _, path = target.partition(":")
    path = path or default
    if not module_name or not path:
        raise CommandError(f"{target!r} names nothing: write module:attribute, as in app.container:host.")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise CommandError(f"There is no module {error.name!r} in {here} or among what is installed.") from None
    for part in path.split("."):
        if not hasattr(found, part):
            known = [name for name in dir(found) if not name.startswith("_")]
            close = nearest(part, known, most=1)
            hint = f" Did you mean {module_name}:{close[0]}?" if close else ""
            raise CommandError(f"{module_name!r} has no {part!r}.{hint}")
        found = getattr(found, part)
    return found


def load_host(target: str) -> ServiceHost:
    """The host that a name stands for: a host, a container, or a function that makes one of them.

    Args:
        target: `module:attribute`; the attribute is `host` when only a module is named.

    Raises:
        CommandError: It is nothing of the kind.
    """
    found = load_object(target, default="host")
    if isinstance(found, ServiceHost):
        return found
    if not isinstance(found, type) and callable(found) and not hasattr(found, "providers"):
        found = found()
    if isinstance(found, ServiceHost):
        return found
    if hasattr(found, "providers"):
        return ServiceHost(found)
    raise CommandError(f"{target!r} is a {type(found).__name__}: name a ServiceHost, or a ServiceContainer class.")
