"""The examples of the documents that asked for the framework run as they are written there, import path apart."""

# ruff: noqa: RET504, T201 - the examples are kept as they were written

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import svcframework.default
from svcframework import (
    BaseService,
    CentralizedErrorHandler,
    ErrorContext,
    MetricsMixin,
    ServiceConfig,
    discover_services,
    get_config_manager,
    get_config_value,
    get_service,
    get_service_metrics,
    get_service_summary,
    get_services_by_group,
    handle_errors,
    health_check_all_services,
    inject_service,
    register_discovered_services,
    register_service_group,
    register_singleton,
    reset_default_host,
    retry_on_failure,
    service_method,
    shutdown_all_services,
    startup_all_services,
)
from svcframework import service_registry as services
from svcframework.config import ConfigManager, use_config_manager
from svcframework.retry import testing as retry_testing


@pytest.fixture(autouse=True)
def default_host() -> Iterator[None]:
    """A default host of its own for each test."""
    reset_default_host()
    yield
    svcframework.default._Default.host = None


# --- the services system --------------------------------------------------------------------------------


class MyService(BaseService):
    def __init__(self):
        config = ServiceConfig(name="my_service")
        super().__init__(config)

    async def _service_health_check(self):
        return {"status": "healthy"}

    @service_method
    async def some_method(self):
        return "some result"


async def test_basic_service_usage() -> None:
    """A service is registered and asked for by its class."""
    register_singleton(MyService, name="my_service")

    my_service = get_service(MyService)
    result = await my_service.some_method()

    assert "some result" == result
    assert my_service is get_service("my_service")


class UserService(BaseService):
    def __init__(self):
        super().__init__(ServiceConfig(name="user_service"))

    @inject_service("database_service")
    async def get_user(self, user_id: str, database_service):
        return await database_service.get_user(user_id)


class Database(BaseService):
    async def get_user(self, user_id):
        return {"id": user_id}


async def test_service_with_dependencies() -> None:
    """A method's parameter is injected by the service's name; the dependency starts first."""
    order = []
    register_singleton(UserService, name="user_service", dependencies=["database_service"])
    register_singleton(Database, name="database_service")
    svcframework.current_host().subscribe(lambda event: order.append(getattr(event, "service", None)))

    assert {"id": "42"} == await get_service("user_service").get_user("42")
    await startup_all_services()
    assert {"id": "42"} == await get_service("user_service").get_user("42")
    assert order.index("database_service") < order.index("user_service")
    await shutdown_all_services()


class ExternalAPIService(BaseService):
    http_client: Any

    @service_method
    @retry_on_failure(max_retries=3, delay=1.0)
    async def call_external_api(self, endpoint: str):
        # External API call with retry logic
        response = await self.http_client.get(endpoint)
        return response.json()


async def test_service_with_decorators() -> None:
    """What fails twice is tried a third time, and counts as one success."""
    attempts = []

    async def get(endpoint):
        attempts.append(endpoint)
        if len(attempts) < 3:
            raise ConnectionError("reset")
        return SimpleNamespace(json=lambda: {"ok": True})

    service = ExternalAPIService()
    service.http_client = SimpleNamespace(get=get)
    with retry_testing():
        assert {"ok": True} == await service.call_external_api("/users")
    assert ["/users"] * 3 == attempts
    assert 100.0 == service.metrics.snapshot()["success_rate"]


class BoolHealth(BaseService):
    async def health_check(self) -> bool:
        return False


async def test_service_health_monitoring(capsys: pytest.CaptureFixture[str]) -> None:
    """One and all services are checked; a result reads like a mapping; a bool and a mapping are results too."""
    register_singleton(UserService, name="user_service")
    register_singleton(Database, name="database_service")
    register_singleton(MyService, name="my_service")
    register_singleton(BoolHealth, name="aurora")
    await startup_all_services()

    # Check individual service health
    user_service = get_service("user_service")
    health = await user_service.health_check()
    print(f"User service health: {health}")

    # Check all services
    all_health = await health_check_all_services()
    for service_name, health in all_health.items():
        print(f"{service_name}: {health['status']}")

    await shutdown_all_services()
    assert [
        "User service health: healthy",
        "database_service: healthy",
        "user_service: healthy",
        "my_service: healthy",
        "aurora: unhealthy",
    ] == capsys.readouterr().out.splitlines()


async def test_service_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary has the three keys of the example."""
    register_singleton(MyService, name="my_service")
    register_singleton(BoolHealth, name="aurora")
    await startup_all_services()
    await health_check_all_services()

    # Get service summary
    summary = get_service_summary()
    print(f"Total services: {summary['total_services']}")
    print(f"Healthy services: {summary['healthy_services']}")
    print(f"Service metrics: {summary['metrics']}")

    await shutdown_all_services()
    lines = capsys.readouterr().out.splitlines()
    assert ["Total services: 2", "Healthy services: 1"] == lines[:2]
    assert "my_service" in lines[2]


async def test_service_initialization() -> None:
    """Start and stop may come from different tasks, and services run in between."""
    register_singleton(MyService, name="my_service")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(startup_all_services)
    assert get_service("my_service").state.is_running
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shutdown_all_services)
    assert not get_service("my_service").state.is_running


def test_service_configuration() -> None:
    """A service's config takes what the example gives it."""
    config = ServiceConfig(
        name="my_service",
        version="1.0.0",
        dependencies=["database_service", "cache_service"],
        health_check_interval=30,
        metrics_enabled=True,
    )
    assert ("my_service", "1.0.0", 30) == (config.name, config.version, config.health_check_interval)
    assert ["database_service", "cache_service"] == list(config.dependencies)


async def test_dependencies_of_a_config_count() -> None:
    """What a config lists runs first, and must be there."""
    config = ServiceConfig(name="late", dependencies=["database_service"])
    order: list[str] = []

    class Late(BaseService):
        async def on_startup(self) -> None:
            order.append(self.name)

    class Early(Late):
        pass

    register_singleton(Late, name="late", config=config)
    register_singleton(Early, name="database_service")
    await startup_all_services()
    await shutdown_all_services()
    assert ["database_service", "late"] == order


# Global error handler
error_handler = CentralizedErrorHandler()


async def test_centralized_error_handling() -> None:
    """The handler is awaited in the except clause, and the error goes on."""
    seen = []

    async def some_operation():
        raise OSError("full")

    # Handle errors with context
    async def service_method():
        try:
            # Service logic
            result = await some_operation()
            return result
        except Exception as e:
            # Log error with context
            await error_handler.handle_error(
                error=e,
                context=ErrorContext(service="my_service", method="service_method", user_id="123"),
            )
            raise

    error_handler.add_hook(
        lambda report: seen.append((str(report.error), report.context.service, report.context.user_id))
    )
    with pytest.raises(OSError, match="full"):
        await service_method()
    assert [("full", "my_service", "123")] == seen


async def test_service_error_handling() -> None:
    """The bare decorator reports and raises again."""

    async def external_api_call():
        raise OSError("gone")

    class RiskyService(BaseService):
        @handle_errors
        async def risky_operation(self):
            # Operation that might fail
            return await external_api_call()

    with pytest.raises(OSError, match="gone"):
        await RiskyService().risky_operation()


class MetricsService(BaseService, MetricsMixin):
    def __init__(self):
        super().__init__(ServiceConfig(name="metrics_service"))
        self.metrics_enabled = True

    async def track_operation(self, operation_name: str):
        start_time = time.time()
        try:
            result = await self.perform_operation()
            self.record_metric(operation_name, "success", time.time() - start_time)
            return result
        except Exception:
            self.record_metric(operation_name, "error", time.time() - start_time)
            raise

    async def perform_operation(self):
        return "done"


async def test_service_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """What the mixin records is what the figures are made of."""
    register_singleton(MetricsService, name="my_service")
    service = get_service("my_service")
    assert "done" == await service.track_operation("report")

    # Get service performance metrics
    metrics = get_service_metrics("my_service")
    print(f"Average response time: {metrics['avg_response_time']}ms")
    print(f"Success rate: {metrics['success_rate']}%")
    print(f"Error rate: {metrics['error_rate']}%")

    lines = capsys.readouterr().out.splitlines()
    assert ["Success rate: 100.0%", "Error rate: 0.0%"] == lines[1:]
    assert lines[0].startswith("Average response time: ")


class ConfigurableService(BaseService):
    def __init__(self):
        super().__init__(ServiceConfig(name="configurable_service"))

        # Get configuration values
        self.api_key = get_config_value("external_services.api_key")
        self.timeout = get_config_value("external_services.timeout", 30)
        self.retry_attempts = get_config_value("external_services.retry_attempts", 3)


class EnvironmentAwareService(BaseService):
    def __init__(self):
        super().__init__(ServiceConfig(name="environment_aware_service"))

        config = get_config_manager()
        self.environment = config.environment.value

        if self.environment == "production":
            self.debug_mode = False
            self.log_level = "WARNING"
        else:
            self.debug_mode = True
            self.log_level = "DEBUG"


def test_configuration_integration() -> None:
    """Values come by dotted path, with defaults; the environment has a word."""
    manager = ConfigManager({"external_services": {"api_key": "k-1"}}, environ={}, environment="production")
    with use_config_manager(manager):
        service = ConfigurableService()
        aware = EnvironmentAwareService()
    assert ("k-1", 30, 3) == (service.api_key, service.timeout, service.retry_attempts)
    assert ("production", False, "WARNING") == (aware.environment, aware.debug_mode, aware.log_level)


class AService(BaseService):
    def __init__(self):
        super().__init__(ServiceConfig(name="test_service"))

    async def test_method(self):
        return "test_result"


async def test_service_without_a_host() -> None:
    """A service can be made and used by itself."""
    service = AService()
    result = await service.test_method()
    assert result == "test_result"


async def test_service_integration() -> None:
    """Register, start, ask, call."""
    # Register test services
    register_singleton(AService, name="test_service")

    # Startup services
    await startup_all_services()

    # Test service integration
    service = get_service("test_service")
    result = await service.test_method()
    assert result == "test_result"
    await shutdown_all_services()


def test_automatic_service_discovery(capsys: pytest.CaptureFixture[str]) -> None:
    """What is found can be counted, and registered as it is; a test installation may have none."""
    # Discover services automatically
    discovered_services = discover_services()
    print(f"Discovered {len(discovered_services)} services")

    # Register discovered services
    failures = register_discovered_services(discovered_services)

    names = {one.name for one in discovered_services} - {failure.plugin for failure in failures}
    assert f"Discovered {len(discovered_services)} services\n" == capsys.readouterr().out
    assert all(name in services for name in names)


def test_service_groups() -> None:
    """A group may be named before its members are registered."""
    # Register service group
    register_service_group("ai_services", ["producer_service", "llm_service", "job_service"])

    for name in ("job_service", "llm_service", "producer_service"):
        register_singleton(AService, name=name)

    # Get services by group
    ai_services = get_services_by_group("ai_services")

    assert ["producer_service", "llm_service", "job_service"] == [service.name for service in ai_services]


# --- the service registry -------------------------------------------------------------------------------


class AuroraService(BaseService):
    """As written there: an own `__init__`, and a health check that returns a bool."""

    def __init__(self, config):
        super().__init__(config)
        self._pools: dict[str, Any] = {}

    async def initialize(self):
        self._central_pool = self.config.central_dsn

    async def health_check(self) -> bool:
        return True

    async def get_org_pool(self, database_name: str):
        if database_name not in self._pools:
            self._pools[database_name] = self.config.build_dsn(database_name)
        return self._pools[database_name]

    async def execute_one(self, pool, query: str, *args):
        return {"pool": pool, "query": query, "args": args}


class S3Service(BaseService):
    def __init__(self, config):
        super().__init__(config)
        self.bucket = config.bucket_name

    async def health_check(self) -> bool:
        return bool(self.bucket)


def app_config() -> SimpleNamespace:
    """A settings object with a section per service."""
    return SimpleNamespace(
        aurora=SimpleNamespace(central_dsn="pg://central", build_dsn="pg://{}".format),
        s3=SimpleNamespace(bucket_name="files"),
    )


async def get_project(project_id, org_db: str):
    pool = await services.aurora.get_org_pool(org_db)
    return await services.aurora.execute_one(pool, "SELECT * FROM projects WHERE id = $1", project_id)


async def test_service_registry() -> None:
    """`initialize` gives each service its section; services are attributes; the second call does nothing."""
    register_singleton(AuroraService, name="aurora")
    register_singleton(S3Service, name="s3")

    services.initialize(app_config())
    services.initialize(app_config())

    assert {"pool": "pg://acme", "query": "SELECT * FROM projects WHERE id = $1", "args": (7,)} == await get_project(
        7, "acme"
    )
    assert "files" == services.s3.bucket
    assert services.aurora is get_service("aurora")


async def test_health_check_that_returns_a_bool() -> None:
    """All results are the same kind in the end."""
    register_singleton(AuroraService, name="aurora", config=app_config().aurora)
    await startup_all_services()
    results = await health_check_all_services()
    await shutdown_all_services()
    assert "healthy" == results["aurora"]["status"]
    assert True is await get_service("aurora").health_check()


async def test_with_retry() -> None:
    """The operation is awaited until it succeeds, at most three times by default."""
    attempts = []

    async def operation():
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("reset")
        return "done"

    service = S3Service(SimpleNamespace(bucket_name="files"))
    with retry_testing():
        assert "done" == await service.with_retry(operation)
        attempts[:] = [1, 1, 1]
        with pytest.raises(ZeroDivisionError):
            await service.with_retry(fail, max_attempts=2, backoff_seconds=0.5)


async def fail():
    raise ZeroDivisionError


def test_fail_fast() -> None:
    """Wrong settings are found by `initialize`, all at once and before anything is used."""

    class BucketConfig(ServiceConfig, prefix="bucket"):
        bucket_name: str

    class Bucket(BaseService[BucketConfig]):
        pass

    register_singleton(Bucket, name="bucket")
    register_singleton(Bucket, name="backup", dependencies=["bukket"])

    with pytest.raises(svcframework.WiringError) as caught:
        services.initialize({"bucket": {"bucket_nam": "files"}})
    assert {"misconfigured", "missing"} == {problem.kind for problem in caught.value.problems}
    assert "bucket_name" in str(caught.value)
    assert "Did you mean 'bucket'" in str(caught.value)


def test_unknown_service_of_the_registry() -> None:
    """The error names what there is."""
    register_singleton(S3Service, name="s3", config=app_config().s3)
    with pytest.raises(svcframework.errors.ServiceNotFoundError, match=r"No service is named 's4'\. There are: s3"):
        _ = services.s4


def test_registry_is_a_singleton() -> None:
    """`services = ServiceRegistry()` is the same object wherever it is written (seed 004)."""
    assert svcframework.ServiceRegistry() is svcframework.ServiceRegistry() is svcframework.service_registry
