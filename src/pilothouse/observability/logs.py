"""Logs: JSON lines for machines, colours for people, one renderer for all libraries, and no secrets in either."""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.types import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from pilothouse.kit import jsons
from pilothouse.kit.masking import MASK, is_secret_name, mask_bounded, mask_text
from pilothouse.kit.printable import escape_json, one_line, printable
from pilothouse.observability.traces import render_exception
from pilothouse.settings import LogSettings

__all__ = [
    "configure_logging",
    "get_logger",
    "is_secret_name",
    "mask_secrets",
    "mask_text",
    "render_json",
]

_CHATTY = (
    "aiosqlite",
    "anthropic",
    "asyncio",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "openai",
    "urllib3",
    "uvicorn.access",
    "uvicorn.error",  # a line with the query of each WebSocket, which may hold a token
    "websockets",
)
_TEXT_CHARS = 8_000
_TRACE_CHARS = 24_000
_LINE_CHARS = 64_000
_NAME_CHARS = 200
_MOST_ITEMS = 100
_LARGEST_INTEGER_BITS = 256
_FIRST = frozenset({"event", "exception"})
_DEEPEST = 6


def configure_logging(
    settings: LogSettings,
    environment: Literal["development", "production"],
    *,
    stream: TextIO | None = None,
) -> None:
    """Send our logs and those of all libraries to `stream` (stderr unless given), masked and in one format.

    Call it once at start, before loggers are used; loggers keep the configuration of their first line.
    Lines carry what `structlog.contextvars.bind_contextvars` bound: `request_id`, `run_id`, `conversation_id`,
    `tenant`.
    """
    out = stream or sys.stderr
    pretty = settings.format == "pretty" or (
        settings.format == "auto" and environment == "development" and _is_terminal(out)
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared = _shared_processors()
    renderers: list[Processor] = [mask_secrets, render_json]
    if pretty:
        console = structlog.dev.ConsoleRenderer(
            colors=_is_terminal(out),
            exception_formatter=structlog.dev.plain_traceback,
            timestamp_key="time",
            pad_event_to=24,
        )
        renderers = [mask_secrets, _write_out_controls, console]
    structlog.configure(
        processors=[_add_logger_name, *shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Output(out, *names),
        cache_logger_on_first_use=True,
    )
    _route_standard_library(out, level, shared, renderers)


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        _render_trace,
    ]


def _configure_for_the_time_being() -> None:
    structlog.configure(
        processors=[_add_logger_name, *_shared_processors(), mask_secrets, render_json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *names: _Output(sys.stderr, *names),
        cache_logger_on_first_use=False,  # so that loggers take what is configured later
    )


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. Costs nothing until its first line, so it may be made anywhere.

    Until somebody has configured structlog, lines are masked JSON on stderr: structlog's own default shows the values
    of all variables beside a trace.
    """
    if not structlog.is_configured():
        _configure_for_the_time_being()
    return structlog.get_logger(name)


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: hide values under secret names, and keys, tokens and passwords inside text.

    The text of a value, the items of a collection and the whole line are bounded before they are looked at; what was
    left out is said.
    """
    masker = _Masker()
    # What happened comes first: large values must not take its room.
    for key in sorted(event, key=_FIRST.__contains__, reverse=True):
        event[key] = masker.value(key, event[key], 0, most=_TRACE_CHARS if key == "exception" else _TEXT_CHARS)
    return event


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """A structlog renderer: one line of JSON, time, level and event first. Never fails on what a line holds."""
    line = {"time": event.pop("time", None), "level": event.pop("level", None), "event": event.pop("event", None)}
    line.update(event)
    try:
        return escape_json(jsons.dumps(line))
    except Exception:  # noqa: BLE001 - a lone surrogate, a cycle, a __str__ that raises: the line still comes out
        return json.dumps({key: _plain(value) for key, value in line.items()})


class _Output:
    """Where structlog writes. A closed or full stream loses lines, never requests."""

    __slots__ = ("_stream", "name")

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream = stream
        self.name = name

    def msg(self, message: str) -> None:
        try:
            self._stream.write(message + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    log = debug = info = warn = warning = error = exception = critical = fatal = failure = err = msg


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from handlers of others."""


def _route_standard_library(
    out: TextIO, level: int, shared: Sequence[Processor], renderers: Sequence[Processor]
) -> None:
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_record_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if type(old) in {_Handler, logging.StreamHandler}:
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)


def _add_logger_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _add_record_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = event["_record"].name
    return event


def _render_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn `exc_info`, in each of the forms that logging takes, into the text `exception`."""
    given = event.pop("exc_info", None)
    if isinstance(given, tuple):
        given = cast("tuple[type | None, BaseException | None, TracebackType | None]", given)[1]
    elif given and not isinstance(given, BaseException):
        given = sys.exc_info()[1]
    if isinstance(given, BaseException):
        event["exception"] = render_exception(given)
    return event


def _write_out_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For people's eyes, one line is one line; only a trace has several. (Collections are shown as `repr` does.)"""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value) if key in {"exception", "stack"} else one_line(value)
    return event


class _Masker:
    """The values of one line, with what is left of its bounds."""

    def __init__(self) -> None:
        self._left = _LINE_CHARS

    def value(self, key: str, value: Any, depth: int, *, most: int = _TEXT_CHARS) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if is_secret_name(key):
            return MASK
        if isinstance(value, float):
            return value
        if isinstance(value, int):
            return value if value.bit_length() <= _LARGEST_INTEGER_BITS else f"<{value.bit_length()} bits>"
        if isinstance(value, dict | list | tuple | set | frozenset):
            return self._inside(value, depth + 1) if depth < _DEEPEST and self._left > 0 else "…"
        return self._text(_plain(value), most)

    def _text(self, text: str, most: int) -> str:
        most = min(most, self._left)
        if len(text) > most <= _NAME_CHARS:
            return f"[{len(text)} characters left out]"
        masked = mask_bounded(text, most)
        self._left -= len(masked)
        return masked

    def _inside(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            members = cast("dict[Any, Any]", value)
            shown = {
                self._name(name): self.value(_plain(name), item, depth) for name, item in self._some(members.items())
            }
            return shown if len(members) <= len(shown) else {**shown, "…": f"{len(members) - len(shown)} more"}
        items = cast("list[Any]", value)
        if len(items) == 2 and isinstance(value, tuple) and isinstance(value[0], str | bytes):
            return [self.value("", value[0], depth), self.value(_plain(value[0]), value[1], depth)]  # a header
        shown_items = [self.value("", item, depth) for item in self._some(items)]
        more = len(items) - len(shown_items)
        return [*shown_items, f"… {more} more"] if more > 0 else shown_items

    def _some(self, items: Iterable[Any]) -> Iterable[Any]:
        for item in islice(items, _MOST_ITEMS):
            if self._left <= 0:
                return
            self._left -= 2
            yield item

    def _name(self, name: Any) -> str:
        return self._text(_plain(name), _NAME_CHARS)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        if isinstance(value, bytes | bytearray):
            return repr(bytes(value[: 2 * _TRACE_CHARS]))
        return str(value)
    except Exception:  # noqa: BLE001 - someone's __str__
        return f"<{type(value).__name__}>"


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False
