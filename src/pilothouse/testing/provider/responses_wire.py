"""OpenAI's Responses, without server-side state: `previous_response_id` is not looked up.

Shapes: https://platform.openai.com/docs/api-reference/responses and its `responses-streaming` page.
"""

from collections.abc import Sequence
from typing import Any

from pilothouse.testing.provider.answer import NUMBER_SLOT, Answer, Call, Usage
from pilothouse.testing.provider.errors import FAKE_SECRET, openai_error, responses_error
from pilothouse.testing.provider.frames import Body, FrozenBody, dump
from pilothouse.testing.provider.openai_wire import CREATED, openai_models
from pilothouse.testing.provider.prompt import Prompt, PromptReader, mappings, text_of
from pilothouse.testing.provider.script import ErrorReply

_ID = f"resp_{NUMBER_SLOT}"
_HEAD_EVENTS = 2
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesWire:
    """Responses."""

    name = "openai-responses"

    def read(self, body: dict[str, Any], *, api_key: str, model: str | None) -> Prompt:
        reader = PromptReader(
            Prompt(
                model=str(body.get("model") or model or ""),
                stream=bool(body.get("stream")),
                api_key=api_key,
                offered_tools=frozenset(str(tool.get("name")) for tool in mappings(body.get("tools"))),
            )
        )
        if isinstance(body.get("instructions"), str):
            reader.system(body["instructions"])
        if isinstance(body.get("input"), str):
            reader.user(body["input"])
        for item in mappings(body.get("input")):
            _read_item(reader, item)
        return reader.finish()

    def body(self, answer: Answer, model: str) -> FrozenBody:  # noqa: ARG002 - only head and tail name it
        items = _ItemEncoder()
        if answer.reasoning:
            items.reasoning(answer.reasoning)
        if answer.text:
            items.text(answer.text)
        for call in answer.calls:
            items.call(call)
        return items.body.freeze()

    def head(self, prompt: Prompt, usage: Usage) -> bytes:  # noqa: ARG002 - this wire reports usage last
        response = _response(prompt, [], status="in_progress")
        return _event("response.created", 0, response=response) + _event("response.in_progress", 1, response=response)

    def tail(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        response = _finished(prompt, answer, usage)
        return _event(f"response.{response['status']}", _event_count(answer), response=response)

    def whole(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        return dump(_finished(prompt, answer, usage))

    def error(self, error: ErrorReply) -> bytes:
        return openai_error(error)

    def error_event(self, error: ErrorReply) -> bytes:
        return b"event: error\ndata: " + responses_error(error) + b"\n\n"

    def malformed_event(self) -> bytes:
        return f'event: response.output_text.delta\ndata: {{"item_id":"{FAKE_SECRET}","delta":\n\n'.encode()

    def models(self, names: Sequence[str]) -> bytes:
        return openai_models(names)


class _ItemEncoder:
    """Encodes output items one after the other, numbering all events."""

    def __init__(self) -> None:
        self.body = Body()
        self._number = _HEAD_EVENTS
        self._index = -1

    def reasoning(self, tokens: Sequence[str]) -> None:
        item = _reasoning_item("".join(tokens))
        where = {"item_id": item["id"], "summary_index": 0}
        part = item["summary"][0]
        self._open({**item, "summary": []})
        self._event("response.reasoning_summary_part.added", **where, part={**part, "text": ""})
        self._tokens("response.reasoning_summary_text.delta", tokens, **where)
        self._event("response.reasoning_summary_text.done", **where, text=part["text"])
        self._event("response.reasoning_summary_part.done", **where, part=part)
        self._event("response.output_item.done", item=item)

    def text(self, tokens: Sequence[str]) -> None:
        item = _message_item("".join(tokens))
        where = {"item_id": item["id"], "content_index": 0}
        part = item["content"][0]
        self._open({**item, "content": []})
        self._event("response.content_part.added", **where, part={**part, "text": ""})
        self._tokens("response.output_text.delta", tokens, **where, logprobs=[])
        self._event("response.output_text.done", **where, text=part["text"], logprobs=[])
        self._event("response.content_part.done", **where, part=part)
        self._event("response.output_item.done", item=item)

    def call(self, call: Call) -> None:
        item = _call_item(call)
        self._open({**item, "arguments": ""})
        self._tokens("response.function_call_arguments.delta", call.fragments, item_id=item["id"])
        kind = "response.function_call_arguments.done"
        self._event(kind, item_id=item["id"], name=call.name, arguments=call.arguments)
        self._event("response.output_item.done", item=item)

    def _open(self, item: dict[str, Any]) -> None:
        self._index += 1
        self._event("response.output_item.added", item={**item, "status": "in_progress"})

    def _tokens(self, kind: str, tokens: Sequence[str], **where: Any) -> None:
        for token in tokens:
            self.body.token(self._encode(kind, **where, delta=token))

    def _event(self, kind: str, **fields: Any) -> None:
        self.body.event(self._encode(kind, **fields))

    def _encode(self, kind: str, **fields: Any) -> bytes:
        data = _event(kind, self._number, output_index=self._index, **fields)
        self._number += 1
        return data


def _event(kind: str, number: int, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + dump({"type": kind, "sequence_number": number, **fields}) + b"\n\n"


def _event_count(answer: Answer) -> int:
    """How many events come before the tail: five around a text, three around a call, and the tokens."""
    texts = bool(answer.reasoning) + bool(answer.text)
    return _HEAD_EVENTS + answer.token_count + 5 * texts + 3 * len(answer.calls)


def _reasoning_item(text: str) -> dict[str, Any]:
    return {
        "id": f"rs_{NUMBER_SLOT}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}],
        "status": "completed",
    }


def _message_item(text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{NUMBER_SLOT}",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
        "status": "completed",
    }


def _call_item(call: Call) -> dict[str, Any]:
    return {
        "id": f"fc_{NUMBER_SLOT}_{call.position}",
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": "completed",
    }


def _response(prompt: Prompt, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "id": _ID,
        "object": "response",
        "created_at": CREATED,
        "model": prompt.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        **fields,
    }


def _finished(prompt: Prompt, answer: Answer, usage: Usage) -> dict[str, Any]:
    reason = _INCOMPLETE.get(answer.finish_reason)
    output = [_reasoning_item("".join(answer.reasoning))] if answer.reasoning else []
    output += [_message_item("".join(answer.text))] if answer.text else []
    output += [_call_item(call) for call in answer.calls]
    return _response(
        prompt,
        output,
        status="completed" if reason is None else "incomplete",
        incomplete_details=None if reason is None else {"reason": reason},
        usage={
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": len(answer.reasoning)},
            "total_tokens": usage.input + usage.output,
        },
    )


def _read_item(reader: PromptReader, item: dict[str, Any]) -> None:
    call_id = str(item.get("call_id"))
    match item.get("type", "message"), item.get("role"):
        case "message", "user":
            reader.user(text_of(item.get("content")))
        case "message", "system" | "developer":
            reader.system(text_of(item.get("content")))
        case "message", _:
            reader.assistant(text_of(item.get("content")))
        case "function_call", _:
            reader.tool_call(call_id, str(item.get("name")), str(item.get("arguments", "")))
        case "function_call_output", _:
            reader.tool_result(call_id, text_of(item.get("output")))
        case _:
            pass
