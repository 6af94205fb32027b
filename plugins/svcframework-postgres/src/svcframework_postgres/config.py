"""PostgresConfig: where the server is, how many connections, and how long anything may take."""

from __future__ import annotations

import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from svcframework.config import ServiceConfig
from svcframework_postgres.hosts import Host, hosts_in, hosts_of, shown, split_hosts

_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+")

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConfig(ServiceConfig, prefix="database"):
    """Settings of a `PostgresService`. Frozen; `dsn` wins over the single fields."""

    dsn: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL"),
        description="Address with everything in it: postgresql://user:password@host:port/database; several hosts, "
        "separated by commas, are a primary and those that may take over.",
    )
    host: str | None = Field(
        default=None,
        description="Host name, or the folder of a Unix socket; several, separated by commas, as in `dsn`.",
    )
    port: int = Field(default=5432, gt=0, lt=65536, description="TCP port.")
    user: str | None = Field(default=None, description="Role to log in as.")
    password: SecretStr | None = Field(default=None, description="The role's password.")
    database: str | None = Field(default=None, description="Database to connect to; the role's own when not given.")
    ssl: SslMode | None = Field(default=None, description="libpq's sslmode; the address's own when not given.")
    application_name: str = Field(default="svcframework", description="What pg_stat_activity shows.")
    pool_min_size: int = Field(default=1, ge=0, description="Connections opened at start and kept while idle.")
    pool_max_size: int = Field(default=10, ge=1, description="Connections to one database at most.")
    pool_idle_lifetime: float = Field(default=300.0, gt=0, description="Seconds after which an idle one is closed.")
    max_databases: int = Field(default=16, ge=1, description="Databases whose pools stay open (get_org_pool).")
    connect_timeout: float = Field(default=5.0, gt=0, description="Seconds to open one connection.")
    acquire_timeout: float = Field(default=5.0, gt=0, description="Seconds to wait for a free connection.")
    command_timeout: float = Field(default=5.0, gt=0, description="Seconds one statement may take, waiting included.")
    statement_cache_size: int = Field(default=100, ge=0, description="Prepared statements kept; 0 behind PgBouncer.")
    reset: Literal["when_needed", "always"] = Field(
        default="when_needed",
        description="Whether a connection is reset after each use, or only when a statement may have changed it.",
    )
    replicas: tuple[SecretStr, ...] = Field(
        default=(),
        description="Servers that `reader` reads from: addresses, or host:port with all else as in `dsn`; in a "
        "variable separated by commas.",
    )
    max_replica_lag: float = Field(
        default=1.0, gt=0, description="Seconds that a replica may be behind its primary to be read from."
    )
    max_replica_lag_in_failover: float = Field(
        default=30.0, ge=0, description="Seconds that it may be behind while there is no primary; 0 to fail instead."
    )
    replica_check_interval: float = Field(
        default=0.5, gt=0, description="Seconds within which a silent or broken replica is out; asked twice as often."
    )

    @field_validator("dsn")
    @classmethod
    def _is_postgres_address(cls, dsn: SecretStr | None) -> SecretStr | None:
        if dsn is not None:
            # DATABASE_URL is often written for SQLAlchemy, with its driver in the scheme
            dsn = SecretStr(_DRIVER.sub(r"\1", dsn.get_secret_value()))
            try:
                usable = urlsplit(dsn.get_secret_value()).scheme in {"postgres", "postgresql"}
                hosts_in(dsn.get_secret_value())
            except ValueError:  # its text quotes the address
                usable = False
            if not usable:
                raise ValueError("not of the form postgresql://user:password@host:port/database")
        return dsn

    @field_validator("host")
    @classmethod
    def _is_host_list(cls, host: str | None) -> str | None:
        split_hosts(host or "")
        return host

    @field_validator("replicas", mode="before")
    @classmethod
    def _may_be_text(cls, replicas: object) -> object:
        return [word.strip() for word in replicas.split(",")] if isinstance(replicas, str) else replicas

    @field_validator("replicas")
    @classmethod
    def _are_single_servers(cls, replicas: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        cleaned = tuple(SecretStr(_DRIVER.sub(r"\1", replica.get_secret_value())) for replica in replicas)
        for number, replica in enumerate(cleaned, 1):
            text = replica.get_secret_value()
            try:
                usable = len(_hosts_of_replica(text)) == 1
            except ValueError:  # its text could quote the address
                usable = False
            if not usable:
                raise ValueError(f"number {number} names no single server: postgresql://… or host:port is expected")
        return cleaned

    @model_validator(mode="after")
    def _lag_can_be_measured(self) -> Self:
        if self.replica_check_interval * 2 > self.max_replica_lag:
            raise ValueError(
                f"replica_check_interval {self.replica_check_interval:g} is over half of max_replica_lag "
                f"{self.max_replica_lag:g}: what is measured would be too old to tell"
            )
        return self

    @model_validator(mode="after")
    def _pool_sizes_fit(self) -> Self:
        if self.pool_min_size > self.pool_max_size:
            raise ValueError(f"pool_min_size {self.pool_min_size} is over pool_max_size {self.pool_max_size}")
        return self

    def connect_arguments(self, dsn: str | None = None, *, database: str | None = None) -> dict[str, Any]:
        """What `asyncpg.connect` needs; fields stay fields, nothing is concatenated.

        Args:
            dsn: An address that wins over the configured one.
            database: Another database on the same server.
        """
        own = None if self.dsn is None else self.dsn.get_secret_value()
        arguments: dict[str, Any] = {
            "dsn": dsn or own,
            "timeout": self.connect_timeout,
            "command_timeout": self.command_timeout,
            "statement_cache_size": self.statement_cache_size,
            "server_settings": {"application_name": self.application_name},
        }
        if arguments["dsn"] is None:
            hosts = split_hosts(self.host or "localhost", str(self.port))
            host, port = hosts[0] if len(hosts) == 1 else zip(*hosts, strict=True)
            arguments |= {"host": host, "port": port, "user": self.user, "database": self.database}
            if self.password is not None:
                arguments["password"] = self.password.get_secret_value()
        if self.ssl is not None:
            arguments["ssl"] = self.ssl
        if database is not None:
            arguments["database"] = database
        return {key: value for key, value in arguments.items() if value is not None}


def replica_arguments(replica: SecretStr, primary: dict[str, Any]) -> dict[str, Any]:
    """What `asyncpg.connect` needs for one of `replicas`.

    Args:
        replica: An address, or `host:port`, which takes all else from the primary.
        primary: The primary's arguments.
    """
    text = replica.get_secret_value()
    arguments = {**primary, "target_session_attrs": "any"}
    if "://" in text:
        for name in ("host", "port", "user", "password"):
            arguments.pop(name, None)
        return {**arguments, "dsn": text}
    host, port = split_hosts(text)[0]
    return {**arguments, "host": host, "port": port}


def address_of(arguments: dict[str, Any]) -> str:
    """Where `connect_arguments` lead, as `host:port/database`, all hosts named: no user, no password."""
    database = arguments.get("database") or ("dsn" in arguments and urlsplit(arguments["dsn"]).path.strip("/")) or ""
    return f"{shown(hosts_of(arguments))}/{database}"


def _hosts_of_replica(text: str) -> tuple[Host, ...]:
    if "://" not in text:
        return split_hosts(text)
    return hosts_in(text) if urlsplit(text).scheme in {"postgres", "postgresql"} else ()
