"""What models and tools say, made such that every database and every wire can hold it."""

import re
from typing import Any

from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_core import PydanticSerializationError, to_jsonable_python

from pilothouse.conversations.transcript import encode
from pilothouse.kit.ids import new_id
from pilothouse.kit.jsons import dumps

_MOST_ID_CHARS = 128
_UNWRITABLE = re.compile("[\ud800-\udfff]")  # UTF-8 has no lone surrogates
_REPLACEMENT = "\ufffd"


def column_text(text: str, most: int | None = None) -> str:
    """Text for a column of `most` characters: cut, and without the NULs PostgreSQL can't store."""
    clean = _UNWRITABLE.sub(_REPLACEMENT, text.replace("\x00", _REPLACEMENT))
    return clean if most is None else clean[:most]


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


def result_value(value: Any) -> Any:
    """A tool's result as a JSON value. What JSON has no word for becomes its text, bytes become base64.

    Raises:
        ValueError: it contains itself.
    """
    plain = to_jsonable_python(value, fallback=str, inf_nan_mode="null", bytes_mode="base64")
    if isinstance(plain, str):
        return _UNWRITABLE.sub(_REPLACEMENT, plain)
    try:
        dumps(plain)
    except PydanticSerializationError:
        return _replaced(plain)
    return plain


def _is_sound_id(call_id: str) -> bool:
    return 0 < len(call_id) <= _MOST_ID_CHARS and call_id.isprintable()


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _UNWRITABLE.sub(_REPLACEMENT, value)
    if isinstance(value, dict):
        return {_replaced(name): _replaced(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_replaced(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
