"""`svc new`: a small host project that runs, with a test."""

from __future__ import annotations

from pathlib import Path

from svcframework.errors import CommandError
from svcframework.service import snake_case

_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["uv_build>=0.13,<0.14"]
build-backend = "uv_build"

[project]
name = "{distribution}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["svcframework[cli]"]

[dependency-groups]
dev = ["svcframework[testing]"]

[tool.pytest.ini_options]
anyio_mode = "auto"
pythonpath = ["src"]
svc_host = "{package}.container:host"
""",
    "README.md": """\
# {distribution}

    svc check {package}.container:host      # is the wiring right?
    svc run {package}.container:host        # run it; Ctrl-C stops it in order
    pytest                                  # test it

Run them in `src`, or install the project first.
""",
    "src/{package}/__init__.py": '''\
"""{distribution}."""
''',
    "src/{package}/services.py": '''\
"""The services of {distribution}."""

from svcframework import BaseService, HealthResult, ServiceConfig, every, service_method


class GreetingConfig(ServiceConfig, prefix="greeting"):
    """Settings of the greeting service: `GREETING__WORD` in the environment."""

    word: str = "Hello"


class GreetingService(BaseService[GreetingConfig]):
    """Greets people. Lives as long as the host."""

    async def on_startup(self) -> None:
        self.greeted = 0

    @service_method
    async def greet(self, name: str) -> str:
        """A greeting for `name`."""
        self.greeted += 1
        return f"{{self.config.word}}, {{name}}!"

    async def _service_health_check(self) -> HealthResult:
        return HealthResult.healthy(f"{{self.greeted}} greeted")


class Heartbeat(BaseService):
    """Greets the world every ten seconds."""

    def __init__(self, greeting: GreetingService) -> None:
        super().__init__()
        self.greeting = greeting

    async def on_run(self) -> None:
        async for _ in every(10.0):
            self.logger.info(await self.greeting.greet("world"))
''',
    "src/{package}/container.py": '''\
"""What {distribution} is made of."""

from svcframework import ServiceContainer, ServiceHost, providers

from {package}.services import GreetingService, Heartbeat


class AppContainer(ServiceContainer):
    """All services, wired by type or by name."""

    greeting = providers.Service(GreetingService)
    heartbeat = providers.Service(Heartbeat)


host = ServiceHost(AppContainer, name="{distribution}")
''',
    "tests/test_greeting.py": '''\
"""The greeting service greets, in a host that runs."""

from svcframework import ServiceHost

from {package}.services import GreetingService


async def test_greets(svc_host: ServiceHost) -> None:
    """The fixture starts the host that pyproject.toml names, and stops it after the test."""
    assert "Hello, Ada!" == await svc_host[GreetingService].greet("Ada")
''',
}


def new(name: str, folder: Path | None = None) -> int:
    """Write a small host project that runs, with a test.

    Args:
        name: The project's name, e.g. shop or my-shop.
        folder: Where; a new directory of that name when not given.
    """
    package = snake_case(name.replace("-", "_"))
    if not package.isidentifier() or not name.isascii():
        raise CommandError(f"{name!r} can't be a package's name: use letters, digits and hyphens, as in my-shop.")
    root = Path(name) if folder is None else folder
    if root.exists() and any(root.iterdir()):
        raise CommandError(f"{root} exists already and isn't empty.")
    words = {"package": package, "distribution": package.replace("_", "-")}
    for path, text in _FILES.items():
        file = root / path.format(**words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(**words), encoding="utf-8")
    print(f"{root} is ready:  cd {root / 'src'} && svc run {package}.container:host")
    return 0
