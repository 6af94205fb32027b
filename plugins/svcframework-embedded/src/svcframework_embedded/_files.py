"""Directories, owners, the cache and free ports. Plain functions block: callers run them in a thread."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from svcframework_embedded.errors import ServerStartError

_LONGEST_SOCKET_PATH = 103  # bytes; sun_path is 104 on macOS and 108 on Linux, with its NUL
_PORTS = range(15_000, 32_000)  # below the ports that Linux and macOS give to outgoing connections


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose process and files they become."""

    uid: int
    gid: int

    def adopt(self, path: Path) -> None:
        """Give one file or directory to this user."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def unprivileged_owner(data_dir: Path | None) -> Owner | None:
    """Who runs a server that refuses to be root: the owner of its data, or `nobody`. None when we aren't root."""
    if os.geteuid() != 0:
        return None
    if data_dir is not None and data_dir.exists() and (found := data_dir.stat()).st_uid != 0:
        return Owner(found.st_uid, found.st_gid)
    import pwd  # noqa: PLC0415 - not on Windows, where this module must still import

    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise ServerStartError(
            "PostgreSQL refuses to run as root, and there is no user 'nobody' to run it as"
        ) from None
    return Owner(nobody.pw_uid, nobody.pw_gid)


def make_scratch(owner: Owner | None, *, prefix: str) -> Path:
    """A new private directory (0700), short enough for a socket in it and reachable for its owner."""
    for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):  # noqa: S108 - mkdtemp makes it private
        with contextlib.suppress(OSError):
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
            if len(bytes(scratch)) < _LONGEST_SOCKET_PATH - 24 and is_reachable(scratch, owner):
                if owner is not None:
                    owner.adopt(scratch)
                return scratch
            scratch.rmdir()
    raise ServerStartError(
        "there is no temporary directory for the server's socket; set TMPDIR to a short, public path"
    )


def make_data_dir(path: Path, owner: Owner | None) -> None:
    """The user's own directory: made if need be, private, and reachable for its owner.

    Raises:
        ServerStartError: The owner can't get there.
    """
    if not path.exists():
        path.mkdir(parents=True, mode=0o700)
    if not is_reachable(path, owner):
        raise ServerStartError(
            f"data_dir {path}: the server doesn't run as root, and user id {owner.uid if owner else '?'} may not "
            "enter all the directories above it; choose another place or allow that (chmod o+x)"
        )
    if owner is not None and path.stat().st_uid == 0:
        owner.adopt(path)
    path.chmod(0o700)


def is_reachable(path: Path, owner: Owner | None) -> bool:
    """Whether `owner` may pass through all directories above `path`; we ourselves may."""
    return owner is None or all(_may(parent, owner, stat.S_IXOTH) for parent in path.parents)


def is_readable(path: Path, owner: Owner | None) -> bool:
    """Whether `owner` can reach, read and execute the file `path`."""
    return owner is None or (is_reachable(path, owner) and _may(path, owner, stat.S_IROTH | stat.S_IXOTH))


def _may(path: Path, owner: Owner, bits: int) -> bool:
    """Whether the mode of `path` gives `owner` these rights, written as those of others."""
    found = path.stat()
    shift = 6 if found.st_uid == owner.uid else 3 if found.st_gid == owner.gid else 0
    return found.st_mode & (bits << shift) == bits << shift


def cache_dir() -> Path:
    """Where templates are kept between runs: the user's cache, a public one for root (nobody must read it)."""
    if os.geteuid() == 0:
        return Path("/var/cache/svcframework")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "svcframework"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svcframework"


@contextlib.asynccontextmanager
async def cache_entry(name: str, directory: Path | None = None) -> AsyncIterator[Path | None]:
    """The path of a cache entry while no other process makes the same; None when there can't be a cache.

    An entry appears complete or not at all: make it beside, then `publish`. The lock ends with its process.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where this module must still import

    root = directory or cache_dir()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o755)
        lock = os.open(root / f"{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # a read-only home: slower, and no reason to fail
        yield None
        return
    try:
        while not (root / name).exists():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await anyio.sleep(0.02)
        yield root / name
    finally:
        os.close(lock)


def publish(source: Path, entry: Path) -> None:
    """Copy `source` to the cache entry, all at once. A full disk is no reason to fail."""
    beside = entry.with_name(f"{entry.name}.new")  # whoever holds the lock makes it, so an old one is a leftover
    shutil.rmtree(beside, ignore_errors=True)
    try:
        copy_tree(source, beside, None)
        beside.rename(entry)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)


def copy_tree(source: Path, target: Path, owner: Owner | None, *, last: str | None = None) -> None:
    """Copy a directory with modes but not times, and give it to `owner`.

    Args:
        source: What to copy.
        target: May exist; then files of the same name are replaced.
        owner: Whose it becomes; ours when None.
        last: A file directly in `source` that is copied when all others have been.
    """

    def copy(origin: str, copied: str) -> None:
        shutil.copyfile(origin, copied, follow_symlinks=False)
        if not os.path.islink(copied):  # noqa: PTH114 - called for a thousand strings
            shutil.copymode(origin, copied)
        if owner is not None:
            os.chown(copied, owner.uid, owner.gid, follow_symlinks=False)

    def put_off(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name == last and Path(folder) == source]

    shutil.copytree(source, target, symlinks=True, copy_function=copy, ignore=put_off, dirs_exist_ok=True)
    if owner is not None:
        owner.adopt(target)
        for folder, _, _ in os.walk(target):
            owner.adopt(Path(folder))
    if last is not None:
        copy(str(source / last), str(target / last))


def free_port(host: str) -> int:
    """A TCP port that nobody listens on, and that no outgoing connection will be given either."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.SystemRandom().sample(_PORTS, 50):
        with socket.socket(family) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise ServerStartError(f"no free TCP port between {_PORTS.start} and {_PORTS.stop} on {host}; set `port`")


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, one line, joined by ` | `."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
