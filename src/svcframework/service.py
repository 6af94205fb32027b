"""BaseService: what every service is, and the hooks its author fills in."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast, get_args, get_origin

from typing_extensions import TypeVar  # typing's own has no default before Python 3.13

from svcframework._secrettext import redact_text
from svcframework._types import HealthResult, HealthStatus, Restart, ServiceState
from svcframework.config import ServiceConfig, load_config
from svcframework.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from svcframework.host import ServiceHost
    from svcframework.log import ServiceLogger
    from svcframework.metrics import ServiceMetrics

# The default lets strict type checkers accept `class X(BaseService):`, for a service without settings of its own.
ConfigT = TypeVar("ConfigT", bound=ServiceConfig, default=ServiceConfig)
T = TypeVar("T")
_TAKEN = {"config", "host", "logger", "metrics", "name", "state", "version"}


class BaseService(Generic[ConfigT]):
    """The base of all services; an instance lives as long as its host, or as its provider says.

    The constructor takes collaborators and does no I/O; `on_startup` does the I/O. A subclass may write its own
    `__init__` and need not call this one.

    Args:
        config: A `ServiceConfig`, a mapping to make one from, or any settings object (kept as it is). Without
            one it is read from the configuration's section for the class.
    """

    config_type: ClassVar[type[ServiceConfig]] = ServiceConfig
    """The config model, taken from `BaseService[PostgresConfig]`."""
    service_name: ClassVar[str] = "base_service"
    """The name an instance has until a registration gives it another: the class name in snake case."""
    restart: ClassVar[Restart | None] = None
    """The restart policy given to the class; a config's own wins."""

    name: str
    state: ServiceState
    host: ServiceHost | None

    def __init_subclass__(cls, *, name: str | None = None, restart: Restart | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.service_name = name or snake_case(cls.__name__)
        if restart is not None:
            cls.restart = restart
        config_type = _config_argument(cls)
        if config_type is not None:
            cls.config_type = config_type
        for attribute, member in vars(cls).items():
            if attribute in _TAKEN and callable(member):
                raise RegistrationError(
                    f"{cls.__qualname__}.{attribute}() would be hidden by an attribute that every service has, "
                    f"{attribute!r}: give the method another name."
                )
            _bind_to_instance(member)

    if not TYPE_CHECKING:  # type checkers would take its parameters for the constructor's

        def __new__(cls, *_args, **_kwargs):  # noqa: ANN002, ANN003, ANN204, D102 - as above
            # Set here and not in __init__, so that a subclass which forgets super().__init__() works.
            self = super().__new__(cls)
            self.name = cls.service_name
            self.state = ServiceState.REGISTERED
            self.host = None
            return self

    def __init__(self, config: ConfigT | Mapping[str, Any] | object | None = None) -> None:
        if config is not None:
            self.config = cast("ConfigT", config)

    # --- what an instance has -------------------------------------------------------------------------

    @property
    def config(self) -> ConfigT:
        """The service's settings; read from the configuration on first use when none were given."""
        try:
            return cast("ConfigT", self.__dict__["_config"])
        except KeyError:
            manager = None if self.host is None else self.host.config
            self.config = config = cast("ConfigT", load_config(self.config_type, name=self.name, manager=manager))
            return config

    @config.setter
    def config(self, config: ConfigT | Mapping[str, Any]) -> None:
        given = load_config(self.config_type, name=self.name, values=config) if isinstance(config, dict) else config
        self.__dict__["_config"] = given
        name = getattr(given, "name", None)
        if isinstance(given, ServiceConfig) and name and self.host is None:
            self.name = name

    @property
    def version(self) -> str:
        """The version in the config, `0` where there is none."""
        return str(getattr(self.config, "version", None) or "0")

    @property
    def logger(self) -> ServiceLogger:
        """A structured logger bound to this service."""
        logger = self.__dict__.get("_logger")
        if logger is None:
            from svcframework.log import ServiceLogger  # noqa: PLC0415 - structlog loads with the first logger

            logger = self.__dict__["_logger"] = ServiceLogger(self.name, version=self.version)
        return cast("ServiceLogger", logger)

    @logger.setter
    def logger(self, logger: Any) -> None:
        self.__dict__["_logger"] = logger

    @property
    def metrics(self) -> ServiceMetrics:
        """Counts and times of this service's operations."""
        metrics = self.__dict__.get("_metrics")
        if metrics is None:
            from svcframework.metrics import ServiceMetrics  # noqa: PLC0415 - loads with the first use

            metrics = self.__dict__["_metrics"] = ServiceMetrics(self.name)
        return cast("ServiceMetrics", metrics)

    # --- what its author writes -----------------------------------------------------------------------

    async def on_startup(self) -> None:
        """Connect, load, open. Dependencies run already. Called in the service's own task."""

    async def on_run(self) -> None:
        """Work in the background until cancelled; the restart policy says what an end means."""

    async def on_shutdown(self) -> None:
        """Undo `on_startup`, also a partial one. Dependents have stopped, dependencies still run."""

    def on_dependency_change(self, name: str, state: ServiceState) -> None:
        """A service that this one depends on crashed or came back. It must not wait."""

    async def _service_health_check(self) -> HealthResult | Mapping[str, Any] | bool:
        """How the service is. The default: healthy while it runs."""
        if self.state is ServiceState.RUNNING:
            return HealthResult.healthy()
        if self.state is ServiceState.DEGRADED:
            return HealthResult.degraded()
        return HealthResult.unhealthy(self.state.value)

    # --- what its callers use -------------------------------------------------------------------------

    async def health_check(self) -> HealthResult:
        """Check now, without a cache; never raises but for cancellation. The monitor adds cache and timeout."""
        started = time.perf_counter()
        try:
            found: object = await self._service_health_check()
        except Exception as error:  # noqa: BLE001 - a boundary: a check that raises has found something
            found = HealthResult.unhealthy(redact_text(f"{type(error).__name__}: {error}"))
        return as_health_result(found, latency=time.perf_counter() - started)

    async def with_retry(
        self, operation: Callable[[], Awaitable[T]], max_attempts: int = 3, backoff_seconds: float = 1.0
    ) -> T:
        """Call `operation` until it succeeds, at most `max_attempts` times.

        Args:
            operation: Called without arguments, awaited each time.
            max_attempts: Attempts in all, the first included.
            backoff_seconds: Seconds before the second attempt; doubled each time, with jitter.

        Raises:
            Exception: What the last attempt raised.
        """
        from svcframework.retry import RetryBudget, retry_on_failure  # noqa: PLC0415 - loads with the first use

        # One budget for the service: an outage must not multiply its calls.
        budget = self.__dict__.get("_retry_budget")
        if budget is None:
            budget = self.__dict__["_retry_budget"] = RetryBudget()

        async def attempt() -> T:
            return await operation()

        attempt.__qualname__ = f"{type(self).__qualname__}.with_retry"
        return await retry_on_failure(max_retries=max_attempts - 1, delay=backoff_seconds, budget=budget)(attempt)()

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.name!r} {self.state.value}>"


def as_health_result(found: object, *, latency: float = 0.0) -> HealthResult:
    """What a health check returned, as a `HealthResult`: a bool, a word and a mapping count too."""
    if isinstance(found, HealthResult):
        if found.latency:
            return found
        return HealthResult(found.status, found.message, latency, found.details, found.checked_at)
    if isinstance(found, bool):
        return HealthResult(HealthStatus.HEALTHY if found else HealthStatus.UNHEALTHY, latency=latency)
    if isinstance(found, str):
        found = {"status": found}
    if isinstance(found, dict):
        details = {key: value for key, value in found.items() if key not in {"status", "message"}}
        try:
            status = HealthStatus(found.get("status", "unknown"))
        except ValueError:
            status, details = HealthStatus.UNKNOWN, {**details, "status": found["status"]}
        return HealthResult(status, str(found.get("message", "")), latency, details)
    message = f"the check returned {type(found).__name__}; return HealthResult, bool or a dict with 'status'"
    return HealthResult(HealthStatus.UNKNOWN, message, latency)


def snake_case(name: str) -> str:
    """`HTTPUserService` as `http_user_service`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().strip("_")


def _config_argument(cls: type) -> type[ServiceConfig] | None:
    """The model in `class X(BaseService[Model])`, if the class names one."""
    for base in vars(cls).get("__orig_bases__", ()):  # its own: inherited ones would undo a subclass's config_type
        if isinstance(get_origin(base), type) and issubclass(cast("type", get_origin(base)), BaseService):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, ServiceConfig):
                    return argument
    return None


def _bind_to_instance(member: object) -> None:
    """Tell an injected method, however decorated, to read services from its own instance's host."""
    while member is not None:
        bind = getattr(member, "__inject_from_instance__", None)
        if bind is not None:
            bind()
        member = getattr(member, "__func__", None) or getattr(member, "__wrapped__", None)
