"""MigrationConfig: where the files are, who applies them, and how long that may take."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from svcframework.config import ServiceConfig


class MigrationConfig(ServiceConfig, prefix="migrations"):
    """Settings of a `MigrationService` and of `Migrations`. Frozen."""

    folder: Path | None = Field(default=None, description="Where the files are, such as 0001_create_users.sql.")
    on_start: Literal["apply", "check", "nothing"] = Field(
        default="apply",
        description="What a start does: apply what is pending, refuse to start while anything is, or nothing.",
    )
    schema_name: str = Field(default="public", min_length=1, description="Schema of the table of applied migrations.")
    table: str = Field(default="svcframework_migrations", min_length=1, description="Table of applied migrations.")
    lock_wait: float = Field(
        default=300.0, ge=0, description="Seconds to wait for another process that applies migrations."
    )
    lock_timeout: float = Field(
        default=5.0, gt=0, description="Seconds a statement may wait for a table; others wait behind it that long."
    )
    file_timeout: float = Field(default=600.0, gt=0, description="Seconds the statements of one file may take.")
    silence_timeout: float = Field(
        default=10.0, gt=0, description="Seconds without any answer of the server after which it is given up."
    )
    start_timeout: float = Field(default=3600.0, gt=0, description="Seconds on_startup may take.")
