"""Write CONFIGURATION.md of plugins from the config models of their services.

    python scripts/write_configuration.py plugins/svcframework-redis ...     (default: every plugin)

The services are those of the entry points in the plugin's pyproject.toml; the plugin must be importable, its own
`src` is enough.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

from svcframework.config import describe_config

PLUGINS = Path(__file__).resolve().parent.parent / "plugins"


def page(plugin: Path) -> str:
    """The text of one plugin's page."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project.get("entry-points", {}).get("svcframework.services", {})
    sys.path.insert(0, str(plugin / "src"))
    models = []
    for value in declared.values():
        module, _, name = value.partition(":")
        model = getattr(importlib.import_module(module), name).config_type
        if model not in models:
            models.append(model)
    sections = [f"## {model.__name__}\n\n{describe_config(model).strip()}" for model in models]
    return "\n\n".join([f"# Configuration of {project['name']}", *sections]) + "\n"


def main(folders: list[str]) -> None:
    """Write the pages of these plugins, or of all."""
    for plugin in [Path(folder) for folder in folders] or sorted(PLUGINS.iterdir()):
        if (plugin / "pyproject.toml").is_file():
            target = plugin / "CONFIGURATION.md"
            target.write_text(page(plugin), encoding="utf-8")
            print(f"wrote {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
