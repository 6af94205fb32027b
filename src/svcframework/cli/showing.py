"""Commands that show what is declared; they start nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from svcframework import injection
from svcframework._loading import load_host, load_object
from svcframework.config import ServiceConfig, settings_origins
from svcframework.discovery import PluginCatalogue, PluginFailure
from svcframework.service import BaseService


def check(target: str) -> int:
    """Validate the whole wiring of a host, settings included; starts and builds nothing.

    Args:
        target: Where the host is, e.g. app.container:host.
    """
    host = load_host(target)
    host.validate()  # whoever runs the command prints the report
    count = len(host.graph.nodes)
    print(f"{host.name}: {count} service{'s' if count != 1 else ''}, no problems")
    return 0


def graph(target: str, *, mermaid: bool = False) -> int:
    """Draw what needs what.

    Args:
        target: Where the host is, e.g. app.container:host.
        mermaid: As a Mermaid flowchart instead of a tree.
    """
    host = load_host(target)
    print(host.mermaid() if mermaid else host.describe())
    return 0


def explain(function: str) -> int:
    """Show the code that was generated for an injected function.

    Args:
        function: Where it is, e.g. app.users:UserService.get_user.
    """
    print(injection.explain(load_object(function)))
    return 0


def config(target: str, service: str | None = None) -> int:
    """List the settings of all services, where each came from, and the variable that sets it; secrets are hidden.

    Args:
        target: Where the host is, e.g. app.container:host.
        service: Only this service's.
    """
    host = load_host(target)
    host.initialize()
    table = Table("service", "setting", "value", "from", "variable")
    for name, node in host.graph.nodes.items():
        if not node.is_singleton or (service is not None and name != service) or host.resolver.is_deferred(name):
            continue
        instance = host[name]
        settings = instance.config if isinstance(instance, BaseService) else None
        if isinstance(settings, ServiceConfig):
            for one in settings_origins(settings):
                table.add_row(name, one.setting, one.value, one.origin, one.variable)
    _console().print(table)
    return 0


def plugins(*names: str, load: bool = False) -> int:
    """List the installed plugins; a plugin that can't be used is shown with its reason.

    Args:
        names: Only these.
        load: Import them too, each in isolation, to see whether they work.
    """
    catalogue = PluginCatalogue()
    found = [one for one in catalogue.found if not names or one.name in names]
    results = catalogue.load([one.name for one in found]) if load else {}
    failures = {failure.name: failure for failure in catalogue.failures}
    table = Table("plugin", "distribution", "version", "where", "state")
    for one in found:
        failure = failures.get(one.name)
        loaded = results.get(one.name)
        state = (
            f"{failure.kind.value}: {failure.as_error().reason}" if failure else "works" if loaded else "not imported"
        )
        table.add_row(one.name, one.distribution, one.version, one.value, state)
    _console().print(table if found else "No plugins are installed.")
    return 1 if any(isinstance(result, PluginFailure) for result in results.values()) else 0


def _console() -> Console:
    """Tables as wide as they need to be where nobody's terminal cuts them."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(width=240, markup=False)
