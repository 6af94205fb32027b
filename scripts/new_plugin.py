"""Start a plugin: copy templates/plugin to plugins/svcframework-NAME with the names filled in.

    python scripts/new_plugin.py NAME [FOLDER]        NAME in lower case: mail, text-search

What to change in the copy is marked EDIT.
"""

from __future__ import annotations

import argparse
import keyword
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "templates" / "plugin"
SUFFIX = ".tmpl"  # so that no tool takes a template for the thing


def main(arguments: list[str]) -> int:
    """Make the plugin; 2 when its name won't do or it exists."""
    parser = argparse.ArgumentParser(description="Start a plugin for svcframework.")
    parser.add_argument("name", help="lower case: mail, text-search")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "plugins", help="where the plugins are")
    options = parser.parse_args(arguments)
    name = options.name.removeprefix("svcframework-").replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        print(f"{options.name!r} won't do: lower case letters, digits and single dashes, such as text-search")
        return 2
    target = options.folder / f"svcframework-{name.replace('_', '-')}"
    if target.exists():
        print(f"{target} exists already")
        return 2
    make(name, target)
    print(f"made {target}; next:")
    print(f"  grep -rn EDIT {target}")
    print("  make setup && make test ARGS=" + str(target))
    return 0


def make(name: str, target: Path) -> None:
    """Write the plugin `name` (an identifier) to the new directory `target`."""
    words = {
        "name": name,
        "Name": "".join(part.capitalize() for part in name.split("_")),
        "dashed": name.replace("_", "-"),
    }
    for source in sorted(TEMPLATE.rglob("*")):
        if source.is_file():
            copy = target / filled(str(source.relative_to(TEMPLATE)), words).removesuffix(SUFFIX)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(filled(source.read_text(encoding="utf-8"), words), encoding="utf-8")
    # In a process of its own: the new package must not be left in this one's imports.
    subprocess.run([sys.executable, ROOT / "scripts" / "write_configuration.py", target], check=True)


def filled(text: str, words: dict[str, str]) -> str:
    """The text with each {{word}} replaced."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: words[found[1]], text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
