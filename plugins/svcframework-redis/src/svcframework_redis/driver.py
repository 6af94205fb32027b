"""What redis-py's clients, sync and async, are made with. No I/O."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import parse_url

from svcframework_redis.address import Target
from svcframework_redis.config import RedisConfig


def client_arguments(config: RedisConfig, target: Target) -> dict[str, Any]:
    """How to greet the servers behind an address that names several: no host, no port.

    Args:
        config: The settings; their credentials count where the address holds none.
        target: What the address leads to.
    """
    url: dict[str, Any] = dict(parse_url(target.url))
    for name in ("host", "port", "connection_class"):
        url.pop(name, None)
    if target.kind == "cluster":
        url.pop("db", None)  # a cluster has only one
    given = {name: value for name, value in config.connect_arguments()[1].items() if value is not None}
    return {**given, **url, **tls_arguments(target)}


def sentinel_arguments(config: RedisConfig, target: Target) -> dict[str, Any]:
    """How to greet the sentinels."""
    password = config.sentinel_password
    return {
        "username": config.sentinel_username,
        "password": None if password is None else password.get_secret_value(),
        "socket_timeout": config.timeout,
        "socket_connect_timeout": config.connect_timeout,
        **tls_arguments(target),
        **{name: value for name, value in parse_url(target.url).items() if name.startswith("ssl_")},
    }


def tls_arguments(target: Target) -> dict[str, Any]:
    """Whether it is to be TLS."""
    return {"ssl": True} if target.address.tls is not None else {}


def untyped(maker: Any) -> Any:
    """A class of redis-py whose constructor has no types."""
    return maker
