"""The files of a folder of migrations: numbered without a gap, each with a checksum. Knows no database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from svcframework_postgres.migrations.errors import MigrationFilesError

_NAME = re.compile(r"(?P<version>\d{4,})_(?P<name>[a-z0-9][a-z0-9_]*)(?P<down>\.down)?\.sql")
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*svcframework:[ \t]*(?P<word>.*?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_NO_TRANSACTION = "no transaction"


@dataclass(frozen=True, slots=True)
class MigrationFile:
    """One migration, as its file has it.

    Args:
        version: Its number.
        name: The rest of its name: `create_users` of `0001_create_users.sql`.
        file: The file's name.
        sql: Its statements.
        in_transaction: Whether they are run in one; not with `-- svcframework: no transaction` in the file.
        undo: The statements of `0001_create_users.down.sql`, if there is such a file.
    """

    version: int
    name: str
    file: str
    sql: str = field(repr=False)
    in_transaction: bool = True
    undo: str | None = field(default=None, repr=False)

    @property
    def checksum(self) -> str:
        """SHA-256 of the statements; the kind of line ends doesn't matter, as git may change it."""
        return hashlib.sha256(self.sql.replace("\r\n", "\n").encode()).hexdigest()


def read_migrations(folder: Path) -> tuple[MigrationFile, ...]:
    """The migrations of a folder, in order.

    Raises:
        MigrationFilesError: The folder isn't there, or a name, a number or a file's content is wrong; tells all.
    """
    if not folder.is_dir():
        raise MigrationFilesError(str(folder), ["there is no such folder: set `folder` to where the .sql files are"])
    found = _Folder(folder)
    problems = list(found.problems())
    if problems:
        raise MigrationFilesError(str(folder), problems)
    return found.files()


def is_transactional(sql: str) -> bool:
    """Whether statements are to be run in a transaction: not with `-- svcframework: no transaction` among them."""
    return _DIRECTIVE.search(sql) is None


class _Folder:
    """What is in the folder, read once."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".sql" and path.is_file())
        matches = {path: _NAME.fullmatch(path.name) for path in paths}
        self._misnamed = [path for path, match in matches.items() if match is None]
        named = [(path, match) for path, match in matches.items() if match is not None]
        self._ups = [(int(match["version"]), match["name"], path) for path, match in named if not match["down"]]
        self._downs = {(int(match["version"]), match["name"]): path for path, match in named if match["down"]}
        self._texts: dict[Path, str] = {}
        self._unreadable: list[Path] = []
        for path, _ in named:
            try:
                self._texts[path] = path.read_bytes().decode("utf-8-sig")
            except UnicodeDecodeError:
                self._unreadable.append(path)

    def problems(self) -> Iterator[str]:
        for path in self._misnamed:
            yield f"{path.name}: not a migration's name; call it like 0001_create_users.sql"
        for path in self._unreadable:
            yield f"{path.name}: not UTF-8 text"
        for path, text in self._texts.items():
            if not text.strip():
                yield f"{path.name}: empty"
            for match in _DIRECTIVE.finditer(text):
                if match["word"].casefold() != _NO_TRANSACTION:
                    yield f"{path.name}: `-- svcframework: {match['word']}` means nothing; `{_NO_TRANSACTION}` does"
        yield from self._wrong_numbers()

    def _wrong_numbers(self) -> Iterator[str]:
        expected = 1
        for version, _, path in sorted(self._ups, key=lambda one: (one[0], one[2].name)):
            if version < expected:
                yield f"{path.name}: a second {version:04}; give it the next free number"
            elif version > expected:
                yield f"{path.name}: {expected:04} is missing before it; numbers have no gaps"
            expected = max(expected, version + 1)
        known = {(version, name) for version, name, _ in self._ups}
        for (version, name), path in self._downs.items():
            if (version, name) not in known:
                yield f"{path.name}: undoes nothing; there is no {version:04}_{name}.sql"

    def files(self) -> tuple[MigrationFile, ...]:
        return tuple(self._file(*one) for one in sorted(self._ups))

    def _file(self, version: int, name: str, path: Path) -> MigrationFile:
        down = self._downs.get((version, name))
        return MigrationFile(
            version,
            name,
            path.name,
            self._texts[path],
            in_transaction=is_transactional(self._texts[path]),
            undo=None if down is None else self._texts[down],
        )
