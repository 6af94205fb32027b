"""What every test of the core shares: its two backends, and a Hypothesis profile that gives the same answer twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", deadline=None, max_examples=2_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("SVC_HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each asynchronous test on asyncio and on trio; a module whose driver is asyncio-only overrides this."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _logging_is_not_left_configured() -> Iterator[None]:
    """Forget any configuration of structlog after each test: its `capture_logs` leaves one behind."""
    yield
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        structlog.reset_defaults()
