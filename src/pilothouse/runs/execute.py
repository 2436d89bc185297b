"""Execution: the agent loop around one attempt of a run, from its transcript to its end."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from pydantic_ai.capabilities import AbstractCapability, ReinjectSystemPrompt
from pydantic_ai.messages import ModelResponse
from pydantic_ai.usage import UsageLimits
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.conversations.transcript import StoredMessage, assemble, split_open_tail
from pilothouse.conversations.window import fit
from pilothouse.db import Database
from pilothouse.engine.leases import Ownership
from pilothouse.errors import RunFailure, Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps
from pilothouse.llm.deltas import current_sink
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import get_logger
from pilothouse.runs import repository
from pilothouse.runs.active import ActiveRun, RunSink, ToolUse, Totals, current_run, failure_document
from pilothouse.runs.admit import Admitted, NewRun
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.errors import AwaitInput, Fenced, HandOver, internal, poisoned, timed_out
from pilothouse.runs.failures import failure_of
from pilothouse.runs.journal import Journal, RunPlace
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.prepare import deps_of, instructions_of, model_of
from pilothouse.runs.resume import SUSPECT_CRASHES, restore, take_over
from pilothouse.runs.steps import RunHooks
from pilothouse.usage.prices import format_usd

log = get_logger(__name__)

_ANSWER_TOKENS = 4_096
_UNKNOWN_WINDOW = 32_000
_MOST_CRASHES_IN_PLACE = 3
_MOST_CRASHES = 10  # of a run that gets on a little each time
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


class Executor:
    """Executes runs in this process. One instance serves all agents.

    Args:
        ownership: this process's standing; its owner id is stamped on the runs it takes.
    """

    def __init__(
        self,
        *,
        database: Database,
        agents: AgentRegistry,
        gateway: ModelGateway,
        live: LiveRuns,
        deltas: DeltaWriter,
        ownership: Ownership,
        default_model: str | None,
    ) -> None:
        self._database = database
        self._agents = agents
        self._gateway = gateway
        self._live = live
        self._deltas = deltas
        self._ownership = ownership
        self._default_model = default_model
        self._hooks = RunHooks()
        self._reinject = ReinjectSystemPrompt[Any]()
        self._tasks: dict[str, asyncio.Task[Outcome | None]] = {}
        self._runs: dict[str, ActiveRun] = {}
        self._next: set[asyncio.Task[Any]] = set()
        self._suspects: set[str] = set()
        self.stopping = False

    # --- what others ask of it ---

    def start(self, new: NewRun, admitted: Admitted) -> asyncio.Task[Outcome | None]:
        """Execute a run that was just admitted as running."""
        live = self._live.open(admitted.run_id, attempt=1, first_number=1)
        for event in admitted.events:
            live.publish(event)
        live.mark_durable(len(admitted.events))
        journal = Journal(
            self._database,
            live,
            RunPlace(admitted.run_id, admitted.conversation_id, admitted.turn, 1),
            next_seq=2,
            next_step=1,
            next_event=len(admitted.events) + 1,
            ownership=self._ownership,
            on_dirty=self._deltas.mark,
        )
        run = self._activate(
            journal,
            new.agent,
            new.principal,
            {"context": dict(new.context), "stream": new.stream},
            (admitted.history, admitted.unloaded, admitted.own),
        )
        return self._spawn(run)

    async def resume(
        self,
        run_id: str,
        *,
        states: Sequence[str] = ("running", "queued", "awaiting_input"),
        if_attempt: int | None = None,
        doomed: RunFailure | None = None,
    ) -> asyncio.Task[Outcome | None] | None:
        """Take a stored run over and continue it from its transcript.

        Args:
            run_id: which.
            states: those it may be in.
            if_attempt: only where its fencing number is still this.
            doomed: only bring it to its end, with this failure.

        Returns:
            The task that executes it; None where it is in no state to be continued, or someone else was quicker.
        """
        if run_id in self._tasks or self.stopping:
            return None
        try:
            stored = await self._database.write(
                take_over,
                run_id,
                owner=self._ownership.owner,
                states=states,
                if_attempt=if_attempt,
                agents=self._agents,
            )
        except IntegrityError:  # another run of the conversation has become the active one meanwhile
            return None
        if stored is None:
            return None
        row = stored.row
        live = self._live.open(run_id, attempt=row.attempt, first_number=stored.events[0].number)
        for event in stored.events:
            live.publish(event)
        live.mark_durable(stored.events[-1].number)
        journal = Journal(
            self._database,
            live,
            RunPlace(run_id, row.conversation_id, row.turn, row.attempt),
            next_seq=max((message.seq for message in stored.own), default=0) + 1,
            next_step=stored.next_step,
            next_event=stored.events[-1].number + 1,
            ownership=self._ownership,
            on_dirty=self._deltas.mark,
        )
        request: dict[str, Any] = row.request
        principal = Principal(row.tenant, row.owner, frozenset(request["scopes"]), request["kind"])
        agent = self._agents.get(row.agent)
        run = self._activate(journal, agent, principal, request, (stored.history, stored.unloaded, stored.own))
        restore(run, stored)
        if doomed is not None:
            run.doomed = doomed
        elif stored.crashes_in_place >= _MOST_CRASHES_IN_PLACE or row.crashes >= _MOST_CRASHES:
            run.doomed = poisoned(row.crashes)
        task = self._spawn(run)
        if stored.crashes_in_place >= SUSPECT_CRASHES:
            self._suspects.add(run_id)
        if row.cancel_requested_at is not None:
            self.cancel(run_id, "cancelled by its caller")
        return task

    def task(self, run_id: str) -> asyncio.Task[Outcome | None] | None:
        """The task that executes a run here, if it does."""
        return self._tasks.get(run_id)

    def cancel(self, run_id: str, reason: str) -> asyncio.Task[Outcome | None] | None:
        """Stop a run that executes here: closes its model's socket and its tools. Await the task to know it has."""
        task, run = self._tasks.get(run_id), self._runs.get(run_id)
        if task is None or run is None:
            return None
        if run.cancel_reason is None:
            run.cancel_reason = reason
            if run.begun:  # a task that is cancelled before its first step never gets to record its end
                task.cancel()
        return task

    def begin_shutdown(self) -> None:
        """Start nothing more; runs hand over at their next step."""
        self.stopping = True
        for run in self._runs.values():
            run.handing_over = True

    async def close(self, *, grace_seconds: float) -> None:
        """Begin the shutdown, let steps end for a while, then leave the runs as they are to be continued elsewhere."""
        self.begin_shutdown()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=grace_seconds)
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *self._next, return_exceptions=True)
        await self._database.write(repository.release_runs, self._ownership.owner)

    @property
    def owner(self) -> str:
        """This process, as stamped on its runs."""
        return self._ownership.owner

    @property
    def agent_names(self) -> list[str]:
        """The agents whose runs can be executed here."""
        return [agent.name for agent in self._agents]

    @property
    def has_suspect(self) -> bool:
        """Whether a run executes here that may have taken processes down: one at a time, to tell which it is."""
        return bool(self._suspects)

    def __len__(self) -> int:
        return len(self._tasks)

    # --- one attempt ---

    def _activate(
        self,
        journal: Journal,
        agent: ServedAgent,
        principal: Principal,
        request: dict[str, Any],
        rows: tuple[list[StoredMessage], int, list[StoredMessage]],
    ) -> ActiveRun:
        history, unloaded, own = rows
        kept, cut = fit(
            [*history, *own],
            self._budget(agent, request.get("model")),
            keep_from_turn=journal.place.turn,
            already_cut=unloaded,
        )
        if cut is not None:
            journal.set_run(cut=asdict(cut))
        base, recorded = split_open_tail(kept)
        return ActiveRun(
            run_id=journal.place.run_id,
            conversation_id=journal.place.conversation_id,
            agent=agent,
            principal=principal,
            journal=journal,
            ownership=self._ownership,
            generation=self._ownership.generation,
            policy=lambda name: self._agents.policy(agent, name),
            stream=bool(request.get("stream")),
            context=request.get("context") or {},
            asked_model=request.get("model"),
            recorded=recorded,
            history=assemble(base),
        )

    def _budget(self, agent: ServedAgent, asked: str | None) -> int:
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

    def _spawn(self, run: ActiveRun) -> asyncio.Task[Outcome | None]:
        task = asyncio.create_task(self._execute(run), name=f"run:{run.run_id}")
        self._tasks[run.run_id] = task
        self._runs[run.run_id] = run
        return task

    async def _execute(self, run: ActiveRun) -> Outcome | None:
        run.begun = True
        structlog.contextvars.bind_contextvars(
            run_id=run.run_id, conversation_id=run.conversation_id, tenant=run.principal.tenant
        )
        live = self._live.get(run.run_id)
        queued: str | None = None
        unrecorded: RunFailure | None = None
        try:
            outcome, queued = await self._attempt(run)
        except (Fenced, HandOver) as error:
            log.warning("run_left", reason=error.code)
            return None
        except Unavailable as error:
            log.error("run_left_for_recovery", reason=error.message)  # noqa: TRY400 - the sentence says it all
            return None
        except Exception:  # something could not be written as it was: end it from what was
            log.exception("run_not_recorded")
            unrecorded = None if run.doomed is not None else internal()
            return None
        else:
            return outcome
        finally:
            self._tasks.pop(run.run_id, None)
            self._runs.pop(run.run_id, None)
            self._suspects.discard(run.run_id)
            if live is not None:
                self._live.close(live)
            if queued is not None and not self.stopping:
                self._soon(self.resume(queued, states=("queued", "awaiting_input")))
            if unrecorded is not None and not self.stopping:
                self._soon(self.resume(run.run_id, states=("running",), doomed=unrecorded))

    def _soon(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._next.add(task)
        task.add_done_callback(self._next.discard)

    async def _attempt(self, run: ActiveRun) -> tuple[Outcome | None, str | None]:
        """Run the agent, then record how it ended. Returns that, and the run that may start next."""
        seconds = run.agent.limits.timeout_seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if run.cancel_reason is not None:
                    raise asyncio.CancelledError
                result = await self._run_agent(run)
        except asyncio.CancelledError:
            if run.cancel_reason is not None:
                return await self._cancelled(run)
            task = asyncio.current_task()
            if self.stopping or task is None or task.cancelling():
                raise  # the process stops: the run stays as it is and is continued later
            return await self._failed(run, internal())
        except AwaitInput:
            waits = await run.finish("awaiting_input", values={}, event=None, after=_anything_waits(run))
            # A person may have been quicker than the run's other calls: then it goes on at once.
            return (self._outcome(run, "awaiting_input"), None) if waits else (None, run.run_id)
        except TimeoutError as error:
            failure = timed_out(seconds) if limit.expired() else failure_of(error)
            return await self._failed(run, failure)
        except (Fenced, HandOver, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the run ends and says so
            return await self._failed(run, failure_of(error))
        return await self._completed(run, result)

    async def _run_agent(self, run: ActiveRun) -> Any:
        agent = run.agent
        if run.doomed is not None:
            raise run.doomed
        if (recorded := _recorded_answer(run)) is not None:
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
            message_history=run.history,
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
        return self._outcome(run, "completed", output=output), queued

    async def _failed(self, run: ActiveRun, failure: RunFailure) -> tuple[Outcome, str | None]:
        run.keep_partial_text()
        run.settle_open_calls("the run failed")
        error = failure_document(failure)
        queued = await run.finish(
            "failed", values={"error": error}, event=("run.failed", {"error": error}), after=_next_queued(run)
        )
        log.warning("run_failed", code=failure.code, category=failure.category, exc_info=failure.__cause__)
        return self._outcome(run, "failed", error=error), queued

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
        return self._outcome(run, "cancelled"), queued

    def _outcome(
        self, run: ActiveRun, state: str, *, output: Any = None, error: dict[str, Any] | None = None
    ) -> Outcome:
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


def _recorded_answer(run: ActiveRun) -> _Recorded | None:
    last = run.history[-1] if run.history else None
    final = isinstance(last, ModelResponse) and not last.tool_calls and last.state == "complete"
    return _Recorded(run.text) if final and run.agent.output_schema is None else None


def _anything_waits(run: ActiveRun) -> Callable[[Connection], bool]:
    return lambda connection: repository.anything_waits(connection, run.run_id)


def _next_queued(run: ActiveRun) -> Callable[[Connection], str | None]:
    return lambda connection: repository.next_queued(connection, run.conversation_id)
