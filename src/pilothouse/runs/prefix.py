"""What a fork keeps of a run: a prefix of its transcript, made whole (P7), as rows of another conversation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
)
from sqlalchemy.engine import Row

from pilothouse.conversations.transcript import StoredMessage, decode, encode
from pilothouse.kit.jsons import dumps
from pilothouse.llm.tokens import estimate_tokens
from pilothouse.runs.repository import step_values

Doubt = Literal["cancelled", "in_doubt"]
Settlement = Callable[[StoredMessage, ToolCallPart], Doubt]

_NOTES: Mapping[Doubt, str] = {
    "cancelled": "This call was not made: the run was forked before its result.",
    "in_doubt": "This call was started in the run this one was forked from; whether it took effect is not known.",
}


def made_whole(rows: Sequence[StoredMessage], settlement: Settlement) -> list[StoredMessage]:
    """The rows, with a result that says what is known for every call that has none, right behind its response.

    Args:
        settlement: of a call without a result, given the row of its response.
    """
    whole: list[StoredMessage] = []
    response: StoredMessage | None = None
    missing: dict[str, ToolCallPart] = {}
    for row, message in zip(rows, decode(rows), strict=True):
        if row.role in ("user", "assistant"):
            whole.extend(_settled(response, missing, settlement))
            response, missing = row, {}
            if isinstance(message, ModelResponse):
                missing = {call.tool_call_id: call for call in message.tool_calls}
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                missing.pop(part.tool_call_id, None)
        whole.append(row)
    return [*whole, *_settled(response, missing, settlement)]


def as_history(rows: Sequence[StoredMessage], *, first_turn: int) -> list[StoredMessage]:
    """Earlier turns as turns of another conversation: `first_turn` and on, in the same order.

    They keep naming the runs they come from; the call ids stay in the messages only, since a run has one row for each.
    """
    turns = {turn: number for number, turn in enumerate(dict.fromkeys(row.turn for row in rows), first_turn)}
    return _numbered(replace(row, turn=turns[row.turn], call_id=None) for row in rows)


def as_own(rows: Sequence[StoredMessage], *, turn: int, run_id: str) -> list[StoredMessage]:
    """A run's messages as those of another run."""
    return _numbered(replace(row, turn=turn, run_id=run_id) for row in rows)


def kept_steps(steps: Sequence[Row[Any]], last: int, run_id: str, now: int) -> list[dict[str, Any]]:
    """The steps of a kept prefix as steps of another run, which spent nothing on them: attempt 0."""
    kept: list[dict[str, Any]] = []
    for step in steps:
        if (step.number if step.kind == "model" else step.model_step) > last:
            continue
        values = step_values(step)
        values.update(run_id=run_id, attempt=0, input_tokens=None, output_tokens=None, cached_tokens=None)
        values.update(cost_nano_usd=None, first_token_ms=None)
        if values["finished_at"] is None:
            doubtful = step.state == "started" and step.effect != "pure"
            values.update(state="in_doubt" if doubtful else "cancelled", finished_at=now)
        kept.append(values)
    return kept


def doubt_by_steps(steps: Sequence[Row[Any]]) -> Settlement:
    """How calls without a result are settled, from the intent rows of their run."""
    states = {(step.model_step, step.call_id): step for step in steps if step.kind == "tool"}

    def settlement(response: StoredMessage, call: ToolCallPart) -> Doubt:
        step = states.get((response.step, call.tool_call_id))
        started = step is not None and step.state == "started" and step.effect != "pure"
        return "in_doubt" if started else "cancelled"

    return settlement


def never_known(_response: StoredMessage, _call: ToolCallPart) -> Doubt:
    """The settlement where nothing is known but that there is no result."""
    return "in_doubt"


def reworded(row: StoredMessage, text: str) -> StoredMessage:
    """A user's message with another text; what was attached stays."""
    [message] = decode([row])
    content: list[UserContent] = [text, *_attachments(message)]
    payload = encode(ModelRequest(parts=[UserPromptPart(content if len(content) > 1 else text)]))
    [old] = [part for part in message.parts if isinstance(part, UserPromptPart)]
    had = sum(estimate_tokens(item) for item in _items(old) if isinstance(item, str))
    return replace(row, payload=payload, tokens=max(row.tokens - had, 0) + estimate_tokens(text), pinned=False)


def user_row(text: str, *, turn: int, run_id: str, now: int) -> StoredMessage:
    """A user's message as the first of a run."""
    payload = encode(ModelRequest(parts=[UserPromptPart(text)]))
    return StoredMessage(turn, 1, run_id, 0, "user", None, payload, estimate_tokens(text), pinned=False, created_at=now)


def _settled(
    response: StoredMessage | None, missing: Mapping[str, ToolCallPart], settlement: Settlement
) -> list[StoredMessage]:
    if response is None:
        return []
    return [_settle(response, call, settlement(response, call)) for call in missing.values()]


def _settle(response: StoredMessage, call: ToolCallPart, doubt: Doubt) -> StoredMessage:
    content = {"error": {"type": doubt, "message": _NOTES[doubt], "retryable": False}}
    part = ToolReturnPart(call.tool_name, content, tool_call_id=call.tool_call_id, outcome="interrupted")
    return replace(
        response,
        role="tool",
        call_id=call.tool_call_id,
        payload=encode(ModelRequest(parts=[part])),
        tokens=estimate_tokens(dumps(content)),
        pinned=False,
    )


def _numbered(rows: Any) -> list[StoredMessage]:
    numbered: list[StoredMessage] = []
    for row in rows:
        same = bool(numbered) and numbered[-1].turn == row.turn
        numbered.append(replace(row, seq=numbered[-1].seq + 1 if same else 1))
    return numbered


def _attachments(message: ModelMessage) -> list[Any]:
    parts = [part for part in message.parts if isinstance(part, UserPromptPart)]
    return [item for part in parts for item in _items(part) if not isinstance(item, str)]


def _items(part: UserPromptPart) -> list[Any]:
    return [part.content] if isinstance(part.content, str) else list(part.content)
