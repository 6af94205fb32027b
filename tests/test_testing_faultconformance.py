"""The fault suite itself: it passes a good service, and finds each kind of broken promise."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import anyio
import pytest
from pydantic import Field

from svcframework import BaseService, HealthResult, ServiceConfig
from svcframework.config import SecretUrl
from svcframework.errors import ConnectionFailedError, RateLimitedError, ServiceTimeoutError
from svcframework.testing import FaultConformance, small_disk
from svcframework.testing._stepping import cancelled_after_turns, cancelled_at_wait
from svcframework.testing._trials import FAULTS, PROMISES, RECORD, Surroundings, Trial, disguises, journal, left_behind

PASSWORD = "canary-5fc2a1d0"


class Answer(socketserver.BaseRequestHandler):
    """Sends back what comes."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(65_536):
                self.request.sendall(data)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128  # all calls of a wave come at once


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def echo_address() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"tcp://user:{PASSWORD}@127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class EchoConfig(ServiceConfig, prefix="echo"):
    """Settings."""

    url: SecretUrl = Field(default=SecretUrl("tcp://localhost:1"), description="Address.")
    timeout: float = Field(default=2.0, description="Seconds.")


class EchoService(BaseService[EchoConfig]):
    """Keeps every promise: a connection for each call, closed at its end."""

    is_open = False
    leaked: ClassVar[list[object]] = []

    async def on_startup(self) -> None:
        await self.echo("hello")
        self.is_open = True

    async def on_shutdown(self) -> None:
        self.is_open = False

    async def echo(self, text: str) -> str:
        """Send a text there and back."""
        host, port = self.config.url.get_secret_value().rpartition("@")[2].split(":")
        try:
            async with asyncio.timeout(self.config.timeout):
                return await self.ask(host, int(port), text.encode())
        except TimeoutError as error:
            raise ServiceTimeoutError("echo", self.config.timeout) from error
        except (OSError, EOFError) as error:
            raise ConnectionFailedError("no answer") from error

    async def ask(self, host: str, port: int, data: bytes) -> str:
        """One connection, one answer."""
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(data)
            return (await reader.readexactly(len(data))).decode()
        finally:
            writer.close()

    async def _service_health_check(self) -> HealthResult:
        if not self.is_open:
            return HealthResult.unhealthy("not started")
        try:
            await self.echo("ping")
        except (ConnectionFailedError, ServiceTimeoutError) as error:
            return HealthResult.unhealthy(str(error))
        return HealthResult.healthy()


class EchoFaults(FaultConformance):  # no Test in its name: pytest doesn't take it for tests of ours
    service = EchoService
    limits = {"timeout": 0.2}
    limit = 0.2
    fuzz_calls = 300

    async def call(self, service, key):
        return await service.echo(key)


class Untyped(EchoService):
    """Lets the driver's errors out."""

    async def echo(self, text: str) -> str:
        host, port = self.config.url.get_secret_value().rpartition("@")[2].split(":")
        return await self.ask(host, int(port), text.encode())

    async def _service_health_check(self) -> HealthResult:
        try:
            await self.echo("ping")
        except OSError:
            return HealthResult.unhealthy("gone")
        return HealthResult.healthy()


class Endless(EchoService):
    """Has no limit."""

    async def echo(self, text: str) -> str:
        host, port = self.config.url.get_secret_value().rpartition("@")[2].split(":")
        return await self.ask(host, int(port), text.encode())


class Optimist(EchoService):
    """Is healthy whatever happens."""

    async def _service_health_check(self) -> HealthResult:
        return HealthResult.healthy()


class Confused(EchoService):
    """Gives every caller the first caller's answer once something has failed."""

    answer = ""
    has_failed = False

    async def echo(self, text: str) -> str:
        try:
            found = await super().echo(text)
        except ConnectionFailedError:
            self.has_failed = True
            raise
        self.answer = self.answer or found
        return self.answer if self.has_failed and text != "ping" else found


class Leaking(EchoService):
    """Keeps a descriptor of every failed call."""

    async def echo(self, text: str) -> str:
        try:
            return await super().echo(text)
        except ConnectionFailedError:
            self.leaked.append(Path(os.devnull).open())  # noqa: SIM115 - that is the leak
            raise


class Talkative(EchoService):
    """Logs each failure, by the standard library, and names its address."""

    async def echo(self, text: str) -> str:
        try:
            return await super().echo(text)
        except ConnectionFailedError:
            logging.getLogger("talkative").warning("no answer from %s", self.config.url.get_secret_value())
            raise


class Stubborn(EchoService):
    """Waits for its server before it stops."""

    async def on_shutdown(self) -> None:
        while self.is_open:
            try:
                await self.echo("bye")
            except ConnectionFailedError:
                await anyio.sleep(0.01)
            else:
                self.is_open = False


class Careless(EchoService):
    """Forgets a task when its caller gives up."""

    async def echo(self, text: str) -> str:
        try:
            return await super().echo(text)
        except asyncio.CancelledError:
            self.leaked.append(asyncio.ensure_future(asyncio.sleep(60)))
            raise


@pytest.mark.parametrize(
    ("broken", "fault", "promises"),
    [
        (Untyped, "refuse", "a"),
        (Optimist, "refuse", "b"),
        (Confused, "refuse", "c"),
        (Leaking, "refuse", "d"),
        (Stubborn, "refuse", "e"),
        (Talkative, "refuse", "f"),
    ],
)
async def test_broken_promise_is_found(
    echo_address: str, broken: type[EchoService], fault: str, promises: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report names the promise, and no other than the broken one."""
    monkeypatch.setattr(EchoFaults, "service", broken)
    monkeypatch.setattr("svcframework.testing._trials._PATIENCE", 0.3)
    monkeypatch.setattr("svcframework.testing._enduring.SLACK", 0.3)  # for what is waited for in vain
    try:
        with pytest.raises(AssertionError) as caught:
            await EchoFaults().test_network_fails(echo_address, fault)
    finally:
        while EchoService.leaked:
            EchoService.leaked.pop().close()
    found = [line for line in str(caught.value).splitlines()[1:] if line[:1] == "("]
    assert list(promises) == [line[1] for line in found]


async def test_call_without_a_limit_is_found(echo_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that a black hole holds for ever is cut off by the suite and told of."""
    monkeypatch.setattr(EchoFaults, "service", Endless)
    monkeypatch.setattr("svcframework.testing._stage.SLACK", 0.3)
    with pytest.raises(AssertionError, match=r"\(a\).*never ended"):
        await EchoFaults().test_network_fails(echo_address, "black_hole")


async def test_forgotten_task_is_found(echo_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cancelled call leaves behind is counted."""
    monkeypatch.setattr(EchoFaults, "service", Careless)
    monkeypatch.setattr("svcframework.testing._trials._PATIENCE", 0.3)
    try:
        with pytest.raises(AssertionError, match=r"\(d\).*tasks more than before"):
            await EchoFaults().test_call_is_cancelled_at_each_await(echo_address)
    finally:
        while EchoService.leaked:
            EchoService.leaked.pop().cancel()


@pytest.mark.parametrize("fault", ["black_hole", "reset", "slow"])
async def test_good_service_keeps_every_promise(echo_address: str, fault: str, tmp_path: Path, monkeypatch) -> None:
    """It passes, and each promise has its line in the record."""
    monkeypatch.setenv(RECORD, str(tmp_path / "cells"))
    await EchoFaults().test_network_fails(echo_address, fault)
    cells = [json.loads(line) for line in (tmp_path / "cells").read_text().splitlines()]
    assert [("Echo", fault, promise, "passed") for promise in PROMISES] == [
        (cell["subject"], cell["fault"], cell["promise"], cell["outcome"]) for cell in cells
    ]


async def test_good_service_is_cancelled_anywhere(echo_address: str) -> None:
    """Its calls and its start."""
    suite = EchoFaults()
    await suite.test_call_is_cancelled_at_each_await(echo_address)
    await suite.test_start_is_cancelled_at_each_await(echo_address)
    await suite.test_cancelled_calls_mix_up_no_answers(echo_address)


class Overloaded(FaultConformance):
    """Of a service that is told to come back later."""

    service = EchoService
    server = None
    limits = {"timeout": 0.2}
    limit = 0.2
    asked = 0
    raises: ClassVar[type[Exception]] = RateLimitedError

    async def call(self, service, key):
        if service.retry_at > time.monotonic():
            raise self.raises("told to come back later")
        _, port = service.config.url.get_secret_value().removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.close()
        service.retry_at = time.monotonic() + float(head.partition("Retry-After: ")[2].split()[0])
        raise self.raises("told to come back later")

    def make_service(self, address, **settings):
        service = super().make_service(address, **settings)
        service.retry_at = 0.0
        service.on_startup = lambda: asyncio.sleep(0)  # nothing to say to the server yet
        return service

    @asynccontextmanager
    async def overloaded(self):
        async def answer(reader, writer):
            self.asked += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert self.asked <= 40


async def test_overloaded_server_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook's server is called, every call fails with a typed error, and each promise is judged."""
    monkeypatch.setenv(RECORD, str(tmp_path / "cells"))
    suite = Overloaded()
    await suite.test_server_is_overloaded()
    cells = [json.loads(line)["outcome"] for line in (tmp_path / "cells").read_text().splitlines()]
    assert ["passed", "not applicable", "passed", "passed", "passed", "passed"] == cells
    assert suite.asked > 0


async def test_overloaded_server_with_an_untyped_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the server asks for, callers get errors of ours."""
    monkeypatch.setattr(Overloaded, "raises", LookupError)
    with pytest.raises(AssertionError, match=r"\(a\).*LookupError"):
        await Overloaded().test_server_is_overloaded()


async def test_service_that_degrades_must_answer(echo_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where answers are promised during a fault, an error breaks the promise, and so does `unhealthy`."""
    monkeypatch.setattr(EchoFaults, "degrades", True)
    with pytest.raises(AssertionError) as caught:
        await EchoFaults().test_network_fails(echo_address, "refuse")
    assert "a call failed that should have been answered" in str(caught.value)
    assert "not degraded" in str(caught.value)


async def test_fault_without_its_hook_fails(echo_address: str) -> None:
    """Nothing is left out silently: the message says what to write."""
    with pytest.raises(NotImplementedError, match=r"write server_on\(\), or say in not_applicable\['disk_full'\]"):
        await EchoFaults().test_disk_is_full()


async def test_fault_that_means_nothing_is_recorded_with_its_reason(tmp_path: Path, monkeypatch) -> None:
    """It is skipped, and the matrix says why."""
    monkeypatch.setenv(RECORD, str(tmp_path / "cells"))
    monkeypatch.setattr(EchoFaults, "not_applicable", {"disk_full": "it has no disk"})
    with pytest.raises(pytest.skip.Exception, match="it has no disk"):
        await EchoFaults().test_disk_is_full()
    cells = [json.loads(line) for line in (tmp_path / "cells").read_text().splitlines()]
    assert [("not applicable", "it has no disk")] * len(PROMISES) == [(c["outcome"], c["note"]) for c in cells]


def test_unknown_fault_is_refused() -> None:
    """A reason for a fault that there isn't would hide nothing and say nothing."""
    with pytest.raises(TypeError, match="names no fault: \\['disk_ful'\\]"):
        type("Misspelt", (FaultConformance,), {"not_applicable": {"disk_ful": "no disk"}})


def test_inherited_fault_is_not_replaced_silently() -> None:
    """As in the other suite, it takes a reason."""
    with pytest.raises(TypeError, match="deviates"):
        type("Replacing", (FaultConformance,), {"test_network_fails": lambda self: None})


# --- its parts ------------------------------------------------------------------------------------------


def test_promise_that_nobody_judged_is_broken() -> None:
    """A test that forgets one can't pass."""
    with pytest.raises(AssertionError, match=r"\(b\) health turns and recovers: it was not put to the test"):
        with Trial("It", "refuse") as trial:
            trial.excuse("acdef", "not asked here")


def test_what_was_broken_is_added_to_an_error() -> None:
    """An error of the suite hides no broken promise."""
    with pytest.raises(LookupError) as caught:
        with Trial("It", "refuse") as trial:
            trial.expect("c", False, "wrong answer")
            raise LookupError("of another kind")
    assert any("wrong answer" in note for note in caught.value.__notes__)


async def waits(count: int, seen: list[int]) -> str:
    for turn in range(count):
        seen.append(turn)
        await asyncio.sleep(0)
    return "done"


async def test_cancellation_hits_each_wait() -> None:
    """The n-th cancellation comes in the n-th wait, and the first one past the end not at all."""
    for wait in (1, 2, 3):
        seen: list[int] = []
        reached, ended = await cancelled_at_wait(lambda seen=seen: waits(3, seen), wait, "waiting")
        assert (True, asyncio.CancelledError, list(range(wait))) == (reached, type(ended), seen)
    assert (False, "done") == await cancelled_at_wait(lambda: waits(3, []), 4, "waiting")
    assert (False, "done") == await cancelled_after_turns(lambda: waits(3, []), 10)


async def test_cancellation_comes_with_the_answer() -> None:
    """At the moment `answered` what was waited for is there, and its waiter is cancelled nevertheless."""
    answer = asyncio.get_running_loop().create_future()

    async def ask() -> str:
        return await answer

    asyncio.get_running_loop().call_later(0.01, answer.set_result, "there")
    reached, ended = await cancelled_at_wait(ask, 1, "answered")
    assert (True, asyncio.CancelledError, "there") == (reached, type(ended), answer.result())


async def test_surroundings_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors, tasks and threads that are there later are told of; a thread of the loop's own pool isn't."""
    monkeypatch.setattr("svcframework.testing._trials._PATIENCE", 0.05)
    await asyncio.to_thread(int)
    before = Surroundings.now()
    assert [] == await left_behind(before)
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    task = asyncio.ensure_future(asyncio.sleep(60))
    with Path(os.devnull).open():
        found = await left_behind(before)
    release.set()
    thread.join()
    task.cancel()
    assert [f"1 {name} more than before" for name in ("descriptors", "tasks", "threads")] == found


def test_journal_has_all_that_is_logged() -> None:
    """Our events and the standard library's, and nothing stays configured."""
    with journal() as logged:
        EchoService(EchoConfig()).logger.debug("looked at")
        EchoService(EchoConfig()).logger.info("of note")
        logging.getLogger("driver").error("broken")
    assert "looked at" in logged.text
    assert ["of note", "broken"] == [json.loads(line)["event"] for line in logged.lines]
    EchoService(EchoConfig()).logger.info("afterwards")
    assert "afterwards" not in logged.text


def test_secret_is_found_in_disguise() -> None:
    """As it is, quoted and in base64 at any offset."""
    import base64
    from urllib.parse import quote

    secret = "p:/@ss word-7Q"
    for text in (
        secret,
        quote(secret, safe=""),
        *(base64.b64encode(b"x" * n + secret.encode()).decode() for n in (0, 4, 8)),
    ):
        assert any(shape in text for shape in disguises(secret)), text


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting takes root")
def test_small_disk_is_small_and_goes_away() -> None:
    """It is full soon, and nothing of it stays."""
    with small_disk(megabytes=1) as folder:
        with pytest.raises(OSError, match="No space left"):
            (folder / "big").write_bytes(bytes(2_000_000))
    assert not folder.exists()


def test_small_disk_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root there is a sentence for the skipped test."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(PermissionError, match="by root only"):
        with small_disk():
            pass


def test_matrix_is_written_from_the_record(tmp_path: Path) -> None:
    """Passed, failed and excused cells are told apart, with their reasons below; what did not run is said."""
    program = (
        "import sys; sys.path.insert(0, 'scripts'); from write_fault_matrix import page;"
        "cell = lambda p, o, n: dict(subject='It', fault='refuse', promise=p, outcome=o, note=n);"
        "print(page([cell('a','passed','0.3 s'), cell('d','passed',''), cell('b','failed','too late'),"
        "cell('e','not applicable','no stop')], date='2026-11-25', versions='Python 3'))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert "| connections are refused | 0.3 s | **failed** (1) | not run | yes | n/a (2) | not run |" in done.stdout
    assert "1. too late\n2. no stop" in done.stdout


def test_matrix_in_the_docs_is_whole() -> None:
    """Every fault has its row for each service, every cell was judged, and none has failed."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "reference" / "faults.md").read_text(encoding="utf-8")
    sections = page.split("\n## ")[2:]
    assert {"Postgres", "Redis"} <= {section.splitlines()[0] for section in sections}
    for section in sections:
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert list(FAULTS.values()) == [row.split("|")[1].strip() for row in rows]
        assert [] == [row for row in rows if "not run" in row or "**failed**" in row]
