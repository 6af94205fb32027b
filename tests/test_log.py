"""What a logged event looks like, what it never shows, and that it is one line."""

import dataclasses
import io
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from svcframework import events
from svcframework._types import HealthResult, ServiceState
from svcframework.log import (
    LogListener,
    ServiceLogger,
    bind_context,
    configure_logging,
    context_fields,
    diverted,
    error_fields,
    load,
    redact,
    reset_context,
)

CANARY = "c4n4ry-7Qx"


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    """Each test begins and ends without any configuration of structlog."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Callable[[], list[dict[str, Any]]]:
    """Configures JSON at level debug, and reads what was logged."""
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_has_its_fields_and_those_of_its_logger(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Time, level and event first, then service, version and what was bound."""
    logger = ServiceLogger("cache", version="2").bind(shard=7)
    logger.info("stored", key="a", at=datetime(2026, 1, 1, tzinfo=UTC))

    (event,) = lines()

    assert ["timestamp", "level", "event", "service", "version", "shard", "key", "at"] == list(event)
    assert ("info", "stored", "cache", "2", 7) == tuple(
        event[key] for key in ("level", "event", "service", "version", "shard")
    )


def test_importing_and_logging_configure_nothing() -> None:
    """The configuration of structlog is the application's, and loading it early changes nothing."""
    load()
    ServiceLogger("cache").warning("stored")

    assert not structlog.is_configured()


def test_without_configuration_events_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings and worse, as JSON when nobody watches, like the last resort of `logging`; the rest is dropped."""
    logger = ServiceLogger("cache")
    logger.debug("hidden")
    logger.info("hidden too")
    logger.warning("shown")

    assert ["shown"] == [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


def test_a_logger_notices_a_new_level() -> None:
    """Also one that has logged before, in either direction."""
    stream, logger = io.StringIO(), ServiceLogger("cache")
    for level in ("info", "debug", "error"):
        configure_logging(level, stream=stream)  # type: ignore[arg-type]
        logger.debug("seen", at=level)
        logger.warning("seen", at=level)

    found = [(json.loads(line)["level"], json.loads(line)["at"]) for line in stream.getvalue().splitlines()]

    assert [("warning", "info"), ("debug", "debug"), ("warning", "debug")] == found


def test_structlog_loads_with_the_first_event() -> None:
    """Making loggers and decorating methods is free of it, and of rich."""
    program = (
        "import sys; from svcframework import errorhandling, methods\n"
        "from svcframework.log import ServiceLogger\n"
        "ServiceLogger('cache').bind(shard=1); print({'structlog', 'rich', 'tenacity'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)

    assert "set()" == done.stdout.strip()


def test_an_unknown_level_is_refused() -> None:
    """The error lists the levels there are."""
    with pytest.raises(ValueError, match="debug, info, warning, error, critical"):
        configure_logging("verbose")  # type: ignore[arg-type]


def test_the_applications_own_structlog_is_used() -> None:
    """Events pass through the processors that the application configured, redacted already."""
    seen: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, event: Any) -> Any:
        seen.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    ServiceLogger("cache").info("login", password=CANARY)

    assert [{"service": "cache", "event": "login", "password": "***"}] == seen


def test_the_applications_own_loggers_are_redacted(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """After configure_logging, a logger from structlog itself shows no secret either."""
    token = bind_context(correlation_id="r-1")
    structlog.get_logger().warning("login", password=CANARY)
    reset_context(token)

    assert ("***", "r-1") == (lines()[0]["password"], lines()[0]["correlation_id"])


def test_context_fields_are_in_every_event(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """They nest, an event's own fields win, None takes one away, and a reset undoes it all."""
    outer = bind_context(correlation_id="r-1", tenant="acme")
    inner = bind_context(user_id="7", tenant=None)
    logger = ServiceLogger("cache")
    logger.info("inside", correlation_id="mine")
    assert {"correlation_id": "r-1", "user_id": "7"} == dict(context_fields())
    reset_context(inner)
    reset_context(outer)
    logger.info("outside")

    first, second = lines()

    assert ("mine", "7", False) == (first["correlation_id"], first["user_id"], "tenant" in first)
    assert {"timestamp", "level", "event", "service"} == second.keys()


def test_fields_may_have_any_name(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Names that structlog, Python or the pipeline use themselves collide with nothing."""
    names = ("event", "level", "timestamp", "method_name", "self", "name", "logger", "exc_info_", "stack_info")
    ServiceLogger("cache").bind(**dict.fromkeys(names, 2)).info("stored", **dict.fromkeys(names, 1))

    (event,) = lines()

    assert ("stored", "info") == (event["event"], event["level"])
    assert (1, 1, 1, 1) == tuple(event[key] for key in ("event_", "level_", "timestamp_", "method_name"))


def test_an_error_is_type_message_frames_and_cause(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Without source lines or values, and on the same line as the event."""
    try:
        try:
            raise KeyError(f"password={CANARY}")
        except KeyError as cause:
            raise OSError("first\nsecond") from cause
    except OSError:
        ServiceLogger("cache").exception("failed")

    (event,) = lines()

    assert ("error", "OSError", "first") == (event["level"], event["error_type"], event["error"])
    assert event["cause"].startswith("KeyError:")
    assert "in test_an_error_is_type_message_frames_and_cause" in event["traceback"][-1]
    assert CANARY not in json.dumps(event)


def test_a_closed_stream_breaks_no_service() -> None:
    """Logging is never why a call fails."""
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    stream.close()

    ServiceLogger("cache").info("stored")

    assert stream.closed


def test_lines_for_people_are_coloured_on_a_terminal_only() -> None:
    """The same words either way; JSON when it is no terminal and nobody asked."""
    terminal, file = Terminal(), io.StringIO()
    configure_logging("info", stream=terminal)
    ServiceLogger("cache").info("stored", text="two words")
    configure_logging("info", json=False, stream=file)
    ServiceLogger("cache").info("stored", text="two words")

    assert "\x1b[32minfo    \x1b[0m stored  service=cache" in terminal.getvalue()
    assert 'info     stored  service=cache text="two words"\n' in file.getvalue()
    assert "\x1b" not in file.getvalue()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(min_size=1), anything, max_size=4), st.booleans())
def test_any_field_gives_exactly_one_line(event: str, fields: dict[str, Any], as_json: bool) -> None:
    """Whatever text, name or value: one line, by every definition of a line end, and no terminal escapes (S14)."""
    stream = io.StringIO()
    configure_logging("info", json=as_json, stream=stream)
    ServiceLogger("svc").info(event, **fields)

    written = stream.getvalue()

    assert written.endswith("\n")
    assert 1 == len(written.splitlines())
    assert "\x1b" not in written
    if as_json:
        assert "svc" == json.loads(written)["service"] or "service" in fields


def test_awkward_values_lose_no_event(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Cycles, huge integers, lone surrogates and a repr that raises are shown somehow."""

    class Broken:
        def __repr__(self) -> str:
            raise OSError

    cycle: list[Any] = []
    cycle.append(cycle)
    ServiceLogger("svc").info("odd", cycle=cycle, huge=2**99, surrogate="\ud800", broken=Broken(), nan=float("nan"))

    (event,) = lines()

    assert (str(2**99), "\\ud800") == (event["huge"], event["surrogate"])
    assert "whose repr raised OSError" in event["broken"]


@dataclasses.dataclass
class Login:
    """Holds a secret in a field."""

    user: str
    password: str


class Settings(BaseModel):
    """Holds a secret in a field and in a URL."""

    api_key: SecretStr
    url: str


SECRETS: list[Any] = [
    {"password": CANARY},
    {"Authorization": CANARY},
    {"clientSecret": CANARY},
    {"X-Api-Key": CANARY},
    {"refresh_token": CANARY},
    {"headers": [{"Set-Cookie": CANARY}]},
    {"tokens": [CANARY]},
    {"credentials": {"user": CANARY}},
    {b"password": CANARY},
    {"value": SecretStr(CANARY)},
    {"dsn": f"postgres://app:{CANARY}@db/app"},
    {"note": f"can't reach redis://:{CANARY}@cache:6379/0, giving up"},
    {"note": f"at in password: amqp://u:{CANARY}@{CANARY}@host"},
    {"note": f"host=db password={CANARY} dbname=x"},
    {"note": f"password='{CANARY} with space'"},
    {"note": f'{{"api_key": "{CANARY}"}}'},
    {"note": f'{{"password": "a\\"{CANARY}"}}'},
    {"note": json.dumps(json.dumps({"password": CANARY}))},
    {"note": f'cut off: password="a {CANARY}'},
    {"note": f"GET /x?access_token={CANARY}&y=1"},
    {"note": f"Authorization: Bearer {CANARY}"},
    {"note": f"bearer {CANARY}"},
    {"note": f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{CANARY}"},
    {"login": Login("ada", CANARY)},
    {"settings": Settings(api_key=SecretStr(CANARY), url=f"https://u:{CANARY}@h")},
    {"error": ValueError(f"bad dsn postgres://app:{CANARY}@db")},
    {"data": CANARY.encode()},
    {"deep": [[({"x": {"pwd": CANARY}},)]]},
    {"password": 123456},
    {"basic_auth": ("user", CANARY)},
]


@pytest.mark.parametrize("secret", SECRETS, ids=repr)
@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_is_shown(secret: dict[Any, Any], as_json: bool) -> None:
    """By name, by type or by look, at any depth, as a field, a bound field or a context field (S15)."""
    stream = io.StringIO()
    configure_logging("info", json=as_json, stream=stream)
    fields = {str(key): value for key, value in secret.items()} if not any(map(bytes.__instancecheck__, secret)) else {}
    token = bind_context(**fields)
    ServiceLogger("svc").bind(**fields).info(f"event {secret.get('note', '')}", **fields, nested=secret)
    reset_context(token)

    shown = stream.getvalue() + repr(redact(secret))

    assert CANARY not in shown
    assert "123456" not in shown


def test_what_is_no_secret_is_shown() -> None:
    """Counts of tokens, ports, ids, paths and plain words stay readable."""
    harmless = {
        "max_tokens": 512,
        "token_count": "3",
        "password_length": 12,
        "key": "users:1",
        "primary_key": "id",
        "url": "http://host:8080/path?x=1",
        "author": "ada",
        "auth_service": "running",
        "token_url": "https://host/token",
        "note": "the token bucket is empty; retry in 3 s: ok",
        "path": "a/b.txt",
        "none": None,
        "list": [1, "two", 3.0],
    }

    assert harmless == redact(harmless)


@pytest.mark.parametrize(
    "piece", ["://a:", "secret", "password='", "-eyJaaaaaaaaa.", 'token=\\"', "secret ", "bearer "]
)
def test_hostile_text_takes_no_time(piece: str) -> None:
    """What an attacker gets into a log is searched in a time in proportion to its length."""

    def seconds(times: int) -> float:
        text, begun = piece * times, time.thread_time()
        redact(text)
        return time.thread_time() - begun

    short, long = (min(seconds(times) for _ in range(5)) for times in (1_000, 16_000))

    # 16 times the text; were it quadratic, 256 times the seconds
    assert long < short * 64 + 0.01


def test_objects_become_plain_values() -> None:
    """Ids and paths by their text, bytes by their size, other objects by their repr."""
    some_id = uuid.uuid4()

    assert [str(some_id), "a/b", "<3 bytes>", "KeyError: 'x'", "healthy"] == [
        redact(value) for value in (some_id, Path("a/b"), b"abc", KeyError("x"), HealthResult.healthy().__str__())
    ]


def test_an_error_without_a_message_has_its_type() -> None:
    """error_fields never leaves the words empty."""
    assert {"error_type": "KeyError", "error": "KeyError"} == error_fields(KeyError(), frames=False)


def test_lifecycle_events_are_logged_in_words(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """Level by what happened, fields by the event."""
    listener = LogListener(ServiceLogger("host"))
    listener(events.ServiceStarted("cache", 0.25))
    listener(events.ServiceStateChanged("cache", ServiceState.STARTING, ServiceState.RUNNING))
    listener(events.ServiceStartFailed("db", OSError("refused"), 1.0, will_retry=True))
    listener(events.HealthChanged("db", None, HealthResult.unhealthy("down")))
    listener(events.HealthChanged("db", HealthResult.healthy(), HealthResult.unknown("stopping")))
    listener(events.HostStopped(1.0, culprits=("db",)))
    listener(events.ServiceStopped("db", 1.0, OSError("late")))

    found = lines()

    assert [
        ("info", "service has started"),
        ("debug", "service changed state"),
        ("warning", "service failed to start"),
        ("error", "health changed"),
        ("info", "health changed"),
        ("error", "host has stopped"),
        ("error", "service has stopped"),
    ] == [(event["level"], event["event"]) for event in found]
    assert ("cache", 0.25) == (found[0]["service"], found[0]["seconds"])
    assert ("starting", "running") == (found[1]["old"], found[1]["new"])
    assert ("OSError", "refused") == (found[2]["error_type"], found[2]["error"])
    assert ("unhealthy: down", ["db"]) == (found[3]["new"], found[5]["culprits"])


def test_every_event_has_words(lines: Callable[[], list[dict[str, Any]]]) -> None:
    """A new event is given words too; one of a stranger's is logged under its type's name."""
    from svcframework.log import _WORDS

    declared = {
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, events.Event) and kind not in {events.Event, events.ServiceEvent}
    }

    class Strange(events.Event):
        pass

    LogListener(ServiceLogger("host"))(Strange())

    assert declared == _WORDS.keys()
    assert "Strange" == lines()[0]["event"]


def test_no_console_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process has no standard error, events vanish."""
    monkeypatch.setattr(sys, "stderr", None)

    ServiceLogger("cache").error("nobody reads this")

    assert not structlog.is_configured()


def test_diverted_events_go_to_the_stream_and_the_configuration_comes_back() -> None:
    """Whether or not there was one, and however the block ends."""
    logger = ServiceLogger("vault")
    before, stream = io.StringIO(), io.StringIO()
    try:
        configure_logging("info", json=True, stream=before)
        with pytest.raises(KeyError), diverted("debug", stream):
            logger.debug("within")
            raise KeyError
        logger.info("after")
        structlog.reset_defaults()
        with diverted("debug", stream):
            logger.debug("within again")
        assert not structlog.is_configured()
    finally:
        structlog.reset_defaults()
    assert ["within", "within again"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert ["after"] == [json.loads(line)["event"] for line in before.getvalue().splitlines()]
