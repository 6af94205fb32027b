"""Finding plugins in the metadata of installed distributions, and loading those that are wanted, in isolation.

A plugin is a distribution with an entry point in the group `svcframework.services`. Finding imports nothing. Loading
imports in a thread of its own, and whatever goes wrong there is kept as data.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from svcframework.errors import PluginError, nearest

GROUP = "svcframework.services"
"""The entry-point group that services are found in."""
API_VERSION = 1
"""The plugin API that this version offers. A plugin module may state its own as `__svcframework_api__ = 1`."""
LOAD_TIMEOUT = 10.0
"""Seconds that the import of a plugin may take."""

_BROUGHT_BY = {
    "svcframework-embedded": ("embedded_postgres", "embedded_valkey"),
    "svcframework-postgres": (
        "database_service",
        "postgres_service",
        "aurora_service",
        "aurora",
        "migration_service",
        "optimization_service",
    ),
    "svcframework-redis": ("redis_service", "cache_service"),
    "svcframework-pubsub": ("pubsub_service",),
    "svcframework-s3": ("s3_service",),
    "svcframework-storage": ("storage_service",),
    "svcframework-openai": ("openai_service", "llm_service", "llm_chat_service", "llm_image_service"),
    "svcframework-anthropic": ("claude_service", "anthropic_service"),
    "svcframework-producer": ("producer_service", "producer_music_clip_service"),
    "svcframework-auth": ("auth_service", "token_service", "oauth_service", "social_account_service"),
    "svcframework-jobs": ("job_service", "job_processor", "job_scheduler"),
    "svcframework-payments": ("stripe_service", "credits_service", "payment_service", "subscription_service"),
    "svcframework-projects": ("project_service", "project_collaboration_service", "project_sharing_service"),
    "svcframework-admin": ("admin_service",),
    "svcframework-notifications": ("notification_service",),
    "svcframework-search": ("search_service",),
}


@dataclass(frozen=True, slots=True, order=True)
class DiscoveredService:
    """A service that an installed distribution offers; nothing of it is imported.

    Args:
        name: The entry point's name, and so the service's.
        value: Where it is: `module:attribute`.
        distribution: Who brings it.
        version: The distribution's version.
    """

    name: str
    value: str
    distribution: str = "unknown"
    version: str = "0"

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.value.partition(":")[0].strip()


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin that was imported.

    Args:
        found: Where it came from.
        service: The service class, or a factory of instances.
        seconds: How long the import took.
    """

    found: DiscoveredService
    service: Callable[..., Any] = field(repr=False)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.found.name


class FailureKind(enum.Enum):
    """Why a plugin is not in use."""

    DENIED = "denied"
    NOT_ALLOWED = "not allowed"
    NAME_CLASH = "name clash"
    RAISED = "raised"
    EXITED = "exited"
    TIMED_OUT = "timed out"
    NOT_A_SERVICE = "not a service"
    API_VERSION = "API version"


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that is not in use, and why.

    Args:
        found: Where it came from.
        kind: What sort of failure.
        reason: In words.
        fix: What to do.
        error: What its import raised, if it did.
    """

    found: DiscoveredService
    kind: FailureKind
    reason: str
    fix: str = "see `svc plugins`"
    error: BaseException | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The entry point's name."""
        return self.found.name

    def as_error(self) -> PluginError:
        """The failure for somebody who needs the plugin; raise it from `error`."""
        return PluginError(self.name, self.reason, fix=self.fix)


# --- finding --------------------------------------------------------------------------------------------


def discover_services() -> list[DiscoveredService]:
    """Every service that the installed distributions offer, by name. Reads metadata only: nothing is imported."""
    return sorted({_discovered(entry) for entry in metadata.entry_points(group=GROUP)})


def _discovered(entry: metadata.EntryPoint) -> DiscoveredService:
    distribution, version = "unknown", "0"
    if entry.dist is not None:
        # Broken metadata must not hide the plugin, nor the others: it is shown as unknown.
        with suppress(KeyError, OSError, metadata.PackageNotFoundError):
            distribution, version = entry.dist.metadata["Name"], entry.dist.version
    return DiscoveredService(entry.name, entry.value, distribution or "unknown", version or "0")


# --- loading --------------------------------------------------------------------------------------------


def load_plugin(
    found: DiscoveredService,
    *,
    timeout: float = LOAD_TIMEOUT,
    allow: Collection[str] | None = None,
    deny: Collection[str] = (),
) -> LoadedPlugin | PluginFailure:
    """Import one plugin in a thread of its own; never raises for what the plugin does.

    Args:
        found: Which.
        timeout: Seconds for the import; a thread that hangs is left behind and does not keep the process alive.
        allow: Names of services or distributions; nothing else is imported. None allows all.
        deny: Names of services or distributions that are not imported.
    """
    return _refusal(found, allow, deny) or _Import(found).result(time.monotonic() + timeout, timeout)


def _refusal(found: DiscoveredService, allow: Collection[str] | None, deny: Collection[str]) -> PluginFailure | None:
    names = {found.name, _normalised(found.distribution)}
    if names & {entry if entry == found.name else _normalised(entry) for entry in deny}:
        return PluginFailure(found, FailureKind.DENIED, "it is on the deny-list", fix="take it off the list to use it")
    if allow is not None and not names & {entry if entry == found.name else _normalised(entry) for entry in allow}:
        return PluginFailure(found, FailureKind.NOT_ALLOWED, "it is not on the allow-list", fix="add it to the list")
    return None


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


class _Import:
    """One import in a daemon thread; begins when it is made."""

    def __init__(self, found: DiscoveredService) -> None:
        self._found = found
        self._outcome: LoadedPlugin | PluginFailure | None = None
        # Not from a pool: the interpreter waits for a pool's threads on its way out.
        self._thread = threading.Thread(target=self._run, name=f"plugin {found.name}", daemon=True)
        self._thread.start()

    def result(self, until: float, timeout: float) -> LoadedPlugin | PluginFailure:
        """The outcome, waited for until the monotonic clock says `until`."""
        self._thread.join(max(0.0, until - time.monotonic()))
        reason = f"its import did not end within {timeout:g} s"
        return self._outcome or PluginFailure(self._found, FailureKind.TIMED_OUT, reason)

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            service = metadata.EntryPoint(self._found.name, self._found.value, GROUP).load()
            plugin = LoadedPlugin(self._found, service, time.perf_counter() - started)
            self._outcome = _unfit(self._found, service) or plugin
        except SystemExit as error:
            reason = f"its import ended the program (exit code {error.code!r})"
            self._outcome = PluginFailure(self._found, FailureKind.EXITED, reason, error=error)
        except BaseException as error:  # noqa: BLE001 - a boundary: a plugin may raise what it likes
            reason = f"its import raised {_told(error)}"
            self._outcome = PluginFailure(self._found, FailureKind.RAISED, reason, error=error)


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a boundary: even the message is the plugin's
        return type(error).__name__


def _unfit(found: DiscoveredService, service: object) -> PluginFailure | None:
    stated = _stated_api(found.module)
    if stated is not None and stated != API_VERSION:
        reason = f"it is written for plugin API {stated!r}, this is {API_VERSION}"
        fix = f"install a version of {found.distribution} that fits"
        return PluginFailure(found, FailureKind.API_VERSION, reason, fix=fix)
    if inspect.isclass(service) and not inspect.isabstract(service) and not issubclass(service, BaseException):
        return None
    if not inspect.isclass(service) and callable(service):
        return None
    what = f"the abstract class {service.__name__}" if inspect.isclass(service) else f"a {type(service).__name__}"
    reason = f"{found.value} is {what}, not a service class or factory"
    return PluginFailure(
        found, FailureKind.NOT_A_SERVICE, reason, fix=f"report it to the authors of {found.distribution}"
    )


def _stated_api(module: str) -> object:
    """The API version that the module states, or else its package."""
    for name in (module, module.partition(".")[0]):
        stated: object = getattr(sys.modules.get(name), "__svcframework_api__", None)
        if stated is not None:
            return stated
    return None


# --- the catalogue --------------------------------------------------------------------------------------


class PluginCatalogue:
    """The plugins that are installed, which of them may be used, and what became of those that were loaded.

    Args:
        found: What `discover_services` found; asked when not given.
        allow: Names of services or distributions; nothing else is imported. None allows all.
        deny: Names of services or distributions that are not imported.
    """

    def __init__(
        self,
        found: Iterable[DiscoveredService] | None = None,
        *,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
    ) -> None:
        self._found = tuple(sorted(discover_services() if found is None else found))
        self._lock = threading.Lock()
        self._outcomes: dict[DiscoveredService, LoadedPlugin | PluginFailure] = {}
        for one in self._found:
            refusal = _refusal(one, allow, deny)
            if refusal is not None:
                self._outcomes[one] = refusal
        self._outcomes |= self._clashes()

    def _clashes(self) -> dict[DiscoveredService, PluginFailure]:
        """Names that two distributions offer: neither is used, for nobody can say which one is meant."""
        offered: dict[str, list[DiscoveredService]] = {}
        for one in self._found:
            if one not in self._outcomes:
                offered.setdefault(one.name, []).append(one)
        clashes = {}
        for same in offered.values():
            for one in same if len(same) > 1 else ():
                others = ", ".join(other.distribution for other in same if other is not one)
                reason = f"{one.distribution} and {others} both offer it"
                fix = f"uninstall one, or put its distribution on the deny-list: deny=[{others!r}]"
                clashes[one] = PluginFailure(one, FailureKind.NAME_CLASH, reason, fix=fix)
        return clashes

    @property
    def found(self) -> tuple[DiscoveredService, ...]:
        """All that are installed, by name, also those that may not be used."""
        return self._found

    @property
    def failures(self) -> tuple[PluginFailure, ...]:
        """Those that are not in use and why, by name: refused ones, clashes, and loads that went wrong."""
        known = ((one, self._outcomes.get(one)) for one in self._found)
        return tuple(outcome for _, outcome in known if isinstance(outcome, PluginFailure))

    @property
    def loaded(self) -> tuple[LoadedPlugin, ...]:
        """Those that were imported, by name."""
        known = ((one, self._outcomes.get(one)) for one in self._found)
        return tuple(outcome for _, outcome in known if isinstance(outcome, LoadedPlugin))

    def find(self, name: str) -> DiscoveredService:
        """The plugin of that name.

        Raises:
            PluginError: It isn't installed, isn't allowed, or two distributions offer it; says what to do.
        """
        same = [one for one in self._found if one.name == name]
        if not same:
            raise self._not_installed(name)
        usable = [one for one in same if not isinstance(self._outcomes.get(one), PluginFailure)]
        if usable:
            return usable[0]
        failure = self._outcomes[same[0]]
        assert isinstance(failure, PluginFailure)  # noqa: S101 - what isn't usable has failed
        raise failure.as_error() from failure.error

    def load(
        self, names: Iterable[str], *, timeout: float = LOAD_TIMEOUT
    ) -> Mapping[str, LoadedPlugin | PluginFailure]:
        """Import the named plugins, all at the same time; each once in the life of the catalogue.

        Args:
            names: Which, by entry-point name.
            timeout: Seconds for all of them together.

        Returns:
            What became of each, in the order of the names.

        Raises:
            PluginError: A name is not installed.
        """
        with self._lock:
            wanted = {name: self._chosen(name) for name in names}
            until = time.monotonic() + timeout
            running = {one: _Import(one) for one in wanted.values() if one not in self._outcomes}
            for one, started in running.items():
                self._outcomes[one] = started.result(until, timeout)
            return {name: self._outcomes[one] for name, one in wanted.items()}

    def _chosen(self, name: str) -> DiscoveredService:
        same = [one for one in self._found if one.name == name]
        if not same:
            raise self._not_installed(name)
        usable = [one for one in same if not isinstance(self._outcomes.get(one), PluginFailure)]
        return (usable or same)[0]

    def _not_installed(self, name: str) -> PluginError:
        installed = [one.name for one in self._found]
        close = nearest(name, installed)
        brought = {service: who for who, services in _BROUGHT_BY.items() for service in services}
        usual = name if name in brought else next(iter(nearest(name, brought, most=1)), None)
        fixes = []
        if close:
            fixes.append(f"did you mean {' or '.join(map(repr, close))}")
        if usual is not None and usual not in installed:
            prefix = "" if usual == name else f"{usual!r} comes with "
            fixes.append(f"{prefix}pip install {brought[usual]}")
        if not fixes:
            fixes.append(f"installed: {', '.join(dict.fromkeys(installed)) or 'none'}")
        return PluginError(name, "no installed distribution offers it", fix="; or ".join(fixes))
