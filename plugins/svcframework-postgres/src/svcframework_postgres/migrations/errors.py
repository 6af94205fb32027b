"""What can be wrong with migrations: the files, the database's history, one file's statements, or the moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from svcframework.errors import ServiceFrameworkError


class MigrationError(ServiceFrameworkError):
    """The root of them all."""


class MigrationFilesError(MigrationError, ValueError):
    """The folder can't be used as it is; nothing was done.

    Args:
        folder: The folder.
        problems: One line each: the file, what is wrong, and the fix.
    """

    def __init__(self, folder: str, problems: Sequence[str]) -> None:
        self.folder, self.problems = folder, tuple(problems)
        super().__init__(_told(f"The migrations in {folder} can't be used", self.problems))


@dataclass(frozen=True, slots=True)
class HistoryProblem:
    """One thing in which a database's history and the files disagree.

    Args:
        kind: `changed`, `renamed` or `missing` after it was applied; `late`: it came before one that was applied.
        version: The migration's number.
        message: What is wrong, and the fix.
    """

    kind: Literal["changed", "renamed", "missing", "late"]
    version: int
    message: str


class MigrationHistoryError(MigrationError):
    """What was applied to the database is not what the files say; nothing was done.

    Args:
        address: The database.
        problems: All of them, by version.
    """

    def __init__(self, address: str, problems: Sequence[HistoryProblem]) -> None:
        self.address, self.problems = address, tuple(problems)
        title = f"The migrations of {address} are not those of the files"
        super().__init__(_told(title, [one.message for one in self.problems]))


class MigrationFailedError(MigrationError):
    """A file's statements failed; those of its transaction are undone, and earlier files stay applied.

    Args:
        file: The file's name.
        reason: What the server said, or what is wrong.
        line: The line in the file, where the server tells.
        sqlstate: The five-character SQLSTATE, where there is one.
        fix: What to do, where that is known.
    """

    def __init__(
        self, file: str, reason: str, *, line: int | None = None, sqlstate: str | None = None, fix: str = ""
    ) -> None:
        self.file, self.reason, self.line, self.sqlstate, self.fix = file, reason, line, sqlstate, fix
        place = file if line is None else f"{file}:{line}"
        super().__init__(f"{place}: {reason}{f'; {fix}' if fix else ''}")


class MigrationLockedError(MigrationError):
    """Another process applied migrations all the time that was given; trying again later can help.

    Args:
        holder: Who.
        seconds: How long was waited.
    """

    retryable = True

    def __init__(self, holder: str, seconds: float) -> None:
        self.holder, self.seconds = holder, seconds
        super().__init__(
            f"Migrations are being applied by {holder}, for longer than {seconds:g} s: wait for it, or raise lock_wait"
        )


class MigrationsPendingError(MigrationError):
    """Migrations have not been applied, and here nobody may apply them.

    Args:
        address: The database.
        files: The files' names.
    """

    def __init__(self, address: str, files: Sequence[str]) -> None:
        self.address, self.files = address, tuple(files)
        super().__init__(
            f"{address} lacks {len(self.files)} migration(s), from {self.files[0]} on: apply them before this starts"
        )


class IrreversibleMigrationError(MigrationError):
    """A migration has no file that undoes it; nothing was done.

    Args:
        file: The file's name.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        super().__init__(f"{file} can't be undone: there is no {file.removesuffix('.sql')}.down.sql beside it")


def _told(title: str, problems: Sequence[str]) -> str:
    """All problems; the first one on the first line, which is all that a log or a start's report shows."""
    if len(problems) == 1:
        return f"{title}: {problems[0]}"
    more = f"{len(problems) - 1} more"
    return "\n".join([f"{title}: {problems[0]} (and {more})", *(f"  {one}" for one in problems[1:])])
