"""What a client may send over a WebSocket. See docs/http.md."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from pilothouse.runs.schemas import ChatRequest


class MessageFrame(ChatRequest):
    """A message, as `POST /v1/chat/stream` takes it."""

    type: Literal["message"]
    idempotency_key: str | None = Field(
        default=None,
        description="As the header `Idempotency-Key`: a message that is sent again with its key makes no second run.",
    )

    def request(self, conversation_id: str | None) -> ChatRequest:
        """What `POST /v1/chat/stream` would be sent for it, in a conversation: a key means the same on both."""
        values = {name: getattr(self, name) for name in ChatRequest.model_fields}
        return ChatRequest.model_construct(None, **{**values, "conversation_id": conversation_id})


class CancelFrame(BaseModel):
    """Stop a run: by default the one this socket started last."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["cancel"]
    run_id: str | None = Field(default=None, max_length=40)


class ResumeFrame(BaseModel):
    """Follow a run from after an event."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["resume"]
    run_id: str = Field(max_length=40)
    after: str | None = Field(default=None, max_length=40)


class PingFrame(BaseModel):
    """Answered with `pong`."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["ping"]


Frame = MessageFrame | CancelFrame | ResumeFrame | PingFrame
FRAMES: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])
