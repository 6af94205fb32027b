"""The functions of a program that uses threads: one client for all of it, made from its environment."""

from __future__ import annotations

import os
import threading
from typing import Any

from svcframework.config import load_config
from svcframework_pubsub.client import PubSubClient
from svcframework_pubsub.config import PubSubConfig

_ALIASES = {"postgresql": "postgres", "valkey": "redis", "pg": "postgres"}

_lock = threading.Lock()
_default: PubSubClient | None = None


def create_pubsub_client(backend: str | None = None, connection_string: str | None = None) -> PubSubClient:
    """A client of its own; close it after use. It connects with its first use.

    With the backend `redis` and a `DATABASE_URL`, PostgreSQL carries the messages while Redis is away.

    Args:
        backend: memory, redis, postgres or nats; `PUBSUB_BACKEND`, else postgres, when not given.
        connection_string: The server's address; `DATABASE_URL`, or `REDIS_URL`, or `REDIS_HOST`, `REDIS_PORT` and
            `REDIS_PASSWORD`, when not given.

    Raises:
        ConfigurationError: There is no such backend, or another setting is malformed.
    """
    values: dict[str, Any] = {}
    if backend is not None:
        values["backend"] = _ALIASES.get(backend.lower(), backend.lower())
    if connection_string is not None:
        values["url"] = connection_string
    config = load_config(PubSubConfig, values=values)
    if config.backend == "redis" and "fallback" not in config.model_fields_set and os.environ.get("DATABASE_URL"):
        config = config.model_copy(update={"fallback": "postgres"})
    return PubSubClient(config)


def get_default_client() -> PubSubClient:
    """The client of the whole program; made with the first call."""
    global _default  # noqa: PLW0603 - this module is its home
    with _lock:
        if _default is None:
            _default = create_pubsub_client()
        return _default


def set_default_client(client: PubSubClient | None) -> None:
    """Make another client the default one, for tests; None forgets it. The old one is not closed.

    Args:
        client: Anything with `publish`, `listen` and `close`.
    """
    global _default  # noqa: PLW0603 - this module is its home
    with _lock:
        _default = client
