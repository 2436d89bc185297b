"""One attempt of a run: the agent loop on its transcript, and how it ended."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_ai.capabilities import AbstractCapability, ReinjectSystemPrompt
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.usage import UsageLimits
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection

from pilothouse.agents.registry import ServedAgent
from pilothouse.errors import RunFailure, Unavailable
from pilothouse.kit.jsons import dumps
from pilothouse.llm.deltas import current_sink
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import get_logger
from pilothouse.runs import ownership_repository, repository
from pilothouse.runs.active import ActiveRun, RunSink, ToolUse, Totals, current_run, failure_document
from pilothouse.runs.errors import AwaitInput, Fenced, HandOver, internal, timed_out
from pilothouse.runs.failures import failure_of
from pilothouse.runs.history import Histories
from pilothouse.runs.isolation import Isolation
from pilothouse.runs.prepare import deps_of, instructions_of, model_of
from pilothouse.runs.steps import RunHooks
from pilothouse.usage.prices import format_usd

log = get_logger(__name__)

_ANSWER_TOKENS = 4_096
_UNKNOWN_WINDOW = 32_000
_NO_LIMITS = UsageLimits(request_limit=None)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, for whoever waits for it in this process.

    Attributes:
        complete: the outcome covers the whole run: it had one attempt, so nothing needs to be read back.
    """

    state: str
    text: str
    output: Any
    error: dict[str, Any] | None
    totals: Totals
    tools: list[ToolUse]
    model: str | None
    effects: list[dict[str, str]]
    complete: bool


class AgentLoop:
    """Runs agents. One instance serves all attempts of a process.

    Args:
        gateway: where models are asked.
        histories: what makes a run's transcript a history for a model.
        default_model: for agents that name none.
        isolation: what a run waits at before it begins.
    """

    def __init__(
        self, gateway: ModelGateway, histories: Histories, default_model: str | None, isolation: Isolation
    ) -> None:
        self._gateway = gateway
        self._histories = histories
        self._isolation = isolation
        self._default_model = default_model
        self._hooks = RunHooks()
        self._reinject = ReinjectSystemPrompt[Any]()

    def history_tokens(self, agent: ServedAgent, asked: str | None) -> int:
        """Tokens of history a turn may send: the model's window less room for instructions, tools and the answer."""
        if agent.limits.history_tokens is not None:
            return agent.limits.history_tokens
        reference, _ = model_of(agent, self._default_model, asked)
        try:
            window = self._gateway.window_tokens(reference)
        except Exception:  # noqa: BLE001 - a model that can't be made fails the run, where that is recorded
            window = _UNKNOWN_WINDOW
        answer = (agent.model_settings or {}).get("max_tokens") or _ANSWER_TOKENS
        return max(window - answer - window // 8, window // 4)

    async def attempt(self, run: ActiveRun) -> tuple[Outcome | None, str | None]:
        """Run the agent, then record how it ended. Returns that, and the run that may start next."""
        seconds = run.agent.limits.timeout_seconds
        limit = asyncio.timeout(None)
        try:
            if run.cancel_reason is not None:
                raise asyncio.CancelledError
            await self._wait_for_turn(run)
            async with limit:
                limit.reschedule(asyncio.get_running_loop().time() + max(0.0, seconds - run.elapsed_seconds))
                result = await self._run_agent(run)
        except asyncio.CancelledError:
            if run.cancel_reason is not None:
                return await self._cancelled(run)
            task = asyncio.current_task()
            if run.handing_over or task is None or task.cancelling():
                raise  # the process stops: the run stays as it is and is continued later
            return await self._failed(run, internal())
        except AwaitInput:
            waits = await run.finish("awaiting_input", values={}, event=None, after=_anything_waits(run))
            # A person may have been quicker than the run's other calls: then it goes on at once.
            return (_outcome(run, "awaiting_input"), None) if waits else (None, run.run_id)
        except TimeoutError as error:
            failure = timed_out(seconds) if limit.expired() else failure_of(error)
            return await self._failed(run, failure)
        except (Fenced, HandOver, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the run ends and says so
            return await self._failed(run, failure_of(error))
        return await self._completed(run, result)

    async def _wait_for_turn(self, run: ActiveRun) -> None:
        """Until no suspect executes alone. That time is not the run's own."""
        began = time.monotonic()
        if not await self._isolation.passed(run.run_id):
            return
        waited_ms = round((time.monotonic() - began) * 1000)
        await run.journal.commit(after=partial(ownership_repository.add_pause, run_id=run.run_id, pause_ms=waited_ms))

    async def _run_agent(self, run: ActiveRun) -> Any:
        agent = run.agent
        if run.doomed is not None:
            raise run.doomed
        history = await self._histories.of(run)
        if (recorded := _recorded_answer(run, history)) is not None:
            return recorded
        current_run.set(run)
        if run.stream:
            current_sink.set(RunSink(run))
        capabilities: list[AbstractCapability[Any]] = [self._hooks]
        if agent.has_system_prompt:
            capabilities.append(self._reinject)
        reference, fallback = model_of(agent, self._default_model, run.asked_model)
        model = self._gateway.model(
            reference,
            fallback=fallback,
            timeout_seconds=agent.limits.model_timeout_seconds,
        )
        retries = agent.limits.argument_retries
        result = await agent.agent.run(
            None,
            message_history=history,
            model=model,
            deps=await deps_of(run),
            instructions=instructions_of(agent, run.context),
            model_settings=agent.model_settings,
            usage_limits=_NO_LIMITS,
            retries={"tools": retries, "output": retries},
            toolsets=agent.toolsets or None,
            capabilities=capabilities,
        )
        messages = result.all_messages()
        run.record_framework_parts(messages[-1] if messages else None)
        return result

    async def _completed(self, run: ActiveRun, result: Any) -> tuple[Outcome, str | None]:
        output = None
        if run.agent.output_schema is not None:
            output = to_jsonable_python(result.output, fallback=str, inf_nan_mode="null")
        elif isinstance(result.output, str):
            run.text = result.output
        run.settle_open_calls("the answer was complete without it")
        stored = dumps({"text": run.text, "output": output})
        event = {
            "text": run.text,
            "output": output,
            "usage": run.totals.as_usage(),
            "cost_usd": format_usd(run.totals.cost_nano_usd),
        }
        queued = await run.finish(
            "completed", values={"output": stored}, event=("run.completed", event), after=_next_queued(run)
        )
        log.info("run_completed", steps=run.journal.steps_taken, **run.totals.as_usage())
        return _outcome(run, "completed", output=output), queued

    async def _failed(self, run: ActiveRun, failure: RunFailure) -> tuple[Outcome, str | None]:
        run.keep_partial_text()
        run.settle_open_calls("the run failed")
        error = failure_document(failure)
        queued = await run.finish(
            "failed", values={"error": error}, event=("run.failed", {"error": error}), after=_next_queued(run)
        )
        log.warning("run_failed", code=failure.code, category=failure.category, exc_info=failure.__cause__)
        return _outcome(run, "failed", error=error), queued

    async def _cancelled(self, run: ActiveRun) -> tuple[Outcome, str | None]:
        run.keep_partial_text()
        run.settle_open_calls("the run was cancelled")
        effects = run.effects()
        queued = await run.finish(
            "cancelled",
            values={"output": dumps({"text": run.text, "output": None})},
            event=("run.cancelled", {"reason": run.cancel_reason, "took_effect": effects}),
            after=_next_queued(run),
        )
        log.info("run_cancelled", reason=run.cancel_reason)
        return _outcome(run, "cancelled"), queued


def _outcome(run: ActiveRun, state: str, *, output: Any = None, error: dict[str, Any] | None = None) -> Outcome:
    return Outcome(
        state=state,
        text=run.text,
        output=output,
        error=error,
        totals=run.totals,
        tools=run.tools_used,
        model=run.model,
        effects=run.effects(),
        complete=run.journal.place.attempt == 1,
    )


@dataclass(slots=True)
class _Recorded:
    """The answer of a run whose last response was recorded, but not its end."""

    output: str

    def all_messages(self) -> list[Any]:
        return []


def _recorded_answer(run: ActiveRun, history: Sequence[ModelMessage]) -> _Recorded | None:
    last = history[-1] if history else None
    final = isinstance(last, ModelResponse) and not last.tool_calls and last.state == "complete"
    return _Recorded(run.text) if final and run.agent.output_schema is None else None


def _anything_waits(run: ActiveRun) -> Callable[[Connection], bool]:
    def rests(connection: Connection) -> bool:
        ownership_repository.pause(connection, run.run_id)
        return repository.anything_waits(connection, run.run_id)

    return rests


def _next_queued(run: ActiveRun) -> Callable[[Connection], str | None]:
    return lambda connection: ownership_repository.next_queued(connection, run.conversation_id)
