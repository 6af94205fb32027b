"""Trial: one fault on one service, judged promise by promise. What it finds goes into the matrix of the docs.

Beside it what the judgement needs: what a service leaves behind, and what was logged meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import logging
import os
import platform
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, Self
from urllib.parse import quote

import anyio
import msgspec

from svcframework.log import diverted

PROMISES: Mapping[str, str] = {
    "a": "typed error within its deadline",
    "b": "health turns and recovers",
    "c": "no wrong data",
    "d": "nothing left behind",
    "e": "stop in budget",
    "f": "few log lines, no secret",
}
"""What holds under every fault, by the letter it has in the docs."""

FAULTS: Mapping[str, str] = {
    "server_killed": "kill -9 of the server, and a restart",
    "black_hole": "connections are accepted, nothing gets through",
    "black_hole_defaults": "the same with no setting changed",
    "half_open": "questions arrive, answers don't",
    "refuse": "connections are refused",
    "reset": "connections are reset, also new ones",
    "reset_in_answer": "a reset in the middle of an answer",
    "slow": "one byte per second",
    "dns_failure": "the host's name is not known",
    "dns_silent": "the resolver does not answer",
    "wrong_password": "the password is wrong from the start",
    "password_rotated": "the server gets another password, and the old one back",
    "pool_exhausted": "all connections are in use",
    "overloaded": "429 and 503 with Retry-After",
    "disk_full": "the server's disk is full",
    "cancelled": "a call is cancelled at each of its awaits",
    "start_cancelled": "the start is cancelled at each of its awaits",
    "cancel_fuzz": "thousands of interleaved calls, cancelled anywhere",
    "process_killed": "kill -9 of our own process, at any moment of its work",
}
"""What is done to a service, in the order of the docs."""

RECORD = "SVC_FAULT_RECORD"
"""The environment variable that names a file: every judged cell is appended to it, a line of JSON each."""

_POOLED = ("AnyIO worker", "asyncio_", "Trio thread")  # threads that the event loop keeps for the next call
_REASONS = 5  # of those why a promise was broken, as many are told
_PATIENCE = 5.0  # seconds in which the kernel and the loop have closed what they were told to close


@dataclass(frozen=True, slots=True)
class Cell:
    """One promise under one fault.

    Args:
        subject: The suite's name, e.g. the service's.
        fault: What was done to it.
        promise: A letter of `PROMISES`.
        outcome: How it went.
        note: What was measured; the reason, when it failed or can't apply.
    """

    subject: str
    fault: str
    promise: str
    outcome: Literal["passed", "failed", "not applicable"]
    note: str = ""


class Trial:
    """Collects how a service kept each promise under one fault; lives as long as its `with` block.

    A promise that nobody judged counts as broken, so that none is forgotten.

    Args:
        subject: The suite's name.
        fault: What is done to it.
    """

    def __init__(self, subject: str, fault: str) -> None:
        self.subject, self.fault = subject, fault
        self.texts: list[str] = []
        """What callers and operators were told: searched for secrets."""
        self.more_lines = 0
        """Log lines that are allowed on top of the usual number, because more happens than usual."""
        self._notes: dict[str, list[str]] = {}
        self._broken: dict[str, list[str]] = {}
        self._excused: dict[str, str] = {}

    def keep(self, promise: str, note: str = "") -> None:
        """The promise was put to the test; `note` says what was measured."""
        notes = self._notes.setdefault(promise, [])
        if note:
            notes.append(note)

    def expect(self, promise: str, holds: bool, why: str) -> None:
        """Note that the promise was broken unless `holds`."""
        if not holds:
            self.broke(promise, why)

    def broke(self, promise: str, why: str) -> None:
        """The promise was broken; said once, however often it happens."""
        if promise in self._excused:
            return
        reasons = self._broken.setdefault(promise, [])
        if why not in reasons and len(reasons) < _REASONS:
            reasons.append(why)

    def excuse(self, promises: str, reason: str) -> None:
        """These promises mean nothing under this fault.

        Args:
            promises: Letters, e.g. `"ab"`.
            reason: Shown in the matrix.
        """
        self._excused.update(dict.fromkeys(promises, reason))

    def is_excused(self, promise: str) -> bool:
        """It means nothing under this fault."""
        return promise in self._excused

    @property
    def cells(self) -> list[Cell]:
        """The verdict on every promise, in their order."""
        return [self._cell(promise) for promise in PROMISES]

    def _cell(self, promise: str) -> Cell:
        if promise in self._broken:
            return Cell(self.subject, self.fault, promise, "failed", "; ".join(self._broken[promise]))
        if promise in self._excused:
            return Cell(self.subject, self.fault, promise, "not applicable", self._excused[promise])
        if promise not in self._notes:
            return Cell(self.subject, self.fault, promise, "failed", "it was not put to the test")
        return Cell(self.subject, self.fault, promise, "passed", ", ".join(self._notes[promise]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        cells = self.cells
        record(cells)
        broken = [
            f"({cell.promise}) {PROMISES[cell.promise]}: {cell.note}" for cell in cells if cell.outcome == "failed"
        ]
        if error is None and broken:
            raise AssertionError("\n".join([f"{self.subject} broke under the fault {self.fault!r}:", *broken]))
        if isinstance(error, Exception) and self._broken:
            error.add_note("\n".join(["Before that, promises had been broken:", *broken]))


def record(cells: Iterable[Cell]) -> None:
    """Append cells to the file that the environment names; nothing without it."""
    path = os.environ.get(RECORD)
    if path:
        about = {"python": platform.python_version()}
        lines = b"".join(msgspec.json.encode({**asdict(cell), **about}) + b"\n" for cell in cells)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, lines)  # one write, so that the lines of several workers don't mix
        finally:
            os.close(descriptor)


# --- what is left behind --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process holds at one moment.

    Args:
        descriptors: Open files and sockets; 0 where they can't be counted.
        tasks: Tasks of this event loop.
        threads: Threads, without those that an event loop keeps for its next blocking call.
    """

    descriptors: int
    tasks: int
    threads: int

    @classmethod
    def now(cls) -> Surroundings:
        """As they are."""
        gc.collect()
        return cls(
            len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 0,  # noqa: PTH208, PTH112 - its own is counted each time
            len(anyio.get_running_tasks()),
            sum(not thread.name.startswith(_POOLED) for thread in threading.enumerate()),
        )

    def exceeded_by(self, later: Surroundings) -> list[str]:
        """What there is more of `later`, in words."""
        pairs = {name: (getattr(self, name), getattr(later, name)) for name in ("descriptors", "tasks", "threads")}
        return [f"{now - was} {name} more than before" for name, (was, now) in pairs.items() if now > was]


async def left_behind(before: Surroundings) -> list[str]:
    """What there is more of than `before`, once what is being closed has had its time."""
    with anyio.move_on_after(_PATIENCE):
        while before.exceeded_by(Surroundings.now()):  # noqa: ASYNC110 - of the kernel, which tells nobody
            await anyio.sleep(0.02)
    return before.exceeded_by(Surroundings.now())


# --- what was logged ------------------------------------------------------------------------------------


class Journal:
    """Everything that was logged in a while, by the framework and by the standard library's logging."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        """All of it, down to `debug`."""
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        """The events that a production log would have: `info` and worse."""
        return [line for line in self.text.splitlines() if '"level":"debug"' not in line]

    @property
    def stray(self) -> list[str]:
        """What asyncio had to report itself: an error of a task or callback that nobody looked at."""
        return [line for line in self.lines if '"logger":"asyncio"' in line]


class _Relay(logging.Handler):
    """Writes the standard library's records among the framework's events."""

    def __init__(self, stream: io.StringIO) -> None:
        super().__init__(logging.DEBUG)
        self._stream = stream

    def emit(self, entry: logging.LogRecord) -> None:
        fields = {"level": entry.levelname.lower(), "logger": entry.name, "event": self.format(entry)}
        self._stream.write(msgspec.json.encode(fields).decode() + "\n")


@contextlib.contextmanager
def journal() -> Iterator[Journal]:
    """Take all logging for the length of the block."""
    kept = Journal()
    root, relay = logging.getLogger(), _Relay(kept.stream)
    level = root.level
    root.addHandler(relay)
    root.setLevel(logging.DEBUG)
    try:
        with diverted("debug", kept.stream):
            yield kept
    finally:
        root.setLevel(level)
        root.removeHandler(relay)


def disguises(secret: str) -> list[str]:
    """A secret as it may stand in a text: as it is, quoted for a URL, in base64 at each of its three offsets."""
    encoded = [base64.b64encode(b"\0" * offset + secret.encode())[4:-4].decode() for offset in range(3)]
    return [secret, quote(secret, safe=""), *(text for text in encoded if len(text) > 8)]  # noqa: PLR2004 - by chance
