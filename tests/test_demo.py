"""The demo as its audience runs it: to the end, and ended by a signal at every stage; nothing may be left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

DEMO = ("-m", "catalogue.demo", "--graph", "graph.mmd")
PATIENCE = 60.0  # seconds for a whole run on a busy machine
TERMINATED = 128 + signal.SIGTERM


@dataclass
class Stage:
    """A place for one run: temporary files, the cache and the working directory are its own."""

    folder: Path
    cache: Path
    lines: list[str] = field(default_factory=list)

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @contextlib.contextmanager
    def running(self, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run Python with these arguments; killed at the end of the block if it still runs."""
        here = {"TMPDIR": str(self.temporary), "EMBEDDED_POSTGRES__CACHE_DIR": str(self.cache), **variables}
        with subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def finish(self, process: subprocess.Popen[str]) -> int:
        """Wait for its end; the exit code."""
        self.lines.append(process.communicate(timeout=PATIENCE)[0])
        return process.returncode

    def left_behind(self) -> list[str]:
        """What a run has left: processes, files in the temporary directory, held locks, half a cache entry."""
        processes = [f"process {found.pid} {found.name()}" for found in psutil.process_iter() if self._is_ours(found)]
        files = [f"file {path}" for path in self.temporary.rglob("*")]
        locks = [f"lock {path}" for path in self.cache.glob("*.lock") if _is_locked(path)]
        halves = [f"cache entry {path}" for path in self.cache.glob("*.new")]
        return processes + files + locks + halves

    def _is_ours(self, process: psutil.Process) -> bool:
        """Servers change their command line, but stay in their data directory."""
        with contextlib.suppress(psutil.Error):
            words = [process.cwd(), *process.cmdline()]
            return any(str(self.temporary) in word for word in words)
        return False


def _is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """One cache for all runs; the first to get so far fills it."""
    with tempfile.TemporaryDirectory(prefix="demo-cache-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def stage(cache: Path) -> Iterator[Stage]:
    """A short path that everybody may pass through: a server that refuses to be root has its socket there."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        made = Stage(Path(folder), cache)
        made.temporary.mkdir()
        yield made


def test_demo_does_what_it_says(stage: Stage) -> None:
    """It ends with 0, all claims hold, the output is plain when piped, nothing is left, and no other server is used."""
    theirs = "postgresql://somebody@127.0.0.1:1/theirs"
    with stage.running(*DEMO, EMBEDDED_POSTGRES__DSN=theirs, DATABASE_URL=theirs) as process:
        code = stage.finish(process)

    assert 0 == code, stage.output
    assert [] == stage.left_behind()
    assert "\x1b" not in stage.output
    for title in ("Start", "Ingest", "Search", "Events", "Crash", "Health", "Metrics", "Graph", "Stop", "Verified"):
        assert re.search(rf"^{title}\b", stage.output, re.MULTILINE), title
    claims = stage.output.partition("\nVerified")[2]
    assert ("✓" in claims, "✗" in claims) == (True, False)
    assert (stage.folder / "graph.mmd").read_text().startswith("flowchart TD")


def test_false_claim_fails_the_demo(stage: Stage) -> None:
    """The exit code is 1 when what is found isn't what is installed."""
    program = """if True:
        import pathlib, sys
        from rich.console import Console
        from catalogue.demo.script import Demo
        demo = Demo(Console(), pathlib.Path("graph.mmd"))
        demo.installed.add("no-such-package")
        sys.exit(demo.run())
    """

    with stage.running("-c", program) as process:
        code = stage.finish(process)

    assert 1 == code, stage.output
    assert "✗" in stage.output.partition("\nVerified")[2]
    assert [] == stage.left_behind()


# --- ended by a signal ----------------------------------------------------------------------------------

Moment = Callable[[Stage, "subprocess.Popen[str]"], None]


def says(text: str) -> Moment:
    """The moment at which the demo prints `text`."""

    def wait(stage: Stage, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            stage.lines.append(line)
            if text in line:
                return
        pytest.fail(f"the demo never said {text!r}: {stage.output}")

    return wait


def makes(pattern: str) -> Moment:
    """The moment at which such a temporary file exists."""

    def wait(stage: Stage, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            if any(stage.temporary.glob(pattern)):
                return
            time.sleep(0.001)
        pytest.fail(f"the demo never made {pattern!r}: {process.communicate()[0]}")

    return wait


MOMENTS = {
    "while it imports": says("pydantic"),
    "before the host": says("Start "),
    "with the first directory": makes("svc-*"),
    "while PostgreSQL starts": makes("svc-*/data/postmaster.pid"),
    "when all has started": says("critical path"),
    "after the ingest": says("most used licences"),
    "after the searches": says("test fixtures"),
    "as PostgreSQL is killed": says("kill -9"),
    "while PostgreSQL is down": says("→ unhealthy"),
    "as PostgreSQL is back": says("runs again"),
    "at the end of the show": says("as Mermaid"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_sigterm_leaves_nothing_behind(stage: Stage, moment: Moment) -> None:
    """Told to stop at any moment, it stops everything in order and exits with 143."""
    with stage.running("-X", "importtime", *DEMO) as process:
        moment(stage, process)
        process.send_signal(signal.SIGTERM)
        code = stage.finish(process)

    assert TERMINATED == code, stage.output
    assert [] == stage.left_behind()


def test_second_sigterm_leaves_nothing_behind(stage: Stage) -> None:
    """It shortens the end of a start in the middle of copying a database; what is copied nevertheless goes as well."""
    with stage.running(*DEMO) as process:
        makes("svc-*/data/base")(stage, process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        code = stage.finish(process)

    assert TERMINATED == code, stage.output
    assert [] == stage.left_behind()


def test_sigterm_before_the_first_line_of_ours(stage: Stage) -> None:
    """An interpreter that has only just been started is ended by the system; a shell says 143 to that as well."""
    with stage.running(*DEMO) as process:
        process.send_signal(signal.SIGTERM)
        code = stage.finish(process)

    assert code in {-signal.SIGTERM, TERMINATED}
    assert [] == stage.left_behind()


def test_sigterm_during_the_stop(stage: Stage) -> None:
    """A stop that has begun anyway is finished; the exit code says 143, unless the signal came after the end."""
    with stage.running(*DEMO) as process:
        says("Stop ")(stage, process)
        process.send_signal(signal.SIGTERM)
        code = stage.finish(process)

    assert code == TERMINATED or (code, "directories left" in stage.output) == (0, True), stage.output
    assert [] == stage.left_behind()


def test_ctrl_c_leaves_nothing_behind(stage: Stage) -> None:
    """Ctrl-C in the middle, on a terminal with colours, exits with 130."""
    with stage.running(*DEMO, FORCE_COLOR="1") as process:
        says("Crash")(stage, process)
        process.send_signal(signal.SIGINT)
        code = stage.finish(process)

    assert 128 + signal.SIGINT == code, stage.output
    assert "\x1b[" in stage.output
    assert [] == stage.left_behind()
