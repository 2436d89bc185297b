"""What conversations look like on the wire."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pilothouse.kit.jsons import dumps

MOST_METADATA_BYTES = 16_384

_CONVERSATION: dict[str, Any] = {
    "id": "conv_01kb2m9w4c8t5v3q7r1x6y0z2b",
    "agent": "support",
    "title": "Where is order 1042?",
    "turns": 1,
    "metadata": {"ticket": "T-17"},
    "created_at": "2026-11-02T08:30:00.000+00:00",
    "updated_at": "2026-11-02T08:30:00.000+00:00",
}
_MESSAGE: dict[str, Any] = {
    "key": "1.2",
    "run_id": "run_01kb2m9w4c8t5v3q7r1x6y0z2a",
    "step": 1,
    "role": "assistant",
    "text": "It ships tomorrow.",
    "reasoning": None,
    "tool_calls": [],
    "call_id": None,
    "name": None,
    "result": None,
    "attachments": [],
    "pinned": False,
    "interrupted": False,
    "created_at": "2026-11-02T08:30:00.940+00:00",
}


def _example(value: dict[str, Any], *, extra: Literal["ignore", "forbid"] = "ignore") -> ConfigDict:
    return ConfigDict(extra=extra, json_schema_extra={"examples": [value]})


def is_finite_json(value: Any) -> bool:
    """Whether a parsed value can be written as strict JSON again: without NaN and infinities."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


class NewConversation(BaseModel):
    """A conversation to begin without a message."""

    model_config = _example({"agent": "support", "title": "Order 1042", "metadata": {"ticket": "T-17"}}, extra="forbid")

    agent: str | None = Field(default=None, max_length=128)
    title: str = Field(default="", max_length=200)
    metadata: dict[str, Any] | None = None

    @field_validator("metadata")
    @classmethod
    def _bounded(cls, metadata: dict[str, Any] | None) -> dict[str, Any] | None:
        if metadata and not is_finite_json(metadata):
            raise ValueError("metadata holds a number JSON has no word for, such as NaN")
        if metadata is not None and len(dumps(metadata)) > MOST_METADATA_BYTES:
            raise ValueError(f"metadata is at most {MOST_METADATA_BYTES} bytes of JSON")
        return metadata


class ConversationChange(BaseModel):
    """A new title."""

    model_config = _example({"title": "Order 1042"}, extra="forbid")

    title: str = Field(min_length=1, max_length=200)


class ConversationOut(BaseModel):
    """A conversation."""

    model_config = _example(_CONVERSATION)

    id: str
    agent: str
    title: str
    turns: int = Field(description="How many runs it has had.")
    metadata: dict[str, Any] | None
    created_at: str
    updated_at: str


class ToolCallOut(BaseModel):
    """A call in an assistant's message."""

    call_id: str
    name: str
    arguments: Any


class AttachmentOut(BaseModel):
    """A file of a message."""

    model_config = _example(
        {"id": "att_01kb2m9w4c8t5v3q7r1x6y0z2d", "media_type": "image/png", "name": "photo.png", "bytes": 48213}
    )

    id: str | None = Field(
        description="For `GET /v1/conversations/{id}/attachments/{attachment_id}`. Null for files that were stored by "
        "release 0.1.0."
    )
    media_type: str
    name: str | None
    bytes: int


class MessageOut(BaseModel):
    """One message of a transcript."""

    model_config = _example(_MESSAGE)

    key: str = Field(description="Its place, `turn.seq`.")
    run_id: str
    step: int
    role: Literal["user", "assistant", "tool", "feedback"]
    text: str | None
    reasoning: str | None
    tool_calls: list[ToolCallOut]
    call_id: str | None
    name: str | None
    result: str | None
    attachments: list[AttachmentOut]
    pinned: bool
    interrupted: bool = Field(description="The answer was stopped before its end.")
    created_at: str


class PinIn(BaseModel):
    """Whether a message stays when the history is cut."""

    model_config = _example({"pinned": True}, extra="forbid")

    pinned: bool


class ExportedAttachment(AttachmentOut):
    """A file of an exported message."""

    data: str | None = Field(default=None, description="Its bytes, base64, if `attachments` was true.")


class ExportedMessage(MessageOut):
    """A message of an exported transcript."""

    attachments: list[ExportedAttachment]  # pyright: ignore[reportIncompatibleVariableOverride]


class ConversationExport(BaseModel):
    """A conversation with all its messages."""

    model_config = _example({"conversation": _CONVERSATION, "messages": [_MESSAGE]})

    conversation: ConversationOut
    messages: list[ExportedMessage]
