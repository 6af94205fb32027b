"""FileOperationMixin: asynchronous file I/O that stays below one directory."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from svcframework.errors import ConfigurationError
from svcframework.mixins._rooted import FileInfo, RootedFiles, StrPath, normalised

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable
    from os import PathLike
    from typing import TypeVar

    T = TypeVar("T")

_MIB = 1024 * 1024


class FileOperationMixin:
    """Adds file operations to a service; works on any class.

    The directory is `file_root`, set on the class, the instance or in the config. Every path is relative to it,
    with `/`; one that could lead out, by `..`, a link or an odd name, is refused before anything happens. A link
    below the root is never followed, not even one that is put there in the middle of a call.

    Every call runs in a worker thread. A missing file raises `FileNotFoundError`, as usual. POSIX only.
    """

    file_root: str | PathLike[str] | None = None
    """The directory that all paths are below; made when it is not there."""
    max_file_size: int = 100 * _MIB
    """Bytes that no file may exceed, read or written."""

    # --- reading --------------------------------------------------------------------------------------

    async def read_file(self, path: StrPath) -> bytes:
        """All of a file.

        Raises:
            UnsafePathError: The path could lead out, or is no regular file.
            FileNotFoundError: There is no such file.
            FileTooLargeError: It has more than `max_file_size` bytes.
        """
        return await self._in_thread(lambda files: files.read(path))

    async def read_text(self, path: StrPath, *, encoding: str = "utf-8") -> str:
        """All of a file as text. Errors as in `read_file`."""
        return (await self.read_file(path)).decode(encoding)

    async def file_exists(self, path: StrPath) -> bool:
        """Whether there is such a file. Errors as in `read_file`."""
        return await self.file_info(path) is not None

    async def file_info(self, path: StrPath) -> FileInfo | None:
        """Size and time of a file, None where there is none. Errors as in `read_file`."""
        return await self._in_thread(lambda files: files.info(path))

    async def list_files(self, path: StrPath = "", *, recursive: bool = False) -> list[FileInfo]:
        """The files of a directory, by path; without links, other things and files that are being written."""
        return await self._in_thread(lambda files: files.list(path, recursive=recursive))

    async def file_checksum(self, path: StrPath, algorithm: str = "sha256") -> str:
        """The hexadecimal digest of a file, by an algorithm of `hashlib`. Errors as in `read_file`."""
        return await self._in_thread(lambda files: files.checksum(path, algorithm))

    # --- writing --------------------------------------------------------------------------------------

    async def write_file(
        self, path: StrPath, data: bytes | str | AsyncIterable[bytes], *, overwrite: bool = True
    ) -> FileInfo:
        """Write a file as a whole: readers see the old one or the new one, also after a crash.

        Args:
            path: Directories on the way are made.
            data: Bytes, text (as UTF-8), or pieces as they come.
            overwrite: Replace a file that is there.

        Raises:
            UnsafePathError: The path could lead out.
            FileTooLargeError: There are more than `max_file_size` bytes; nothing is written.
            FileExistsError: There is one and `overwrite` is False.
        """
        normalised(path)
        if isinstance(data, str):
            data = data.encode()
        if isinstance(data, bytes | bytearray | memoryview):
            whole = bytes(data)
            return await self._in_thread(lambda files: files.write(path, whole, overwrite=overwrite))
        upload = await self._in_thread(lambda files: files.begin(path))
        try:
            async for piece in data:
                await anyio.to_thread.run_sync(upload.write, piece)
            return await anyio.to_thread.run_sync(functools.partial(upload.commit, overwrite=overwrite))
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(upload.close)

    async def append_file(self, path: StrPath, data: bytes | str) -> FileInfo:
        """Add to the end of a file, which is made when it is not there. Errors as in `write_file`."""
        added = data.encode() if isinstance(data, str) else data
        return await self._in_thread(lambda files: files.append(path, added))

    async def delete_file(self, path: StrPath, *, missing_ok: bool = False) -> bool:
        """Remove a file; of a link, the link itself.

        Returns:
            Whether there was one.

        Raises:
            UnsafePathError: The path could lead out.
            FileNotFoundError: There is none and `missing_ok` is False.
        """
        try:
            await self._in_thread(lambda files: files.delete(path))
        except FileNotFoundError:
            if not missing_ok:
                raise
            return False
        return True

    async def move_file(self, source: StrPath, target: StrPath, *, overwrite: bool = False) -> FileInfo:
        """Give a file another path below the root; directories on the way are made. Errors as in `write_file`."""
        return await self._in_thread(lambda files: files.move(source, target, overwrite=overwrite))

    # --- the root -------------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[[RootedFiles], T]) -> T:
        files = RootedFiles(self._find_root(), self.max_file_size)
        return await anyio.to_thread.run_sync(call, files)

    def _find_root(self) -> Path:
        config: Any = getattr(self, "config", None)
        root = self.file_root if self.file_root is not None else getattr(config, "file_root", None)
        if root is None:
            owner = getattr(self, "name", type(self).__qualname__)
            reason = "file_root is not set: set it on the class or the instance, or as a field of the config"
            raise ConfigurationError(f"{owner} has no directory for its files", [reason])
        return Path(root)
