"""FileOperationMixin: real files in a temporary directory, and every way out of it that we know."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svcframework.config import ServiceConfig
from svcframework.errors import ConfigurationError, FileTooLargeError, UnsafePathError
from svcframework.mixins import FileOperationMixin
from svcframework.mixins._rooted import TEMPORARY, RootedFiles, normalised
from svcframework.service import BaseService


class Files(BaseService, FileOperationMixin):  # type: ignore[type-arg]
    def __init__(self, root: Path) -> None:
        self.file_root = root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("outside")
    return tmp_path / "root"


@pytest.fixture
def files(root: Path) -> Files:
    return Files(root)


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


async def test_write_and_read(files: Files, root: Path) -> None:
    """What is written is read again, as bytes and text; directories are made, and nothing else is left behind."""
    info = await files.write_file("a/b/may.txt", "grüße")
    assert ("a/b/may.txt", 7) == (info.path, info.size)
    assert "grüße".encode() == await files.read_file("a/b/may.txt")
    assert "grüße" == await files.read_text("./a//b/may.txt")
    await files.write_file("a/b/may.txt", b"new")
    assert b"new" == await files.read_file("a/b/may.txt")
    assert ["a/b/may.txt"] == tree(root)


async def test_existing_file_is_kept_when_asked(files: Files, root: Path) -> None:
    """With overwrite=False the first file stays, and no rest of the second one."""
    await files.write_file("a", "first", overwrite=False)
    with pytest.raises(FileExistsError, match="'a'"):
        await files.write_file("a", "second", overwrite=False)
    assert "first" == await files.read_text("a")
    assert ["a"] == tree(root)


async def test_pieces(files: Files, root: Path) -> None:
    """Pieces become one file; if they break off or are too many, there is none, and the old one is kept."""

    async def pieces(*, fail: bool = False) -> AsyncGenerator[bytes, None]:
        yield b"one "
        if fail:
            raise ConnectionError("gone")
        yield b"two"

    await files.write_file("a", pieces())
    assert b"one two" == await files.read_file("a")
    with pytest.raises(ConnectionError):
        await files.write_file("a", pieces(fail=True))
    files.max_file_size = 5
    with pytest.raises(FileTooLargeError):
        async with contextlib.aclosing(pieces()) as too_many:  # its last piece is never asked for
            await files.write_file("b", too_many)
    files.max_file_size = 100
    assert (b"one two", ["a"]) == (await files.read_file("a"), tree(root))


async def test_cancelled_write_leaves_nothing(files: Files, root: Path) -> None:
    """A write that is cancelled between two pieces removes what it had begun, and no descriptor is left open."""
    waiting = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        waiting.set()
        await anyio.sleep_forever()

    before = open_descriptors()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(files.write_file, "a", pieces())
        await waiting.wait()
        assert [] == await files.list_files()
        assert open_descriptors() > before
        tasks.cancel_scope.cancel()
    assert [] == tree(root)
    assert before == open_descriptors()


async def test_append(files: Files) -> None:
    """Appending makes the file and then adds to it, up to the limit."""
    await files.append_file("log/a", "one\n")
    assert 8 == (await files.append_file("log/a", b"two\n")).size
    assert "one\ntwo\n" == await files.read_text("log/a")
    files.max_file_size = 10
    with pytest.raises(FileTooLargeError, match="10 bytes"):
        await files.append_file("log/a", "three")
    assert "one\ntwo\n" == await files.read_text("log/a")


async def test_list(files: Files, root: Path) -> None:
    """Regular files by path, of one directory or all below; links, pipes and unfinished files are left out."""
    for path in ("b", "a", "sub/c", "sub/deep/d"):
        await files.write_file(path, path)
    (root / "link").symlink_to(root / "a")
    (root / "out").symlink_to(root.parent)
    os.mkfifo(root / "pipe")
    (root / f"{TEMPORARY}1").touch()
    assert ["a", "b"] == [info.path for info in await files.list_files()]
    assert ["a", "b", "sub/c", "sub/deep/d"] == [info.path for info in await files.list_files(recursive=True)]
    assert ["sub/c"] == [info.path for info in await files.list_files("sub")]
    with pytest.raises(FileNotFoundError):
        await files.list_files("nowhere")


async def test_delete_move_checksum(files: Files, root: Path) -> None:
    """Files are removed, moved and summed up; what isn't there is named."""
    await files.write_file("a", b"x")
    assert hashlib.sha256(b"x").hexdigest() == await files.file_checksum("a")
    assert hashlib.md5(b"x").hexdigest() == await files.file_checksum("a", "md5")
    assert "sub/b" == (await files.move_file("a", "sub/b")).path
    await files.write_file("a", b"y")
    with pytest.raises(FileExistsError):
        await files.move_file("a", "sub/b")
    await files.move_file("a", "sub/b", overwrite=True)
    assert (b"y", ["sub/b"]) == (await files.read_file("sub/b"), tree(root))
    assert await files.file_exists("sub/b")
    assert await files.delete_file("sub/b")
    assert not await files.file_exists("sub/b")
    assert not await files.delete_file("sub/b", missing_ok=True)
    with pytest.raises(FileNotFoundError, match="sub/b"):
        await files.delete_file("sub/b")
    with pytest.raises(FileNotFoundError, match="sub/b"):
        await files.read_file("sub/b")


async def test_size_limit(files: Files, root: Path) -> None:
    """Too much is neither written nor read."""
    files.max_file_size = 3
    await files.write_file("a", b"123")
    with pytest.raises(FileTooLargeError, match="3 bytes"):
        await files.write_file("a", b"1234")
    (root / "big").write_bytes(b"1234")
    with pytest.raises(FileTooLargeError):
        await files.read_file("big")
    assert b"123" == await files.read_file("a")


UNSAFE = [
    "",
    ".",
    "..",
    "../secret",
    "a/../../secret",
    "a/..",
    "/etc/passwd",
    "//server/share",
    "C:/x",
    "c:x",
    "a/b:stream",
    "..\\secret",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "\u202eabc",
    "a\u200bb",
    "a\u2028b",
    "\ud800",
    "\ue000",
    "a.",
    "a ",
    " a",
    "...",
    "nul",
    "CON.txt",
    "x/com1.log",
    "x" * 256,
    "x/" * 600 + "x",
    TEMPORARY + "1",
]


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
async def test_unsafe_paths_are_refused(files: Files, root: Path, path: str) -> None:
    """Every operation refuses it and changes nothing; the error shows no character that could do harm."""
    await files.write_file("a", "kept")
    for call in (
        lambda: files.read_file(path),
        lambda: files.write_file(path, b"x"),
        lambda: files.append_file(path, b"x"),
        lambda: files.delete_file(path, missing_ok=True),
        lambda: files.move_file(path, "b"),
        lambda: files.move_file("a", path),
        lambda: files.file_checksum(path),
        lambda: files.file_info(path),
    ):
        with pytest.raises(UnsafePathError) as raised:
            await call()
        assert str(raised.value).isascii()
        assert str(raised.value).isprintable()
    assert ("outside", "kept", ["a"]) == ((root.parent / "secret").read_text(), (root / "a").read_text(), tree(root))


async def test_good_names_are_fine(files: Files) -> None:
    """Dots, spaces, accents and other scripts within a name are no trouble; both forms of an accent are one name."""
    for path in ("a.b.c", ".hidden", "two words", "日本.txt", "a..b", "-x", "con-tract"):
        await files.write_file(path, path)
        assert path == await files.read_text(path)
    await files.write_file("e\u0301", "accent")
    assert "accent" == await files.read_text("\u00e9")


async def test_links_are_not_followed(files: Files, root: Path) -> None:
    """A link is an error for reading and appending, and on the way; writing and deleting hit the link itself."""
    await files.write_file("a", b"x")
    outside = root.parent / "secret"
    (root / "file").symlink_to(outside)
    (root / "dir").symlink_to(root.parent)
    (root / "dangling").symlink_to(root.parent / "new")
    for call in (
        lambda: files.read_file("file"),
        lambda: files.append_file("file", "x"),
        lambda: files.append_file("dangling", "x"),
        lambda: files.file_checksum("file"),
        lambda: files.move_file("file", "b"),
        lambda: files.read_file("dir/secret"),
        lambda: files.write_file("dir/new", "x"),
        lambda: files.delete_file("dir/secret"),
        lambda: files.move_file("a", "dir/a"),
        lambda: files.list_files("dir"),
    ):
        with pytest.raises(UnsafePathError, match="link"):
            await call()
    await files.write_file("file", "inside")
    await files.delete_file("dangling")
    assert not (root / "file").is_symlink()
    assert ["root", "secret"] == sorted(path.name for path in root.parent.iterdir())
    assert "outside" == outside.read_text()


async def test_what_is_no_file_is_refused(files: Files, root: Path) -> None:
    """A directory or a pipe can't be read, and a pipe does not make the call wait."""
    await files.write_file("sub/a", "x")
    os.mkfifo(root / "pipe")
    with anyio.fail_after(5):
        for path in ("sub", "pipe"):
            with pytest.raises(UnsafePathError, match="no regular file"):
                await files.read_file(path)
    with pytest.raises(IsADirectoryError):
        await files.write_file("sub", "x")
    with pytest.raises(NotADirectoryError):
        await files.read_file("sub/a/b")


def test_link_that_comes_meanwhile_leads_nowhere(tmp_path: Path) -> None:
    """While another thread keeps replacing a directory by a link to the outside, nothing outside is read or written."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "a").write_text("outside")
    (root / "real" / "a").write_text("inside")
    files = RootedFiles(root, 1000)
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            for step in (  # a writer may make the directory anew in between, and a step then fails
                lambda: (root / "real").rename(root / f"aside{number}"),  # noqa: B023 - called at once
                lambda: (root / "real").symlink_to(outside),
                (root / "real").unlink,
                lambda: (root / f"aside{number}").rename(root / "real"),  # noqa: B023 - called at once
            ):
                with contextlib.suppress(OSError):
                    step()

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[Any] = set()
    try:
        for number in range(300):
            try:
                seen.add(files.read("real/a"))
                files.append(f"real/{number}", b"x")
            except (UnsafePathError, OSError) as error:  # which one depends on what the other thread is at
                seen.add(type(error))
    finally:
        stop.set()
        thread.join()
    assert b"outside" not in seen
    assert ["a"] == [path.name for path in outside.iterdir()]


@given(st.text(st.sampled_from("ab./\\: \0é\u202e"), max_size=12))
def test_normalised_paths_are_plain(path: str) -> None:
    """Whatever is accepted is relative, has no dots or separators as parts, and is its own normal form."""
    try:
        parts = normalised(path)
    except UnsafePathError:
        return
    joined = "/".join(parts)
    assert parts == normalised(joined)
    assert joined == os.path.normpath(joined)
    assert not joined.startswith("/")
    assert not {"..", ".", ""} & set(parts)


async def test_root_from_the_config_or_an_error(tmp_path: Path) -> None:
    """The config may name the root; without any the error says where to set it."""

    class FilesConfig(ServiceConfig):
        file_root: Path | None = None

    class Configured(FileOperationMixin, BaseService[FilesConfig]):
        pass

    service = Configured(FilesConfig(file_root=tmp_path / "x"))
    await service.write_file("a", "1")
    assert (tmp_path / "x" / "a").exists()
    with pytest.raises(ConfigurationError, match="configured has no directory"):
        await Configured(FilesConfig()).read_file("a")


async def test_overriding_a_method_does_not_open_a_way_out(files: Files) -> None:
    """The check is no method: a subclass that overrides everything it can still can't reach outside."""

    class Sloppy(Files):
        def normalised(self, path: str) -> tuple[str, ...]:
            return tuple(path.split("/"))

        normalise = _normalised = normalised

    with pytest.raises(UnsafePathError):
        await Sloppy(Path(str(files.file_root))).read_file("../secret")
