"""Anthropic's Messages.

Shapes: https://platform.claude.com/docs/en/api/messages and its `streaming` page.
"""

import json
from collections.abc import Sequence
from typing import Any

from pilothouse.testing.provider.answer import NUMBER_SLOT, Answer, Call, Usage
from pilothouse.testing.provider.errors import FAKE_SECRET, anthropic_error
from pilothouse.testing.provider.frames import Body, FrozenBody, dump
from pilothouse.testing.provider.prompt import Prompt, PromptReader, mappings, text_of
from pilothouse.testing.provider.script import ErrorReply

_ID = f"msg_{NUMBER_SLOT}"
_SIGNATURE = "c2NyaXB0ZWQtc2lnbmF0dXJl"
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class AnthropicWire:
    """Messages."""

    name = "anthropic"

    def read(self, body: dict[str, Any], *, api_key: str, model: str | None) -> Prompt:
        reader = PromptReader(
            Prompt(
                model=str(body.get("model") or model or ""),
                stream=bool(body.get("stream")),
                api_key=api_key,
                offered_tools=frozenset(str(tool.get("name")) for tool in mappings(body.get("tools"))),
            )
        )
        if "system" in body:
            reader.system(text_of(body["system"]))
        for message in mappings(body.get("messages")):
            _read_message(reader, message)
        return reader.finish()

    def body(self, answer: Answer, model: str) -> FrozenBody:  # noqa: ARG002 - only this wire's head names it
        blocks = _BlockEncoder()
        if answer.reasoning:
            blocks.add({"type": "thinking", "thinking": "", "signature": ""}, "thinking", answer.reasoning)
        if answer.text:
            blocks.add({"type": "text", "text": ""}, "text", answer.text)
        for call in answer.calls:
            start: dict[str, Any] = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            blocks.add(start, "partial_json", call.fragments)
        return blocks.body.freeze()

    def head(self, prompt: Prompt, usage: Usage) -> bytes:
        message = _message(prompt, [], stop_reason=None, usage=_usage(usage, output=1))
        return _event({"type": "message_start", "message": message}) + _PING

    def tail(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:  # noqa: ARG002 - as `body`
        delta = {"stop_reason": _STOP_REASONS[answer.finish_reason], "stop_sequence": None}
        counts = _usage(usage, output=usage.output)
        end = _event({"type": "message_delta", "delta": delta, "usage": counts})
        return end + _event({"type": "message_stop"})

    def whole(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            thinking = "".join(answer.reasoning)
            content.append({"type": "thinking", "thinking": thinking, "signature": _SIGNATURE})
        if answer.text:
            content.append({"type": "text", "text": "".join(answer.text)})
        content += [_whole_call(call) for call in answer.calls]
        reason = _STOP_REASONS[answer.finish_reason]
        return dump(_message(prompt, content, stop_reason=reason, usage=_usage(usage, output=usage.output)))

    def error(self, error: ErrorReply) -> bytes:
        return anthropic_error(error)

    def error_event(self, error: ErrorReply) -> bytes:
        return b"event: error\ndata: " + anthropic_error(error) + b"\n\n"

    def malformed_event(self) -> bytes:
        return f'event: content_block_delta\ndata: {{"type":"{FAKE_SECRET}","delta":\n\n'.encode()

    def models(self, names: Sequence[str]) -> bytes:
        data = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"} for name in names
        ]
        first, last = (names[0], names[-1]) if names else (None, None)
        return dump({"data": data, "has_more": False, "first_id": first, "last_id": last})


class _BlockEncoder:
    """Encodes content blocks one after the other."""

    def __init__(self) -> None:
        self.body = Body()
        self._index = 0

    def add(self, start: dict[str, Any], field: str, tokens: tuple[str, ...]) -> None:
        index = self._index
        self._index += 1
        self.body.event(_event({"type": "content_block_start", "index": index, "content_block": start}))
        kind = "input_json_delta" if field == "partial_json" else f"{field}_delta"
        for token in tokens:
            self.body.token(_delta(index, {"type": kind, field: token}))
        if field == "thinking":
            self.body.event(_delta(index, {"type": "signature_delta", "signature": _SIGNATURE}))
        self.body.event(_event({"type": "content_block_stop", "index": index}))


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: ".encode() + dump(data) + b"\n\n"


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_delta", "index": index, "delta": delta})


def _message(
    prompt: Prompt, content: list[dict[str, Any]], *, stop_reason: str | None, usage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": _ID,
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _usage(usage: Usage, *, output: int) -> dict[str, Any]:
    """This wire counts tokens read from the cache beside the input, not within it."""
    return {
        "input_tokens": max(0, usage.input - usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": output,
    }


def _whole_call(call: Call) -> dict[str, Any]:
    """Malformed arguments can't be an object, so they go out as the string they are."""
    try:
        arguments: Any = json.loads(call.arguments)
    except ValueError:
        arguments = call.arguments
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _read_message(reader: PromptReader, message: dict[str, Any]) -> None:
    from_user = message.get("role") == "user"
    say = reader.user if from_user else reader.assistant
    content = message.get("content")
    if isinstance(content, str):
        say(content)
        return
    texts: list[str] = []
    for block in mappings(content):
        match block.get("type"):
            case "text":
                texts.append(str(block.get("text", "")))
            case "tool_result":
                reader.tool_result(str(block.get("tool_use_id")), text_of(block.get("content")))
            case "tool_use":
                arguments = json.dumps(block.get("input"))
                reader.tool_call(str(block.get("id")), str(block.get("name")), arguments)
            case _:
                pass
    if texts or not from_user:
        say("\n".join(texts))
