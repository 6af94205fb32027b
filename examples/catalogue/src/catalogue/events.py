"""What the catalogue tells whoever listens: the channels, and what is on them. No service here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PACKAGES = "catalogue.packages"
"""The channel of `PackageEvent`: one for each package that was read."""
INGESTS = "catalogue.ingests"
"""The channel of `IngestEvent`: how far a look at what is installed has got."""

Change = Literal["new", "updated", "same", "gone"]


@dataclass(frozen=True, slots=True)
class PackageEvent:
    """A package was read, and the store has it as it is now; `before` is its version until then."""

    name: str
    version: str
    summary: str
    change: Change
    before: str | None = None


@dataclass(frozen=True, slots=True)
class IngestEvent:
    """`done` of `total` packages have been read."""

    done: int
    total: int
