"""ConfigurationMixin: a service's own section of the application's configuration, also where no model declares it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

from svcframework.config import get_config_manager
from svcframework.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svcframework.config import ConfigManager
    from svcframework.service import BaseService

T = TypeVar("T")

_UNSET: Final = object()


class ConfigurationMixin:
    """Adds `get_config` to a service; mixed into a `BaseService`, in either order.

    The section is the one with the service's name (`mailer_service`, then `mailer`), then the one of its config
    model's prefix. A setting that the model declares comes validated from the service's `config`. A model that
    declares settings of its own refuses all others in its section, unless it says `extra="allow"`; a plain
    `ServiceConfig` leaves them to this mixin.
    """

    @overload
    def get_config(self, path: str) -> Any: ...
    @overload
    def get_config(self, path: str, default: T) -> T: ...
    def get_config(self, path: str, default: Any = _UNSET) -> Any:
        """A setting of this service.

        Args:
            path: Its dotted name below the service's section: `smtp.port`.
            default: What to return when nobody sets it; text from the environment is read as its type.

        Raises:
            ConfigurationError: There is neither a value nor a default, or the text can't be read as its type.
        """
        declared = _walk(cast("BaseService[Any]", self).config, path)
        if declared is not _UNSET:
            return declared
        manager = self._config_manager
        sections = list(self._config_sections())
        for section in sections:
            if f"{section}.{path}" in manager:
                return manager.get(f"{section}.{path}", *(() if default is _UNSET else (default,)))
        if default is not _UNSET:
            return default
        name = cast("BaseService[Any]", self).name
        places = " or ".join(f"{section}.{path}" for section in sections)
        raise ConfigurationError(f"A setting of {name!r} is missing", [f"{path} is not set: set {places}"])

    def has_config(self, path: str) -> bool:
        """Whether somebody sets it, or the config model declares it."""
        manager = self._config_manager
        if _walk(cast("BaseService[Any]", self).config, path) is not _UNSET:
            return True
        return any(f"{section}.{path}" in manager for section in self._config_sections())

    @property
    def _config_manager(self) -> ConfigManager:
        host = cast("BaseService[Any]", self).host
        return get_config_manager() if host is None else host.config

    def _config_sections(self) -> Iterator[str]:
        service = cast("BaseService[Any]", self)
        found = [service.name, service.name.removesuffix("_service"), service.config_type.prefix]
        yield from dict.fromkeys(section for section in found if section)


def _walk(config: object, path: str) -> Any:
    """The value at a dotted path of attributes and keys; `_UNSET` where it ends too early."""
    value: Any = config
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step, _UNSET)
        elif step in {*getattr(value, "__dict__", ()), *(getattr(value, "model_extra", None) or ())}:
            value = getattr(value, step)
        else:
            return _UNSET
        if value is _UNSET:
            return _UNSET
    return value
