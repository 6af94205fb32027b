"""ServiceConfig and the configuration of the whole application; the only file that imports pydantic_settings."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from svcframework._types import Restart


class ServiceConfig(BaseModel):
    """The settings of one service; plugins subclass it with their own. Frozen; lives as long as its service."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    prefix: ClassVar[str] = ""

    name: str | None = Field(default=None, description="The service's name; the registration's when not given.")
    version: str = Field(default="0", description="Shown in logs and health.")
    dependencies: tuple[str, ...] = Field(default=(), description="Services that must run first.")
    optional_dependencies: tuple[str, ...] = Field(default=(), description="Services that start first if they exist.")
    groups: tuple[str, ...] = Field(default=(), description="Groups the service belongs to.")
    health_check_interval: float = Field(default=10.0, gt=0, description="Seconds between health checks.")
    health_check_timeout: float = Field(default=2.0, gt=0, description="Seconds one health check may take.")
    metrics_enabled: bool = Field(default=True, description="Whether operations are counted and timed.")
    start_timeout: float = Field(default=30.0, gt=0, description="Seconds on_startup may take.")
    stop_timeout: float = Field(default=10.0, gt=0, description="Seconds on_shutdown may take.")
    critical: bool = Field(default=True, description="Whether the host is unhealthy without the service.")
    restart: Restart | None = Field(default=None, description="What an end of on_run means; transient by default.")

    def __init_subclass__(cls, *, prefix: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if prefix is not None:
            cls.prefix = prefix


def load_config(
    model: type[ServiceConfig],
    *,
    name: str | None = None,
    values: Any = None,
    manager: ConfigManager | None = None,
) -> ServiceConfig:
    """A service's validated settings.

    Args:
        model: The config model.
        name: The service's registered name: its section, before the model's `prefix`.
        values: Given values; they win over the configuration's.
        manager: Where the rest comes from; the current one when not given.

    Raises:
        ConfigurationError: A setting is missing or malformed; all of them at once, without their values.
    """
    return model(**(values or {}))


class ConfigManager:
    """The application's configuration from all its sources."""
