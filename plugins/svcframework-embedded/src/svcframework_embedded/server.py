"""EmbeddedServer: a real server as a service. What both servers share: directories, start, crash, stop, health."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio
import anyio.to_thread

from svcframework import HealthResult
from svcframework.errors import ConnectionFailedError, ServiceTimeoutError, ServiceUnavailableError
from svcframework.service import BaseService
from svcframework_embedded._files import Owner, free_port, make_data_dir, make_scratch
from svcframework_embedded._process import ServerProcess
from svcframework_embedded._wire import Address
from svcframework_embedded.config import EmbeddedConfig
from svcframework_embedded.errors import ServerCrashedError, ServerStartError

ServerConfigT = TypeVar("ServerConfigT", bound=EmbeddedConfig)
T = TypeVar("T")

_POLL = 0.005  # seconds between two looks at a server that is starting
_PORT_TRIES = 5


class EmbeddedServer(BaseService[ServerConfigT]):
    """A server process of our own; lives from start to stop, and comes back on the same port and data in between.

    With an address of the user's own server in the config nothing is started: the service is then only a name for
    that address, with a health check.
    """

    product: ClassVar[str]
    """What errors call the server."""
    last_signal: ClassVar[signal.Signals]
    """Ends the server at once, without its being corrupted."""

    def __init__(self, config: ServerConfigT | Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self._process: ServerProcess | None = None
        self._scratch: Path | None = None
        self._scratch_remover: weakref.finalize[..., Any] | None = None
        self._owner: Owner | None = None
        self._port = 0
        self._password = ""
        self._crashed = False
        self._preparing = False  # its directories are being made
        self._reached = False  # the user's own server, when it is used
        self._changing = anyio.Lock()  # one start or stop at a time

    # --- where it is ------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port, also the one a unix socket is named after.

        Raises:
            ServiceUnavailableError: It has not been started.
        """
        if self._external:
            return self._external_address().port
        return self._started(self._port)

    @property
    def pid(self) -> int:
        """The server's process id.

        Raises:
            ServiceUnavailableError: It doesn't run, or it isn't ours.
        """
        process = self._process
        if process is None or not process.is_alive:
            raise ServiceUnavailableError(self.name, "no server of ours runs")
        return process.pid

    @property
    def data_dir(self) -> Path:
        """Where the data is.

        Raises:
            ServiceUnavailableError: It has not been started, or it isn't ours.
        """
        if self.config.data_dir is not None and not self._external:
            return self.config.data_dir.expanduser().absolute()
        return self._started(self._scratch) / "data"

    @property
    def is_alive(self) -> bool:
        """A server process of ours runs."""
        return self._process is not None and self._process.is_alive

    # --- its life ---------------------------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Start the server and wait until it serves.

        Raises:
            PluginError: Its programs are not installed.
            ServerStartError: It ended while starting; has the last lines of its log.
            ServiceTimeoutError: It did not serve within `ready_timeout`, or the user's own server doesn't answer.
        """
        if self._external:
            await self._reach_external()
            self._reached = True
            return
        self._preparing = True
        try:
            await self._prepare()
        finally:
            self._preparing = False
        async with self._changing:
            await self._launch()
        self._crashed = False

    async def on_run(self) -> None:
        """Wait for the server's end, which is always a crash: a stop interrupts this first.

        Raises:
            ServerCrashedError: The server has ended.
        """
        if self._external:
            await anyio.sleep_forever()
        process = self._started(self._process)
        code = await process.wait()
        self._crashed = True
        raise ServerCrashedError(self.product, code, log=process.log_tail())

    async def on_shutdown(self) -> None:
        """Stop the server and remove what it left; bounded, and SIGKILL at the end.

        After a crash, port and temporary data are kept for the restart, or until the service object is gone.
        """
        self._reached = False
        with anyio.CancelScope(shield=True):
            async with self._changing:
                await self._stop_process()
            if not self._crashed:
                await self._remove_scratch()

    def forget_crash(self) -> None:
        """There will be no restart: the next `on_shutdown` removes everything. For callers without a host."""
        self._crashed = False

    async def kill(self) -> None:
        """Kill the server with SIGKILL, for demonstrations and fault tests; returns when it is dead.

        Under a host, the restart policy brings it back. Nothing happens when it is dead already.
        """
        if self._process is not None:
            await self._process.stop()

    async def relaunch(self) -> None:
        """Start it again on the same port and data, stopping it first if need be. For tests without a host.

        Raises:
            ServiceUnavailableError: It was never started.
            ServerStartError: As `on_startup` does.
        """
        self._started(self._scratch)
        async with self._changing:
            await self._stop_process()
            await self._launch()

    async def _service_health_check(self) -> HealthResult:
        if not (self._reached if self._external else self.is_alive):
            return HealthResult.unhealthy(f"{self.product} is not running")
        address = self._external_address() if self._external else self._address()
        limit = self.config.health_check_timeout
        with anyio.move_on_after(limit * 0.9):  # tell more than the monitor's own timeout can
            await self._greet(address)
            return HealthResult.healthy(f"accepts connections at {address}", pid=getattr(self._process, "pid", None))
        return HealthResult.unhealthy(f"{self.product} at {address} does not answer within {limit * 0.9:g} s")

    # --- what each server is ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def _external(self) -> bool:
        """The config names a server of the user's own."""

    @abstractmethod
    def _external_address(self) -> Address:
        """Where the user's own server is."""

    @abstractmethod
    def _socket(self, directory: Path) -> Path:
        """The unix socket in `directory`."""

    @abstractmethod
    async def _prepare_data(self) -> None:
        """Make sure that the data directory is one; called before each start."""

    @abstractmethod
    async def _command(self) -> list[str | Path]:
        """The program and its arguments."""

    @abstractmethod
    async def _greet(self, address: Address) -> None:
        """Return when the server at `address` serves; ConnectionFailedError until then."""

    async def _after_launch(self) -> None:
        """What needs a running server: passwords, databases."""

    @abstractmethod
    def _stop_steps(self, seconds: float) -> list[tuple[signal.Signals, float]]:
        """Signals that end it, and the share of `seconds` that each gets."""

    # --- how it is done ---------------------------------------------------------------------------------

    async def _reach_external(self) -> None:
        address, limit = self._external_address(), self.config.connect_timeout
        with anyio.move_on_after(limit):
            await self._greet(address)
            return
        raise ServiceTimeoutError(f"{self.product} at {address}", limit, hint="is the server reachable?")

    async def _prepare(self) -> None:
        config = self.config
        if not self._password:
            given = config.password
            self._password = given.get_secret_value() if given is not None else secrets.token_urlsafe(24)
        if self._scratch is None:
            self._owner = await anyio.to_thread.run_sync(self._find_owner)
            scratch = await anyio.to_thread.run_sync(lambda: make_scratch(self._owner, prefix="svc-"))
            self._scratch = scratch
            # Also when we are never stopped: at the latest when the interpreter ends.
            self._scratch_remover = weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        if config.data_dir is not None:
            await anyio.to_thread.run_sync(make_data_dir, self.data_dir, self._owner)
        if not self._port:
            self._port = config.port or await anyio.to_thread.run_sync(free_port, config.host)
        await self._prepare_data()

    def _find_owner(self) -> Owner | None:
        """Whose process it becomes: ours, unless the server minds."""
        return None

    async def _launch(self) -> None:
        """Start the process and wait until it serves, on another port if ours was snatched before the first start."""
        limit = self.config.ready_timeout
        tries = 1 if self.config.port or self._crashed else _PORT_TRIES
        with anyio.move_on_after(limit) as scope:
            while True:
                try:
                    await self._launch_once()
                except ServerStartError as error:
                    tries -= 1
                    if not tries or "in use" not in str(error):
                        raise
                    self._port = await anyio.to_thread.run_sync(free_port, self.config.host)
                else:
                    return
        if scope.cancelled_caught:
            raise ServiceTimeoutError(f"start of {self.product}", limit, hint=self._log_tail() or "its log is empty")

    async def _launch_once(self) -> None:
        log = self._started(self._scratch) / "server.log"
        log.unlink(missing_ok=True)
        command = await self._command()
        process = self._process = await ServerProcess.start(
            self.product,
            command,
            log=log,
            owner=self._owner,
            scratch=self._scratch,
            last_signal=self.last_signal,
        )
        try:
            await self._wait_until_it_serves(process)
            await self._after_launch()
        except BaseException:
            await process.stop()
            raise

    async def _wait_until_it_serves(self, process: ServerProcess) -> None:
        address = self._address()
        while process.is_alive:
            with contextlib.suppress(ConnectionFailedError), anyio.move_on_after(1.0):
                await self._greet(address)
                return
            await anyio.sleep(_POLL)
        raise ServerStartError(
            f"{self.product} ended while starting, exit code {process.exit_code}: {self._log_tail()}"
        )

    async def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop(*self._stop_steps(max(1.0, self.config.stop_timeout - 2.0)))

    async def _remove_scratch(self) -> None:
        remover, self._scratch_remover = self._scratch_remover, None
        scratch, self._scratch = self._scratch, None
        self._port = 0
        if remover is not None and scratch is not None:
            await anyio.to_thread.run_sync(remover)
            if self._preparing or await anyio.to_thread.run_sync(scratch.exists):
                # A start that was given up on still copies into it, in a thread that can't be stopped: again at the end
                weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)

    def _address(self) -> Address:
        """Our own server's, as we reach it: the socket always exists, whatever clients use."""
        return Address(path=self._socket(self._started(self._scratch)))

    def _log_tail(self) -> str:
        return self._process.log_tail() if self._process is not None else ""

    def _started(self, value: T | None) -> T:
        if not value:
            raise ServiceUnavailableError(self.name, "it has not been started")
        return value
