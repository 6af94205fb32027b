"""EmbeddedValkey: a Valkey server of our own, for clients of Redis."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import anyio.to_thread

from svcframework import Restart
from svcframework_embedded._binaries import valkey_server
from svcframework_embedded._wire import Address, command_valkey, greet_valkey
from svcframework_embedded.config import EmbeddedValkeyConfig
from svcframework_embedded.server import EmbeddedServer


class EmbeddedValkey(
    EmbeddedServer[EmbeddedValkeyConfig], restart=Restart.permanent(max_restarts=20, within=60.0, delay=0.02)
):
    """A Valkey server that starts with its host and needs nothing installed; clients of Redis can't tell.

    Without `data_dir` it is a throwaway: not synced to disk, removed on stop. A crash keeps its data: every write is
    in the append-only file before its answer is sent. Services that need the server take this one as a dependency
    and read `url` in their `on_startup`.
    """

    product: ClassVar[str] = "Valkey"
    last_signal: ClassVar[signal.Signals] = signal.SIGTERM

    _taken = ""  # the password that the running server takes, when it isn't the one in `url`

    @property
    def url(self) -> str:
        """The address with its password, `redis://…` or `unix://…`; valid once running.

        Raises:
            ServiceUnavailableError: It has not been started.
        """
        config = self.config
        if config.url is not None:
            return config.url.get_secret_value()
        if config.transport == "unix":
            return f"unix://{quote(str(self._socket(self._started(self._scratch))))}?db={config.database}"
        host = f"[{config.host}]" if ":" in config.host else config.host
        return f"redis://:{quote(self._password, safe='')}@{host}:{self.port}/{config.database}"

    @property
    def _external(self) -> bool:
        return self.config.url is not None

    def _external_address(self) -> Address:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return Address(path=Path(unquote(parts.path or parse_qs(parts.query).get("path", [""])[0])))
        return Address(parts.hostname or "localhost", parts.port or 6379)

    def _socket(self, directory: Path) -> Path:
        return directory / "valkey.sock"

    async def _prepare_data(self) -> None:
        self._program = await anyio.to_thread.run_sync(valkey_server, self.config.binaries)
        await anyio.to_thread.run_sync(lambda: self.data_dir.mkdir(mode=0o700, exist_ok=True))

    async def _command(self) -> list[str | Path]:
        path = self._started(self._scratch) / "valkey.conf"
        self._taken = ""
        await anyio.to_thread.run_sync(self._write_config, path)  # not as arguments, which everybody can see
        return [self._program, path]

    def _write_config(self, path: Path) -> None:
        config = self.config
        scratch = self._started(self._scratch)
        tcp = config.transport == "tcp"
        settings = {
            "bind": config.host,
            "port": str(self._port if tcp else 0),
            "unixsocket": str(self._socket(scratch)),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "daemonize": "no",
            "databases": str(max(16, config.database + 1)),
            "maxmemory": config.max_memory,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec" if config.data_dir is not None else "no",
            **({"requirepass": self._password} if tcp else {}),
            **config.settings,
        }
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {_quoted(value)}\n" for name, value in settings.items()))

    async def _greet(self, address: Address) -> None:
        await greet_valkey(address, self._credentials())

    def _credentials(self) -> list[str]:
        if not self._external:
            return [self._password] if self.config.transport == "tcp" else []
        parts = urlsplit(self.url)
        return [unquote(part) for part in (parts.username, parts.password) if part] if parts.password else []

    async def change_password(self, password: str | None = None) -> None:
        """Change the password that the server takes, and end every connection; `url` stays as it is.

        Args:
            password: The new one; the one in `url` when not given.

        Raises:
            ConnectionFailedError: The server doesn't run.
        """
        known, self._taken = self._taken or self._password, password or self._password
        commands = [["CONFIG", "SET", "requirepass", self._taken], ["CLIENT", "KILL", "TYPE", "normal"]]
        await command_valkey(self._address(), [known], commands)

    def _stop_steps(self, seconds: float) -> list[tuple[signal.Signals, float]]:
        return [(signal.SIGTERM, seconds)]


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
