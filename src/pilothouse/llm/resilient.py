"""A model that streams to the sink, tries again what may yet work, and then falls back to other models."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from pilothouse.errors import RunFailure
from pilothouse.llm import failures
from pilothouse.llm.bounds import AnswerLimits, AnswerMeter
from pilothouse.llm.deltas import DeltaSink, ResponseNote, StreamTrace, current_note, current_sink, current_trace
from pilothouse.llm.emptiness import is_empty, may_be_empty

__all__ = ["ResilientModel", "Retries"]

# Asks the SDK mapping for what merged chunks no longer tell apart.
_NEEDS_EVERY_CHUNK = "openai_include_unmapped_response_data"
# Of events that were all here already; each costs up to a millisecond of the event loop.
_EVENTS_AT_A_TIME = 16


@dataclass(frozen=True)
class Retries:
    """How often and after which waits a transient failure is tried again.

    Waits double from `first_seconds` to `longest_seconds`, each with full jitter
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). `sleep`, `clock` (seconds, monotonic)
    and `jitter` (a number from 0 to 1) are there for tests.
    """

    attempts: int = 4
    first_seconds: float = 0.5
    longest_seconds: float = 20
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] | None = None
    jitter: Callable[[], float] = random.random

    def now(self) -> float:
        """Seconds by the clock."""
        return self.clock() if self.clock is not None else asyncio.get_running_loop().time()

    def wait_after(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after a failed try; not less than the provider asked for."""
        longest = min(self.longest_seconds, self.first_seconds * 2 ** (attempt - 1))
        return max(asked or 0.0, longest * self.jitter())


class ResilientModel(WrapperModel):
    """The wrapped model with retries, fallback models and a time limit.

    A try may take `timeout_seconds`, and no further try of the same model begins later than that after its first. An
    answer without content counts as a failed try, one that passes `limits` ends the call.
    """

    def __init__(
        self,
        wrapped: Model,
        *,
        fallback: Sequence[Model] = (),
        retries: Retries | None = None,
        timeout_seconds: float | None = None,
        limits: AnswerLimits | None = None,
    ) -> None:
        super().__init__(wrapped)
        self._fallback = tuple(fallback)
        self._retries = retries or Retries()
        self._timeout_seconds = timeout_seconds
        self._limits = limits or AnswerLimits()

    @property
    def fallback(self) -> tuple[Model, ...]:
        """The models asked after this one, in order."""
        return self._fallback

    def prepare_messages(
        self, messages: list[ModelMessage], model_request_parameters: ModelRequestParameters | None = None
    ) -> list[ModelMessage]:
        """As the wrapped model; with fallback models each prepares the messages for itself, when it is asked."""
        if self._fallback:
            return messages
        return self.wrapped.prepare_messages(messages, model_request_parameters)

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The model's whole answer, streamed to `current_sink` meanwhile, if one is set.

        Raises:
            RunFailure: no model answered; the failure is that of the last one asked.
        """
        models = (self.wrapped, *self._fallback)
        for model in models:
            prepared = messages
            if self._fallback:
                prepared = model.prepare_messages(messages, model_request_parameters)
            call = _Call(
                model, prepared, model_settings, model_request_parameters, retries=self._retries, limits=self._limits
            )
            try:
                return await call.answer(self._timeout_seconds)
            except RunFailure as failure:
                if model is models[-1] or not failures.falls_back(failure):
                    raise
                call.withdraw(failure)
        raise AssertionError("unreachable: the last model returns or raises")

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """The wrapped model's stream as it is: one try, nothing given to the sink.

        Raises:
            RunFailure: the model failed.
        """
        if self._fallback:
            messages = self.wrapped.prepare_messages(messages, model_request_parameters)
        stream = self.wrapped.request_stream(messages, model_settings, model_request_parameters, run_context)
        try:
            async with stream as response:
                yield response
        except (ModelAPIError, httpx2.TransportError) as error:
            raise failures.classify(error) or error from error


class _Call:
    """One model asked, as often as it takes."""

    def __init__(
        self,
        model: Model,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        parameters: ModelRequestParameters,
        *,
        retries: Retries,
        limits: AnswerLimits,
    ) -> None:
        self._model = model
        self._messages = messages
        self._settings = model_settings
        self._parameters = parameters
        self._retries = retries
        self._limits = limits
        self._sink = current_sink.get()
        self._trace: StreamTrace | None = None

    async def answer(self, timeout_seconds: float | None) -> ModelResponse:
        begun = self._retries.now()
        for attempt in range(1, self._retries.attempts + 1):
            try:
                return await self._try(timeout_seconds)
            except RunFailure as failure:
                if not failures.is_tried_again(failure) or attempt == self._retries.attempts:
                    raise
                wait = self._retries.wait_after(attempt, failure.extra.get("retry_after"))
                if timeout_seconds is not None and self._retries.now() + wait - begun >= timeout_seconds:
                    raise
                self.withdraw(failure)
                await self._retries.sleep(wait)
        raise AssertionError("unreachable: the last try returns or raises")

    def withdraw(self, failure: RunFailure) -> None:
        """Tell the sink that what the failed try has given it counts no more."""
        if self._sink is not None and self._trace is not None and self._trace.published:
            self._trace.published = False
            self._sink.restarted(failure.code)

    async def _try(self, timeout_seconds: float | None) -> ModelResponse:
        self._trace = None
        note = ResponseNote()
        token = current_note.set(note)
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._request()
        except TimeoutError as error:
            raise failures.provider_timeout() from error
        except Exception as error:
            failure = failures.classify(error, self._trace, received=note.received)
            if failure is None or failure is error:
                raise
            raise failure from error
        finally:
            current_note.reset(token)
        _check(response)
        await asyncio.sleep(0)
        return response

    async def _request(self) -> ModelResponse:
        sink = self._sink
        if sink is not None and _can_stream(self._model):
            try:
                return await self._stream(sink)
            except NotImplementedError:
                self._trace = None
        response = await self._model.request(self._messages, self._settings, self._parameters)
        AnswerMeter(self._limits).whole(response.parts)
        if sink is not None:
            self._publish_whole(sink, response)
        return response

    async def _stream(self, sink: DeltaSink) -> ModelResponse:
        merge = not (self._settings or {}).get(_NEEDS_EVERY_CHUNK)
        meter = AnswerMeter(self._limits)
        trace = self._trace = StreamTrace(sink, merge=merge, count=meter.text)
        token = current_trace.set(trace)
        try:
            async with self._model.request_stream(self._messages, self._settings, self._parameters) as stream:
                number = 0
                async for event in stream:
                    meter.event(event)
                    if not trace.short_way:
                        _publish_event(trace, event)
                    number += 1
                    if not number % _EVENTS_AT_A_TIME:
                        await asyncio.sleep(0)
        finally:
            current_trace.reset(token)
        # Putting a large answer together takes as long as handling its last events: others get their turn in between.
        await asyncio.sleep(0)
        return stream.get()

    def _publish_whole(self, sink: DeltaSink, response: ModelResponse) -> None:
        trace = self._trace = StreamTrace(sink)
        trace.first_byte()
        trace.publish("reasoning", "".join(part.content for part in response.parts if isinstance(part, ThinkingPart)))
        trace.publish("text", "".join(part.content for part in response.parts if isinstance(part, TextPart)))


def _check(response: ModelResponse) -> None:
    """Raises `RunFailure` for an answer that arrived, but is none."""
    if response.state == "incomplete":
        raise failures.stream_cut()
    if response.finish_reason == "content_filter" and not response.parts:
        raise failures.content_filtered()
    if (response.provider_details or {}).get("finish_reason") == "failed":
        raise failures.provider_failed()
    if is_empty(response) and not may_be_empty.get():
        raise failures.empty_answer()


def _can_stream(model: Model) -> bool:
    # Other models that can't raise NotImplementedError.
    return not isinstance(model, FunctionModel) or model.stream_function is not None


def _publish_event(trace: StreamTrace, event: ModelResponseStreamEvent) -> None:
    trace.first_byte()
    match event:
        case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            trace.publish("text", text)
        case PartStartEvent(part=ThinkingPart(content=text)):
            trace.publish("reasoning", text)
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(text))):
            trace.publish("reasoning", text)
        case _:
            pass
