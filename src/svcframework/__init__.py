"""svcframework: async-first dependency injection and services.

Every public name is importable from here and loads its module on first use (PEP 562), so that `import svcframework`
costs next to nothing and pulls in no library that a program does not use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "svcframework._signatures": ["Lazy"],
    "svcframework._types": ["HealthResult", "HealthStatus", "Lifetime", "Restart", "ServiceState"],
    "svcframework.bases": ["AsyncService", "Cache", "DatabaseService", "ExternalService"],
    "svcframework.config": ["ConfigManager", "ServiceConfig", "get_config_manager", "get_config_value"],
    "svcframework.containers": ["ServiceContainer"],
    "svcframework.context": ["require_service", "service_context"],
    "svcframework.deadlines": ["deadline", "remaining"],
    "svcframework.default": [
        "ServiceFactory",
        "ServiceManager",
        "ServiceRegistry",
        "current_host",
        "discover_services",
        "get_service",
        "get_service_metrics",
        "get_service_summary",
        "get_services_by_group",
        "health_check_all_services",
        "register_discovered_services",
        "register_instance",
        "register_scoped",
        "register_service_group",
        "register_singleton",
        "register_transient",
        "reset_default_host",
        "service_container",
        "service_factory",
        "service_health_monitor",
        "service_manager",
        "service_registry",
        "shutdown_all_services",
        "startup_all_services",
        "unregister",
    ],
    "svcframework.errorhandling": ["CentralizedErrorHandler", "ErrorContext", "ErrorHandlingContext", "handle_errors"],
    "svcframework.health": ["HealthMonitor"],
    "svcframework.host": ["ServiceHost"],
    "svcframework.injection": ["INJECTED", "inject_service"],
    "svcframework.log": ["ServiceLogger", "configure_logging"],
    "svcframework.methods": ["service_method"],
    "svcframework.metrics": ["ServiceMetrics"],
    "svcframework.mixins": [
        "AsyncOperationMixin",
        "CommonServiceBase",
        "ConfigurationMixin",
        "DatabaseOperationMixin",
        "FileOperationMixin",
        "MetricsMixin",
        "ServiceInitializationMixin",
        "ValidationMixin",
    ],
    "svcframework.problems": ["Problem", "WiringError"],
    "svcframework.registry": ["ServiceDescriptor"],
    "svcframework.retry": ["retry_on_failure"],
    "svcframework.scopes": ["Scope"],
    "svcframework.service": ["BaseService"],
    "svcframework.ticks": ["every"],
    "svcframework.utils": [
        "calculate_duration",
        "chunk_list",
        "format_timestamp",
        "generate_unique_id",
        "merge_dicts",
        "safe_get_dict_value",
        "sanitize_filename",
        "validate_required_fields",
    ],
}
_MODULES = ("errors", "events", "providers")
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])  # noqa: PLE0605 - derived from the one table above


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"svcframework.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'svcframework' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from svcframework import errors as errors
    from svcframework import events as events
    from svcframework import providers as providers
    from svcframework._signatures import Lazy as Lazy
    from svcframework._types import HealthResult as HealthResult
    from svcframework._types import HealthStatus as HealthStatus
    from svcframework._types import Lifetime as Lifetime
    from svcframework._types import Restart as Restart
    from svcframework._types import ServiceState as ServiceState
    from svcframework.bases import AsyncService as AsyncService
    from svcframework.bases import Cache as Cache
    from svcframework.bases import DatabaseService as DatabaseService
    from svcframework.bases import ExternalService as ExternalService
    from svcframework.config import ConfigManager as ConfigManager
    from svcframework.config import ServiceConfig as ServiceConfig
    from svcframework.config import get_config_manager as get_config_manager
    from svcframework.config import get_config_value as get_config_value
    from svcframework.containers import ServiceContainer as ServiceContainer
    from svcframework.context import require_service as require_service
    from svcframework.context import service_context as service_context
    from svcframework.deadlines import deadline as deadline
    from svcframework.deadlines import remaining as remaining
    from svcframework.default import ServiceFactory as ServiceFactory
    from svcframework.default import ServiceManager as ServiceManager
    from svcframework.default import ServiceRegistry as ServiceRegistry
    from svcframework.default import current_host as current_host
    from svcframework.default import discover_services as discover_services
    from svcframework.default import get_service as get_service
    from svcframework.default import get_service_metrics as get_service_metrics
    from svcframework.default import get_service_summary as get_service_summary
    from svcframework.default import get_services_by_group as get_services_by_group
    from svcframework.default import health_check_all_services as health_check_all_services
    from svcframework.default import register_discovered_services as register_discovered_services
    from svcframework.default import register_instance as register_instance
    from svcframework.default import register_scoped as register_scoped
    from svcframework.default import register_service_group as register_service_group
    from svcframework.default import register_singleton as register_singleton
    from svcframework.default import register_transient as register_transient
    from svcframework.default import reset_default_host as reset_default_host
    from svcframework.default import service_container as service_container
    from svcframework.default import service_factory as service_factory
    from svcframework.default import service_health_monitor as service_health_monitor
    from svcframework.default import service_manager as service_manager
    from svcframework.default import service_registry as service_registry
    from svcframework.default import shutdown_all_services as shutdown_all_services
    from svcframework.default import startup_all_services as startup_all_services
    from svcframework.default import unregister as unregister
    from svcframework.errorhandling import CentralizedErrorHandler as CentralizedErrorHandler
    from svcframework.errorhandling import ErrorContext as ErrorContext
    from svcframework.errorhandling import ErrorHandlingContext as ErrorHandlingContext
    from svcframework.errorhandling import handle_errors as handle_errors
    from svcframework.health import HealthMonitor as HealthMonitor
    from svcframework.host import ServiceHost as ServiceHost
    from svcframework.injection import INJECTED as INJECTED
    from svcframework.injection import inject_service as inject_service
    from svcframework.log import ServiceLogger as ServiceLogger
    from svcframework.log import configure_logging as configure_logging
    from svcframework.methods import service_method as service_method
    from svcframework.metrics import ServiceMetrics as ServiceMetrics
    from svcframework.mixins import AsyncOperationMixin as AsyncOperationMixin
    from svcframework.mixins import CommonServiceBase as CommonServiceBase
    from svcframework.mixins import ConfigurationMixin as ConfigurationMixin
    from svcframework.mixins import DatabaseOperationMixin as DatabaseOperationMixin
    from svcframework.mixins import FileOperationMixin as FileOperationMixin
    from svcframework.mixins import MetricsMixin as MetricsMixin
    from svcframework.mixins import ServiceInitializationMixin as ServiceInitializationMixin
    from svcframework.mixins import ValidationMixin as ValidationMixin
    from svcframework.problems import Problem as Problem
    from svcframework.problems import WiringError as WiringError
    from svcframework.registry import ServiceDescriptor as ServiceDescriptor
    from svcframework.retry import retry_on_failure as retry_on_failure
    from svcframework.scopes import Scope as Scope
    from svcframework.service import BaseService as BaseService
    from svcframework.ticks import every as every
    from svcframework.utils import calculate_duration as calculate_duration
    from svcframework.utils import chunk_list as chunk_list
    from svcframework.utils import format_timestamp as format_timestamp
    from svcframework.utils import generate_unique_id as generate_unique_id
    from svcframework.utils import merge_dicts as merge_dicts
    from svcframework.utils import safe_get_dict_value as safe_get_dict_value
    from svcframework.utils import sanitize_filename as sanitize_filename
    from svcframework.utils import validate_required_fields as validate_required_fields
