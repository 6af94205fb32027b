"""ServiceLogger and the one pipeline that all events go through; the only file that imports structlog."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging import CRITICAL, DEBUG, ERROR, INFO, WARNING
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from svcframework import events
from svcframework._redaction import redact, redact_field
from svcframework._secrettext import MASK, redact_text
from svcframework._types import HealthResult, HealthStatus
from svcframework.errors import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping
    from contextvars import Token
    from types import TracebackType
    from typing import TextIO

__all__ = [
    "MASK",
    "LogListener",
    "ServiceLogger",
    "bind_context",
    "configure_logging",
    "context_fields",
    "diverted",
    "error_fields",
    "first_sight",
    "is_configured",
    "load",
    "redact",
    "reset_context",
]

Level = Literal["debug", "info", "warning", "error", "critical"]

_LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}
_FRAMES = 20  # innermost frames of a traceback that an event shows

# --- context --------------------------------------------------------------------------------------------

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_context: ContextVar[Mapping[str, Any]] = ContextVar("svcframework_log_context", default=_NOTHING)


def bind_context(**fields: Any) -> Token[Mapping[str, Any]]:
    """Add fields (correlation id, user, tenant) to every event of this task and of those that it starts.

    Args:
        **fields: Kept as they are for `context_fields()`, redacted in events. None takes a field away.

    Returns:
        What `reset_context` needs to undo it.
    """
    merged = {key: value for key, value in {**_context.get(), **fields}.items() if value is not None}
    return _context.set(MappingProxyType(merged))


def reset_context(token: Token[Mapping[str, Any]]) -> None:
    """Undo one `bind_context`."""
    _context.reset(token)


def context_fields() -> Mapping[str, Any]:
    """The fields bound in this context; read-only."""
    return _context.get()


# --- the logger -----------------------------------------------------------------------------------------


class ServiceLogger:
    """Writes one line per event, with the service's name and version in it; lives as long as the service.

    Every field is redacted here, before any processor sees it. Until the application has called
    `configure_logging` (or `structlog.configure`), only warnings and what is worse go to standard error.

    Args:
        service: The service's name.
        version: The service's version.
        **bound: Fields of every event.
    """

    __slots__ = ("_chain", "_fields", "_processors", "_quiet", "_target", "_wrapper")

    _wrapper: Callable[..., Any]
    _target: Any
    _chain: list[Any]
    _processors: object

    def __init__(self, /, service: str, *, version: str | None = None, **bound: Any) -> None:
        fields = {"service": service, **({} if version is None else {"version": version}), **bound}
        self._fields = {key: redact_field(key, value) for key, value in fields.items()}
        self._quiet, self._processors = 0, _NOTHING

    def bind(self, /, **fields: Any) -> ServiceLogger:
        """A logger with further fields in every event; this one stays as it is."""
        return ServiceLogger(**{**self._fields, **fields})

    def debug(self, event: str, /, **fields: Any) -> None:
        """For whoever looks for a fault."""
        if self._quiet <= _pipeline.debug:
            self._emit(DEBUG, "debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """It did something that an operator may want to know."""
        if self._quiet <= _pipeline.info:
            self._emit(INFO, "info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """It goes on, but somebody should look."""
        if self._quiet <= _pipeline.warning:
            self._emit(WARNING, "warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Something failed. `exc_info=True` (or an error) adds the error's type, message and frames."""
        if self._quiet <= _pipeline.error:
            self._emit(ERROR, "error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """`error` with the error that is being handled."""
        self.error(event, **{"exc_info": True, **fields})

    def critical(self, event: str, /, **fields: Any) -> None:
        """The service or the host can't go on."""
        if self._quiet <= _pipeline.critical:
            self._emit(CRITICAL, "critical", event, fields)

    def _emit(self, level: int, name: str, event: str, fields: dict[str, Any]) -> None:
        config = _structlog().get_config()
        # The identity of the list is structlog's own sign of a new configuration: see structlog.testing.capture_logs.
        if config["processors"] is not self._processors or self._quiet < _pipeline.generation:
            self._connect(config)
        if level < self._quiet - _pipeline.generation:
            return
        clean = _Redacted(self._fields)
        for source in (_context.get(), fields):
            for key, value in source.items():
                if key == "exc_info":
                    clean.update(_exc_info_fields(value))
                else:
                    clean["event_" if key == "event" else key] = redact_field(key, value)
        # The fields are the context of a bound logger of their own: as arguments, `method_name=` or `event=` would
        # collide with structlog's.
        getattr(self._wrapper(self._target, self._chain, clean), name)(redact_text(str(event)))

    def _connect(self, config: dict[str, Any]) -> None:
        """Take up the application's configuration of structlog, or our own where there is none."""
        self._processors = config["processors"]
        structlog = _structlog()
        ours = not structlog.is_configured()
        wrapper: Any = structlog.make_filtering_bound_logger(WARNING) if ours else config["wrapper_class"]
        self._wrapper = wrapper
        self._chain = _processors_for(None) if ours else config["processors"]
        self._target = _LineWriter(None) if ours else config["logger_factory"]()
        self._quiet = _pipeline.generation + _threshold(wrapper(self._target, self._chain, {}))

    def __repr__(self) -> str:
        return f"<ServiceLogger {self._fields['service']!r}>"


def load() -> None:
    """Load the pipeline now, so that the first event needn't do it in the middle of something."""
    _structlog()


def _structlog() -> Any:
    """Loads with the first event: structlog brings rich along, where that is installed."""
    import structlog  # noqa: PLC0415 - see above

    return structlog


def error_fields(error: BaseException, *, frames: bool = True) -> dict[str, Any]:
    """An error as the fields of an event, on one line: type, message, where it was raised, and its cause.

    Args:
        error: Its message is redacted.
        frames: Whether to name the innermost frames, outermost first.
    """
    fields: dict[str, Any] = {"error_type": type(error).__qualname__, "error": redact_text(describe(error))}
    if frames:
        fields["traceback"] = _frames_of(error.__traceback__)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        fields["cause"] = redact_text(f"{type(cause).__qualname__}: {describe(cause)}")
    return fields


def first_sight(error: BaseException) -> bool:
    """True the first time that this error is shown to the function: an error is logged once on its way up."""
    if getattr(error, "_svcframework_seen", False):
        return False
    try:
        error._svcframework_seen = True  # type: ignore[attr-defined]  # noqa: SLF001 - a mark of ours
    except AttributeError:  # a frozen error class: logged at each layer, rather than never
        return True
    return True


def _exc_info_fields(given: object) -> dict[str, Any]:
    """The fields for what came as `exc_info=`: True, an error, or the triple of `sys.exc_info()`."""
    if isinstance(given, tuple):
        given = given[1]
    error = given if isinstance(given, BaseException) else sys.exception() if given else None
    return {} if error is None else error_fields(error)


def _frames_of(traceback: TracebackType | None) -> list[str]:
    """`file:line in function`, without source lines or values: they may hold secrets."""
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} in {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-_FRAMES:]


# --- the pipeline ---------------------------------------------------------------------------------------


def configure_logging(level: Level = "info", *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Set up structlog for the whole process. Called by the application, never by the framework.

    Args:
        level: Events below it are dropped.
        json: One JSON object per line, or lines for people; by default JSON unless the stream is a terminal.
        stream: Where the lines go; standard error when not given.

    Raises:
        ValueError: There is no such level.
    """
    if level.lower() not in _LEVELS:
        raise ValueError(f"configure_logging({level!r}): the level must be one of {', '.join(_LEVELS)}")
    structlog = _structlog()
    structlog.configure(
        processors=_processors_for(stream, json=json),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.lower()]),
        context_class=dict,
        logger_factory=lambda *_: _LineWriter(stream),
        cache_logger_on_first_use=False,
    )
    _pipeline.renew()


@contextmanager
def diverted(level: Level, stream: TextIO) -> Iterator[None]:
    """Send every event to `stream`, a line of JSON each, for the length of the block. For tests.

    Args:
        level: Events below it are dropped.
        stream: What was configured before is so again afterwards.
    """
    structlog = _structlog()
    before = dict(structlog.get_config()) if structlog.is_configured() else None
    configure_logging(level, json=True, stream=stream)
    try:
        yield
    finally:
        if before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**before)
        _pipeline.renew()


def is_configured() -> bool:
    """Whether the application has set up structlog, by `configure_logging` or by itself."""
    return bool(_structlog().is_configured())


class _Pipeline:
    """Tells loggers, at the price of one comparison, what isn't to be written, or that the configuration is another.

    A logger is quiet below its threshold plus the generation in which it looked; each level counts from the present
    generation, and so is above what any logger knows from an earlier one.
    """

    __slots__ = ("critical", "debug", "error", "generation", "info", "warning")

    def __init__(self) -> None:
        self.generation = 0
        self.renew()

    def renew(self) -> None:
        """Whatever loggers know is out of date."""
        now = self.generation = self.generation + _GENERATION
        self.debug, self.info, self.warning = now + DEBUG, now + INFO, now + WARNING
        self.error, self.critical = now + ERROR, now + CRITICAL


_GENERATION = 1000  # more than any level
_pipeline = _Pipeline()  # beside structlog's configuration, which is of the process too


class _Redacted(dict[str, Any]):
    """Fields that have been redacted, so that the processor needn't do it again."""

    __slots__ = ()

    def copy(self) -> _Redacted:
        return _Redacted(self)


def _processors_for(stream: TextIO | None, *, json: bool | None = None) -> list[Any]:
    target = sys.stderr if stream is None else stream
    colours = target is not None and target.isatty()
    as_json = not colours if json is None else json
    return [_redact_event, _stamp, _render_json if as_json else _render_colours if colours else _render_plain]


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Redact what came past ServiceLogger, from a logger that the application got from structlog."""
    if type(event) is _Redacted:
        return event
    clean = {key: redact_field(str(key), value) for key, value in event.items() if key != "exc_info"}
    return {**_context_redacted(), **clean, **_exc_info_fields(event.get("exc_info"))}


def _context_redacted() -> dict[str, Any]:
    return {key: redact_field(key, value) for key, value in _context.get().items()}


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event come first, whatever fields of these names there were."""
    first = {"timestamp": datetime.now(UTC), "level": method, "event": event.pop("event", "")}
    for name in ("timestamp", "level"):
        if name in event:
            event[f"{name}_"] = event.pop(name)
    return {**first, **event}


_encoder = msgspec.json.Encoder(enc_hook=redact)


def _render_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        line = _encoder.encode(event)
    except Exception:  # noqa: BLE001 - lone surrogates, huge integers: the event must not be lost
        line = _encoder.encode({_printable(key): _encodable(value) for key, value in event.items()})
    if line.isascii():
        return line
    # JSON allows these as they are, but they end a line for str.splitlines() and some log readers
    return (
        line.replace(b"\xc2\x85", b"\\u0085").replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    )


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_printable(str(key)): _encodable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    return value if value is None or isinstance(value, (bool, float, datetime)) else _printable(str(value))


def _render_plain(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return _console_line(event, colours=False)


def _render_colours(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return _console_line(event, colours=True)


_COLOURS = {"debug": "36", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def _console_line(event: MutableMapping[str, Any], *, colours: bool) -> bytes:
    """`12:30:59.123 info    service started  service=cache seconds=0.1`."""
    fields = dict(event)
    stamp, level, words = fields.pop("timestamp"), str(fields.pop("level")), fields.pop("event")
    shown = f"\x1b[{_COLOURS.get(level, '0')}m{level:<8}\x1b[0m" if colours else f"{level:<8}"
    rest = " ".join(f"{_printable(key)}={_console_value(value)}" for key, value in fields.items())
    line = f"{stamp.astimezone():%H:%M:%S.%f}"[:-3] + f" {shown} {_printable(str(words))}"
    return f"{line}  {rest}".rstrip().encode("utf-8", "backslashreplace")


def _console_value(value: Any) -> str:
    if isinstance(value, str):
        text = _printable(value)
        return text if text and " " not in text and "=" not in text else f'"{text}"'
    return _printable(str(value))


def _printable(text: str) -> str:
    """`text` with line ends, terminal escapes and lone surrogates as backslash sequences."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)


class _LineWriter:
    """Writes each event with one call, so that lines of threads don't mix. Never raises: logging breaks no service."""

    __slots__ = ("_stream",)

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: bytes | str) -> None:
        """Write one line, to the standard error of this moment when no stream was given."""
        stream = sys.stderr if self._stream is None else self._stream
        if stream is None:  # no console, as under pythonw
            return
        data = line.encode("utf-8", "backslashreplace") if isinstance(line, str) else line
        try:
            raw = getattr(stream, "buffer", None)
            if raw is None:
                stream.write(data.decode("utf-8") + "\n")
            else:
                raw.write(data + b"\n")
            stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream was closed
            return

    log = debug = info = warn = warning = error = err = critical = fatal = exception = failure = msg


def _threshold(logger: Any) -> int:
    """The lowest level that a bound logger lets through, if its class can tell."""
    ask = getattr(logger, "get_effective_level", None)
    try:
        return DEBUG if ask is None else int(ask())
    except Exception:  # noqa: BLE001 - a boundary: the application's own wrapper class and target
        return DEBUG


# --- lifecycle events in words --------------------------------------------------------------------------

_WORDS: dict[type[events.Event], tuple[Level, str]] = {
    events.HostStarting: ("info", "host is starting"),
    events.HostStarted: ("info", "host has started"),
    events.HostStopping: ("info", "host is stopping"),
    events.HostStopped: ("info", "host has stopped"),
    events.ServiceStateChanged: ("debug", "service changed state"),
    events.ServiceStarting: ("debug", "service is starting"),
    events.ServiceStarted: ("info", "service has started"),
    events.ServiceStartFailed: ("error", "service failed to start"),
    events.ServiceStopping: ("debug", "service is stopping"),
    events.ServiceStopped: ("info", "service has stopped"),
    events.ServiceHung: ("error", "service did not stop in time"),
    events.ServiceCrashed: ("error", "service crashed"),
    events.ServiceRestarting: ("warning", "service will be restarted"),
    events.RestartsExhausted: ("critical", "service crashed too often: the host stops"),
    events.HealthChanged: ("info", "health changed"),
    events.LoopBlocked: ("warning", "the event loop was blocked"),
    events.RetryScheduled: ("warning", "attempt failed, will be retried"),
    events.HookFailed: ("error", "a hook raised, and was passed over"),
    events.PluginSkipped: ("warning", "plugin was not loaded"),
}


class LogListener:
    """Logs every event of a host in words; lives as long as its subscription.

    Args:
        logger: Where to.
    """

    def __init__(self, logger: ServiceLogger) -> None:
        self._logger = logger

    def __call__(self, event: events.Event, /) -> None:
        """Log `event`; one of an unknown type under its own name."""
        level, words = _WORDS.get(type(event), ("info", type(event).__name__))
        fields: dict[str, Any] = {}
        for name in _field_names(event):
            value = getattr(event, name)
            if isinstance(value, BaseException):
                fields.update(error_fields(value))
            elif value is not None and value != ():
                fields[name] = _plain(value)
        getattr(self._logger, _level_of(event, level))(words, **fields)


def _field_names(event: events.Event) -> tuple[str, ...]:
    return tuple(getattr(type(event), "__dataclass_fields__", ()))


def _level_of(event: events.Event, usual: Level) -> Level:
    """Some events are worse than others of their kind."""
    # Unknown is no failure: that is what a service is while it stops.
    if isinstance(event, events.HealthChanged) and event.new.status is HealthStatus.UNHEALTHY:
        return "error"
    if isinstance(event, events.ServiceStopped) and event.error is not None:
        return "error"
    if isinstance(event, events.HostStopped) and event.culprits:
        return "error"
    return "warning" if isinstance(event, events.ServiceStartFailed) and event.will_retry else usual


def _plain(value: Any) -> Any:
    """States and health by their words."""
    if isinstance(value, HealthResult):
        return str(value)
    return getattr(value, "value", value)
