"""Files below one directory and nowhere else, by plain blocking calls. Knows no service and no event loop.

A path is first brought into its one form (`normalised`), and then walked from the root's descriptor, one component
at a time, never following a link. So neither an odd name nor a link that somebody puts there meanwhile leads out.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from svcframework.errors import FileTooLargeError, UnsafePathError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

StrPath = str | PurePosixPath
Parts = tuple[str, ...]

TEMPORARY = ".svc-partial-"
"""Begins the names of files that are being written; refused as a name, hidden from lists."""

_MAX_NAME, _MAX_PATH = 255, 1024  # bytes, as file systems and object stores have them
_CHUNK = 256 * 1024
_ODD = {"Cc": "a control character", "Cf": "an invisible character", "Cs": "a broken character", "Zl": "a line break"}
_ODD |= {"Zp": "a line break", "Co": "a private character", "Cn": "an unassigned character"}
_DEVICES = re.compile(r"(?i)^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?$")
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# O_NONBLOCK: opening a named pipe must not wait for the other end
_FILE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file below the root.

    Args:
        path: Relative to the root, with `/`.
        size: Bytes.
        modified: When it was last written, in UTC.
    """

    path: str
    size: int
    modified: datetime


def normalised(path: StrPath) -> Parts:
    """The components of a relative path, in their one form.

    Args:
        path: With `/` between components; Unicode is brought into its composed form (NFC).

    Raises:
        UnsafePathError: It is empty or absolute, climbs (`..`), or has a NUL, a backslash, a drive, a control,
            invisible or bidirectional character, a device's name, a name that ends with a dot or space, or is too long.
    """
    text = unicodedata.normalize("NFC", str(path))
    for character in text:
        odd = _ODD.get(unicodedata.category(character))
        if odd is not None:
            raise UnsafePathError(text, f"has {odd}")
    if "\\" in text:
        raise UnsafePathError(text, "has a backslash")
    if text.startswith("/"):
        raise UnsafePathError(text, "is absolute")
    parts = tuple(part for part in text.split("/") if part not in {"", "."})
    if not parts:
        raise UnsafePathError(text, "is empty")
    for part in parts:
        reason = _objection_to(part)
        if reason is not None:
            raise UnsafePathError(text, reason)
    if len(text.encode()) > _MAX_PATH:
        raise UnsafePathError(text, f"is longer than {_MAX_PATH} bytes")
    return parts


def _objection_to(part: str) -> str | None:
    if part == "..":
        return "climbs out with '..'"
    if ":" in part:
        return "has a colon, as drives and streams do"
    if part[-1] in ". " or part[0] == " ":
        return "has a name that begins with a space or ends with a dot or space"
    if _DEVICES.match(part):
        return "has the name of a device"
    if part.startswith(TEMPORARY):
        return f"has a name that begins with {TEMPORARY!r}, as files that are being written do"
    return f"has a name of more than {_MAX_NAME} bytes" if len(part.encode()) > _MAX_NAME else None


class RootedFiles:
    """The files below `root`; opens descriptors for the length of each call only.

    Args:
        root: The directory; made when it is not there. It is trusted, and may be reached by a link.
        limit: Bytes that no file may exceed, read or written.

    Raises:
        OSError: The system can't open relative to a directory without following links (Windows).
    """

    def __init__(self, root: Path, limit: int) -> None:
        if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
            raise OSError(errno.ENOTSUP, "this system can't keep paths inside a directory (no dir_fd, no O_NOFOLLOW)")
        self.root, self.limit = root, limit

    # --- reading --------------------------------------------------------------------------------------

    def read(self, path: StrPath) -> bytes:
        """All of a file."""
        with self._opened(path, os.O_RDONLY) as (file, shown):
            self._check_size(os.fstat(file).st_size, shown)
            chunks, total = [], 0
            while chunk := os.read(file, _CHUNK):
                total += len(chunk)
                self._check_size(total, shown)  # it may grow while it is read
                chunks.append(chunk)
        return b"".join(chunks)

    def checksum(self, path: StrPath, algorithm: str) -> str:
        """The hexadecimal digest of a file."""
        digest = hashlib.new(algorithm)
        with self._opened(path, os.O_RDONLY) as (file, _):
            while chunk := os.read(file, _CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def info(self, path: StrPath) -> FileInfo | None:
        """Size and time of a file, None where there is none."""
        try:
            with self._opened(path, os.O_RDONLY) as (file, shown):
                return _info(shown, os.fstat(file))
        except FileNotFoundError:
            return None

    def list(self, path: StrPath, *, recursive: bool) -> list[FileInfo]:
        """The regular files of a directory, by path; links and unfinished files are left out."""
        parts = () if str(path) in {"", "."} else normalised(path)
        found: list[FileInfo] = []
        with self._directory(parts) as directory:
            _collect(directory, "/".join(parts), found, recursive=recursive)
        return sorted(found, key=lambda info: info.path)

    # --- writing --------------------------------------------------------------------------------------

    def write(self, path: StrPath, data: bytes, *, overwrite: bool) -> FileInfo:
        """Put a file there as a whole or not at all."""
        upload = self.begin(path)
        try:
            upload.write(data)
            return upload.commit(overwrite=overwrite)
        finally:
            upload.close()

    def begin(self, path: StrPath) -> Upload:
        """Begin to write a file in pieces; to be closed in any case."""
        parts = normalised(path)
        return Upload(self._open_directory(parts[:-1], create=True), parts, self.limit)

    def append(self, path: StrPath, data: bytes) -> FileInfo:
        """Add to the end of a file, which is made when it is not there."""
        with self._opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, create=True) as (file, shown):
            self._check_size(os.fstat(file).st_size + len(data), shown)
            _write_all(file, data)
            os.fsync(file)
            return _info(shown, os.fstat(file))

    def delete(self, path: StrPath) -> None:
        """Remove a file; of a link, the link itself."""
        parts = normalised(path)
        with self._directory(parts[:-1]) as directory, _named("/".join(parts)):
            os.unlink(parts[-1], dir_fd=directory)
            os.fsync(directory)

    def move(self, source: StrPath, target: StrPath, *, overwrite: bool) -> FileInfo:
        """Give a file another path below the root."""
        with self._opened(source, os.O_RDONLY) as (file, _):
            state = os.fstat(file)
        old, new = normalised(source), normalised(target)
        with self._directory(old[:-1]) as old_directory, self._directory(new[:-1], create=True) as new_directory:
            with _named("/".join(new)):
                _place(old_directory, old[-1], new_directory, new[-1], overwrite=overwrite)
            os.fsync(new_directory)
            os.fsync(old_directory)
        return _info("/".join(new), state)

    # --- walking --------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, path: StrPath, flags: int, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """A descriptor of a regular file, and the path as errors show it."""
        parts = normalised(path)
        shown = "/".join(parts)
        with self._directory(parts[:-1], create=create) as directory, _named(shown):
            file = os.open(parts[-1], flags | _FILE, 0o666, dir_fd=directory)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise UnsafePathError(shown, "is no regular file")
                yield file, shown
            finally:
                os.close(file)

    @contextmanager
    def _directory(self, parts: Parts, *, create: bool = False) -> Iterator[int]:
        directory = self._open_directory(parts, create=create)
        try:
            yield directory
        finally:
            os.close(directory)

    def _open_directory(self, parts: Parts, *, create: bool) -> int:
        """Walk down from the root, each step relative to the one before and never through a link."""
        if create:
            self.root.mkdir(parents=True, exist_ok=True)
        here = os.open(self.root, os.O_RDONLY | _DIRECTORY & ~os.O_NOFOLLOW)
        for depth, part in enumerate(parts):
            try:
                with _named("/".join(parts[: depth + 1])):
                    below = _enter(here, part, create=create)
            finally:
                os.close(here)
            here = below
        return here

    def _check_size(self, size: int, shown: str) -> None:
        if size > self.limit:
            raise FileTooLargeError(shown, self.limit)


class Upload:
    """A file that is being written under a temporary name, in the directory where it will be."""

    def __init__(self, directory: int, parts: Parts, limit: int) -> None:
        self._directory, self._name, self._shown, self._limit = directory, parts[-1], "/".join(parts), limit
        self._temporary: str | None = TEMPORARY + secrets.token_hex(8)
        self._size = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
            self._file = os.open(self._temporary, flags, 0o666, dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise

    def write(self, data: bytes) -> None:
        """Add to what there is."""
        self._size += len(data)
        if self._size > self._limit:
            raise FileTooLargeError(self._shown, self._limit)
        _write_all(self._file, data)

    def commit(self, *, overwrite: bool) -> FileInfo:
        """Put it in its place, safely on the disk. A link that is there is replaced and not followed."""
        os.fsync(self._file)
        temporary = self._temporary or ""
        with _named(self._shown):
            _place(self._directory, temporary, self._directory, self._name, overwrite=overwrite)
        self._temporary = None
        os.fsync(self._directory)
        return _info(self._shown, os.fstat(self._file))

    def close(self) -> None:
        """Let go of it; what has not been committed is gone."""
        try:
            if self._temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary, dir_fd=self._directory)
        finally:
            os.close(self._file)
            os.close(self._directory)


def _enter(directory: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=directory)
        os.fsync(directory)
    return os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)


def _place(old_directory: int, old: str, new_directory: int, new: str, *, overwrite: bool) -> None:
    if overwrite:
        os.replace(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)
        return
    # link() fails where there is a file already, which rename() would silently replace
    os.link(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory, follow_symlinks=False)
    os.unlink(old, dir_fd=old_directory)


def _collect(directory: int, prefix: str, found: list[FileInfo], *, recursive: bool) -> None:
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        shown = f"{prefix}/{name}" if prefix else name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone or another since the scan
            if is_directory and recursive:
                below = os.open(name, os.O_RDONLY | _DIRECTORY, dir_fd=directory)
                try:
                    _collect(below, shown, found, recursive=True)
                finally:
                    os.close(below)
            elif not is_directory and not name.startswith(TEMPORARY):
                state = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISREG(state.st_mode):
                    found.append(_info(shown, state))


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _info(path: str, state: os.stat_result) -> FileInfo:
    return FileInfo(path, state.st_size, datetime.fromtimestamp(state.st_mtime, UTC))


@contextmanager
def _named(shown: str) -> Iterator[None]:
    """Errors name the path below the root, and a link is what it is."""
    try:
        yield
    except UnsafePathError:
        raise
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise UnsafePathError(shown, "leads through a link") from None
        raise type(error)(error.errno, error.strerror, shown) from None
