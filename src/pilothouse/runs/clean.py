"""What models and tools say, made such that every database and every wire can hold it."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

from pydantic_ai.messages import BinaryContent, ModelResponse, TextPart, ThinkingPart, ToolCallPart, UserContent
from pydantic_core import PydanticSerializationError, to_jsonable_python

from pilothouse.conversations.sendable import sendable_file
from pilothouse.conversations.transcript import encode
from pilothouse.db.values import column_text, encodable
from pilothouse.kit.ids import new_id
from pilothouse.kit.jsons import dumps
from pilothouse.tools.results import shorten, tool_error
from pilothouse.tools.trim import trim

MOST_FILE_BYTES = 10_485_760
"""Files in one result. They are part of the transcript, and sent with each later request of the conversation."""
_TOO_MANY_BYTES = f"It holds more files than the {MOST_FILE_BYTES} bytes that are taken."
_MOST_ITEMS = 100
_MOST_ID_CHARS = 128


def with_sound_calls(response: ModelResponse) -> ModelResponse:
    """The response, whose calls have names that can be stored and ids that can be stored and tell them apart.

    An id that is missing, too long or used twice is replaced, before anybody has seen it.
    """
    seen: set[str] = set()
    for part in response.parts:
        if not isinstance(part, ToolCallPart):
            continue
        if part.tool_call_id in seen or not _is_sound_id(part.tool_call_id):
            part.tool_call_id = new_id("call")
        seen.add(part.tool_call_id)
        part.tool_name = column_text(part.tool_name)  # pyright: ignore[reportAttributeAccessIssue]
    return response


def encode_response(response: ModelResponse) -> str:
    """The stored form of a response; lone surrogates in it are replaced, in the response itself too."""
    try:
        return encode(response)
    except PydanticSerializationError:
        for part in response.parts:
            if isinstance(part, TextPart | ThinkingPart):
                part.content = column_text(part.content)
            elif isinstance(part, ToolCallPart):
                part.args = column_text(part.args) if isinstance(part.args, str) else _replaced(part.args)
        return encode(response)


def recordable(value: Any, max_chars: int) -> Any:
    """A tool's result as it is recorded and shown to the model: a JSON value of at most about `max_chars` characters,
    or files (images, documents) that stay what they are.

    What can't be written, or holds more bytes of files than a message may, becomes an error the model can act on.
    """
    if is_multimodal(value):
        return _bounded_files(value, max_chars)
    try:
        trimmed = trim(value, max_chars)
        plain = result_value(trimmed.value)
    except Exception:  # noqa: BLE001 - objects' own serializers raise what they like, and the tool has run
        return tool_error("unexpected", "The tool ran, but its result can't be written as JSON.")
    return shorten(plain, max_chars, trimmed)[0]


def bounded_content(content: str | Sequence[UserContent], max_chars: int) -> str | list[UserContent]:
    """What a tool adds to its result for the model to read, with its texts and files bounded."""
    if isinstance(content, str):
        return shorten(content, max_chars)[0]
    items: list[UserContent] = []
    left = MOST_FILE_BYTES
    for item in islice(content, _MOST_ITEMS):
        left -= len(item.data) if isinstance(item, BinaryContent) else 0
        if left < 0:
            items.append(_TOO_MANY_BYTES)
            break
        taken = sendable_file(item) if isinstance(item, BinaryContent) else item
        items.append(shorten(taken, max_chars)[0] if isinstance(taken, str) else taken)
    return items


def is_multimodal(value: Any) -> bool:
    """Whether a result holds images or documents that must stay what they are."""
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    return any(hasattr(item, "media_type") for item in islice(items, _MOST_ITEMS))


def result_value(value: Any) -> Any:
    """A value as JSON has it. What JSON has no word for becomes its text, bytes become base64.

    Raises:
        ValueError: it contains itself.
    """
    plain = to_jsonable_python(value, fallback=str, inf_nan_mode="null", bytes_mode="base64")
    if isinstance(plain, str):
        return encodable(plain)
    try:
        dumps(plain)
    except PydanticSerializationError:
        return _replaced(plain)
    return plain


def _bounded_files(value: Any, max_chars: int) -> Any:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    data: list[Any] = [getattr(item, "data", b"") for item in islice(items, _MOST_ITEMS)]
    if len(items) > _MOST_ITEMS or sum(len(item) for item in data if isinstance(item, bytes)) > MOST_FILE_BYTES:
        return tool_error("unexpected", f"The tool ran, but its result was left out. {_TOO_MANY_BYTES}")
    if not isinstance(value, list):
        return _taken(value, max_chars)
    return [_taken(item, max_chars) for item in items]


def _taken(item: Any, max_chars: int) -> Any:
    """An item of a result, a file as every model takes it."""
    if isinstance(item, BinaryContent):
        item = sendable_file(item)
    return item if hasattr(item, "media_type") else recordable(item, max_chars)


def _is_sound_id(call_id: str) -> bool:
    return 0 < len(call_id) <= _MOST_ID_CHARS and call_id.isprintable()


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_replaced(name): _replaced(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_replaced(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
