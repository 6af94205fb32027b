"""Whenever a signal comes, what was started is stopped once and in order, the exit code tells, and the process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "fixtures" / "programs" / "signalled.py"
CODES = {"SIGTERM": 143, "SIGINT": 130}
STEPS = [
    *(f"{step} {name}" for step in ("build", "start", "stop") for name in ("one", "two", "three")),
    "between",
    "main",
]
CASES = [
    *((step, "SIGTERM", "asyncio") for step in STEPS),
    *((step, "SIGINT", "trio") for step in STEPS),
    ("start two", "SIGTERM", "uvloop"),
    ("main", "SIGINT", "uvloop"),
    *((step, "SIGTERM", backend) for step in ("main*2", "hang*2", "hang*3") for backend in ("asyncio", "trio")),
    *((step, "SIGTERM", "asyncio") for step in ("block*1", "stubborn", "thread")),
    ("stubborn", "SIGINT", "trio"),
    *((step, "SIGTERM", backend) for step in ("exit", "error") for backend in ("asyncio", "trio")),
]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no os.kill() for signals here")


@dataclass
class Ended:
    """How a program ended."""

    code: int
    story: list[str]
    errors: str
    seconds: float


Case = tuple[str, str, str]
Programs = dict[Case, Ended]


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest) -> Programs:
    """How each program ended that the chosen tests ask for."""
    wanted = [
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "case" in item.callspec.params
    ]
    told = subprocess.run(
        [sys.executable, str(PROGRAM)],
        input=json.dumps(list(dict.fromkeys(wanted))),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=100,
    ).stdout
    return {
        tuple(one["case"]): Ended(one["code"], one["out"].splitlines(), one["err"], one["seconds"])
        for one in json.loads(told)
    }


def cases(*steps: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case[0] in steps]
    return pytest.mark.parametrize("case", chosen, ids=["-".join(case) for case in chosen])


@cases(*STEPS)
def test_signal_at_each_step(case: Case, programs: Programs) -> None:
    """Each service whose start was entered is stopped exactly once, in reverse, and the exit code is the signal's."""
    step, number, _ = case
    ended = programs[case]
    assert CODES[number] == ended.code, ended.errors
    started = [line[1:] for line in ended.story if line.startswith("+")]
    stopped = [line[1:] for line in ended.story if line.startswith("-")]
    assert ["one", "two", "three"][: len(started)] == started
    assert started[::-1] == stopped
    assert "Traceback" not in ended.errors
    if step.startswith("start"):
        assert step.partition(" ")[2] == started[-1]
    if step.startswith("build"):
        assert len(started) < 2
    assert ("main" in ended.story) is (step == "main" or step.startswith("stop"))
    assert ended.seconds < 25


@cases("main*2")
def test_two_signals_at_once_stop_too(case: Case, programs: Programs) -> None:
    """Two signals in one moment, before the loop has seen the first, end the program in order."""
    ended = programs[case]
    assert (143, ["-three", "-two", "-one"]) == (ended.code, ended.story[-3:]), ended.errors


@cases("hang*2")
def test_second_signal_shortens(case: Case, programs: Programs) -> None:
    """A stop that hangs is cut to a second, the others are stopped, and the report says who hung and where."""
    ended = programs[case]
    assert (143, ["-three", "-two", "-one"]) == (ended.code, ended.story[-3:]), ended.errors
    assert '"culprits":["two"]' in ended.errors
    assert "signalled.py" in ended.errors
    assert "in live.<locals>.Step.on_shutdown" in ended.errors


@cases("hang*3")
def test_third_signal_kills(case: Case, programs: Programs) -> None:
    """Nothing else is done."""
    ended = programs[case]
    assert (143, ["-three", "-two"]) == (ended.code, ended.story[-2:]), ended.errors


@cases("block*1")
def test_blocked_loop_does_not_keep_the_process(case: Case, programs: Programs) -> None:
    """A thread kills the process past all budgets, and shows where the loop stood."""
    ended = programs[case]
    assert 143 == ended.code
    assert "the process is killed" in ended.errors
    assert "in on_shutdown" in ended.errors


@cases("stubborn")
def test_stubborn_main_does_not_keep_the_services(case: Case, programs: Programs) -> None:
    """A `main` that swallows its cancellation: the services are stopped under it, then the process is killed."""
    ended = programs[case]
    assert CODES[case[1]] == ended.code
    assert ["-three", "-two", "-one"] == ended.story[-3:]


@cases("thread")
def test_thread_does_not_keep_a_process_that_was_told_to_end(case: Case, programs: Programs) -> None:
    """The interpreter would wait for it for ever."""
    ended = programs[case]
    assert 143 == ended.code
    assert ["-three", "-two", "-one"] == ended.story[-3:]


@cases("exit", "error")
def test_exit_code_of_main(case: Case, programs: Programs) -> None:
    """SystemExit has its code, an error is 1 with its traceback; the services are stopped first."""
    ended = programs[case]
    assert {"exit": 7, "error": 1}[case[0]] == ended.code
    assert ["-three", "-two", "-one"] == ended.story[-3:]
    assert ("ValueError: broken" in ended.errors) is (case[0] == "error")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_anything_of_ours_runs(number: signal.Signals) -> None:
    """Before the program owns its process the signal itself ends it, which a shell shows as 143 or 130."""
    heard = "import os, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)"  # may be ignored here
    program = f"{heard}; os.kill(os.getpid(), {int(number)}); time.sleep(30)"
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=30)
    assert ended.returncode in {-number, 128 + number}
