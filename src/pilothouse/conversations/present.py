"""Stored conversations to what callers see."""

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from sqlalchemy.engine import Row

from pilothouse.conversations.attachments import read_reference
from pilothouse.conversations.transcript import StoredMessage, decode
from pilothouse.kit.clock import to_datetime


def conversation_document(row: Row[Any]) -> dict[str, Any]:
    """A `ConversationOut`."""
    return {
        "id": row.id,
        "agent": row.agent,
        "title": row.title,
        "turns": row.turns,
        "metadata": row.metadata,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
    }


def message_documents(rows: Sequence[StoredMessage]) -> list[dict[str, Any]]:
    """`MessageOut`s."""
    return [_message(row, message) for row, message in zip(rows, decode(rows), strict=True)]


def iso(milliseconds: int | None) -> str | None:
    """Stored milliseconds as ISO 8601 in UTC."""
    return None if milliseconds is None else to_datetime(milliseconds).isoformat(timespec="milliseconds")


def user_text(message: ModelMessage) -> str:
    """The text of a stored user message."""
    return "\n".join(item for item in _user_content(message) if isinstance(item, str))


def result_text(message: ModelMessage) -> str:
    """The text of a stored tool result, as the model was shown it."""
    if not isinstance(message, ModelRequest):
        return ""
    texts = [
        part.model_response_str() if isinstance(part, ToolReturnPart) else part.model_response()
        for part in message.parts
        if isinstance(part, ToolReturnPart | RetryFeedbackPart)
    ]
    return "\n".join(texts)


def response_text(response: ModelResponse) -> str:
    """All text of a response."""
    return "".join(part.content for part in response.parts if isinstance(part, TextPart))


def reasoning_of(response: ModelResponse) -> str | None:
    """The reasoning of a response, where the model shows it."""
    return "".join(part.content for part in response.parts if isinstance(part, ThinkingPart)) or None


def arguments_of(call: ToolCallPart) -> Any:
    """A call's arguments as JSON where they are that, otherwise as the text the model sent."""
    try:
        return call.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError):
        return call.args


def call_document(call: ToolCallPart) -> dict[str, Any]:
    """A `ToolCallOut`."""
    return {"call_id": call.tool_call_id, "name": call.tool_name, "arguments": arguments_of(call)}


def attachment_document(item: object) -> dict[str, Any] | None:
    """An `AttachmentOut`; None for what is no file. What is stored inside its message has no id."""
    if isinstance(item, BinaryContent):
        return {"id": None, "media_type": item.media_type, "name": None, "bytes": len(item.data)}
    found = read_reference(item)
    if found is None:
        return None
    return {"id": found.id, "media_type": found.media_type, "name": found.name, "bytes": found.size}


def inline_files(row: StoredMessage) -> list[bytes]:
    """The files that a user's message holds itself, as release 0.1.0 stored them."""
    [message] = decode([row])
    return [item.data for item in _user_content(message) if isinstance(item, BinaryContent)]


def _message(row: StoredMessage, message: ModelMessage) -> dict[str, Any]:
    document: dict[str, Any] = {
        "key": row.key,
        "run_id": row.run_id,
        "step": row.step,
        "role": row.role,
        "text": None,
        "reasoning": None,
        "tool_calls": [],
        "call_id": row.call_id,
        "name": None,
        "result": None,
        "attachments": [],
        "pinned": row.pinned,
        "interrupted": False,
        "created_at": iso(row.created_at),
    }
    if isinstance(message, ModelResponse):
        document["text"] = response_text(message)
        document["reasoning"] = reasoning_of(message)
        document["tool_calls"] = [call_document(call) for call in message.tool_calls]
        document["interrupted"] = message.state == "interrupted"
    elif row.role == "user":
        document["text"] = user_text(message)
        document["attachments"] = [
            about for item in _user_content(message) if (about := attachment_document(item)) is not None
        ]
    else:
        document["result"] = result_text(message)
        part = next((part for part in message.parts if isinstance(part, ToolReturnPart)), None)
        document["name"] = part.tool_name if part else None
        document["call_id"] = part.tool_call_id if part else None
    return document


def _user_content(message: ModelMessage) -> list[Any]:
    items: list[Any] = []
    for part in message.parts:
        if isinstance(part, UserPromptPart):
            items.extend([part.content] if isinstance(part.content, str) else part.content)
    return items
