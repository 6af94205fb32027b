"""`svc stubs`: the services of a host as a class with annotations, for editors and type checkers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from svcframework._loading import load_host
from svcframework._signatures import Want
from svcframework.namespaces import attribute_of

if TYPE_CHECKING:
    from svcframework.host import ServiceHost


def stubs(target: str, *, output: Path | None = None, check: bool = False) -> int:
    """Write the types of a host's services, for `host.services_as(Services)`; starts and builds nothing.

    Args:
        target: Where the host is, e.g. app.container:host.
        output: The file to write, e.g. app/services.py; printed when not given.
        check: Write nothing, and fail if the file is not up to date.
    """
    host = load_host(target)
    host.validate()
    text = text_of(host, target)
    if output is None:
        print(text, end="")
        return 0
    known = output.read_text(encoding="utf-8") if output.is_file() else ""
    if check:
        if known == text:
            return 0
        print(f"{output} is not up to date: run `svc stubs {target} --output {output}`", file=sys.stderr)
        return 1
    if known != text:
        output.write_text(text, encoding="utf-8")
    return 0


def text_of(host: ServiceHost, target: str) -> str:
    """The module's source: each service that lives as long as the host, with the class that the container declares."""
    fields, modules = [], set[str]()
    for node in host.graph.nodes.values():
        if not node.is_singleton:
            continue
        kind = node.descriptor.provides
        fields.append(f"    {attribute_of(Want(node.name))}: {_named(kind)}")
        if _named(kind) != "Any" and kind.__module__ != "builtins":
            modules.add(kind.__module__)
    has_any = any(field.endswith(": Any") for field in fields)
    imports = [*(f"import {module}" for module in sorted(modules)), *(["from typing import Any"] if has_any else [])]
    return "\n".join(
        [
            f'"""The services of {target} and their types, written by `svc stubs`; don\'t edit."""',
            "",
            *imports,
            *([""] if imports else []),
            "",
            "class Services:",
            '    """What `host.services_as(Services)` has."""',
            "",
            *(fields or ["    # the host has none that live as long as it does"]),
            "",
        ]
    )


def _named(kind: type) -> str:
    """The class's name with its module; what can't be imported under a name is Any."""
    found: object = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not kind or kind is object:
        return "Any"
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
