"""Mixins: what a service may add to itself. Each stands alone, keeps no `__init__` and works in any order of bases."""

from svcframework.mixins.asyncoperations import AsyncOperationMixin
from svcframework.mixins.common import CommonServiceBase
from svcframework.mixins.configuration import ConfigurationMixin
from svcframework.mixins.database import DatabaseOperationMixin, Page
from svcframework.mixins.files import FileOperationMixin
from svcframework.mixins.initialization import ServiceInitializationMixin
from svcframework.mixins.metrics import MetricsMixin
from svcframework.mixins.validation import ValidationMixin

__all__ = [
    "AsyncOperationMixin",
    "CommonServiceBase",
    "ConfigurationMixin",
    "DatabaseOperationMixin",
    "FileOperationMixin",
    "MetricsMixin",
    "Page",
    "ServiceInitializationMixin",
    "ValidationMixin",
]
