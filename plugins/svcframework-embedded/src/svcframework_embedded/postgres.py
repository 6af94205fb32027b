"""EmbeddedPostgres: a PostgreSQL server of our own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

import anyio
import anyio.to_thread

from svcframework import Restart
from svcframework.errors import ConnectionFailedError
from svcframework_embedded import _files
from svcframework_embedded._binaries import postgres_bin
from svcframework_embedded._process import environment
from svcframework_embedded._sysv import remove_segment
from svcframework_embedded._wire import Address, greet_postgres, query_postgres
from svcframework_embedded.config import EmbeddedPostgresConfig
from svcframework_embedded.errors import ServerStartError
from svcframework_embedded.server import EmbeddedServer

_INITDB = [
    "--auth=trust",
    "--encoding=UTF8",
    "--wal-segsize=4",
    "--no-sync",
    "--no-instructions",
]  # 4 MB: quick to copy
_LAYOUT = 2  # of a cached cluster: raised when what initdb is told changes
MARKER = "PG_VERSION"
"""The file that every cluster has; copied last."""
_FIRST_WITH_BUILTIN_LOCALE = 17
_HBA = """local all all trust
local replication all trust
host all all all scram-sha-256
host replication all all scram-sha-256
"""  # the socket is in a directory that only we may enter

_THROWAWAY = {
    "fsync": "off",  # commits are written but not synced: they survive a crash of the server, not of the machine
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so that it goes with it even after SIGKILL
}


class EmbeddedPostgres(
    EmbeddedServer[EmbeddedPostgresConfig], restart=Restart.permanent(max_restarts=20, within=60.0, delay=0.02)
):
    """A PostgreSQL server that starts with its host, in about 0.1 s, and needs nothing installed.

    Without `data_dir` it is a throwaway: fast, not synced to disk, removed on stop. A crash keeps its data.
    Services that need the server take this one as a dependency and read `dsn` in their `on_startup`.
    """

    product: ClassVar[str] = "PostgreSQL"
    last_signal: ClassVar[signal.Signals] = signal.SIGQUIT

    @property
    def dsn(self) -> str:
        """The address with user and password, `postgresql://…`; valid once running.

        Raises:
            ServiceUnavailableError: It has not been started.
        """
        config = self.config
        if config.dsn is not None:
            return config.dsn.get_secret_value()
        user, database = quote(self.user, safe=""), quote(self.database, safe="")
        if config.transport == "unix":
            folder = quote(str(self._started(self._scratch)), safe="")
            return f"postgresql://{user}@/{database}?host={folder}&port={self.port}"
        host = f"[{config.host}]" if ":" in config.host else config.host
        return f"postgresql://{user}:{quote(self._password, safe='')}@{host}:{self.port}/{database}"

    @property
    def user(self) -> str:
        """The superuser in `dsn`."""
        return self.config.user

    @property
    def database(self) -> str:
        """The database in `dsn`."""
        return self.config.database

    @property
    def _external(self) -> bool:
        return self.config.dsn is not None

    def _external_address(self) -> Address:
        return _addresses(self.dsn)[0]

    def _socket(self, directory: Path) -> Path:
        return directory / f".s.PGSQL.{self._port}"

    def _find_owner(self) -> _files.Owner | None:
        return _files.unprivileged_owner(self.config.data_dir)

    # --- its data ---------------------------------------------------------------------------------------

    async def _prepare_data(self) -> None:
        self._bin = await postgres_bin(self.config.binaries, self._owner)
        await anyio.to_thread.run_sync(self._write_rules)
        if not (self.data_dir / MARKER).exists():
            await self._initialise()

    def _write_rules(self) -> None:
        path = self._started(self._scratch) / "pg_hba.conf"
        path.write_text(_HBA)
        path.chmod(0o600)
        if self._owner is not None:
            self._owner.adopt(path)

    async def _initialise(self) -> None:
        """Make a new cluster: copied from the cache if there is one of this version, else made and cached."""
        version = (await anyio.run_process([self._bin / "postgres", "--version"])).stdout.decode()
        size = (self._bin / "postgres").stat().st_size
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"cluster {_LAYOUT} {version} {size:x} {self.config.user}")
        async with _files.cache_entry(name, self.config.cache_dir) as entry:
            if entry is not None and entry.exists():
                source = entry
            else:
                source = await self._initdb(version)
                if entry is not None:
                    await anyio.to_thread.run_sync(_files.publish, source, entry)
            await anyio.to_thread.run_sync(self._install, source)

    async def _initdb(self, version: str) -> Path:
        target = self._started(self._scratch) / "template"
        found = re.search(r"\d+", version)
        # The builtin provider is the same on every system; before 17 there is none.
        has_builtin = found is not None and int(found[0]) >= _FIRST_WITH_BUILTIN_LOCALE
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if has_builtin else ["--locale=C"]
        options = [
            f"--username={self.config.user}",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            "--no-instructions",
        ]
        owner = self._owner
        try:
            await anyio.run_process(
                [self._bin / "initdb", f"--pgdata={target}", *options, *locale],
                cwd="/",
                env=environment(os.environ),
                user=owner.uid if owner else None,
                group=owner.gid if owner else None,
                extra_groups=[] if owner else None,
            )
        except subprocess.CalledProcessError as error:
            raise ServerStartError(f"initdb failed: {error.stderr.decode(errors='replace').strip()}") from error
        return target

    def _install(self, source: Path) -> None:
        """Copy an empty cluster to the data directory, its marker last: an interrupted copy is done again."""
        _files.copy_tree(source, self.data_dir, self._owner, last=MARKER)
        shutil.rmtree(self._started(self._scratch) / "template", ignore_errors=True)

    # --- its process ------------------------------------------------------------------------------------

    async def _command(self) -> list[str | Path]:
        options = [part for name, value in self._settings().items() for part in ("-c", f"{name}={value}")]
        return [self._bin / "postgres", "-D", self.data_dir, *options]

    def _settings(self) -> dict[str, str]:
        config = self.config
        scratch = self._started(self._scratch)
        return {
            "listen_addresses": config.host if config.transport == "tcp" else "",
            "port": str(self._port),
            "unix_socket_directories": str(scratch),
            "unix_socket_permissions": "0700",
            "hba_file": str(scratch / "pg_hba.conf"),
            "max_connections": str(config.max_connections),
            "logging_collector": "off",
            "timezone": "UTC",
            "max_wal_size": "1GB",  # initdb derives less from the small segments
            "wal_keep_size": "128MB",  # what a replica may miss while it is down
            **({"recovery_init_sync_method": "syncfs"} if sys.platform == "linux" else {}),
            **(_THROWAWAY if config.data_dir is None else {}),
            **config.settings,
        }

    async def _greet(self, address: Address) -> None:
        if not self._external:
            await greet_postgres(address, user=self.user, database="postgres")
            return
        # The user's own may be several, of which one is enough: whoever connects looks for the primary.
        addresses, errors = _addresses(self.dsn), []
        for found in addresses:
            try:
                with anyio.fail_after(self.config.connect_timeout * 0.9 / len(addresses)):
                    await greet_postgres(found, user=self.user, database="postgres")
            except (ConnectionFailedError, TimeoutError) as error:
                errors.append(str(error) or f"{found} does not answer")
            else:
                return
        raise ConnectionFailedError("; ".join(errors))

    async def _after_launch(self) -> None:
        """Set the password, through the private socket, and make the database."""
        user, database = self.user, self.database
        await self._query(f"ALTER ROLE {_identifier(user)} PASSWORD {_literal(self._password)}")
        if not await self._query(f"SELECT 1 FROM pg_database WHERE datname = {_literal(database)}"):  # noqa: S608
            await self._query(f"CREATE DATABASE {_identifier(database)}")

    async def _query(self, sql: str) -> int:
        return await query_postgres(self._address(), sql, user=self.user, database="postgres")

    async def change_password(self, password: str | None = None) -> None:
        """Change what the server takes for the superuser's password, and end every session; `dsn` stays as it is.

        Args:
            password: The new one; the one in `dsn` when not given.

        Raises:
            ConnectionFailedError: The server doesn't run.
            DatabaseError: It is a standby, whose passwords are its primary's.
        """
        user = self.user
        password = self._password if password is None else password
        await self._query(f"ALTER ROLE {_identifier(user)} PASSWORD {_literal(password)}")
        sessions = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        await self._query(f"SELECT pg_terminate_backend(pid) {sessions}")

    def _stop_steps(self, seconds: float) -> list[tuple[signal.Signals, float]]:
        # fast: sessions end, a checkpoint is written; immediate: neither, and recovery at the next start
        return [(signal.SIGINT, seconds * 0.7), (signal.SIGQUIT, seconds * 0.3)]

    async def _remove_scratch(self) -> None:
        if self._scratch is not None:
            await anyio.to_thread.run_sync(remove_segment, self.data_dir / "postmaster.pid")
        await super()._remove_scratch()


def _addresses(dsn: str) -> list[Address]:
    """Where an address leads; several hosts are separated by commas, as libpq has them."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    hosts = (unquote(parts.netloc.rpartition("@")[2]) or query.get("host", ["localhost"])[-1]).split(",")
    ports = query.get("port", ["5432"])[-1].split(",")
    return [_address(host, ports[min(place, len(ports) - 1)]) for place, host in enumerate(hosts)]


def _address(host: str, fallback: str) -> Address:
    if host.startswith("/"):
        return Address(path=Path(host) / f".s.PGSQL.{fallback}")
    name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", fallback)
    return Address(name.strip("[]") or "localhost", int(port))


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
