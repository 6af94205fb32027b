"""Help for testing services: faults on command, and what every plugin must pass. Loads pytest only for the latter."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework.testing.conformance import ServiceConformance, deviates
    from svcframework.testing.faults import Fault, FaultProxy

__all__ = ["Fault", "FaultProxy", "ServiceConformance", "deviates"]

_HOMES = {"Fault": "faults", "FaultProxy": "faults", "ServiceConformance": "conformance", "deviates": "conformance"}

with contextlib.suppress(ImportError):  # pytest isn't needed for faults
    import pytest

    # So that a failed assertion of an inherited test shows its values.
    pytest.register_assert_rewrite("svcframework.testing.conformance")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
