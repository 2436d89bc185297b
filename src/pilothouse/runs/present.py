"""Stored runs to what callers see."""

from typing import Any

from pydantic_ai.messages import ModelResponse
from sqlalchemy.engine import Row

from pilothouse.conversations.present import iso, reasoning_of, response_text, result_text, user_text
from pilothouse.conversations.transcript import decode
from pilothouse.kit.jsons import loads
from pilothouse.runs.approvals import AskedCall, waiting_calls
from pilothouse.runs.attempt import Outcome
from pilothouse.runs.service import RunView
from pilothouse.tools.results import summarize
from pilothouse.usage.prices import format_usd


def run_document(row: Row[Any]) -> dict[str, Any]:
    """A `RunOut`."""
    stored: dict[str, Any] = loads(row.output) if row.output else {}
    return {
        "id": row.id,
        "conversation_id": row.conversation_id,
        "agent": row.agent,
        "kind": row.kind,
        "state": row.state,
        "attempt": row.attempt,
        "model": row.model,
        "prompt": {"name": row.prompt_name, "version": row.prompt_version, "hash": row.prompt_hash}
        if row.prompt_name
        else None,
        "text": stored.get("text"),
        "output": stored.get("output"),
        "error": _failure(row.error),
        "usage": _usage(row),
        "cost_usd": format_usd(row.cost_nano_usd),
        "cut": row.cut,
        "step_count": row.steps,
        "forked_from": row.forked_from,
        "cancel_requested": row.cancel_requested_at is not None,
        "created_at": iso(row.created_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "duration_ms": _between(row.started_at, row.finished_at),
    }


def run_detail(view: RunView) -> dict[str, Any]:
    """A `RunDetail`."""
    messages = decode(view.messages)
    by_step: dict[int, ModelResponse] = {}
    results: dict[tuple[int, str], str] = {}
    prompt = ""
    for row, message in zip(view.messages, messages, strict=True):
        if isinstance(message, ModelResponse):
            by_step[row.step] = message
        elif row.role == "user":
            prompt = user_text(message)
        elif row.call_id is not None:
            results[(row.step, row.call_id)] = result_text(message)
    steps = [_step(step, by_step.get(step.number), results) for step in view.steps]
    waiting = [waiting_document(call) for call in waiting_calls(view.steps)]
    return {**run_document(view.row), "message": prompt, "steps": steps, "waiting": waiting}


def waiting_document(call: AskedCall) -> dict[str, Any]:
    """A `WaitingCall`."""
    step = call.step
    return {
        "step": step.number,
        "call_id": step.call_id,
        "name": step.name,
        "arguments": _json_or_text(step.arguments),
        "effect": step.effect,
        **call.terms,
    }


def chat_answer(view: RunView) -> dict[str, Any]:
    """A `ChatAnswer` from what is stored."""
    row = view.row
    detail = run_detail(view)
    finished = row.finished_at or row.started_at or row.created_at
    return {
        "run_id": row.id,
        "conversation_id": row.conversation_id,
        "agent": row.agent,
        "state": row.state,
        "text": detail["text"] or "",
        "output": detail["output"],
        "model": row.model,
        "tools": [
            {
                "name": step["name"],
                "arguments": step["arguments"],
                "status": tool_status(step["state"]),
                "result": summarize(step["result"] or ""),
                "duration_ms": step["duration_ms"] or 0,
                "call_id": step["call_id"],
            }
            for step in detail["steps"]
            if step["kind"] == "tool" and step["finished_at"]
        ],
        "usage": _usage(row),
        "cost_usd": format_usd(row.cost_nano_usd),
        "latency_ms": finished - row.created_at,
        "error": _failure(row.error),
    }


def chat_answer_of(
    outcome: Outcome, *, run_id: str, conversation_id: str, agent: str, latency_ms: int
) -> dict[str, Any]:
    """A `ChatAnswer` from memory: what `chat_answer` gives, without reading it back."""
    return {
        "run_id": run_id,
        "conversation_id": conversation_id,
        "agent": agent,
        "state": outcome.state,
        "text": outcome.text,
        "output": outcome.output,
        "model": outcome.model,
        "tools": [
            {
                "name": use.name,
                "arguments": use.arguments,
                "status": use.status,
                "result": use.result,
                "duration_ms": use.duration_ms,
                "call_id": use.call_id,
            }
            for use in outcome.tools
        ],
        "usage": outcome.totals.as_usage(),
        "cost_usd": format_usd(outcome.totals.cost_nano_usd),
        "latency_ms": latency_ms,
        "error": _failure(outcome.error),
    }


def tool_status(state: str) -> str:
    """A tool step's state as `tool.finished` tells it."""
    return {"completed": "ok", "cancelled": "cancelled", "in_doubt": "in_doubt"}.get(state, "error")


def _step(step: Row[Any], response: ModelResponse | None, results: dict[tuple[int, str], str]) -> dict[str, Any]:
    return {
        "number": step.number,
        "kind": step.kind,
        "name": step.name,
        "state": step.state,
        "attempt": step.attempt,
        "call_id": step.call_id,
        "effect": step.effect,
        "arguments": _json_or_text(step.arguments),
        "result": results.get((step.model_step, step.call_id)) if step.kind == "tool" else None,
        "text": response_text(response) if response else None,
        "reasoning": reasoning_of(response) if response else None,
        "error_code": step.error_code,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "cached_tokens": step.cached_tokens,
        "cost_usd": format_usd(step.cost_nano_usd),
        "first_token_ms": step.first_token_ms,
        "started_at": iso(step.started_at),
        "finished_at": iso(step.finished_at),
        "duration_ms": _between(step.started_at, step.finished_at),
    }


def _json_or_text(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return loads(text)
    except ValueError:
        return text


def _usage(row: Row[Any]) -> dict[str, int]:
    return {
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cached_tokens": row.cached_tokens,
    }


def _failure(error: dict[str, Any] | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {name: error[name] for name in ("code", "message", "category", "retryable")}


def _between(start: int | None, end: int | None) -> int | None:
    # The start may be the database's time and the end this machine's.
    return None if start is None or end is None else max(0, end - start)
