"""Where settings come from: each source read once into a tree of plain values. No models and no types here."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svcframework.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

ENVIRONMENT_NAMES = ("development", "testing", "staging", "production")
MAX_FILE_BYTES = 1024 * 1024
"""Bytes that a `.env` or `settings.toml` may have; more is a mistake or an attack."""
MAX_SECRET_BYTES = 64 * 1024
"""Bytes that one file of the secrets directory may have."""
MAX_SECRET_FILES = 1000
MAX_DEPTH = 20
"""Levels that tables and lists may be nested."""

Steps = tuple[str, ...]
"""A dotted path, split."""
MISSING: Any = object()


class Text(str):
    """A value from a source that knows only text; its type is read from where it is used."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: its values as a tree, and where each was written. Never changes after it was read.

    Args:
        title: The source as an operator knows it.
        tree: Tables of values.
        places: The exact place of a value, for the sources that have one: a variable, a line, a file.
        variables: The names and texts as they were written, for the sources made of variables.
    """

    title: str
    tree: Mapping[str, Any] = field(default_factory=dict, repr=False)
    places: Mapping[Steps, str] = field(default_factory=dict, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    def find(self, steps: Steps) -> Any:
        """The value at `steps`, `MISSING` where there is none."""
        return descend(self.tree, steps)

    def place(self, steps: Steps) -> str:
        """Where the value at `steps` was written."""
        for end in range(len(steps), 0, -1):
            if steps[:end] in self.places:
                return self.places[steps[:end]]
        return self.title


def descend(tree: Any, steps: Iterable[str]) -> Any:
    """The value at `steps`, lists entered by index; `MISSING` where there is none."""
    for step in steps:
        if isinstance(tree, Mapping) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and step.isdecimal() and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            return MISSING
    return tree


def merged(low: Any, high: Any) -> Any:
    """Both, the second one winning; tables are joined, all else is replaced. A new tree: neither is changed."""
    if not (isinstance(low, Mapping) and isinstance(high, Mapping)):
        return copied(high)
    result = {key: copied(value) for key, value in low.items() if key not in high}
    return result | {key: merged(low[key], value) if key in low else copied(value) for key, value in high.items()}


def copied(tree: Any) -> Any:
    """A tree of its own, the leaves shared."""
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in tree.items()}
    return [copied(value) for value in tree] if isinstance(tree, list) else tree


def plain(value: Any) -> Any:
    """A tree of its own, without our marker for text."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Text) else value


def parsed_json(text: str) -> Any:
    """What the JSON says; `MISSING` when it is none, or nested too deeply."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return MISSING
    return MISSING if _too_deep(value) else value


# --- the sources ----------------------------------------------------------------------------------------


def from_arguments(values: Mapping[str, Any]) -> Layer:
    """Given values: tables, or dotted names."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        branch = value
        for step in reversed(name.split(".")):
            branch = {step: branch}
        tree = merged(tree, branch)
    return Layer("argument", tree)


def from_environment(environ: Mapping[str, str]) -> Layer:
    """The process environment: `DATABASE__HOST` is `database.host`."""
    return _from_variables("environment", {name: (text, f"environment {name}") for name, text in environ.items()})


def from_dotenv(file: Path, environ: Mapping[str, str]) -> Layer:
    """A `.env` file; `${NAME}` in it reads the environment, then the file.

    Raises:
        ConfigurationError: It can't be read, is too large, or has a line that is no assignment.
    """
    text = _read_text(file)
    if text is None:
        return Layer(file.name)
    from dotenv.parser import parse_stream  # noqa: PLC0415 - loads only when there is a .env
    from dotenv.variables import parse_variables  # noqa: PLC0415

    found: dict[str, tuple[str, str]] = {}
    known: dict[str, str | None] = {}
    for binding in parse_stream(StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip("\r\n"))
        line = binding.original.line + binding.original.string[:blank].count("\n")
        if binding.error:
            raise ConfigurationError(f"{file.name} can't be read", [f"line {line} is not of the form NAME=value"])
        if binding.key is None or binding.value is None:
            continue
        value = "".join(atom.resolve({**known, **environ}) for atom in parse_variables(binding.value))
        known[binding.key] = value
        found[binding.key] = (value, f"{file.name} line {line}")
    return _from_variables(file.name, found)


def from_secrets(directory: Path, *, required: bool) -> Layer:
    """A directory with one file per setting, as Docker and Kubernetes mount them: `database__password`.

    Args:
        directory: Only its own regular files are read, not its subdirectories.
        required: Whether a missing or unreadable one is an error.

    Raises:
        ConfigurationError: It or a file in it can't be read, or is too large.
    """
    try:
        entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith(".") and entry.is_file())
    except OSError as error:
        if required:
            reason = f"{directory}: {error.strerror}"
            raise ConfigurationError("The secrets directory can't be read", [reason]) from None
        return Layer("secrets")
    if len(entries) > MAX_SECRET_FILES:
        reason = f"{directory} has {len(entries)} files, at most {MAX_SECRET_FILES} are read"
        raise ConfigurationError("The secrets directory can't be read", [reason])
    found: dict[str, tuple[str, str]] = {}
    for entry in entries:
        text = _read_text(entry, limit=MAX_SECRET_BYTES, required=required)
        if text is not None:
            found[entry.name] = (text.rstrip("\r\n"), f"secrets {entry.name}")
    return _from_variables("secrets", found)


def from_toml(file: Path, environment: str) -> tuple[Layer, Layer]:
    """A `settings.toml`: the table of the environment, and all that is outside such tables.

    Raises:
        ConfigurationError: It can't be read, is too large, nested too deeply or no TOML.
    """
    text = _read_text(file)
    try:
        tree = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        # The parser's message tells the line and what it expected, not what it found there.
        raise ConfigurationError(f"{file.name} can't be read", [str(error)]) from None
    except RecursionError:
        tree = {"": MISSING}
    if "" in tree or _too_deep(tree):
        raise ConfigurationError(f"{file.name} can't be read", [f"it is nested deeper than {MAX_DEPTH} levels"])
    own = tree.get(environment, {})
    if not isinstance(own, dict):
        raise ConfigurationError(f"{file.name} can't be read", [f"[{environment}] must be a table"])
    common = {key: value for key, value in tree.items() if key not in ENVIRONMENT_NAMES}
    return Layer(f"{file.name} [{environment}]", own), Layer(file.name, common)


def _from_variables(title: str, variables: Mapping[str, tuple[str, str]]) -> Layer:
    tree: dict[str, Any] = {}
    places: dict[Steps, str] = {}
    # Sorted with the upper-case spelling last, so that it wins whatever the order of the environment.
    for name in sorted(variables, key=lambda name: (name.lower(), name.swapcase())):
        steps = tuple(name.lower().split("__"))
        if len(steps) > MAX_DEPTH or not all(steps):
            steps = (name.lower(),)  # not written for us: `__CF_USER_TEXT_ENCODING`
        text, places[steps] = variables[name]
        _put(tree, steps, Text(text))
    return Layer(title, tree, places, {name: text for name, (text, _) in variables.items()})


def _put(tree: dict[str, Any], steps: Steps, value: Text) -> None:
    """Set one value. Where a name is a value and a table, the table wins and a JSON object is joined with it."""
    for step in steps[:-1]:
        branch = tree.get(step, {})
        if not isinstance(branch, dict):
            decoded = parsed_json(branch)
            branch = decoded if isinstance(decoded, dict) else {}
        tree[step] = branch
        tree = branch
    existing = tree.get(steps[-1])
    if isinstance(existing, dict):
        decoded = parsed_json(value)
        tree[steps[-1]] = merged(decoded, existing) if isinstance(decoded, dict) else existing
    else:
        tree[steps[-1]] = value


def _read_text(file: Path, *, limit: int = MAX_FILE_BYTES, required: bool = True) -> str | None:
    """The file's text; None when there is no file."""
    try:
        with file.open("rb") as stream:
            data = stream.read(limit + 1)
        if len(data) <= limit:
            return data.decode("utf-8-sig")
        reason = f"it is larger than {limit} bytes"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        if not required:
            return None
        reason = error.strerror or type(error).__name__
    raise ConfigurationError(f"{file.name} can't be read", [reason])


def _too_deep(tree: Any, limit: int = MAX_DEPTH) -> bool:
    level = [tree]
    for _ in range(limit + 1):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True


def process_environment() -> dict[str, str]:
    """A copy of the process's environment, taken now."""
    return dict(os.environ)
