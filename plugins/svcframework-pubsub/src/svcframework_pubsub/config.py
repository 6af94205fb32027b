"""Settings of the service."""

from __future__ import annotations

from pydantic import Field

from svcframework import ServiceConfig


class PubsubConfig(ServiceConfig, prefix="pubsub"):
    """Settings of `PubsubService`."""

    # EDIT: yours. Every one has a description with its unit; secrets are SecretStr, addresses with a password are
    # svcframework.config.SecretUrl; every call to another system needs a timeout here, at most 5 s by default.
    window: float = Field(default=60.0, gt=0, description="Seconds for which an event counts.")
    max_keys: int = Field(default=10_000, gt=0, description="Different keys that are kept at a time.")
    sweep_interval: float = Field(default=5.0, gt=0, description="Seconds between two removals of what is too old.")
