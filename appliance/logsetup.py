"""The program's own log, on stderr: a fixed event with fields, as its reader can use it best.

On a terminal lines for people; under systemd the journal's native fields, so that `journalctl RUN_ID=…` works; else a JSON
object a line. The standard library's loggers (Hypercorn, Quart, warnings) end here too. What a run logs doesn't come here.
"""

import atexit
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, BinaryIO, TextIO

import msgspec
import structlog
import trio
from structlog.typing import EventDict, Processor, WrappedLogger

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "codeactions"
# syslog(3)'s numbers.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_SELDOM_SECONDS = 60.0

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Style(StrEnum):
    TERMINAL = "terminal"
    JOURNAL = "journal"
    JSON = "json"


def style_of(stream: TextIO, journal_stream: str) -> Style:
    """`journal_stream` is $JOURNAL_STREAM: device and inode of the stream that systemd connected to the journal. One that was
    redirected since isn't that stream any more."""
    if stream.isatty():
        return Style.TERMINAL
    about = os.fstat(stream.fileno())
    return Style.JOURNAL if journal_stream == f"{about.st_dev}:{about.st_ino}" else Style.JSON


def configure(level: str, style: Style) -> None:
    """Sends everything of `level` and above to stderr, or, in the journal's style, to the journal. Once, at the start."""
    structlog.configure(
        processors=_processors(style),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_factory(style),
        cache_logger_on_first_use=True,
    )
    _route_standard_library(level)


def standard_logger(name: str) -> logging.Logger:
    """A standard library's logger for a library that wants one; its records end in this log."""
    return logging.getLogger(name)


def _processors(style: Style) -> list[Processor]:
    first: list[Processor] = [_with_context, structlog.processors.add_log_level]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    match style:
        case Style.TERMINAL:
            # Plain tracebacks: the rich ones, used where that library happens to be installed, print the values of variables.
            clock = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
            renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            return [*first, clock, renderer]
        case Style.JOURNAL:
            return [*first, structlog.processors.format_exc_info, _as_fields]
        case Style.JSON:
            return [*first, stamp, structlog.processors.format_exc_info, _as_json]


def _factory(style: Style) -> Callable[..., WrappedLogger]:
    match style:
        case Style.TERMINAL:
            return structlog.WriteLoggerFactory(sys.stderr)
        case Style.JOURNAL:
            journal = Journal(JOURNAL)
            return lambda *_: journal
        case Style.JSON:
            lines = Lines(sys.stderr.buffer)
            _lines.append(lines)
            return lambda *_: lines


def _with_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Adds what is bound to the task (run_id, code_id), always in the same order; structlog's own way leaves that to chance."""
    for key, value in sorted(structlog.contextvars.get_contextvars().items()):
        event.setdefault(key, value)
    return event


def _as_json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    head = {"timestamp": event.pop("timestamp", ""), "level": event.pop("level", ""), "event": event.pop("event", "")}
    return _encode({**head, **event})


def _as_fields(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[()], dict[str, Any]]:
    return (), {"fields": event}


# Lines of JSON


class Lines:
    """Lines to a stream, each at once, but for what is only information while a loop that has `Idle` runs: to wake who reads
    costs more than to write, and a call has two of those.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.may_wait = False

    def msg(self, line: bytes) -> None:
        with self._lock:
            self._stream.write(line + b"\n")
            self._stream.flush()

    def info(self, line: bytes) -> None:
        if not self.may_wait:
            self.msg(line)
            return
        with self._lock:
            self._stream.write(line + b"\n")  # which passes on by itself what it has no room for

    def flush(self) -> None:
        with self._lock:
            self._stream.flush()

    debug = info
    warning = error = critical = msg


_lines: list[Lines] = []


class Idle(trio.abc.Instrument):
    """For `trio.run`: passes on what has waited as soon as the loop has nothing to do."""

    def before_run(self) -> None:
        for lines in _lines:
            lines.may_wait = True

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0:
            for lines in _lines:
                lines.flush()

    def after_run(self) -> None:
        for lines in _lines:
            lines.may_wait = False
            lines.flush()


# The journal


class Journal:
    """Writes to journald by its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL); what it doesn't take goes to stderr as JSON,
    with the priority prefix that the journal understands there. A logger as structlog calls it: one method a level."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._lock = threading.Lock()
        # Until the last line of the program can be logged.
        atexit.register(self._socket.close)

    def msg(self, *, fields: EventDict) -> None:
        try:
            # Never waits for the journal: a full one must not stop every request.
            self._socket.sendto(native(fields), socket.MSG_DONTWAIT, self._path)
        except OSError:
            prefix = f"<{PRIORITIES.get(fields.get('level', ''), 6)}>".encode()
            with self._lock:
                sys.stderr.buffer.write(prefix + _encode(fields) + b"\n")
                sys.stderr.buffer.flush()

    debug = info = warning = error = critical = msg


def native(fields: Mapping[str, Any]) -> bytes:
    """One entry: the event and its fields as the message, for readers of `journalctl`; each field on its own, to search by."""
    rest = {key: _text(value) for key, value in fields.items() if key not in {"event", "level", "exception"}}
    event = str(fields.get("event", ""))
    words = [event, *(f"{key}={value}" for key, value in rest.items())]
    message = "\n".join(filter(None, [" ".join(words), str(fields.get("exception", ""))]))
    entry = {
        "MESSAGE": message,
        "PRIORITY": str(PRIORITIES.get(fields.get("level", ""), 6)),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "EVENT": event,
    }
    named = {_field_name(key): value for key, value in rest.items()}
    return b"".join(_field(name, value) for name, value in (named | entry).items())


def _text(value: object) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _field_name(key: str) -> str:
    """The journal takes capitals, digits and underscores, at most 64, not beginning with an underscore or a digit."""
    name = "".join(char if char.isascii() and char.isalnum() else "_" for char in key).upper().lstrip("_0123456789")
    return name[:64] or "FIELD"


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


# The standard library's loggers


class _Route(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        log.log(record.levelno // 10 * 10, record.getMessage(), logger=record.name, exc_info=record.exc_info or False)


class _Seldom(logging.Filter):
    """Of Trio's accept loop, which says ten times a second, with a traceback, that there are no descriptors left."""

    def __init__(self) -> None:
        super().__init__()
        self._quiet_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        if record.created < self._quiet_until:
            return False
        self._quiet_until = record.created + _SELDOM_SECONDS
        return True


def _route_standard_library(level: str) -> None:
    logging.captureWarnings(capture=True)
    logging.getLogger("trio.serve_listeners").addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers = [_Route()]
    # Libraries' debug lines are about their own insides.
    root.setLevel(max(LEVELS[level], logging.INFO))
