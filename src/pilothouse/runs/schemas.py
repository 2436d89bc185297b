"""What chat and run requests and answers look like on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from pilothouse.conversations.attachments import MEDIA_TYPE_PATTERN, MOST_NAME_CHARS
from pilothouse.conversations.schemas import is_finite_json
from pilothouse.kit.jsons import dumps
from pilothouse.runs.approval_schemas import WaitingCall
from pilothouse.runs.states import OnBusy, RunKind, RunState

MOST_MESSAGE_CHARS = 10_000
MOST_CONTEXT_BYTES = 32_768
MOST_ATTACHMENTS = 10

_RUN = "run_01kb2m9w4c8t5v3q7r1x6y0z2a"
_CONVERSATION = "conv_01kb2m9w4c8t5v3q7r1x6y0z2b"
_USAGE = {"input_tokens": 310, "output_tokens": 18, "cached_tokens": 0}
_RUN_EXAMPLE: dict[str, Any] = {
    "id": _RUN,
    "conversation_id": _CONVERSATION,
    "agent": "support",
    "kind": "chat",
    "state": "completed",
    "attempt": 1,
    "model": "gpt-5.2",
    "prompt": {"name": "support", "version": "3", "hash": "9f2c41d07be85a36"},
    "text": "It ships tomorrow.",
    "output": None,
    "error": None,
    "usage": _USAGE,
    "cost_usd": "0.000842",
    "cut": None,
    "step_count": 1,
    "forked_from": None,
    "cancel_requested": False,
    "created_at": "2026-11-02T08:30:00.000+00:00",
    "started_at": "2026-11-02T08:30:00.000+00:00",
    "finished_at": "2026-11-02T08:30:00.950+00:00",
    "duration_ms": 950,
}
_STEP_EXAMPLE: dict[str, Any] = {
    "number": 1,
    "kind": "model",
    "name": "gpt-5.2",
    "state": "completed",
    "attempt": 1,
    "call_id": None,
    "effect": None,
    "arguments": None,
    "result": None,
    "text": "It ships tomorrow.",
    "reasoning": None,
    "error_code": None,
    "input_tokens": 310,
    "output_tokens": 18,
    "cached_tokens": 0,
    "cost_usd": "0.000842",
    "first_token_ms": 240,
    "started_at": "2026-11-02T08:30:00.010+00:00",
    "finished_at": "2026-11-02T08:30:00.940+00:00",
    "duration_ms": 930,
}


def _example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


Id = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z]+_[0-9a-z]+$")]


def not_blank(message: str) -> str:
    """The message, which says something."""
    if not message.strip():
        raise ValueError("a message has at least one character that is not a space")
    return message


class AttachmentIn(BaseModel):
    """An image, a PDF or a text. It is decoded and checked behind the schema, off the event loop."""

    model_config = ConfigDict(extra="forbid")

    media_type: str = Field(
        pattern=MEDIA_TYPE_PATTERN,
        examples=["image/png"],
        description="image/png, jpeg, gif or webp; application/pdf; text/plain, markdown, csv or html, these with a "
        "charset if it is not UTF-8: text/csv; charset=windows-1251.",
    )
    data: Annotated[str, WithJsonSchema({"type": "string", "format": "base64"})] = Field(
        description="The bytes, base64."
    )
    name: str | None = Field(default=None, max_length=MOST_NAME_CHARS, description="Of the file, without its folder.")


class ChatRequest(BaseModel):
    """A message to an agent."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"message": "Where is order 1042?", "agent": "support"}]},
    )

    message: str = Field(min_length=1, max_length=MOST_MESSAGE_CHARS, description="Text, 1 to 10,000 characters.")
    agent: str | None = Field(
        default=None,
        max_length=128,
        description="Which agent. Left out: the conversation's, or the server's only or default one.",
    )
    conversation_id: Id | None = Field(default=None, description="Left out: a new conversation begins.")
    context: dict[str, Any] = Field(
        default_factory=dict[str, Any],
        description="Facts from your application, for the prompt's variables and the agent's dependencies. "
        "32 KiB of JSON at most.",
    )
    attachments: list[AttachmentIn] = Field(default_factory=list[AttachmentIn], max_length=MOST_ATTACHMENTS)
    on_busy: OnBusy = Field(
        default="reject", description="What to do where a run is active in the conversation: see the guide."
    )
    on_disconnect: Literal["continue", "cancel"] = Field(
        default="continue", description="Whether the run goes on when you leave before its end."
    )

    @field_validator("message")
    @classmethod
    def _not_blank(cls, message: str) -> str:
        return not_blank(message)

    @field_validator("context")
    @classmethod
    def _bounded(cls, context: dict[str, Any]) -> dict[str, Any]:
        if context and not is_finite_json(context):
            raise ValueError("context holds a number JSON has no word for, such as NaN")
        if len(dumps(context)) > MOST_CONTEXT_BYTES:
            raise ValueError(f"context is at most {MOST_CONTEXT_BYTES} bytes of JSON")
        return context


class Usage(BaseModel):
    """Tokens, as the provider counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int


class ToolUseOut(BaseModel):
    """A tool call of the run."""

    name: str
    arguments: Any
    status: Literal["ok", "error", "cancelled", "in_doubt"]
    result: str = Field(description="The result, shortened to one line.")
    duration_ms: int
    call_id: str


class FailureOut(BaseModel):
    """Why a run failed."""

    code: str
    message: str
    category: Literal["transient", "model", "tool", "logic", "fatal"]
    retryable: bool


class ChatAnswer(BaseModel):
    """The whole answer to a message."""

    model_config = _example(
        {
            "run_id": _RUN,
            "conversation_id": _CONVERSATION,
            "agent": "support",
            "state": "completed",
            "text": "It ships tomorrow.",
            "output": None,
            "model": "gpt-5.2",
            "tools": [
                {
                    "name": "order_lookup",
                    "arguments": {"order_id": "1042"},
                    "status": "ok",
                    "result": '{"status":"packed"}',
                    "duration_ms": 12,
                    "call_id": "call_7k2m",
                }
            ],
            "usage": _USAGE,
            "cost_usd": "0.000842",
            "latency_ms": 950,
            "error": None,
        }
    )

    run_id: str
    conversation_id: str
    agent: str
    state: RunState
    text: str
    output: Any = Field(description="The validated JSON of an agent with a structured output type, else null.")
    model: str | None
    tools: list[ToolUseOut]
    usage: Usage
    cost_usd: str | None = Field(description="A decimal number of dollars, or null where the price is not known.")
    latency_ms: int
    error: FailureOut | None = None


class StepOut(BaseModel):
    """One model request or tool call of a run."""

    number: int
    kind: Literal["model", "tool"]
    name: str
    state: str
    attempt: int
    call_id: str | None
    effect: str | None
    arguments: Any
    result: str | None
    text: str | None
    reasoning: str | None
    error_code: str | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost_usd: str | None
    first_token_ms: int | None
    started_at: str
    finished_at: str | None
    duration_ms: int | None


class RunOut(BaseModel):
    """A run."""

    model_config = _example(_RUN_EXAMPLE)

    id: str
    conversation_id: str
    agent: str
    kind: RunKind
    state: RunState
    attempt: int
    model: str | None
    prompt: dict[str, str | None] | None = Field(description="Name, version and hash of the prompt that was used.")
    text: str | None
    output: Any
    error: FailureOut | None
    usage: Usage
    cost_usd: str | None
    cut: dict[str, int] | None = Field(description="What of the history did not fit into the model's window.")
    step_count: int
    forked_from: str | None
    cancel_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None
    duration_ms: int | None


class RunDetail(RunOut):
    """A run with its steps."""

    model_config = _example(
        {**_RUN_EXAMPLE, "message": "Where is order 1042?", "steps": [_STEP_EXAMPLE], "waiting": []}
    )

    message: str
    steps: list[StepOut]
    waiting: list[WaitingCall] = Field(description="The calls that wait for a person.")


class EventOut(BaseModel):
    """One event of a run's log."""

    id: str
    type: str
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events so far."""

    model_config = _example(
        {
            "items": [
                {"id": "1-1", "type": "run.queued", "data": {"conversation_id": _CONVERSATION, "agent": "support"}}
            ],
            "last_id": "1-1",
        }
    )

    items: list[EventOut]
    last_id: str | None


class ReleaseOut(BaseModel):
    """A parked run that goes on. Nothing of what it says: it may be somebody else's."""

    run_id: str
    state: RunState


class CancelOut(BaseModel):
    """What became of a request to stop a run."""

    model_config = _example(
        {
            "run_id": _RUN,
            "state": "cancelled",
            "took_effect": [{"tool": "refund", "call_id": "call_7k2m", "status": "ok"}],
            "already_finished": False,
        }
    )

    run_id: str
    state: RunState
    took_effect: list[dict[str, str]] = Field(
        description="Calls of tools that change things, which were made (`ok`) or may have been (`in_doubt`)."
    )
    already_finished: bool


class ForkIn(BaseModel):
    """How to begin a run again."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"from_step": 1, "message": "And when does it arrive?", "model": None}]},
    )

    from_step: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Keep everything up to this model step and the results of its calls. 0 or null: only the user's "
        "message.",
    )
    message: str | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_MESSAGE_CHARS,
        description="From the beginning: instead of the user's message. After a step: what the user says next.",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Another model: one the agent is served with, or provider:name of a provider with a key.",
    )
    agent: str | None = Field(default=None, max_length=128, description="Another agent.")

    @field_validator("message")
    @classmethod
    def _not_blank(cls, message: str | None) -> str | None:
        return None if message is None else not_blank(message)
