"""Stage: a service on a host of its own, called and watched while something is done to its server."""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio

from svcframework._types import HealthResult, HealthStatus
from svcframework.errors import ServiceFrameworkError, ServiceTimeoutError, StartupError
from svcframework.events import HealthChanged
from svcframework.host import ServiceHost
from svcframework.service import BaseService
from svcframework.testing._trials import Trial

SLACK = 3.0  # seconds that a busy machine may add to any limit
_TEXTS = 6  # errors whose whole text is kept for the search for secrets
_RESOLVER_TIMEOUT = 10.0  # seconds after which a resolver without an answer gives up: glibc's two tries
_BUSY = 5.0  # seconds in which a call that is due an answer is repeated when it timed out
_STARTS = 3  # times that a start is tried: its limits are short, and the machine may be busy
_POLL = 0.01  # seconds between two looks at the health


@dataclass(eq=False)
class Stage:
    """One life of a service, and what was seen of it.

    Args:
        host: Runs it, and the services that it needs.
        service: The one under test.
        call: Takes the service and a key, and gives the key back.
        trial: Learns of broken promises.
        limit: Seconds in which a call must end.
        degrades: A fault makes it answer in another way, not fail.
    """

    host: ServiceHost
    service: BaseService[Any]
    call: Callable[[Any, str], Awaitable[str]]
    trial: Trial
    limit: float
    degrades: bool = False
    answers: int = 0
    errors: int = 0
    slowest: float = 0.0
    texts: list[str] = field(default_factory=list)

    @property
    def health(self) -> HealthResult:
        """What the probes see."""
        return self.host.health.last_results.get(self.service.name, HealthResult.unknown())

    async def ask(self, key: str | None = None, *, must: str = "") -> bool:
        """Call once, and judge how it went: its time, its error, its answer.

        Args:
            key: What it must give back; made up when not given.
            must: `answer` or `fail`; nothing when either is right. Where an answer is due, a call that timed out is
                repeated for a while: the limits are short, and the machine may be busy.

        Returns:
            Whether it was answered.
        """
        key = key or secrets.token_hex(12)
        began = anyio.current_time()
        error = await self._timed(key)
        while must == "answer" and isinstance(error, ServiceTimeoutError) and anyio.current_time() - began < _BUSY:
            error = await self._timed(key)
        if error is None:
            self.trial.expect("a", must != "fail", "a call was answered during the fault")
        else:
            self.trial.expect("a", must != "answer", f"a call failed that should have been answered: {error}")
        return error is None

    async def _timed(self, key: str) -> Exception | None:
        """One call within its limit; its error, None if it was answered."""
        began = anyio.current_time()
        failure: Exception | None = None
        with anyio.move_on_after(self.limit + 2 * SLACK) as patience:
            failure = await self._answered(key)
        seconds = anyio.current_time() - began
        self.slowest = max(self.slowest, seconds)
        if patience.cancelled_caught:
            self.trial.broke("a", f"a call never ended, its limit is {self.limit:g} s")
            return ServiceTimeoutError("call", seconds)
        in_time = seconds <= self.limit + SLACK
        self.trial.expect("a", in_time, f"a call took {seconds:.1f} s, its limit is {self.limit:g} s")
        return failure

    async def _answered(self, key: str) -> Exception | None:
        try:
            found = await self.call(self.service, key)
        except Exception as error:  # noqa: BLE001 - what it is, is what is judged
            self._failed(error)
            if not isinstance(error, ServiceFrameworkError):
                self.trial.broke("a", f"a call raised no error of ours, but {type(error).__qualname__}: {error}")
            return error
        self.answers += 1
        self.trial.expect("c", found == key, f"a call got {_shortened(found)} for {_shortened(key)}")
        return None

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if len(self.texts) < _TEXTS:
            self.texts += [*traceback.format_exception(error), repr(error)]

    async def ask_many(self, count: int, *, must: str = "") -> None:
        """Call so often at once."""
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(functools.partial(self.ask, must=must))

    async def await_health(self, seconds: float, *, well: bool) -> float | None:
        """Wait until the probes see that it is healthy, or that it isn't.

        Returns:
            The seconds that it took; None if it did not turn within `seconds`.
        """
        began = anyio.current_time()
        with anyio.move_on_after(seconds):
            while (self.health.status is HealthStatus.HEALTHY) is not well:  # noqa: ASYNC110 - what the probes do
                await anyio.sleep(_POLL)
            return anyio.current_time() - began
        return None

    def note(self, event: object) -> None:
        """A listener: keeps the words of health for the search for secrets."""
        if isinstance(event, HealthChanged):
            self.texts.append(f"{event.new}{event.new!r}")


def _shortened(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) < 60 else f"{shown[:40]}… ({len(shown)} characters)"  # noqa: PLR2004 - a line


@contextlib.asynccontextmanager
async def staged(services: Sequence[BaseService[Any]], **about: Any) -> AsyncIterator[Stage]:
    """Run services on a host; the last one is under test and needs the others.

    Args:
        services: Not running.
        about: The other arguments of `Stage`.
    """
    host = ServiceHost(name="faults")
    names: list[str] = []
    for service in services:
        names.append(host.register(_giver(service), name=service.name, dependencies=tuple(names)).name)
    stage = Stage(host, services[-1], **about)
    host.subscribe(stage.note)
    for left in reversed(range(_STARTS)):
        try:
            await host.start()
            break
        except StartupError:
            if not left:
                raise
    try:
        yield stage
    finally:
        await host.stop()


def _giver(service: BaseService[Any]) -> Callable[[], BaseService[Any]]:
    def give() -> BaseService[Any]:
        return service

    return give


# --- a name that stops resolving ------------------------------------------------------------------------

HOST = "faults.svcframework.invalid"
"""A host that no resolver knows (RFC 6761)."""


class Names:
    """The system's resolver with one more line in its hosts file, which can be struck out. It asks nobody about `HOST`.

    Args:
        is_silent: Without the line it doesn't say that there is no such host, but nothing at all.
    """

    def __init__(self, *, is_silent: bool = False) -> None:
        self._is_silent = is_silent
        self._is_known = threading.Event()
        self._is_known.set()
        self._resolve = socket.getaddrinfo

    @contextlib.contextmanager
    def known(self) -> Iterator[None]:
        """Resolve `HOST` to this machine for the length of the block, but for the times when it is struck out."""
        socket.getaddrinfo = self._look_up
        try:
            yield
        finally:
            socket.getaddrinfo = self._resolve
            self.put_back()

    def strike_out(self) -> None:
        """From now on there is no such host."""
        self._is_known.clear()

    def put_back(self) -> None:
        """It is there again, also for those who have been waiting for an answer."""
        self._is_known.set()

    def _look_up(self, host: Any, *arguments: Any, **options: Any) -> Any:
        if (host.decode() if isinstance(host, bytes) else host) != HOST:
            return self._resolve(host, *arguments, **options)
        if not (self._is_known.wait(_RESOLVER_TIMEOUT) if self._is_silent else self._is_known.is_set()):
            code = socket.EAI_AGAIN if self._is_silent else socket.EAI_NONAME
            raise socket.gaierror(code, f"{HOST} is not known")
        return self._resolve("127.0.0.1", *arguments, **options)

    @staticmethod
    def in_address(address: str) -> str:
        """The address with `HOST` for its host."""
        parts = urlsplit(address)
        credentials, at, _ = parts.netloc.rpartition("@")
        port = "" if parts.port is None else f":{parts.port}"
        return parts._replace(netloc=f"{credentials}{at}{HOST}{port}").geturl()
