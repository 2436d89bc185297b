"""The two kinds of step, as the agent loop comes to them: a model request, a tool call.

Pydantic AI runs the loop; `RunHooks` is the one capability through which every model request and tool call passes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from types import NoneType
from typing import Any, NoReturn, cast, get_args

from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, ModelRetry, ToolFailed
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import (
    DeferredToolApprovalResult,
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolApproved,
    ToolDefinition,
    ToolDenied,
)
from pydantic_ai.toolsets import ToolsetTool

from pilothouse.conversations.present import arguments_of
from pilothouse.conversations.sendable import holds_files, with_sendable_files
from pilothouse.conversations.transcript import StoredMessage, decode
from pilothouse.db.values import column_text
from pilothouse.errors import PilothouseError, RunFailure
from pilothouse.kit.clock import now_ms
from pilothouse.kit.jsons import dumps
from pilothouse.llm.deltas import current_sink
from pilothouse.llm.emptiness import may_be_empty
from pilothouse.llm.guard import RequestStopped, current_guard
from pilothouse.observability.logs import get_logger
from pilothouse.runs.active import ActiveRun, OpenCall, current_run
from pilothouse.runs.approvals import arguments_text, holds, question
from pilothouse.runs.clean import bounded_content, recordable, with_sound_calls
from pilothouse.runs.errors import AwaitInput, Fenced, HandOver, iterations_exceeded
from pilothouse.runs.refusals import NOBODY_TO_ASK, lapsed_refusal, needs_a_person, nested_refusal, refusal_of
from pilothouse.runs.told import told_to_model
from pilothouse.tools.calling import ToolFailure, call_tool
from pilothouse.tools.context import ToolCall, hashed_key
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.results import error_in, tool_error
from pilothouse.tools.toolsets import policy_in_run

log = get_logger(__name__)

Handler = Callable[[Any], Awaitable[Any]]


class RunHooks(AbstractCapability[Any]):
    """Leads every model request and tool call of a run through its journal. One instance serves all runs."""

    async def wrap_model_request(
        self, ctx: RunContext[Any], *, request_context: ModelRequestContext, handler: Handler
    ) -> ModelResponse:
        run = current_run.get()
        if run is None:
            return await handler(request_context)
        token = may_be_empty.set(_takes_none(ctx.agent))
        try:
            return await model_step(run, request_context, handler)
        finally:
            may_be_empty.reset(token)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Calls for which the tool, its validator or a toolset around it asks for a person: the agent loop makes them
        as approved ones, and `tool_step` asks the person unless that was done. Calls that a tool makes are no steps.
        """
        run = current_run.get()
        if run is None or not requests.approvals:
            return None
        approvals: dict[str, bool | DeferredToolApprovalResult] = {}
        for call in requests.approvals:
            opened = run.open_calls.get(call.tool_call_id)
            if opened is None:
                approvals[call.tool_call_id] = ToolDenied(NOBODY_TO_ASK)
            else:
                opened.asks = True
                approvals[call.tool_call_id] = ToolApproved()
        return DeferredToolResults(approvals=approvals)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Handler,
    ) -> Any:
        run = current_run.get()
        if run is None:
            return await handler(args)
        policy = policy_in_run(run.policy(call.tool_name), _held_tool(ctx, call))
        if call.tool_call_id not in run.open_calls | run.recorded:
            # A tool calls another one through the agent loop: that one's rules hold too, and nobody can be asked here.
            refusal = nested_refusal(run, policy)
            return await handler(args) if refusal is None else refusal
        return await tool_step(run, call, args, handler, policy=policy)


def _held_tool(ctx: RunContext[Any], call: ToolCallPart) -> ToolsetTool[Any] | None:
    tools = ctx.tool_manager.tools if ctx.tool_manager is not None else None
    return tools.get(call.tool_name) if tools is not None else None


def _takes_none(agent: AbstractAgent[Any, Any] | None) -> bool:
    """Whether `None` is one of an agent's output types: then a model may have nothing to say."""
    given: object = None if agent is None else agent.output_type
    types = cast("Sequence[object]", given) if isinstance(given, list | tuple) else (given,)
    return agent is not None and any(item is None or item is NoneType or NoneType in get_args(item) for item in types)


async def model_step(run: ActiveRun, request: ModelRequestContext, handler: Handler) -> ModelResponse:
    """One model request: what came before is made durable, then the model is asked, then the answer is recorded."""
    run.record_framework_parts(request.messages[-1] if request.messages else None)
    if run.step:
        await run.journal.commit()
    if run.iterations >= run.agent.limits.max_iterations:
        raise iterations_exceeded(run.agent.limits.max_iterations)
    await run.before_step()
    run.iterations += 1
    run.begin_model_step(request.model.model_name)
    told = told_to_model(request)
    started_at, started = now_ms(), time.monotonic()
    guard = current_guard.set(run.guard_request)
    try:
        response = with_sound_calls(await handler(request))
    except RequestStopped as stopped:
        raise stopped.reason from stopped
    except RunFailure as failure:
        run.record_failed_step(failure.code, started_at=started_at)
        raise
    except asyncio.CancelledError:
        run.record_failed_step("cancelled", started_at=started_at, state="cancelled")
        raise
    finally:
        current_guard.reset(guard)
    run.record_response(response, told=told, started_at=started_at, started=started)
    return response


async def tool_step(
    run: ActiveRun, call: ToolCallPart, args: dict[str, Any], handler: Handler, *, policy: ToolPolicy
) -> Any:
    """One tool call: a recorded result is returned as it was, anything else runs between its intent and its result."""
    recorded = run.recorded.get(call.tool_call_id)
    if recorded is not None:
        return recorded_value(recorded)
    opened = run.open_calls[call.tool_call_id]
    if opened.asks:
        policy = replace(policy, approval=True)
    opened.effect = policy.effect
    if opened.state == "approved" and not holds(opened.approval, call, policy, owner=run.principal.subject):
        opened.state = "in_doubt" if opened.doubtful else "new"
    run.executing += 1
    try:
        refusal = refusal_of(run, opened, policy) or await lapsed_refusal(run, opened)
        if refusal is not None:
            return await _record_value(run, call, refusal, time.monotonic(), policy)
        if needs_a_person(opened, policy):
            await _ask(run, opened, policy)
        return await _execute(run, opened, policy, args, handler)
    finally:
        run.executing -= 1
        if not run.executing:
            run.idle.set()


async def _ask(run: ActiveRun, opened: OpenCall, policy: ToolPolicy) -> NoReturn:
    """Record that a person is needed, let the response's other calls end, and leave the process.

    Raises:
        AwaitInput: always.
    """
    if opened.state != "waiting":
        in_doubt = opened.state == "in_doubt"
        opened.state = "waiting"
        terms = question(opened.call, policy, doubt=run.journal.place.attempt if in_doubt else None)
        error_code = "in_doubt" if in_doubt else None
        _record_intent(run, opened, state="waiting", error_code=error_code, approval=dumps(terms))
        run.journal.state_fact(
            "approval.requested",
            step=opened.tool_step,
            call_id=opened.call.tool_call_id,
            name=opened.call.tool_name,
            arguments=arguments_of(opened.call),
            effect=policy.effect,
            **{name: value for name, value in terms.items() if name != "doubt"},
        )
    run.executing -= 1
    try:
        # Shown at once; and while it is written the response's other calls have begun, which must be waited for.
        await run.journal.commit()
        while run.executing:
            run.idle.clear()
            await run.idle.wait()
    finally:
        run.executing += 1
    raise AwaitInput


async def _execute(run: ActiveRun, opened: OpenCall, policy: ToolPolicy, args: dict[str, Any], handler: Handler) -> Any:
    call = opened.call
    await run.before_step()
    approved = opened.state == "approved"
    opened.state = "started"
    opened.tries += 1
    _record_intent(run, opened, state="started")
    run.journal.state_fact(
        "tool.started",
        step=opened.tool_step,
        call_id=call.tool_call_id,
        name=call.tool_name,
        arguments=arguments_of(call),
        effect=policy.effect,
    )
    await run.journal.commit()
    await run.still_ours()
    started = time.monotonic()
    try:
        value = await _call(run, opened, policy, args, handler)
    except ApprovalRequired:  # by the tool, or a toolset around it, which has done nothing yet
        opened.tries -= 1
        if opened.asks:
            value = tool_error("rejected", "A person said yes, but the tool asks for approval again. It was not made.")
        elif approved:
            opened.state = "approved"
            _record_intent(run, opened, state="approved")
            raise  # the agent loop asks `handle_deferred_tool_calls`, and makes the call again as an approved one
        else:
            await _ask(run, opened, policy)
    except ModelRetry as retry:
        await _record_part(run, call, _retried(call, retry.message), started, error_code="invalid_arguments")
        raise
    except ToolFailed as failed:
        part = ToolReturnPart(call.tool_name, str(failed), tool_call_id=call.tool_call_id, outcome="failed")
        await _record_part(run, call, part, started, error_code="rejected")
        raise
    return await _record_value(run, call, value, started, policy)


async def _call(run: ActiveRun, opened: OpenCall, policy: ToolPolicy, args: dict[str, Any], handler: Handler) -> Any:
    """Run the tool. What it raises becomes a result, but for what speaks to the agent loop."""
    info = ToolCall(
        run_id=run.run_id,
        conversation_id=run.conversation_id,
        tenant=run.principal.tenant,
        subject=run.principal.subject,
        call_id=opened.call.tool_call_id,
        idempotency_key=idempotency_key(run.run_id, opened),
        attempt=opened.tries,
    )
    seconds = policy.timeout_seconds or run.agent.limits.tool_timeout_seconds
    quiet = current_sink.set(None)  # a model the tool itself asks does not speak into this run's answer
    try:
        result = await call_tool(
            info, partial(handler, args), tool=opened.call.tool_name, seconds=seconds, passes=_speaks_to_the_loop
        )
    finally:
        current_sink.reset(quiet)
    return result.shown if isinstance(result, ToolFailure) else result


def _speaks_to_the_loop(error: BaseException) -> bool:
    """Whether an exception is Pydantic AI's or ours, for what drives the run, and not about the tool."""
    if isinstance(error, ModelRetry | ToolFailed | Fenced | AwaitInput | HandOver):
        return True
    return type(error).__module__.startswith("pydantic_ai") and not isinstance(error, PilothouseError)


async def _record_value(run: ActiveRun, call: ToolCallPart, value: Any, started: float, policy: ToolPolicy) -> Any:
    """Record what the tool returned, bounded, and give the loop exactly what was recorded."""
    extra: list[UserPromptPart] = []
    kept, content = value, None
    most = policy.max_output_chars or run.agent.limits.tool_output_chars
    if isinstance(value, ToolReturn):
        content = bounded_content(value.content, most) if value.content else None
        extra = [UserPromptPart(content)] if content else []
        kept = value.return_value
    kept = recordable(kept, most)
    error = error_in(kept)
    part = ToolReturnPart(tool_name=call.tool_name, content=kept, tool_call_id=call.tool_call_id)
    await _record_part(
        run, call, part, started, error_code=column_text(str(error["type"]), 64) if error else None, extra=extra
    )
    if isinstance(value, ToolReturn):
        return ToolReturn(kept, content=content, metadata=value.metadata)
    return kept


async def _record_part(
    run: ActiveRun,
    call: ToolCallPart,
    part: ToolReturnPart,
    started: float,
    *,
    error_code: str | None,
    extra: list[UserPromptPart] | None = None,
) -> None:
    content = part.content
    in_doubt = error_code == "in_doubt"
    run.record_result(
        call.tool_call_id,
        ModelRequest(parts=[part, *(extra or [])]),
        status="in_doubt" if in_doubt else "error" if error_code else "ok",
        step_state="in_doubt" if in_doubt else None,
        shown=content if isinstance(content, str) else dumps(content),
        error_code=error_code,
        duration_ms=round((time.monotonic() - started) * 1000),
    )
    await run.journal.commit()


def _record_intent(
    run: ActiveRun, opened: OpenCall, *, state: str, error_code: str | None = None, approval: str | None = None
) -> None:
    """The row that says a call is about to be made, before it is made (P3), or that a person is asked about it."""
    if opened.tool_step is not None:
        run.journal.end_step(opened.tool_step, state=state, error_code=error_code, ended=False, approval=approval)
        return
    opened.tool_step = run.journal.new_step()
    run.journal.add_step(
        number=opened.tool_step,
        kind="tool",
        name=opened.call.tool_name,
        state=state,
        model_step=opened.model_step,
        call_id=opened.call.tool_call_id,
        effect=opened.effect,
        idempotency_key=idempotency_key(run.run_id, opened),
        arguments=arguments_text(opened.call),
        approval=approval,
    )


def idempotency_key(run_id: str, opened: OpenCall) -> str:
    """The same for every try of one call, and for no other call: made of the run, the model step and the call id."""
    return hashed_key(f"{run_id}:{opened.model_step}:{opened.call.tool_call_id}")


def _retried(call: ToolCallPart, message: str) -> ToolReturnPart:
    return ToolReturnPart(call.tool_name, message, tool_call_id=call.tool_call_id, outcome="retried")


def recorded_value(row: StoredMessage) -> Any:
    """What the loop was given when the result was recorded."""
    [message] = decode([row])
    message = with_sendable_files(message) if holds_files(row.payload) else message
    if not isinstance(message, ModelRequest):
        raise TypeError("a tool result is stored as a request")
    part = next(part for part in message.parts if isinstance(part, ToolReturnPart))
    if part.outcome == "retried":
        raise ModelRetry(part.model_response_str(wrap_if_error=False))
    if part.outcome == "failed":
        raise ToolFailed(part.model_response_str(wrap_if_error=False))
    extra = next((part.content for part in message.parts if isinstance(part, UserPromptPart)), None)
    if extra is not None:
        return ToolReturn(part.content, content=extra, metadata=part.metadata)
    return part.content
