"""A small disk to fill, where the system lets us have one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(*, megabytes: int = 160) -> Iterator[Path]:
    """Mount a file system of its own for the length of the block; anybody may enter its folder.

    Args:
        megabytes: Its size.

    Raises:
        PermissionError: This system doesn't let us; the message is a sentence for a skipped test.
    """
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None or os.geteuid() != 0:
        raise PermissionError("a small disk can be mounted on Linux by root only")
    folder = Path(tempfile.mkdtemp(prefix="svc-disk-"))
    folder.chmod(0o755)
    options = f"size={megabytes}m,mode=0755"
    made = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)  # noqa: S603
    try:
        if made.returncode:
            raise PermissionError(f"no small disk can be mounted here: {made.stderr.decode(errors='replace').strip()}")
        yield folder
    finally:
        if not made.returncode:
            subprocess.run(["umount", "-l", folder], check=True)  # noqa: S603, S607 - found by the same path as mount
        folder.rmdir()
