"""Units: how each service of a host is described to the lifecycle, and how opened singletons come and go."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, cast

from svcframework._types import Restart, ServiceState
from svcframework.config import ServiceConfig, settings_origins
from svcframework.lifecycle import Unit
from svcframework.registry import NOTHING
from svcframework.service import BaseService

if TYPE_CHECKING:
    from collections.abc import Collection

    from svcframework.resolver import Resolver
    from svcframework.wiring import Node


class Units:
    """Describes services to the lifecycle."""

    def __init__(self, resolver: Resolver, deferred: Collection[str]) -> None:
        self._resolver, self._deferred = resolver, deferred
        self._flat: dict[str, tuple[dict[str, None], dict[str, None]]] = {}

    def unit(self, node: Node) -> Unit:
        """What the lifecycle needs to know of a singleton."""
        requires, wants = self._edges(node)
        name, resolver = node.name, self._resolver
        label = node.descriptor.label
        common: dict[str, Any] = {"requires": tuple(requires), "wants": tuple(w for w in wants if w not in requires)}
        if name in resolver.substitutes or node.descriptor.instance is not NOTHING:
            return Unit(name, label, **common)
        optional = node.descriptor.optional
        if name in self._deferred:
            opened = _Opened(resolver, node)
            return Unit(
                name, label, startup=opened.open, run=opened.run, shutdown=opened.close, optional=optional, **common
            )
        instance = resolver.instances[name]
        if not isinstance(instance, BaseService):
            return Unit(name, label, optional=optional, **common)
        return _service_unit(name, label, instance, optional=optional, **common)

    def _edges(self, node: Node) -> tuple[dict[str, None], dict[str, None]]:
        """What starts before a node: through transients and scoped services to the singletons behind them."""
        known = self._flat.get(node.name)
        if known is None:
            requires: dict[str, None] = {}
            wants: dict[str, None] = {}
            for names, into in ((node.requires, requires), (node.wants, wants)):
                for name in names:
                    target = self._resolver.graph.nodes[name]
                    if target.is_singleton:
                        into[name] = None
                    else:
                        deeper, _ = self._edges(target)
                        into.update(deeper)
            known = self._flat[node.name] = (requires, wants)
        return known


def _service_unit(name: str, label: str, service: BaseService[Any], *, optional: bool, **common: Any) -> Unit:
    cls, config = type(service), service.config

    def set_state(state: ServiceState) -> None:
        service.state = state

    settings = config if isinstance(config, ServiceConfig) else ServiceConfig()
    return Unit(
        name,
        label,
        startup=service.on_startup if cls.on_startup is not BaseService.on_startup else None,
        run=service.on_run if cls.on_run is not BaseService.on_run else None,
        shutdown=service.on_shutdown if cls.on_shutdown is not BaseService.on_shutdown else None,
        start_timeout=settings.start_timeout,
        stop_timeout=settings.stop_timeout,
        restart=settings.restart or cls.restart or Restart.transient(),
        optional=optional,
        critical=settings.critical,
        on_state=set_state,
        on_dependency_change=service.on_dependency_change,
        hints=functools.partial(_hints, service),
        **common,
    )


def _hints(service: BaseService[Any]) -> list[str]:
    """Where the settings of a service that failed to start come from."""
    config = service.config
    if not isinstance(config, ServiceConfig):
        return []
    own = set(type(config).model_fields) - set(ServiceConfig.model_fields)
    origins = [one for one in settings_origins(config) if one.setting.partition(".")[2].partition(".")[0] in own]
    return [f"configured by  {origin.origin}" for origin in origins if origin.origin != "default"][:4]


class _Opened:
    """A singleton that its start opens: a generator or coroutine factory, or a service that holds one."""

    def __init__(self, resolver: Resolver, node: Node) -> None:
        self._resolver, self._node = resolver, node
        self._generator: Any = None

    @property
    def _service(self) -> BaseService[Any] | None:
        instance = self._resolver.instances.get(self._node.name)
        return instance if isinstance(instance, BaseService) else None

    async def open(self) -> None:
        node, resolver = self._node, self._resolver
        factory = cast("Any", node.descriptor.factory)
        if inspect.isasyncgenfunction(factory) or inspect.isgeneratorfunction(factory):
            self._generator = resolver.construct(node)
            is_async = inspect.isasyncgenfunction(factory)
            made = await anext(self._generator) if is_async else next(self._generator)
        else:
            made = resolver.construct(node)
            if inspect.iscoroutine(made):
                made = await made
        resolver.instances[node.name] = made
        resolver.flush()
        service = self._service
        if service is not None:
            await service.on_startup()

    async def run(self) -> None:
        service = self._service
        if service is not None:
            await service.on_run()

    async def close(self) -> None:
        service, generator = self._service, self._generator
        self._generator = None
        try:
            if service is not None:
                await service.on_shutdown()
        finally:
            self._resolver.forget([self._node.name])
            if inspect.isasyncgen(generator):
                await anext(generator, None)
            elif generator is not None:
                next(generator, None)
