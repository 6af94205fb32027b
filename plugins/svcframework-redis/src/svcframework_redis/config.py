"""RedisConfig and CacheConfig: where the server is, how long anything may take, how the cache behaves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator

from svcframework.config import ServiceConfig
from svcframework_redis.address import Target, read_target


class RedisConfig(ServiceConfig, prefix="redis"):
    """Settings of a `RedisService`. Frozen; `host` wins over `url`."""

    url: SecretStr = Field(
        default=SecretStr("redis://localhost:6379/0"),
        validation_alias=AliasChoices("REDIS_URL"),
        description="Address: redis://user:password@host:port/db, rediss:// for TLS, unix:///path, "
        "redis+sentinel://host:port,host:port/master/db, or redis+cluster://host:port,host:port.",
    )
    host: str | None = Field(default=None, description="Host name; given, it and the four fields below replace url.")
    port: int = Field(default=6379, gt=0, lt=65536, description="TCP port.")
    db: int = Field(default=0, ge=0, description="Database number.")
    username: str | None = Field(default=None, description="ACL user.")
    password: SecretStr | None = Field(default=None, description="Password, used when the address holds none.")
    sentinel_username: str | None = Field(default=None, description="ACL user at the sentinels.")
    sentinel_password: SecretStr | None = Field(
        default=None, description="Password at the sentinels; that of the address is the master's."
    )
    ssl: bool = Field(default=False, description="Whether to use TLS with `host`.")
    timeout: float = Field(default=2.0, gt=0, description="Seconds one command may take, waiting included.")
    connect_timeout: float = Field(default=2.0, gt=0, description="Seconds to open one connection.")
    acquire_timeout: float = Field(
        default=2.0, gt=0, description="Seconds to wait for a free connection, or for room on the shared one."
    )
    max_connections: int = Field(
        default=50,
        ge=1,
        description="Connections at most for blocking commands and watched transactions, and for redis-py's client; "
        "all else shares one.",
    )
    max_in_flight: int = Field(
        default=10_000, ge=1, description="Commands without an answer at most; further ones wait for acquire_timeout."
    )
    heartbeat_interval: float = Field(
        default=5.0, gt=0, description="Seconds between the signs of life that a subscriber asks for."
    )
    reconnect_delay: float = Field(
        default=0.05, gt=0, description="Seconds between a subscriber's attempts to connect again."
    )
    client_name: str = Field(default="svcframework", description="What CLIENT LIST shows.")

    @field_validator("url")
    @classmethod
    def _is_redis_address(cls, url: SecretStr) -> SecretStr:
        try:
            read_target(url.get_secret_value())
        except OSError:  # a certificate that isn't there now may be there at the start
            pass
        except ValueError as error:
            raise ValueError(str(error)) from None  # the cause's text quotes the address
        return url

    def target(self, url: str | None = None) -> Target:
        """Where the server is, or who knows.

        Args:
            url: An address that wins over the configured one.

        Raises:
            ValueError: The address is malformed, which those of the configuration are not.
            OSError: A certificate that it names can't be read.
        """
        address, arguments = self.connect_arguments(url)
        return read_target(address, username=arguments.get("username"), password=arguments.get("password"))

    def connect_arguments(self, url: str | None = None) -> tuple[str, dict[str, Any]]:
        """The address and what else a redis-py client, sync or async, needs.

        Args:
            url: An address that wins over the configured one.
        """
        arguments: dict[str, Any] = {
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.connect_timeout,
            "client_name": self.client_name,
        }
        if url is None and self.host is not None:
            # Credentials stay arguments: in an address they would need quoting.
            url = f"{'rediss' if self.ssl else 'redis'}://{self.host}:{self.port}/{self.db}"
            arguments["username"] = self.username
        if self.password is not None:
            arguments["password"] = self.password.get_secret_value()
        return url or self.url.get_secret_value(), arguments


class CacheConfig(ServiceConfig, prefix="cache"):
    """Settings of a `CacheService`. Frozen."""

    namespace: str = Field(default="cache", min_length=1, description="What every key begins with.")
    ttl: float = Field(default=300.0, gt=0, description="Seconds a value is kept when the call doesn't say.")
    ttl_jitter: float = Field(
        default=0.1, ge=0, lt=1, description="Share of a ttl drawn by chance and taken off, so that keys part."
    )
    format: Literal["json", "msgpack"] = Field(default="json", description="How values are written.")
    degrade: bool = Field(default=True, description="Whether to go to the source while Redis is away, not to fail.")
    retry_interval: float = Field(default=1.0, ge=0, description="Seconds without Redis after it failed.")
    negative_ttl: float = Field(
        default=30.0, ge=0, description="Seconds that None, as a source's answer, is kept; 0 keeps none of it."
    )
    max_value_bytes: int = Field(default=1_048_576, ge=1, description="Bytes of one value, as it is written, at most.")
    lease_ttl: float = Field(
        default=5.0, gt=0, description="Seconds until the lease of a process that died while making a value ends."
    )
    lease_wait: float = Field(
        default=2.0, ge=0, description="Seconds to wait for a value that another process makes, before making it here."
    )
    local_size: int = Field(default=0, ge=0, description="Values also kept in this process; 0 for none.")
    local_bytes: int = Field(default=67_108_864, ge=0, description="Bytes of such values, as written, at most.")
    local_ttl: float = Field(default=1.0, gt=0, description="Seconds such a value is believed without asking Redis.")
    announce: bool = Field(
        default=False, description="Whether to tell other processes of changes even if this one keeps no values."
    )
    memory_size: int = Field(default=10_000, ge=1, description="Entries of a MemoryCache at most.")
    memory_bytes: int = Field(default=268_435_456, ge=1, description="Bytes of a MemoryCache at most.")
