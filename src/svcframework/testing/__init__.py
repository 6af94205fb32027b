"""Help for testing services: faults on command, and what every plugin must pass. Loads pytest only for the latter."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svcframework.testing.conformance import ServiceConformance, deviates
    from svcframework.testing.disks import small_disk
    from svcframework.testing.faultconformance import FaultConformance
    from svcframework.testing.faults import Fault, FaultProxy

__all__ = ["Fault", "FaultConformance", "FaultProxy", "ServiceConformance", "deviates", "small_disk"]

_HOMES = {
    "Fault": "faults",
    "FaultConformance": "faultconformance",
    "FaultProxy": "faults",
    "ServiceConformance": "conformance",
    "deviates": "conformance",
    "small_disk": "disks",
}

with contextlib.suppress(ImportError):  # pytest isn't needed for faults
    import pytest

    # So that a failed assertion of an inherited test shows its values.
    pytest.register_assert_rewrite(
        *(f"{__name__}.{suite}" for suite in ("conformance", "faultconformance", "_enduring", "_cancelling"))
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
