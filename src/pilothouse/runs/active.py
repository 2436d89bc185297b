"""A run while it executes: what it has done so far, and how each thing it does is recorded."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from sqlalchemy import Connection

from pilothouse.agents.registry import ServedAgent
from pilothouse.conversations.present import arguments_of, call_document, reasoning_of, response_text
from pilothouse.conversations.transcript import StoredMessage, encode
from pilothouse.db.values import column_count, column_text, encodable
from pilothouse.engine.leases import Ownership
from pilothouse.errors import PilothouseError, RunFailure
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.jsons import canonical_hash, dumps
from pilothouse.llm.guard import RequestStopped
from pilothouse.llm.tokens import estimate_tokens
from pilothouse.runs.clean import encode_response
from pilothouse.runs.errors import HandOver, stalled
from pilothouse.runs.journal import Journal
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.results import summarize
from pilothouse.usage.prices import cost_nano_usd, format_usd

Lapsed = Callable[[Principal], Awaitable[Literal["expired", "revoked"] | None]]
"""Why the credential that a principal came with is no longer good; None: it is."""


async def never_lapsed(_principal: Principal) -> None:
    """Every credential is good for ever."""


@dataclass(slots=True)
class Totals:
    """Tokens and cost of a run so far. `cost_nano_usd` is None once a response's price was unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nano_usd: int | None = 0

    def as_usage(self) -> dict[str, int]:
        """The token counts, as answers and events carry them."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
        }


@dataclass(slots=True)
class OpenCall:
    """A tool call of the last response that has no recorded result."""

    call: ToolCallPart
    model_step: int
    tool_step: int | None = None
    state: Literal["new", "started", "waiting", "approved", "denied", "in_doubt"] = "new"
    effect: str = "once"
    tries: int = 0
    doubtful: bool = False  # an earlier attempt started it, and nobody knows how that ended
    asks: bool = False  # the tool itself, or a toolset around it, asks for a person's approval
    approval: str | None = None  # as its step holds it: on what terms a person was asked, and who decided


@dataclass(slots=True)
class ToolUse:
    """A finished tool call, as the chat answer lists it."""

    name: str
    arguments: Any
    status: str
    result: str
    duration_ms: int
    call_id: str
    effect: str


@dataclass
class ActiveRun:
    """One attempt of a run in this process. Its methods only record; `journal.commit` makes it durable."""

    run_id: str
    conversation_id: str
    agent: ServedAgent
    principal: Principal
    journal: Journal
    ownership: Ownership
    policy: Callable[[str], ToolPolicy]
    stream: bool
    context: dict[str, Any]
    asked_model: str | None = None
    lapsed: Lapsed = never_lapsed
    totals: Totals = field(default_factory=Totals)
    iterations: int = 0
    open_calls: dict[str, OpenCall] = field(default_factory=dict[str, OpenCall])
    recorded: dict[str, StoredMessage] = field(default_factory=dict[str, StoredMessage])
    answered: set[str] = field(default_factory=set[str])
    tools_used: list[ToolUse] = field(default_factory=list[ToolUse])
    step: int = 0
    text: str = ""
    model: str | None = None
    rows: list[StoredMessage] = field(default_factory=list[StoredMessage])
    cancel_reason: str | None = None
    doomed: RunFailure | None = None
    executing: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    partial_text: list[str] = field(default_factory=list[str])
    first_token_at: float | None = None
    started: float = field(default_factory=time.monotonic)
    handing_over: bool = False
    begun: bool = False
    may_repeat: bool = False
    tail_recorded: bool = False
    generation: int = 0
    elapsed_seconds: float = 0.0
    blamed: bool = False
    _told: dict[str, str] = field(default_factory=dict[str, str])
    _last_call: str = ""
    _repeats: int = 0

    # --- the sink of streamed text (llm.deltas.DeltaSink) ---

    def text_delta(self, text: str) -> None:
        """More of the answer."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        text = encodable(text)
        self.partial_text.append(text)
        self.journal.show_now("text.delta", step=self.step, text=text)

    def reasoning_delta(self, text: str) -> None:
        """More of the reasoning."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.journal.show_now("reasoning.delta", step=self.step, text=encodable(text))

    def restarted(self, reason: str) -> None:
        """The model call begins again: what was shown of it is withdrawn."""
        self.partial_text.clear()
        self.journal.show_now("step.restarted", step=self.step, reason=reason)

    async def before_step(self) -> None:
        """To be passed before anything is asked of a model or a tool.

        Raises:
            HandOver: the process is stopping; everything so far is recorded.
            Fenced: another process has the run.
        """
        if self.handing_over:
            await self.journal.commit()
            raise HandOver
        await self.still_ours()

    async def still_ours(self) -> None:
        """See that no other process can have taken the run over.

        Raises:
            Fenced: another process has the run.
        """
        if self.ownership.held() and self.generation == self.ownership.generation:
            return
        await self.ownership.regained()
        await self.journal.commit()
        self.generation = self.ownership.generation

    async def guard_request(self) -> None:
        """As `still_ours`, for the transport of model requests."""
        try:
            await self.still_ours()
        except PilothouseError as error:
            raise RequestStopped(error) from error

    # --- recording ---

    def begin_model_step(self, model_name: str) -> None:
        """A model request is about to be sent."""
        self.step = self.journal.new_step()
        self.partial_text.clear()
        self.first_token_at = None
        if self.may_repeat:
            # The last attempt may have shown some of this step, more even than it could write to the log.
            self.may_repeat = False
            self.journal.show_now("step.restarted", step=self.step, reason="run_continued")
        self.journal.show_now("step.started", step=self.step, model=model_name)

    def record_response(
        self, response: ModelResponse, *, told: dict[str, str], started_at: int, started: float
    ) -> None:
        """A model response: message, step, usage and cost, and its calls as open.

        Args:
            response: what the model said.
            told: what it had been told beside the messages.
            started_at: when it was asked, in milliseconds since 1970.
            started: the same on the monotonic clock.

        Raises:
            RunFailure: the same tool was called with the same arguments too often in a row. Recorded all the same.
        """
        usage = response.usage
        usage.input_tokens = column_count(usage.input_tokens)
        usage.output_tokens = column_count(usage.output_tokens)
        usage.cache_read_tokens = column_count(usage.cache_read_tokens)
        cost = cost_nano_usd(response)
        first = self.first_token_at
        self.model = column_text(response.model_name or self.agent.name, 200)
        self.partial_text.clear()
        self._add_totals(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, cost)
        self.journal.add_message(
            "assistant",
            encode_response(response),
            step=self.step,
            tokens=usage.output_tokens or estimate_tokens(response_text(response)),
        )
        self.journal.add_step(
            number=self.step,
            kind="model",
            name=self.model,
            state="completed",
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            cost_nano_usd=cost,
            told=None if told == self._told else dumps(told),
            first_token_ms=None if first is None else round((first - started) * 1000),
            started_at=started_at,
            finished_at=now_ms(),
        )
        self._told = told
        self._gets_on()
        self._state_message(response, cost)
        self.text = response_text(response)
        calls = response.tool_calls
        self.open_calls = {call.tool_call_id: OpenCall(call, self.step) for call in calls}
        self.answered = set()
        self.recorded = {}
        self.note_calls(calls)

    def note_calls(self, calls: Sequence[ToolCallPart]) -> None:
        """Count repetitions of a call.

        Raises:
            RunFailure: the limit is reached.
        """
        limit = self.agent.limits.stall_repeats
        for call in calls:
            key = f"{call.tool_name}:{canonical_hash(call.args)}"
            self._repeats = self._repeats + 1 if key == self._last_call else 1
            self._last_call = key
            if self._repeats >= limit:
                raise stalled(call.tool_name, self._repeats)

    def record_result(
        self,
        call_id: str,
        message: ModelRequest,
        *,
        status: str,
        shown: str,
        error_code: str | None,
        duration_ms: int,
        step_state: str | None = None,
    ) -> None:
        """The result of an open call: message, end of step, event."""
        opened = self.open_calls.pop(call_id)
        if opened.tool_step is None:
            opened.tool_step = self.journal.new_step()
            self.journal.add_step(
                number=opened.tool_step,
                kind="tool",
                name=opened.call.tool_name,
                state="started",
                model_step=opened.model_step,
                call_id=call_id,
                effect=opened.effect,
                arguments=_arguments_text(opened.call),
            )
        self.answered.add(call_id)
        self._gets_on()
        self.journal.add_message(
            "tool", encode(message), step=opened.model_step, call_id=call_id, tokens=estimate_tokens(shown)
        )
        self.journal.end_step(
            opened.tool_step,
            state=step_state or ("completed" if status == "ok" else "failed"),
            error_code=error_code,
        )
        shortened = summarize(shown)
        self.journal.state_fact(
            "tool.finished",
            step=opened.tool_step,
            call_id=call_id,
            name=opened.call.tool_name,
            status=status,
            result=shortened,
            error=error_code,
            duration_ms=duration_ms,
        )
        self.tools_used.append(
            ToolUse(
                name=opened.call.tool_name,
                arguments=arguments_of(opened.call),
                status=status,
                result=shortened,
                duration_ms=duration_ms,
                call_id=call_id,
                effect=opened.effect,
            )
        )

    def record_framework_parts(self, message: ModelMessage | None) -> None:
        """What the agent loop itself answered: calls with malformed arguments or unknown names, feedback on output."""
        tail_recorded, self.tail_recorded = self.tail_recorded, False
        if tail_recorded or not isinstance(message, ModelRequest):
            return
        for part in message.parts:
            if isinstance(part, ToolReturnPart) and part.tool_call_id in self.open_calls:
                retried = part.outcome == "retried"
                self.record_result(
                    part.tool_call_id,
                    ModelRequest(parts=[part]),
                    status="error" if retried else "ok",
                    shown=part.model_response_str(),
                    error_code=_retry_code(part) if retried else None,
                    duration_ms=0,
                )
            elif isinstance(part, RetryFeedbackPart):
                payload = encode(ModelRequest(parts=[part]))
                self.journal.add_message("feedback", payload, step=self.step, tokens=estimate_tokens(payload))

    def settle_open_calls(self, reason: str) -> None:
        """Give every open call a result that says what is known of it, so that the transcript is whole (P7)."""
        for call_id, opened in list(self.open_calls.items()):
            unknown = opened.doubtful or (opened.state == "started" and opened.effect != "pure")
            if unknown:
                note = f"This call was started and then stopped ({reason}); whether it took effect is not known."
            elif opened.tries:
                note = f"This call was started and did not come to its end: {reason}."
            else:
                note = f"This call was not made: {reason}."
            content = {"error": {"type": "in_doubt" if unknown else "cancelled", "message": note, "retryable": False}}
            part = ToolReturnPart(
                tool_name=opened.call.tool_name, content=content, tool_call_id=call_id, outcome="interrupted"
            )
            self.record_result(
                call_id,
                ModelRequest(parts=[part]),
                status="in_doubt" if unknown else "cancelled",
                shown=dumps(content),
                error_code="in_doubt" if unknown else "cancelled",
                duration_ms=0,
                step_state="in_doubt" if unknown else "cancelled",
            )

    def keep_partial_text(self) -> None:
        """An answer that was stopped in the middle stays in the transcript as far as people saw it."""
        text = "".join(self.partial_text)
        if not text:
            return
        self.partial_text.clear()
        response = ModelResponse(parts=[TextPart(text)], model_name=self.model, state="interrupted")
        self.journal.add_message("assistant", encode(response), step=self.step, tokens=estimate_tokens(text))
        self.text = text

    def record_failed_step(self, error_code: str, *, started_at: int, state: str = "failed") -> None:
        """A model request that brought no response."""
        self.journal.add_step(
            number=self.step,
            kind="model",
            name=self.model or self.agent.name,
            state=state,
            error_code=error_code,
            started_at=started_at,
            finished_at=now_ms(),
        )

    def effects(self) -> list[dict[str, str]]:
        """Calls of this run that changed something outside, or may have."""
        return [
            {"tool": use.name, "call_id": use.call_id, "status": use.status}
            for use in self.tools_used
            if use.effect != "pure" and use.status in ("ok", "in_doubt")
        ]

    async def finish(
        self,
        state: Literal["completed", "failed", "cancelled", "awaiting_input"],
        *,
        values: dict[str, Any],
        event: tuple[str, dict[str, Any]] | None,
        after: Callable[[Connection], Any] | None = None,
    ) -> Any:
        """Record the run's end (or its pause) with everything not yet committed, in one transaction."""
        ended = None if state == "awaiting_input" else now_ms()
        self.journal.set_run(state=state, finished_at=ended, lease_owner=None, **values)
        if event is not None:
            self.journal.state_fact(event[0], **event[1])
        commit = asyncio.ensure_future(self.journal.commit(after=after))
        while True:
            try:
                return await asyncio.shield(commit)
            except asyncio.CancelledError:
                # Who asks to stop now comes too late: the end is told whole, and what it brings about is not lost.
                if self.handing_over and not commit.done():
                    raise
                if commit.done():
                    return commit.result()

    def _gets_on(self) -> None:
        """Processes that ended before this count no more: a run that records something does not end them."""
        if self.blamed:
            self.blamed = False
            self.journal.set_run(crashes=0, crashes_alone=0, isolated=False, retry_at=None)

    def _state_message(self, response: ModelResponse, cost: int | None) -> None:
        usage = response.usage
        self.journal.state_fact(
            "message",
            step=self.step,
            text=response_text(response),
            reasoning=reasoning_of(response),
            tool_calls=[call_document(call) for call in response.tool_calls],
            model=self.model,
            finish_reason=response.finish_reason,
        )
        self.journal.state_fact(
            "usage",
            step=self.step,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            cost_usd=format_usd(cost),
        )

    def _add_totals(self, input_tokens: int, output_tokens: int, cached_tokens: int, cost: int | None) -> None:
        totals = self.totals
        totals.input_tokens = column_count(totals.input_tokens + input_tokens)
        totals.output_tokens = column_count(totals.output_tokens + output_tokens)
        totals.cached_tokens = column_count(totals.cached_tokens + cached_tokens)
        totals.cost_nano_usd = None if cost is None or totals.cost_nano_usd is None else totals.cost_nano_usd + cost
        self.journal.set_run(
            model=self.model,
            steps=self.journal.steps_taken,
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            cached_tokens=totals.cached_tokens,
            cost_nano_usd=totals.cost_nano_usd,
        )


class RunSink:
    """Hands streamed text to the run it belongs to."""

    def __init__(self, run: ActiveRun) -> None:
        self.text = run.text_delta
        self.reasoning = run.reasoning_delta
        self.restarted = run.restarted

    def first_byte(self) -> None:
        """Nothing to do: the first token is what people wait for."""


current_run: ContextVar[ActiveRun | None] = ContextVar("pilothouse_run", default=None)
"""The run that executes in this task."""


def failure_document(failure: RunFailure) -> dict[str, Any]:
    """What is recorded and shown of a failure."""
    return {
        "code": failure.code,
        "message": failure.message,
        "category": failure.category,
        "retryable": failure.retryable,
        "status": failure.status,
    }


def _arguments_text(call: ToolCallPart) -> str:
    return call.args if isinstance(call.args, str) else dumps(call.args)


def _retry_code(part: ToolReturnPart) -> str:
    cause = part.retry.cause if part.retry is not None else None
    return "unknown_tool" if cause in ("unknown_tool", "unavailable_tool") else "invalid_arguments"
