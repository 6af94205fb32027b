"""What the catalogue knows of a package, and how it is read from an installed distribution. No service here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageMetadata, distributions


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package."""

    name: str
    version: str
    summary: str
    licence: str
    description: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search; the best have the highest rank."""

    name: str
    version: str
    summary: str
    rank: float


def find_distributions() -> list[Distribution]:
    """Every distribution that is installed; of two with the same name the one that an import would find."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        if name := _field(distribution.metadata, "Name"):  # a damaged one has none
            found.setdefault(canonical_name(name), distribution)
    return list(found.values())


def read_packages(found: Iterable[Distribution]) -> list[Package]:
    """Read the metadata files; blocks, so services call it in a thread."""
    return [_read_package(distribution) for distribution in found]


def canonical_name(name: str) -> str:
    """The one spelling of a package's name: `Foo_Bar` is `foo-bar`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _read_package(distribution: Distribution) -> Package:
    metadata = distribution.metadata
    return Package(
        name=canonical_name(metadata["Name"]),
        version=distribution.version,
        summary=_field(metadata, "Summary"),
        licence=_licence(metadata),
        description=_field(metadata, "Description"),
    )


def _licence(metadata: PackageMetadata) -> str:
    """The licence's short name; old packages give it as a classifier, or as its whole text, which is no name."""
    given = _field(metadata, "License-Expression") or _field(metadata, "License")
    if given and "\n" not in given and len(given) <= 40:  # noqa: PLR2004 - the longest that is still a name
        return given
    classifiers = metadata.get_all("Classifier") or []
    names = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    return names[-1].removesuffix(" License") if names else "not given"


def _field(metadata: PackageMetadata, key: str) -> str:
    """A field's text, as PostgreSQL can take it: without NUL, and without lone surrogates."""
    text = metadata[key] if key in metadata else ""  # noqa: SIM401 - it has no get() in Python 3.11's types
    return (text or "").replace("\0", "").encode(errors="replace").decode()
