"""PostgresConfig: where the server is, how many connections, and how long anything may take."""

from __future__ import annotations

import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from svcframework.config import ServiceConfig

_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+")

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]


class PostgresConfig(ServiceConfig, prefix="database"):
    """Settings of a `PostgresService`. Frozen; `dsn` wins over the single fields."""

    dsn: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL"),
        description="Address with everything in it: postgresql://user:password@host:port/database.",
    )
    host: str | None = Field(default=None, description="Host name, or the folder of a Unix socket.")
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

    @field_validator("dsn")
    @classmethod
    def _is_postgres_address(cls, dsn: SecretStr | None) -> SecretStr | None:
        if dsn is not None:
            # DATABASE_URL is often written for SQLAlchemy, with its driver in the scheme
            dsn = SecretStr(_DRIVER.sub(r"\1", dsn.get_secret_value()))
            try:
                parts = urlsplit(dsn.get_secret_value())
                usable = parts.scheme in {"postgres", "postgresql"} and (parts.port or 1) > 0
            except ValueError:  # its text quotes the address
                usable = False
            if not usable:
                raise ValueError("not of the form postgresql://user:password@host:port/database")
        return dsn

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
            fields = {"host": self.host or "localhost", "port": self.port, "user": self.user, "database": self.database}
            arguments |= fields
            if self.password is not None:
                arguments["password"] = self.password.get_secret_value()
        if self.ssl is not None:
            arguments["ssl"] = self.ssl
        if database is not None:
            arguments["database"] = database
        return {key: value for key, value in arguments.items() if value is not None}


def address_of(arguments: dict[str, Any]) -> str:
    """Where `connect_arguments` lead, as `host:port/database`: no user, no password."""
    if "dsn" not in arguments:
        host, port, database = arguments["host"], arguments["port"], arguments.get("database", "")
        return f"{host}:{port}/{database}"
    parts = urlsplit(arguments["dsn"])
    database = arguments.get("database") or parts.path.strip("/")
    return f"{parts.hostname or 'local socket'}:{parts.port or 5432}/{database}"
