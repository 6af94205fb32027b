"""The pytest plugin: the fixture `svc_host`, and what no test may leave behind. Loads the framework when it is used."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from svcframework.host import ServiceHost
    from svcframework.resolver import Resolver


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option `svc_host`."""
    parser.addini("svc_host", 'Where the host of the fixture svc_host is, e.g. "app.container:host".', default="")


@pytest.fixture
async def svc_host(request: pytest.FixtureRequest) -> AsyncIterator[ServiceHost]:
    """The project's host, running for the length of one test, with services of its own.

    The ini option `svc_host` says where it is. A project may instead define a fixture of this name in its
    `conftest.py`, e.g. one that overrides services before the start.
    """
    from svcframework._loading import load_host  # noqa: PLC0415 - a session without services loads nothing

    target = str(request.config.getini("svc_host"))
    if not target:
        raise pytest.UsageError(
            'Say where the host is: svc_host = "app.container:host" below [tool.pytest.ini_options], '
            "or define a fixture named svc_host."
        )
    host = load_host(target)
    try:
        async with host:
            yield host
    finally:
        host.resolver.forget(list(host.resolver.instances))  # the next test gets instances of its own


@pytest.fixture(autouse=True)
def _svc_left_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves an override or a running default host behind, and clean up after it.

    What fixtures of a wider scope have set up before this one is theirs.
    """
    before = {id(resolver): set(resolver.overridden) for resolver in _resolvers(request)}
    had_default = _default_host() is not None
    yield
    problems = []
    for resolver in _resolvers(request):
        known = before.get(id(resolver), set())
        left = [name for name in dict.fromkeys(resolver.overridden) if name not in known]
        if left:
            resolver.end_overrides(left)
            names = ", ".join(map(repr, left))
            problems.append(f"it left an override of {names} behind: use `with host.override(…):`")
    if not had_default and not _reset_default_host():
        problems.append("it left the default host running: await shutdown_all_services()")
    if problems:
        pytest.fail(f"{request.node.nodeid}: {'; '.join(problems)}", pytrace=False)


def _resolvers(request: pytest.FixtureRequest) -> list[Resolver]:
    """Those of the hosts that a test may touch: of its module, its fixtures, the project, the context, the default."""
    if "svcframework.host" not in sys.modules:
        return []
    from svcframework.host import ServiceHost  # noqa: PLC0415 - it is loaded
    from svcframework.routing import current_resolver  # noqa: PLC0415 - likewise

    fixtures = getattr(request.node, "funcargs", None) or {}
    module_name, _, attribute = str(request.config.getini("svc_host")).partition(":")
    project = getattr(sys.modules.get(module_name), attribute or "host", None)
    known = [*fixtures.values(), *vars(getattr(request, "module", None) or sys).values(), project, _default_host()]
    # Not `one.resolver`, which would read the declarations before the test has set its environment.
    resolvers = [one._resolver for one in known if isinstance(one, ServiceHost)]  # noqa: SLF001 - see above
    current = current_resolver()
    return list(dict.fromkeys([*resolvers, *([current] if current is not None else [])]))


def _default_host() -> ServiceHost | None:
    """The default host, if anybody has made it be there."""
    module = sys.modules.get("svcframework.default")
    return None if module is None else module.existing_default_host()


def _reset_default_host() -> bool:
    """Forget the default host that the test has made; False if it still ran."""
    if _default_host() is None:
        return True
    from svcframework import default  # noqa: PLC0415 - it is loaded

    return default.forget_default_host()
