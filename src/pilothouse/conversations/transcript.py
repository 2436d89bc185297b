"""Stored messages to Pydantic AI's and back.

A transcript is stored as what each step added: the user's message, each model response, each tool result. Rows of
tool results and feedback between two responses make up one `ModelRequest` again when they are loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ToolReturnPart,
)

Role = Literal["user", "assistant", "tool", "feedback"]


@dataclass(slots=True)
class StoredMessage:
    """One row of a transcript. `payload` is the JSON of one Pydantic AI `ModelMessage`."""

    turn: int
    seq: int
    run_id: str
    step: int
    role: Role
    call_id: str | None
    payload: str
    tokens: int
    pinned: bool
    created_at: int

    @property
    def key(self) -> str:
        """The message's place in its conversation, `turn.seq`."""
        return f"{self.turn}.{self.seq}"


def encode(message: ModelMessage) -> str:
    """The JSON of one message, without the list brackets."""
    return ModelMessagesTypeAdapter.dump_json([message])[1:-1].decode()


def decode(rows: Iterable[StoredMessage]) -> list[ModelMessage]:
    """The messages of rows, one for each, in the same order."""
    return ModelMessagesTypeAdapter.validate_json(f"[{','.join(row.payload for row in rows)}]")


def assemble(rows: Sequence[StoredMessage], messages: Sequence[ModelMessage] | None = None) -> list[ModelMessage]:
    """Rows in order to a history a model can be given: tool results follow the order of their calls.

    Calls without a result that the conversation has left behind get one that says so: providers refuse a history where
    one is missing. Calls of the last response may stay open.

    Args:
        rows: of the transcript.
        messages: of the rows, one for each, if they are decoded already; they are changed.
    """
    history: list[ModelMessage] = []
    order: dict[str, int] = {}
    for row, message in zip(rows, decode(rows) if messages is None else messages, strict=True):
        if isinstance(message, ModelResponse) or row.role == "user":
            _close_calls(history, order)
            order = {}
        if isinstance(message, ModelResponse):
            history.append(message)
            order = {call.tool_call_id: index for index, call in enumerate(message.tool_calls)}
        elif row.role in ("tool", "feedback") and history and isinstance(last := history[-1], ModelRequest):
            last.parts = _ordered([*last.parts, *message.parts], order)
        else:
            history.append(message)
    return history


def answered_calls(message: ModelRequest) -> set[str]:
    """The ids of the tool calls a request holds results of."""
    return {part.tool_call_id for part in message.parts if isinstance(part, ToolReturnPart)}


def split_open_tail(
    rows: Sequence[StoredMessage],
) -> tuple[list[StoredMessage], dict[str, StoredMessage]]:
    """Where the last response still waits for results of some of its calls, take the results it has apart.

    Returns:
        The rows to continue from (ending with that response), and its recorded results by call id. Where nothing
        is open: all rows, and no results.
    """
    last = max((i for i, row in enumerate(rows) if row.role == "assistant"), default=None)
    if last is None:
        return list(rows), {}
    [response] = decode(rows[last : last + 1])
    calls = {call.tool_call_id for call in response.tool_calls} if isinstance(response, ModelResponse) else set[str]()
    if any(row.role == "user" for row in rows[last:]):
        return list(rows), {}
    results = {_call_of(row): row for row in rows[last + 1 :] if row.role == "tool"} if calls else {}
    recorded = {call_id: row for call_id, row in results.items() if call_id in calls}
    if not calls - recorded.keys():
        return list(rows), {}
    return list(rows[: last + 1]), recorded


def _call_of(row: StoredMessage) -> str:
    """The call a row holds the result of. Turns that a fork has copied name it in the message only."""
    if row.call_id is not None:
        return row.call_id
    [message] = decode([row])
    return next((part.tool_call_id for part in message.parts if isinstance(part, ToolReturnPart)), "")


def _close_calls(history: list[ModelMessage], order: dict[str, int]) -> None:
    answered = set[str]()
    response = next((message for message in reversed(history) if isinstance(message, ModelResponse)), None)
    if not order or response is None:
        return
    if isinstance(last := history[-1], ModelRequest):
        answered = answered_calls(last)
    missing = [
        ToolReturnPart(
            call.tool_name,
            "The result of this call is not known.",
            tool_call_id=call.tool_call_id,
            outcome="interrupted",
        )
        for call in response.tool_calls
        if call.tool_call_id not in answered
    ]
    if missing and isinstance(last, ModelRequest):
        last.parts = _ordered([*last.parts, *missing], order)
    elif missing:
        history.append(ModelRequest(parts=missing))


def _ordered(parts: list[ModelRequestPart], order: dict[str, int]) -> list[ModelRequestPart]:
    """Results in the order of their calls; anything else keeps its place behind them."""
    return sorted(
        parts,
        key=lambda part: order.get(part.tool_call_id, len(order)) if isinstance(part, ToolReturnPart) else len(order),
    )
