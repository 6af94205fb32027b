"""S15: secrets of every shape go in, everything that can fail fails, and no output of any kind has one of them."""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import secrets
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import anyio
import msgspec
import pytest
from pydantic import BaseModel, Field, SecretStr

from svcframework import (
    INJECTED,
    AsyncService,
    BaseService,
    ConfigManager,
    ErrorContext,
    ErrorHandlingContext,
    HealthResult,
    Restart,
    ServiceConfig,
    ServiceContainer,
    ServiceHost,
    configure_logging,
    handle_errors,
    inject_service,
    providers,
    retry_on_failure,
    service_context,
    service_method,
)
from svcframework import errors as ours
from svcframework._secrettext import redact_text
from svcframework.config import SecretUrl
from svcframework.errorhandling import CentralizedErrorHandler
from svcframework.events import Event
from svcframework.log import redact
from svcframework.probes import serve_probes
from svcframework.process import own_process


class Canaries:
    """Random secrets that are like no other text; each has characters that change when they are encoded."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self.known.setdefault(name, f"cn{secrets.token_hex(12)}+{secrets.token_hex(4)}")

    def shapes(self, name: str) -> Iterator[str]:
        """As it is, URL-encoded, in base64 at each of the three offsets, and its telling part alone."""
        raw = self.known[name]
        yield from {raw, quote(raw, safe=""), quote_plus(raw), raw.partition("+")[0], raw.encode().hex()}
        for offset in range(3):
            encoded = base64.b64encode(b"x" * offset + raw.encode()).decode()
            yield encoded[4:-4]
            yield encoded[4:-4].translate(str.maketrans("+/", "-_"))

    def found_in(self, texts: dict[str, str]) -> list[str]:
        """Which secret is where."""
        return [
            f"{name} in {place}: …{text[max(0, text.index(shape) - 60) : text.index(shape) + 20]}…"
            for name in self.known
            for place, text in texts.items()
            for shape in self.shapes(name)
            if shape in text
        ]


CANARIES = Canaries()


class Nested(BaseModel):
    """Settings within settings; a model of the user's own hides nothing by itself."""

    password: str = Field(default_factory=lambda: CANARIES["nested password"])
    dsn: str = Field(default_factory=lambda: f"postgres://app:{CANARIES['nested dsn']}@10.0.0.7/app")


class VaultConfig(ServiceConfig, prefix="vault"):
    """Every way to hold a secret."""

    key: SecretStr
    url: SecretUrl
    dsn: str
    password: str
    api_token: str
    headers: dict[str, str] = Field(default_factory=dict)
    nested: Nested = Field(default_factory=Nested)


def settings() -> dict[str, object]:
    """Values for a `VaultConfig`, all canaries."""
    return {
        "key": CANARIES["SecretStr"],
        "url": f"redis://user:{quote(CANARIES['SecretUrl'], safe='')}@cache:6379/0?password={CANARIES['query']}",
        "dsn": f"postgresql://app:{CANARIES['dsn']}@db.internal:5432/app",
        "password": CANARIES["password"],
        "api_token": CANARIES["token"],
        "headers": {"Authorization": f"Bearer {CANARIES['header']}", "X-Api-Key": CANARIES["x-api-key"]},
    }


class Loose(Exception):  # noqa: N818 - a driver's own
    """What drivers do: the message holds the whole address."""


def driver_error(config: VaultConfig) -> Loose:
    """An error as a careless driver would word it."""
    return Loose(f"could not connect to {config.dsn} (password={config.password}, token: {config.api_token})")


class Vault(BaseService[VaultConfig]):
    """Runs, logs all that it should not, and fails at every call."""

    async def on_startup(self) -> None:
        """Log what somebody in a hurry would."""
        self.logger.info("connecting", config=self.config, dsn=self.config.dsn, key=self.config.key)
        sentence = f"connecting to {self.config.dsn}"
        self.logger.warning(sentence, options={"password": self.config.password})

    async def _service_health_check(self) -> HealthResult:
        return HealthResult.unhealthy(
            f"refused by {self.config.dsn}", password=self.config.password, options={"dsn": self.config.dsn}
        )

    @service_method
    async def open_door(self, password: str) -> None:
        """Fail within a counted call."""
        raise driver_error(self.config)

    @handle_errors(reraise=False, default=None)
    async def close_door(self, password: str) -> None:
        """Fail within a handled call."""
        raise driver_error(self.config)

    @service_method
    @handle_errors
    @retry_on_failure(max_retries=1, delay=0.0001)
    async def knock(self, password: str, *, token: str) -> None:
        """Fail within all of them."""
        raise driver_error(self.config) from ValueError(self.config.dsn)


class Raising(Vault):
    """Its health check raises."""

    async def _service_health_check(self) -> HealthResult:
        raise driver_error(self.config)


class Crashing(AsyncService):
    """A task of it crashes."""

    async def on_startup(self) -> None:
        """Start what crashes at once."""
        self.spawn(self.crash, name="crash")

    async def crash(self) -> None:
        """Raise like a driver."""
        raise driver_error(VaultConfig(**settings()))


class Working(ServiceContainer):
    """What starts."""

    vault = providers.Service(Vault)
    raising = providers.Service(Raising)
    crashing = providers.Service(Crashing)


class Failing(Vault):
    """Never comes up."""

    async def on_startup(self) -> None:
        """Refuse as a driver does."""
        raise driver_error(self.config)


class NeverStarting(ServiceContainer):
    """What does not start."""

    vault = providers.Service(Vault)
    failing = providers.Service(Failing)


class Stubborn(Vault):
    """Can't be stopped without an error."""

    async def on_shutdown(self) -> None:
        """Raise like a driver."""
        raise driver_error(self.config)


class NeverStopping(ServiceContainer):
    """What does not stop well."""

    stubborn = providers.Service(Stubborn)


class StrictConfig(VaultConfig, prefix="strict"):
    """Settings that the given values don't fit."""

    key: SecretStr = Field(max_length=3)
    password: str = Field(pattern="^never$")
    api_token: int  # type: ignore[assignment]  # so that it is wrong
    port: int


class Strict(BaseService[StrictConfig]):
    """Misconfigured."""


class Misconfigured(ServiceContainer):
    """What is wrong before it starts."""

    strict = providers.Service(Strict)
    given = providers.Service(
        Vault, config={"port": 1, "passwort": CANARIES["misspelt"], "critical": CANARIES["misplaced"]}
    )


class Doomed(Vault, restart=Restart.permanent(max_restarts=0)):
    """Crashes for good."""

    async def on_startup(self) -> None:
        """Wait for the word."""
        self.go = anyio.Event()

    async def on_run(self) -> None:
        """Raise like a driver."""
        await self.go.wait()
        raise driver_error(self.config)


class Unbuilt(Vault):
    """Can't even be made."""

    def __init__(self, config: VaultConfig) -> None:
        super().__init__(config)
        raise driver_error(config)


class RootSettings(BaseModel):
    """Settings of the application that don't fit."""

    port: int
    passwords: list[int]


@inject_service
async def use(password: str, *, vault: Vault = INJECTED) -> None:
    """Fail behind an injection."""
    await vault.open_door(password)


def manager() -> ConfigManager:
    """Each service's section from the environment, as in production."""
    environ = {"PORT": CANARIES["root"], "PASSWORDS": CANARIES["roots"]}
    for section in ("VAULT", "STRICT"):
        for key, value in settings().items():
            environ[f"{section}__{key.upper()}"] = json.dumps(value) if isinstance(value, dict) else str(value)
    return ConfigManager(environ=environ, root=Path(__file__).parent)


def words_of(error: BaseException) -> str:
    """The error and all that hangs on it, as the framework words it: message, notes, causes, members."""
    lines = [str(error), repr(error), *getattr(error, "__notes__", ())]
    if isinstance(error, BaseExceptionGroup):
        lines += [words_of(each) for each in error.exceptions if isinstance(each, ours.ServiceFrameworkError)]
    if isinstance(error.__cause__, ours.ServiceFrameworkError):
        lines.append(words_of(error.__cause__))
    return "\n".join(lines)


@pytest.fixture(params=[True, False], ids=["json", "plain"])
def log_lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Everything that is logged, by structlog and by the standard library's logging."""
    import structlog

    stream = io.StringIO()
    configure_logging("debug", json=request.param, stream=stream)
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)
    structlog.reset_defaults()


async def test_running_host_tells_no_secret(log_lines: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """Logs, events, health, metrics, views and reprs of a host whose services fail in every call."""
    seen: list[Event] = []
    host = ServiceHost(Working, config=manager())
    host.subscribe(seen.append)
    texts: dict[str, str] = {}
    handled = CentralizedErrorHandler()
    async with host:
        vault = host[Vault]
        secret = CANARIES["argument"]
        with service_context(correlation_id="c-1", password=CANARIES["bound"], tenant="acme"):
            for call in (vault.open_door(secret), vault.knock(secret, token=secret), use(secret)):
                with pytest.raises(Loose):
                    await call
            await vault.close_door(secret)
            await handled.handle_error(
                driver_error(vault.config), ErrorContext("vault", "open", extra={"password": secret})
            )
            with pytest.raises(Loose):
                async with ErrorHandlingContext("vault", "open", handler=handled, dsn=vault.config.dsn, token=secret):
                    raise driver_error(vault.config)
        await host.check_health()
        await host.check_health()
        texts |= await probes(host)
        texts["describe"], texts["mermaid"] = host.describe(), host.mermaid()
        texts["summary"] = repr(host.summary())
        texts["metrics"] = repr(vault.metrics.snapshot()) + repr(vault.metrics)
        texts["reprs"] = "\n".join(map(repr, (vault, vault.config, vault.logger, host, host.graph.nodes)))
        texts["config"] = f"{vault.config}{redact(vault.config)}"
        texts["error of wrong injection"] = words_of(await failure_of(host))
    texts["events"] = "\n".join(str(redact(event)) for event in seen)
    texts["log"] = log_lines.getvalue()
    texts["printed"] = "".join(capsys.readouterr())
    assert "could not connect" in texts["log"]
    assert "vault" in texts["healthz"]
    assert [] == CANARIES.found_in(texts)


async def failure_of(host: ServiceHost) -> BaseException:
    """A call that can't be injected, on a host that holds secrets."""
    with pytest.raises(ours.ServiceNotFoundError) as caught:
        _ = host["valut"]
    return caught.value


async def probes(host: ServiceHost) -> dict[str, str]:
    """What the health port answers, the details included; its own token must not come back either."""
    token = CANARIES["probe token"]
    answers = {}
    async with anyio.create_task_group() as tasks:
        port = await tasks.start(functools.partial(serve_probes, host.health, 0, token=token))
        for path in ("livez", "readyz", "startupz", "healthz", f"healthz?token={token}", "nowhere"):
            stream = await anyio.connect_tcp("127.0.0.1", port)
            async with stream:
                await stream.send(f"GET /{path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
                answer = b"".join([chunk async for chunk in stream])
            answers[path.partition("?")[0]] = answer.decode()
        tasks.cancel_scope.cancel()
    return answers


async def test_failed_start_tells_no_secret(log_lines: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the report of a failed start nor what is logged of it."""
    host = ServiceHost(NeverStarting, config=manager())
    with pytest.raises(ours.StartupError) as caught:
        await host.start()
    texts = {"error": words_of(caught.value), "log": log_lines.getvalue(), "describe": host.describe()}
    texts["printed"] = "".join(capsys.readouterr())
    assert "failing" in texts["error"]
    assert [] == CANARIES.found_in(texts)


async def test_failed_stop_tells_no_secret(log_lines: io.StringIO) -> None:
    """Nor does a stop that raises."""
    host = ServiceHost(NeverStopping, config=manager())
    await host.start()
    with pytest.raises(ours.ShutdownError) as caught:
        await host.stop()
    assert "stubborn" in str(caught.value)
    assert [] == CANARIES.found_in({"error": words_of(caught.value), "log": log_lines.getvalue()})


async def test_host_that_failed_for_good_tells_no_secret(log_lines: io.StringIO) -> None:
    """The error that ends the block says which service it was, and not what its driver gave away."""
    host = ServiceHost(config=manager())
    host.register(Doomed, name="doomed")
    host.register(Failing, name="failing", optional=True)
    with pytest.raises(ours.HostFailedError) as caught:
        async with host:
            host[Doomed].go.set()
            await anyio.sleep_forever()
    assert "doomed" in str(caught.value)
    assert [] == CANARIES.found_in({"error": words_of(caught.value), "log": log_lines.getvalue()})


def test_failed_constructor_tells_no_secret() -> None:
    """Neither when it is asked for, nor in the report of a start."""
    host = ServiceHost(config=manager())
    host.register(Unbuilt, name="unbuilt")
    with pytest.raises(Exception, match="could not connect") as caught:
        _ = host["unbuilt"]
    told = (
        words_of(caught.value)
        if isinstance(caught.value, ours.ServiceFrameworkError)
        else redact_text(f"{caught.value}")
    )
    assert [] == CANARIES.found_in({"error": told, "notes": "".join(getattr(caught.value, "__notes__", ()))})


def test_misfit_of_the_applications_settings_tells_no_secret() -> None:
    """A model of the user's own is told of like a service's."""

    class App(ServiceContainer):
        settings = providers.Settings(RootSettings)

    with pytest.raises(ours.ServiceFrameworkError) as caught:
        ServiceHost(App, config=manager()).validate()
    assert "PASSWORDS" in str(caught.value)
    assert [] == CANARIES.found_in({"error": words_of(caught.value)})


def test_doctor_tells_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `svc doctor` prints of services that are ill."""
    from svcframework.cli import running

    module = types.ModuleType("canary_app")
    module.host = ServiceHost(Working, config=manager())
    monkeypatch.setitem(sys.modules, "canary_app", module)
    assert 1 == running.doctor("canary_app:host")
    printed = "".join(capsys.readouterr())
    assert "raising" in printed
    assert [] == CANARIES.found_in({"printed": printed})


def test_misconfiguration_tells_no_secret() -> None:
    """The report of what is wrong shows where each value came from, and never the value."""
    host = ServiceHost(Misconfigured, config=manager())
    with pytest.raises(ours.ServiceFrameworkError) as caught:
        host.validate()
    whole = "".join(traceback.format_exception(caught.value))
    assert "STRICT__PASSWORD" in str(caught.value)
    assert [] == CANARIES.found_in({"report": words_of(caught.value), "traceback": whole})


def test_last_words_of_a_process_tell_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    """What a process that ends by an error of the user's own prints has its traceback, and no secret."""

    async def main() -> None:
        raise driver_error(VaultConfig(**settings())) from ValueError(CANARIES["dsn"].join(["a://b:", "@c"]))

    assert 1 == own_process(ServiceHost(Working, config=manager()), main)
    printed = "".join(capfd.readouterr())
    assert "could not connect" in printed
    assert [] == CANARIES.found_in({"printed": printed})


def test_settings_are_listed_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`svc config`, `svc check` and `svc graph` print stars, names and origins."""
    from svcframework.cli import showing

    module = types.ModuleType("canary_app")
    module.host = ServiceHost(Working, config=manager())
    monkeypatch.setitem(sys.modules, "canary_app", module)
    for command in (showing.config, showing.check, showing.graph):
        assert 0 == command("canary_app:host")
    printed = "".join(capsys.readouterr())
    assert "VAULT__PASSWORD" in printed
    assert [] == CANARIES.found_in({"printed": printed})


def test_given_settings_are_shown_without_secrets() -> None:
    """A config made by hand and the errors of a bad one, whoever prints them."""
    config = VaultConfig(**settings())
    with pytest.raises(ValueError, match="validation error") as caught:
        VaultConfig(**{**settings(), "critical": settings()["dsn"], "unknown": CANARIES["extra"]})
    texts = {"repr": repr(config), "str": str(config), "error": f"{caught.value}{caught.value!r}"}
    texts["url"] = f"{config.url}{config.url!r}{config.url.redacted}"
    texts["encoded"] = str(msgspec.json.encode(redact(config)))
    assert [] == CANARIES.found_in(texts)


def test_the_search_finds_a_secret_in_every_shape() -> None:
    """A search that finds nothing proves nothing unless it would find something."""
    raw = CANARIES["shape"]
    disguises = {
        "raw": f"a {raw} b",
        "url": quote(raw, safe=""),
        "base64": base64.b64encode(f"user:{raw}".encode()).decode(),
        "urlsafe": base64.urlsafe_b64encode(f"ab{raw}cd".encode()).decode(),
        "hex": raw.encode().hex(),
    }
    for place, text in disguises.items():
        assert CANARIES.found_in({place: text})
