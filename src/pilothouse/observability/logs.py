"""Logs: JSON lines for machines, colours for people, one renderer for all libraries, and no secrets in either."""

import json
import logging
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.types import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from pilothouse.kit import jsons
from pilothouse.settings import LogSettings

MASK = "***"

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
    "websockets",
)
_SECRET_KEY = re.compile(r"secret|passw(or)?d|authorization|api[_-]?key|private[_-]?key|cookie|credential|token$")
_SECRET_TEXT = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:ph_|sk-)[A-Za-z0-9_\-]{8,}"
    r"|eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?"
    r"|(?P<scheme>[Bb]earer[ .])[A-Za-z0-9._~+/=\-]{4,}"
    r")"
    r"|(?P<user>://[^\s:/@]*:)[^\s@/]+(?=@)"
)
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
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=_is_terminal(out),
            exception_formatter=structlog.dev.plain_traceback,
            timestamp_key="time",
            pad_event_to=24,
        )
        if pretty
        else render_json
    )
    structlog.configure(
        processors=[_add_logger_name, *shared, mask_secrets, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _Output(out, *names),
        cache_logger_on_first_use=True,
    )
    _route_standard_library(out, level, shared, renderer)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger=name`. Costs nothing until its first line, so it may be made anywhere."""
    return structlog.get_logger(name)


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: hide values under secret names, and keys, tokens and passwords inside text."""
    for key, value in event.items():
        event[key] = _masked(key, value, 0)
    return event


def mask_text(text: str) -> str:
    """`text` with our keys, provider keys, bearer tokens, JWTs and passwords in addresses replaced by `***`."""
    return _SECRET_TEXT.sub(_replacement, text)


@lru_cache(maxsize=2048)
def is_secret_name(name: str) -> bool:
    """Whether a value under this name is not to be shown: `api_key`, `accessToken`; not `input_tokens`."""
    return _SECRET_KEY.search(name.lower()) is not None


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """A structlog renderer: one line of JSON, time, level and event first. Never fails on what a line holds."""
    line = {"time": event.pop("time", None), "level": event.pop("level", None), "event": event.pop("event", None)}
    line.update(event)
    try:
        return jsons.dumps(line)
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


def _route_standard_library(out: TextIO, level: int, shared: Sequence[Processor], renderer: Processor) -> None:
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_record_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_secrets, renderer],
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


def _masked(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(key):
        return MASK
    if isinstance(value, int | float):
        return value
    if isinstance(value, dict | list | tuple | set | frozenset):
        return _masked_inside(value, depth + 1) if depth < _DEEPEST else "…"
    return mask_text(value if isinstance(value, str) else _plain(value))


def _masked_inside(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        return {inner: _masked(str(inner), item, depth) for inner, item in cast("dict[Any, Any]", value).items()}
    return [_masked("", item, depth) for item in value]


def _plain(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - someone's __str__
        return f"<{type(value).__name__}>"


def _replacement(match: re.Match[str]) -> str:
    return (match["scheme"] or match["user"] or "") + MASK


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:
        return False
