"""ServiceConfig and the configuration of the whole application; the only file that imports pydantic_settings.

Nothing is read when this module is imported, nor when a manager is made: the first question reads the sources.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError
from pydantic_core import core_schema

from svcframework import _modelfields, _settingtext, _sources
from svcframework._lookup import ROOT, Groups, Lookup, first_keys, given_values
from svcframework._modelfields import decoded, shared_default, shown, spellings, steps_of, variable_name
from svcframework._sources import MISSING, Layer, Steps, Text, merged, plain
from svcframework._types import Restart
from svcframework.errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_settings import BaseSettings

ModelT = TypeVar("ModelT", bound=BaseModel)
ConfigT = TypeVar("ConfigT", bound="ServiceConfig")


# --- the settings of one service ------------------------------------------------------------------------


class SecretUrl(SecretStr):
    """An address with credentials in it. Prints as stars; `redacted` is the address without them."""

    @property
    def redacted(self) -> str:
        """The address without user, password and query, fit for a log line."""
        return _modelfields.without_credentials(self.get_secret_value())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A secret that must have a scheme."""
        return core_schema.no_info_after_validator_function(
            _with_scheme, super().__get_pydantic_core_schema__(source, handler)
        )


def _with_scheme(url: SecretUrl) -> SecretUrl:
    try:
        scheme = urlsplit(url.get_secret_value()).scheme
    except ValueError:
        scheme = ""
    if not scheme or "://" not in url.get_secret_value():
        msg = "must be an address such as scheme://host:port"
        raise ValueError(msg)
    return url


def _restart_from_word(given: object) -> object:
    """`permanent`, `transient` or `temporary` as the policy of that name."""
    words = {"permanent": Restart.permanent, "transient": Restart.transient, "temporary": Restart.temporary}
    return words[given.strip().lower()]() if isinstance(given, str) and given.strip().lower() in words else given


class ServiceConfig(BaseModel):
    """The settings of one service; plugins subclass it with their own. Frozen; lives as long as its service.

    `class RedisConfig(ServiceConfig, prefix="redis")` reads the section `redis`: `REDIS__URL` in the environment,
    `[redis] url` in `settings.toml`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,  # pydantic's own text shows what it was given, passwords included
        validate_default=True,  # so that a default may be written as the text that a SecretUrl is made from
        populate_by_name=True,
    )
    __slots__ = ("_origins",)  # not a private attribute: two configs with the same values are equal

    prefix: ClassVar[str] = ""
    """The section that the settings are read from."""

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
    restart: Annotated[Restart | None, BeforeValidator(_restart_from_word)] = Field(
        default=None, description="What an end of on_run means: permanent, transient (the default) or temporary."
    )

    def __init_subclass__(cls, *, prefix: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if prefix is not None:
            cls.prefix = prefix

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """The settings, secrets and credentials hidden."""
        for name, value in super().__repr_args__():
            yield name, shown(name or "", value)


def load_config(
    model: type[ConfigT],
    *,
    name: str | None = None,
    values: Any = None,
    manager: ConfigManager | None = None,
) -> ConfigT:
    """A service's validated settings.

    Args:
        model: The config model.
        name: The service's registered name: its section, before the model's `prefix`.
        values: Given values; they win over the configuration's.
        manager: Where the rest comes from; the current one when not given.

    Raises:
        ConfigurationError: A setting is missing or malformed; all of them at once, without their values.
    """
    if isinstance(values, model):
        return values
    return (manager or get_config_manager()).section(model, name=name, values=values)


def load_settings(model: type[ModelT], manager: ConfigManager | None = None) -> ModelT:
    """The settings of the whole application, from the root of the configuration.

    Args:
        model: A pydantic model, or a pydantic-settings one, whose own prefix, delimiter and sources are honoured.
        manager: Where they come from; the current one when not given.

    Raises:
        ConfigurationError: A setting is missing or malformed; all of them at once, without their values.
    """
    return (manager or get_config_manager()).settings(model)


# --- the configuration of the application ---------------------------------------------------------------


class Environment(Enum):
    """Where the application runs."""

    DEVELOPMENT = "development"
    TESTING = "testing"
    STAGING = "staging"
    PRODUCTION = "production"


_SHORT_NAMES = {
    "dev": "development",
    "local": "development",
    "test": "testing",
    "stage": "staging",
    "prod": "production",
}
_ENVIRONMENT_VARIABLES = ("SVC_ENVIRONMENT", "APP_ENV", "ENVIRONMENT")
_SECRETS_MOUNT = "/run/secrets"


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    """One setting of a service and where it came from; what `svc config` lists.

    Args:
        setting: Its dotted name.
        variable: The environment variable that sets it.
        value: The value as anyone may see it, secrets hidden.
        origin: `default`, `argument`, or the place in a source: `environment DATABASE__HOST`.
    """

    setting: str
    variable: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class _Origins:
    section: Steps
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Sources:
    """All layers, the strongest first, and what decided about them."""

    environment: Environment
    layers: tuple[Layer, ...]
    keys: frozenset[str]
    """The names at the root of any layer: a section that isn't among them needs no search."""


class ConfigManager:
    """The application's configuration from all its sources; safe to share between threads, never changes once read.

    The first source that has a value wins: given values, environment variables, `.env`, the secrets directory,
    the table of the environment in `settings.toml` (`[production]`), the rest of `settings.toml`. Levels are
    separated by `__` in variables and files of secrets: `DATABASE__HOST` is `database.host`.

    Args:
        values: Given values: tables, or dotted names.
        root: The directory of `.env` and `settings.toml`; the working directory when not given.
        environ: Instead of the process's environment.
        environment: Instead of `SVC_ENVIRONMENT`, `APP_ENV` or `ENVIRONMENT`; development when nobody says.
        secrets: The directory of secrets; `SVC_SECRETS_DIR` or else `/run/secrets`, if it exists.
    """

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        root: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        environment: str | Environment | None = None,
        secrets: str | Path | None = None,
    ) -> None:
        self._values, self._root, self._environ = values or {}, root, environ
        self._environment, self._secrets = environment, secrets
        self._lock = threading.Lock()
        self._read: _Sources | None = None

    @property
    def root(self) -> Path:
        """The directory of `.env` and `settings.toml`."""
        return Path.cwd() if self._root is None else Path(self._root)

    @property
    def environment(self) -> Environment:
        """Where the application runs.

        Raises:
            ConfigurationError: The variable that says it has another word.
        """
        return self._sources().environment

    def reload(self) -> ConfigManager:
        """A new manager with the same arguments, which reads the sources anew. This one stays as it is."""
        return ConfigManager(
            self._values,
            root=self._root,
            environ=self._environ,
            environment=self._environment,
            secrets=self._secrets,
        )

    # --- dotted paths ---------------------------------------------------------------------------------

    def get(self, path: str, default: Any = MISSING) -> Any:
        """The value at a dotted path, declared anywhere or not; a table comes as a dict of its own.

        Text from the environment, `.env` and secrets is read as the type of the default, where that is a bool,
        a number, a list or a dict.

        Args:
            path: The dotted name; lists are entered by index.
            default: What to return when no source has it.

        Raises:
            ConfigurationError: There is neither a value nor a default, or the text can't be read as its type.
        """
        value = self._find(_steps(path))
        if value is MISSING:
            if default is MISSING:
                raise self._missing(path)
            return default
        if isinstance(value, Text) and isinstance(default, (bool, int, float, list, tuple, dict)):
            return self._typed(path, value, type(default))
        return plain(value)

    def origin(self, path: str) -> str:
        """Where the value at a dotted path came from: `environment DATABASE__HOST`; `default` when no source has it."""
        steps = _steps(path)
        for layer in self._sources().layers:
            if layer.find(steps) is not MISSING:
                return layer.place(steps)
        return "default"

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._find(_steps(path)) is not MISSING

    def as_dict(self) -> dict[str, Any]:
        """All tables and values, secrets included, as a dict of its own; of the environment only what has a section."""
        tree: Any = {}
        for layer in reversed(self._sources().layers):
            nested = layer.title != "environment"
            own = layer.tree if nested else {key: v for key, v in layer.tree.items() if isinstance(v, Mapping)}
            tree = merged(tree, own)
        return cast("dict[str, Any]", plain(tree))

    def _find(self, steps: Steps) -> Any:
        """The value of the strongest source; tables are joined over all of them."""
        found = MISSING
        for layer in self._sources().layers:
            value = layer.find(steps)
            if value is MISSING:
                continue
            if not isinstance(value, Mapping):
                return value if found is MISSING else found
            found = value if found is MISSING else merged(value, found)
        return found

    def _typed(self, path: str, value: Text, kind: type) -> Any:
        try:
            return TypeAdapter[Any](kind).validate_python(decoded(kind, value))
        except ValidationError as error:
            words = error.errors(include_url=False, include_input=False)[0]["msg"]
        reason = words.replace("Input should", "must").partition(",")[0]
        raise ConfigurationError("Configuration", [f"{path} {reason}; it comes from: {self.origin(path)}"])

    def _missing(self, path: str) -> ConfigurationError:
        steps = _steps(path)
        sources = self._sources()
        titles = ", ".join(layer.title for layer in sources.layers)
        parent = self._find(steps[:-1]) if len(steps) > 1 else None
        siblings = [str(key) for key in parent] if isinstance(parent, Mapping) else []
        hint = did_you_mean(steps[-1], siblings) if siblings else ""
        reason = f"{path} is not set: set {variable_name(steps)}, or {path} in settings.toml.{hint}"
        return ConfigurationError("A setting is missing", [reason, f"looked in: {titles}"])

    # --- models ---------------------------------------------------------------------------------------

    def section(self, model: type[ConfigT], *, name: str | None = None, values: Any = None) -> ConfigT:
        """A service's settings: its own section, then the one of the model's prefix, then the model's defaults.

        A service that is named after the prefix (`database` or `database_service` for `database`) shares its
        section: there the stronger source wins. Another name (`replica`) is a section of its own, and the prefix
        fills what it leaves open.

        Args:
            model: The config model.
            name: The service's registered name.
            values: Given values, a mapping or a model; they win.

        Raises:
            ConfigurationError: A setting is missing or malformed; all of them at once, without their values.
        """
        if isinstance(values, model):
            return values
        sources, sections = self._sources(), _sections(model, name)
        given = given_values(model, values)
        if not given and sources.keys.isdisjoint(first_keys(model, sections)):
            shared = shared_default(model)
            if shared is not None:
                return _named(shared, name, sections)
        lookup = Lookup(model, sections, sources.layers)
        data = lookup.gather(given)
        if model is ServiceConfig:  # it declares no settings of its own: the rest is for get_config_value
            data = {key: value for key, value in data.items() if key in model.model_fields or key in given}
        config = None if data else shared_default(model)
        if config is None:
            config = lookup.validate(data, who=name or model.prefix)
        places = lookup.places(data)
        if name is not None and config.name is None:
            config = config.model_copy(update={"name": name})
            places["name"] = "registration"
        if places:
            object.__setattr__(config, "_origins", _Origins(lookup.section, places))
        return config

    def settings(self, model: type[ModelT]) -> ModelT:
        """The application's settings: each field is a key of the root. See `load_settings`."""
        layers = self._sources().layers
        if not _is_settings(model):
            lookup = Lookup(model, ROOT, layers)
            return lookup.validate(lookup.gather({}), who="")
        owned = (_as_settings_read(model, layer) if layer.variables else layer for layer in layers)
        lookup = Lookup(model, ROOT, tuple(owned))
        return lookup.validate(lookup.gather({}), who="", build=_build_settings)

    # --- reading --------------------------------------------------------------------------------------

    def _sources(self) -> _Sources:
        read = self._read
        if read is None:
            with self._lock:
                read = self._read
                if read is None:
                    read = self._read = self._read_all()
        return read

    def _read_all(self) -> _Sources:
        environ = _sources.process_environment() if self._environ is None else dict(self._environ)
        dotenv = _sources.from_dotenv(self.root / ".env", environ)
        variables = (_sources.from_environment(environ), dotenv)
        environment = self._decide_environment(variables)
        directory = self._secrets or environ.get("SVC_SECRETS_DIR")
        secrets = _sources.from_secrets(Path(directory or _SECRETS_MOUNT), required=directory is not None)
        toml = _sources.from_toml(self.root / "settings.toml", environment.value)
        given = _sources.from_arguments(self._values)
        layers = (given, *variables, secrets, *toml)
        return _Sources(environment, layers, frozenset().union(*(layer.tree for layer in layers)))

    def _decide_environment(self, variables: tuple[Layer, ...]) -> Environment:
        said, where = self._environment, "argument"
        if isinstance(said, Environment):
            return said
        for variable in _ENVIRONMENT_VARIABLES:
            for layer in variables:
                steps = (variable.lower(),)
                if not said and layer.find(steps) is not MISSING:
                    said, where = str(layer.find(steps)), layer.place(steps)
        word = (said or "development").strip().lower()
        word = _SHORT_NAMES.get(word, word)
        if word not in _sources.ENVIRONMENT_NAMES:
            reason = f"the environment must be one of {', '.join(_sources.ENVIRONMENT_NAMES)}; it comes from: {where}"
            raise ConfigurationError("Configuration", [f"{reason}. SVC_ENVIRONMENT wins over the others"])
        return Environment(word)

    def __repr__(self) -> str:
        return f"<ConfigManager {'not read yet' if self._read is None else self._read.environment.value}>"


def _steps(path: str) -> Steps:
    return tuple(path.split("."))


# --- from sources to a model ----------------------------------------------------------------------------


def _sections(model: type[ServiceConfig], name: str | None) -> Groups:
    """The sections of a service, the first group before the second; within a group the stronger source wins."""
    prefix = _steps(model.prefix) if model.prefix else None
    own = (name.replace("-", "_").lower(),) if name else None
    if own is None or prefix is None:
        return (tuple(section for section in (own, prefix) if section is not None),)
    if own == prefix:
        return ((own,),)
    if own[0] == f"{'_'.join(prefix)}_service":
        return ((own, prefix),)
    return ((own,), (prefix,))


def _named(default: ConfigT, name: str | None, sections: Groups) -> ConfigT:
    """A model's default for one service, which no source says anything about."""
    if name is None or default.name is not None:
        return default
    config = default.model_copy(update={"name": name})
    section = sections[0][-1] if sections[0] else ()
    object.__setattr__(config, "_origins", _Origins(section, _NAMED_BY_REGISTRATION))
    return config


_NAMED_BY_REGISTRATION: Mapping[str, str] = MappingProxyType({"name": "registration"})


# --- pydantic-settings models ---------------------------------------------------------------------------


def _is_settings(model: type[BaseModel]) -> bool:
    # By name: a project without such a model needn't wait for the import.
    return any(
        base.__module__ == "pydantic_settings.main" and base.__name__ == "BaseSettings" for base in model.__mro__
    )


def _as_settings_read(model: type[BaseModel], layer: Layer) -> Layer:
    """The layer as the model itself reads variables: by its own prefix, delimiter and case."""
    from pydantic_settings import EnvSettingsSource, SettingsError  # noqa: PLC0415 - only projects that use it pay
    from pydantic_settings.sources.utils import parse_env_vars  # noqa: PLC0415

    class _Variables(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return parse_env_vars(layer.variables, self.case_sensitive, self.env_ignore_empty, self.env_parse_none_str)

    source = _Variables(cast("type[BaseSettings]", model))
    tree: dict[str, Any] = {}
    unparsed = None
    try:
        tree = source()
    except SettingsError as error:
        unparsed = str(error)
    if unparsed is not None:
        raise _unparsed(model, unparsed, layer.title)
    prefix = str(model.model_config.get("env_prefix", "")).lower()
    places: dict[Steps, str] = {(name,): layer.places.get(steps_of(prefix + name), layer.title) for name in tree}
    return Layer(layer.title, tree, places, layer.variables)


def _build_settings(model: type[ModelT], data: dict[str, Any]) -> ModelT:
    """The model from what we found; what is left open its own sources may fill."""
    from pydantic_settings import SettingsError  # noqa: PLC0415 - as above

    by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
    aliases = {name: alias for alias, name in reversed(spellings(model).items()) if alias != name and not by_name}
    try:
        return model(**{aliases.get(name, name): value for name, value in data.items()})
    except SettingsError as error:
        unparsed = str(error)
    raise _unparsed(model, unparsed, "the model's own sources")


def _unparsed(model: type[BaseModel], message: str, where: str) -> ConfigurationError:
    """Text that should have been JSON. The error of pydantic-settings has the text as its cause."""
    found = re.search(r'field "(\w+)"', message)
    name = found[1] if found else "a setting"
    variable = f"{model.model_config.get('env_prefix', '')}{name}".upper()
    reason = f"{name} ({variable}) must be JSON; it comes from: {where}"
    return ConfigurationError(f"Configuration {model.__name__}: 1 problem", [reason])


# --- the current configuration --------------------------------------------------------------------------

_current: ContextVar[ConfigManager | None] = ContextVar("svcframework_config", default=None)


class _Fallback:
    """The configuration of whoever has not been given one: the process's. Made on first use."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.manager: ConfigManager | None = None

    def get(self) -> ConfigManager:
        with self.lock:
            if self.manager is None:
                self.manager = ConfigManager()
            return self.manager


# The only state of this module: settings are asked for where no host is in reach, in a constructor for example.
_fallback = _Fallback()


def get_config_manager() -> ConfigManager:
    """The configuration of this context, or else the process's; made on first use."""
    return _current.get() or _fallback.get()


def set_config_manager(manager: ConfigManager | None) -> None:
    """Make this the process's configuration, seen by all threads; None forgets it, so that the next use reads anew."""
    with _fallback.lock:
        _fallback.manager = manager


@contextmanager
def use_config_manager(manager: ConfigManager) -> Generator[ConfigManager, None, None]:
    """Make this the configuration inside the block, for this task and what it starts; others don't see it."""
    token = _current.set(manager)
    try:
        yield manager
    finally:
        _current.reset(token)


def get_config_value(path: str, default: Any = MISSING) -> Any:
    """The value at a dotted path of the current configuration: `get_config_value("external_services.timeout", 30)`.

    Args:
        path: The dotted name, declared by a model or not.
        default: What to return when no source has it; text is read as its type.

    Raises:
        ConfigurationError: There is neither a value nor a default, or the text can't be read as its type.
    """
    return get_config_manager().get(path, default)


# --- for readers ----------------------------------------------------------------------------------------


def settings_origins(config: ServiceConfig) -> tuple[SettingOrigin, ...]:
    """Every setting of a service's config with where it came from, secrets hidden; what `svc config` prints."""
    origins: _Origins = getattr(config, "_origins", None) or _Origins(
        _steps(type(config).prefix or config.name or "service"), {}
    )
    return tuple(_origins_below(config, (), origins))


def _origins_below(model: BaseModel, above: Steps, origins: _Origins) -> Iterator[SettingOrigin]:
    for name in type(model).model_fields:
        value, steps = getattr(model, name), (*above, name)
        if isinstance(value, BaseModel):
            yield from _origins_below(value, steps, origins)
            continue
        fallback = "argument" if name in model.model_fields_set and not origins.places else "default"
        full, path = (*origins.section, *steps), ".".join(steps)
        place = next((origin for known, origin in origins.places.items() if _covers(known, path)), fallback)
        yield SettingOrigin(".".join(full), variable_name(full), str(shown(name, value)), place)


def _covers(known: str, path: str) -> bool:
    return known == path or known.startswith(f"{path}.") or path.startswith(f"{known}.")


def describe_config(model: type[BaseModel]) -> str:
    """The Markdown reference of a model's settings: name, environment variable, type, default and description.

    The text of a plugin's CONFIGURATION.md; the same for the same model.
    """
    section: Steps = ()
    if issubclass(model, ServiceConfig):
        section = _steps(model.prefix or "<service>")
    return _settingtext.reference(model, section=section, common=ServiceConfig)
