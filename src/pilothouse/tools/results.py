"""What a model, an event and a log are shown of a tool's result: structured errors, bounded sizes."""

from typing import Any, Literal, cast

from pydantic_ai.exceptions import ModelRetry, ToolFailed

from pilothouse.errors import Forbidden, PilothouseError
from pilothouse.kit.jsons import dumps
from pilothouse.tools.trim import Trimmed

ErrorKind = Literal[
    "timeout",
    "http_error",
    "invalid_arguments",
    "unknown_tool",
    "unexpected",
    "forbidden",
    "credential_expired",
    "in_doubt",
    "rejected",
]
"""`rejected`: the tool ran and said no by a rule of its own."""

_TIMEOUTS = {"Timeout", "TimeoutException", "TimeoutError"}
_CONNECTIONS = {"ConnectionError", "ConnectError", "NetworkError", "TransportError", "ClientConnectionError"}
_RETRYABLE_STATUS = {408, 425, 429}


def tool_error(kind: ErrorKind, message: str, *, retryable: bool | None = None, **details: Any) -> dict[str, Any]:
    """An error a model can act on; tools may return one themselves.

    Args:
        kind: what went wrong.
        message: a sentence the model (and perhaps its user) may read: no internals.
        retryable: whether the same call can succeed later. By default only timeouts.
        details: further JSON members, such as `status`.

    Returns:
        `{"error": {"type", "message", "retryable", ...details}}`.
    """
    again = kind == "timeout" if retryable is None else retryable
    return {"error": {"type": kind, "message": message, "retryable": again, **details}}


def error_in(result: object) -> dict[str, Any] | None:
    """The `error` member where a result has the shape of `tool_error`, else None."""
    if not isinstance(result, dict):
        return None
    error = cast("dict[object, Any]", result).get("error")
    if isinstance(error, dict) and "type" in error and "message" in error:
        return cast("dict[str, Any]", error)
    return None


def classify_exception(error: BaseException) -> dict[str, Any]:
    """The `tool_error` for an exception out of a tool.

    HTTP clients are known by their shape, not by import. The text of an exception we don't know may hold secrets or
    internals, so only its class name is told.
    """
    error = _single(error)
    return (
        _own_words(error)
        or _by_shape(error)
        or tool_error("unexpected", f"The tool failed with {type(error).__name__}.")
    )


def shorten(value: Any, max_chars: int, whole: Trimmed | None = None) -> tuple[Any, bool]:
    """Fit a result into `max_chars` characters as the model will see it (text as it is, all else as JSON).

    Args:
        value: the result, or what `trim` left of it.
        max_chars: most characters.
        whole: what `trim` said, if it was asked.

    Returns:
        The value itself and False where it fits. Otherwise True and: for text, its beginning with a note; for a list,
        `{"truncated", "note", "total", "items"}` with as many whole items as fit; for everything else, or where not
        one item fits, `{"truncated", "note", "beginning"}` with the beginning of the JSON text. The note says how
        much there was and to ask for less.
    """
    was_cut = whole is not None and whole.was_cut
    if isinstance(value, str):
        length = whole.chars if whole is not None and was_cut else len(value)
        return (value, False) if length <= max_chars else (_cut_text(value, max_chars, length), True)
    text = dumps(value)
    if len(text) <= max_chars and not was_cut:
        return value, False
    note = _note(max(whole.chars, len(text)), at_least=True) if whole is not None and was_cut else _note(len(text))
    if isinstance(value, list | tuple):
        items = list(cast("list[Any]", value))
        total = whole.items if whole is not None and whole.items is not None else len(items)
        fitted = _whole_items(items, max_chars, note=note, total=total)
        if fitted is not None:
            return fitted, True
    return _beginning(text, max_chars, note), True


def summarize(value: Any, limit: int = 300) -> str:
    """One line of at most `limit` characters about a result, for events and lists."""
    text = " ".join((value[: limit * 4] if isinstance(value, str) else dumps(value)[: limit * 4]).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _single(error: BaseException) -> BaseException:
    """What a task group of one wraps."""
    while isinstance(error, BaseExceptionGroup):
        inner = cast("tuple[BaseException, ...]", cast("BaseExceptionGroup[BaseException]", error).exceptions)
        if len(inner) != 1:
            break
        error = inner[0]
    return cast("BaseException", error)


def _own_words(error: BaseException) -> dict[str, Any] | None:
    """Errors whose text was written to be read."""
    if isinstance(error, Forbidden):
        return tool_error("forbidden", error.message)
    if isinstance(error, PilothouseError):
        return tool_error("rejected", error.message, retryable=error.retryable, code=error.code)
    if isinstance(error, ToolFailed | ModelRetry):
        return tool_error("rejected", error.message, retryable=isinstance(error, ModelRetry))
    return None


def _by_shape(error: BaseException) -> dict[str, Any] | None:
    names = {base.__name__ for base in type(error).__mro__}
    if names & _TIMEOUTS:
        return tool_error("timeout", "The tool, or a service it called, did not answer in time.")
    status = _http_status(error)
    if status is not None:
        message = f"A service the tool called answered with HTTP status {status}."
        return tool_error("http_error", message, retryable=status in _RETRYABLE_STATUS or status >= 500, status=status)
    if names & _CONNECTIONS:
        return tool_error("http_error", "A service the tool called could not be reached.", retryable=True)
    return None


def _http_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for candidate in (getattr(response, "status_code", None), getattr(error, "status", None)):
        if isinstance(candidate, int) and 100 <= candidate <= 599:
            return candidate
    return None


def _note(length: int, *, at_least: bool = False) -> str:
    count = f"more than {length}" if at_least else f"{length}"
    return f"Cut: the whole result has {count} characters. Ask for less: a narrower question, fewer fields, a page."


def _cut_text(text: str, max_chars: int, length: int) -> str:
    note = f"\n[{_note(length)}]"
    return text[: max(0, max_chars - len(note))] + note[:max_chars]


def _whole_items(items: list[Any], max_chars: int, *, note: str, total: int) -> dict[str, Any] | None:
    shown: dict[str, Any] = {"truncated": True, "note": note, "total": total, "items": []}
    room = max_chars - len(dumps(shown))
    count = 0
    for item in items:
        room -= len(dumps(item)) + 1
        if room < 0:
            break
        count += 1
    return {**shown, "items": items[:count]} if count else None


def _beginning(text: str, max_chars: int, note: str) -> dict[str, Any]:
    """JSON inside a JSON string grows by its escapes, so the cut is taken on the escaped length."""
    shown: dict[str, Any] = {"truncated": True, "note": note, "beginning": ""}
    room = max_chars - len(dumps(shown))
    piece = text[: max(0, room)]
    while piece and len(dumps(piece)) - 2 > room:
        piece = piece[: len(piece) - max(1, (len(dumps(piece)) - 2 - room) // 2)]
    return {**shown, "beginning": piece}
