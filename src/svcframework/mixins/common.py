"""CommonServiceBase: a `BaseService` with the mixins that most services want; the one module here that knows others."""

from __future__ import annotations

from svcframework.mixins.asyncoperations import AsyncOperationMixin
from svcframework.mixins.configuration import ConfigurationMixin
from svcframework.mixins.metrics import MetricsMixin
from svcframework.mixins.validation import ValidationMixin
from svcframework.service import BaseService, ConfigT


class CommonServiceBase(ValidationMixin, ConfigurationMixin, MetricsMixin, AsyncOperationMixin, BaseService[ConfigT]):
    """A service that validates, reads its configuration, counts and runs things at once; lives as long as its host."""
