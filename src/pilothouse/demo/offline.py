"""A model that is a script: needs no network and no key, says so in every answer, and really calls the tools."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from pilothouse.demo import script
from pilothouse.kit.ids import new_id
from pilothouse.kit.jsons import dumps, loads

_CHARS_A_TOKEN = 4


class OfflineModel(Model[None]):
    """The scripted model of the demo.

    Args:
        delay_seconds: pause before each streamed word, so that streaming can be seen.
    """

    def __init__(self, *, delay_seconds: float = 0.02) -> None:
        super().__init__()
        self._delay = delay_seconds

    @property
    def model_name(self) -> str:
        return "demo"

    @property
    def system(self) -> str:
        return "offline"

    @property
    def provider(self) -> None:
        return None

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        parts = _respond(messages, parameters)
        return ModelResponse(
            parts=parts,
            usage=_usage(messages, parts),
            model_name=self.model_name,
            provider_name=self.system,
            finish_reason="tool_call" if isinstance(parts[0], ToolCallPart) else "stop",
        )

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,  # noqa: ARG002 - Pydantic AI's signature
    ) -> AsyncGenerator[StreamedResponse]:
        _, parameters = self.prepare_request(model_settings, model_request_parameters)
        yield _OfflineStream(
            model_request_parameters=parameters,
            messages=messages,
            parts=_respond(messages, parameters),
            delay=self._delay,
        )


@dataclass
class _OfflineStream(StreamedResponse):
    messages: list[ModelMessage]
    parts: list[ModelResponsePart]
    delay: float
    _started: datetime = field(default_factory=lambda: datetime.now(UTC), init=False)

    async def _get_event_iterator(self) -> AsyncIterator[ModelResponseStreamEvent]:
        whole = _usage(self.messages, self.parts)
        self._usage = RequestUsage(input_tokens=whole.input_tokens)
        for index, part in enumerate(self.parts):
            if isinstance(part, ToolCallPart):
                yield self._parts_manager.handle_tool_call_part(
                    vendor_part_id=index,
                    tool_name=part.tool_name,
                    args=part.args_as_json_str(),
                    tool_call_id=part.tool_call_id,
                )
            elif isinstance(part, TextPart):
                for word in re.findall(r"\s*+\S++|\s++", part.content):
                    await asyncio.sleep(self.delay)
                    for event in self._parts_manager.handle_text_delta(vendor_part_id=index, content=word):
                        yield event
        self._usage = whole
        self.finish_reason = "tool_call" if isinstance(self.parts[0], ToolCallPart) else "stop"

    async def close_stream(self) -> None:
        return  # nothing is connected

    @property
    def model_name(self) -> str:
        return "demo"

    @property
    def provider_name(self) -> str:
        return "offline"

    @property
    def provider_url(self) -> None:
        return None

    @property
    def timestamp(self) -> datetime:
        return self._started


def _respond(messages: list[ModelMessage], parameters: ModelRequestParameters) -> list[ModelResponsePart]:
    if not parameters.allow_text_output:
        raise UserError("The offline demo model answers in text; this agent needs a real model.")
    parts = [part for message in messages for part in message.parts]
    spoken = [index for index, part in enumerate(parts) if isinstance(part, UserPromptPart)]
    said = [_text(part) for part in parts if isinstance(part, UserPromptPart)]
    message = said[-1] if said else ""
    # A request can open with the results of older calls and end with what the person says now.
    results = _results(parts[spoken[-1] + 1 :] if spoken else parts)
    if results:
        return [TextPart(script.answer(message, results))]
    planned = script.plan(message, said[:-1])
    if isinstance(planned, str):
        return [TextPart(planned)]
    missing = {call.name for call in planned} - set(parameters.tool_defs)
    if missing:
        return [TextPart(f"{script.NAME}: this agent has no tool `{min(missing)}`, so I can't do that.")]
    return [ToolCallPart(call.name, dumps(call.arguments), tool_call_id=new_id("call")) for call in planned]


def _text(part: UserPromptPart) -> str:
    content = [part.content] if isinstance(part.content, str) else part.content
    return " ".join(item for item in content if isinstance(item, str))


def _results(parts: Sequence[ModelRequestPart | ModelResponsePart]) -> list[script.Result]:
    found: list[script.Result] = []
    for part in parts:
        if isinstance(part, ToolReturnPart):
            value = _value(part.content)
            if part.outcome != "success" and not isinstance(value, dict):
                value = {"error": {"message": str(value)}}
            found.append(script.Result(part.tool_name, value))
    return found


def _value(content: object) -> Any:
    """Results travel as values or as their JSON text."""
    if isinstance(content, str):
        try:
            return loads(content)
        except ValueError:
            return content
    return content


def _usage(messages: list[ModelMessage], parts: list[ModelResponsePart]) -> RequestUsage:
    """Characters over four, as a rough count of tokens."""
    read = sum(len(str(getattr(part, "content", ""))) for message in messages for part in message.parts)
    written = sum(len(part.content if isinstance(part, TextPart) else dumps(part)) for part in parts)
    return RequestUsage(input_tokens=1 + read // _CHARS_A_TOKEN, output_tokens=1 + written // _CHARS_A_TOKEN)
