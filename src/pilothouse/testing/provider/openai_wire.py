"""OpenAI's Chat Completions, as api.openai.com and Azure speak it.

Shapes: https://platform.openai.com/docs/api-reference/chat and its `streaming` page;
`reasoning_content` is the field that OpenAI-compatible servers add for reasoning.
"""

from collections.abc import Sequence
from typing import Any

from pilothouse.testing.provider.answer import NUMBER_SLOT, Answer, Call, Usage
from pilothouse.testing.provider.errors import FAKE_SECRET, openai_error
from pilothouse.testing.provider.frames import Body, FrozenBody, dump
from pilothouse.testing.provider.prompt import Prompt, PromptReader, mappings, text_of
from pilothouse.testing.provider.script import ErrorReply

CREATED = 1_760_000_000
_ID = f"chatcmpl-{NUMBER_SLOT}"


class OpenAIWire:
    """Chat Completions."""

    name = "openai"

    def read(self, body: dict[str, Any], *, api_key: str, model: str | None) -> Prompt:
        options: dict[str, Any] = body.get("stream_options") or {}
        tools = mappings(body.get("tools"))
        reader = PromptReader(
            Prompt(
                model=str(body.get("model") or model or ""),
                stream=bool(body.get("stream")),
                include_usage=bool(options.get("include_usage")),
                api_key=api_key,
                offered_tools=frozenset(_tool_name(tool) for tool in tools),
            )
        )
        for message in mappings(body.get("messages")):
            _read_message(reader, message)
        return reader.finish()

    def body(self, answer: Answer, model: str) -> FrozenBody:
        body = Body()
        chunk = _ChunkEncoder(model)
        for token in answer.reasoning:
            body.token(chunk.delta({"reasoning_content": token}))
        for token in answer.text:
            body.token(chunk.delta({"content": token}))
        for call in answer.calls:
            body.event(chunk.tool_call(call.position, {"id": call.id, "type": "function"}, call.name, ""))
            for fragment in call.fragments:
                body.token(chunk.tool_call(call.position, {}, None, fragment))
        return body.freeze()

    def head(self, prompt: Prompt, usage: Usage) -> bytes:  # noqa: ARG002 - this wire reports usage last
        return _ChunkEncoder(prompt.model).delta({"role": "assistant", "content": ""})

    def tail(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        chunk = _ChunkEncoder(prompt.model)
        finish = chunk.choices([{"index": 0, "delta": {}, "finish_reason": answer.finish_reason}])
        counts = chunk.choices([], usage=_usage(usage, answer)) if prompt.include_usage else b""
        return finish + counts + b"data: [DONE]\n\n"

    def whole(self, prompt: Prompt, answer: Answer, usage: Usage) -> bytes:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(answer.text) or None,
            "refusal": None,
        }
        if answer.reasoning:
            message["reasoning_content"] = "".join(answer.reasoning)
        if answer.calls:
            message["tool_calls"] = [_whole_call(call) for call in answer.calls]
        if message["content"] is None and not answer.calls:
            message["content"] = ""
        return dump(
            {
                "id": _ID,
                "object": "chat.completion",
                "created": CREATED,
                "model": prompt.model,
                "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
                "usage": _usage(usage, answer),
            }
        )

    def error(self, error: ErrorReply) -> bytes:
        return openai_error(error)

    def error_event(self, error: ErrorReply) -> bytes:
        return b"data: " + openai_error(error) + b"\n\n"

    def malformed_event(self) -> bytes:
        return f'data: {{"id":"{FAKE_SECRET}","choices":[{{"delta":\n\n'.encode()

    def models(self, names: Sequence[str]) -> bytes:
        return openai_models(names)


def openai_models(names: Sequence[str]) -> bytes:
    """The list of models, the same for both of OpenAI's wires."""
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"} for name in names]
    return dump({"object": "list", "data": data})


class _ChunkEncoder:
    """Encodes the chunks of one stream, which differ in little but their delta."""

    def __init__(self, model: str) -> None:
        fixed = {"id": _ID, "object": "chat.completion.chunk", "created": CREATED, "model": model}
        self._start = b"data: " + dump(fixed)[:-1]

    def delta(self, delta: dict[str, Any]) -> bytes:
        return self.choices([{"index": 0, "delta": delta, "finish_reason": None}])

    def tool_call(self, position: int, extra: dict[str, Any], name: str | None, arguments: str) -> bytes:
        function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
        return self.delta({"tool_calls": [{"index": position, **extra, "function": function}]})

    def choices(self, choices: list[dict[str, Any]], *, usage: dict[str, Any] | None = None) -> bytes:
        counts = b"" if usage is None else b',"usage":' + dump(usage)
        return self._start + b',"choices":' + dump(choices) + counts + b"}\n\n"


def _read_message(reader: PromptReader, message: dict[str, Any]) -> None:
    text = text_of(message.get("content"))
    match message.get("role"):
        case "system" | "developer":
            reader.system(text)
        case "user":
            reader.user(text)
        case "tool":
            reader.tool_result(str(message.get("tool_call_id")), text)
        case _:
            reader.assistant(text)
            for call in mappings(message.get("tool_calls")):
                function: dict[str, Any] = call.get("function") or {}
                reader.tool_call(str(call.get("id")), str(function.get("name")), str(function.get("arguments", "")))


def _tool_name(tool: dict[str, Any]) -> str:
    function: dict[str, Any] = tool.get("function") or {}
    return str(function.get("name"))


def _whole_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(usage: Usage, answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": len(answer.reasoning)},
    }
