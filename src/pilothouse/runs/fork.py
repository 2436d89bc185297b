"""`POST /v1/runs/{id}/fork`: a run begun again from any of its steps, in a conversation of its own.

What was done up to that step is kept as it was recorded: no model response is asked for again, no tool called again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic_ai.messages import ModelResponse
from sqlalchemy import Connection
from sqlalchemy.engine import Row
from sqlalchemy.exc import IntegrityError

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.conversations import attachment_repository
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.attachments import references_in, refers_to_files
from pilothouse.conversations.transcript import StoredMessage, decode
from pilothouse.db import Database
from pilothouse.errors import Conflict, InvalidRequest, NotFound
from pilothouse.idempotency.repository import KeyUse, claim
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.ids import new_id
from pilothouse.llm.gateway import ModelGateway
from pilothouse.runs import repository
from pilothouse.runs.admit import starter
from pilothouse.runs.events import RunEvent, to_rows
from pilothouse.runs.execute import Executor
from pilothouse.runs.prefix import (
    as_history,
    as_own,
    doubt_by_steps,
    kept_steps,
    made_whole,
    never_known,
    reworded,
    user_row,
)
from pilothouse.runs.prepare import instructions_of, served_models
from pilothouse.runs.states import TERMINAL

_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What a caller asks for.

    Attributes:
        from_step: keep everything up to this step's message and its tool results; 0: only the user's message.
        message: instead of the user's message, or after what is kept.
        model: instead of the agent's.
        agent: instead of the run's.
    """

    from_step: int = 0
    message: str | None = None
    model: str | None = None
    agent: str | None = None


@dataclass(slots=True)
class _Source:
    """The run to fork, as stored."""

    row: Row[Any]
    title: str
    steps: Sequence[Row[Any]]
    history: list[StoredMessage]
    own: list[StoredMessage]


@dataclass(slots=True)
class _Kept:
    """What the fork begins with: turns before it, and its own messages and steps."""

    history: list[StoredMessage]
    own: list[StoredMessage]
    steps: list[dict[str, Any]]


class Forks:
    """Makes and begins forks.

    Args:
        default_model: the server's model, for agents that name none.
        allowed_models: what forks may name beside the models an agent is served with: references, or patterns of them
            with `*` and `?`.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        agents: AgentRegistry,
        gateway: ModelGateway,
        *,
        default_model: str | None = None,
        allowed_models: Sequence[str] = (),
    ) -> None:
        self._default_model = default_model
        self._allowed_models = allowed_models
        self._database = database
        self._executor = executor
        self._agents = agents
        self._gateway = gateway

    async def fork(self, principal: Principal, run_id: str, wanted: Fork, *, key_use: KeyUse | None = None) -> Row[Any]:
        """A new run from a prefix of one, in a new conversation of the caller. It is durable and begins at once.

        Raises:
            NotFound: the caller has no such run, or there is no such agent.
            Conflict: the run has not come to that step yet.
            InvalidRequest: it has no such step, nothing is left to do after it, or the model can't be used.
            Unavailable: the server is stopping, or the database is away.
        """
        refusal = self._executor.refusal()
        if refusal is not None:
            raise refusal
        row = await self._database.read(repository.get_run, principal.tenant, principal.subject, run_id)
        if row is None:
            raise NotFound("You have no run with this id.", code="run_not_found")
        agent = self._agents.get(wanted.agent or row.agent)
        self._check_model(agent, wanted.model)
        instructions_of(agent, row.request.get("context") or {})
        new = await self._store(principal, run_id, wanted, agent, key_use)
        await self._executor.resume(new, states=("queued",))
        forked = await self._database.read(repository.get_run, principal.tenant, principal.subject, new)
        if forked is None:
            raise NotFound("The forked run was deleted meanwhile.", code="run_not_found")
        return forked

    def _check_model(self, agent: ServedAgent, model: str | None) -> None:
        if model is None or model in (served := served_models(agent, self._default_model)):
            return
        if not any(fnmatchcase(model, pattern) for pattern in self._allowed_models):
            allowed = [*served, *self._allowed_models]
            raise InvalidRequest(
                f"A fork may not use the model {model[:100]!r}. Allowed with the agent {agent.name}: "
                f"{', '.join(allowed) or 'none'}. The operator allows others with PILOTHOUSE_MODELS_FORK_ALLOWED.",
                code="model_not_allowed",
                allowed=allowed,
            )
        if not self._gateway.knows(model):
            raise InvalidRequest(
                f"The model {model[:100]!r} can't be used here: this server has no key for its provider.",
                code="model_not_available",
            )

    async def _store(
        self, principal: Principal, run_id: str, wanted: Fork, agent: ServedAgent, key_use: KeyUse | None
    ) -> str:
        for _ in range(_TRIES):
            try:
                return await self._database.write(_store, principal, run_id, wanted, agent, key_use=key_use)
            except IntegrityError:  # somebody took the key in the same instant: look again
                continue
        raise Conflict(
            "The same request is being made at the same time. Try again.", code="conversation_contended", retryable=True
        )


def _store(
    connection: Connection,
    principal: Principal,
    run_id: str,
    wanted: Fork,
    agent: ServedAgent,
    *,
    key_use: KeyUse | None,
) -> str:
    """The new conversation and its run, waiting to be taken up. Returns the run's id."""
    now, new_run, conversation_id = now_ms(), new_id("run"), new_id("conv")
    if key_use is not None and (earlier := claim(connection, key_use, new_run, now)) is not None:
        return earlier.resource_id
    source = _load(connection, principal, run_id, most=agent.limits.history_messages)
    kept = _keep(source, wanted, new_run, now)
    turn = kept.own[0].turn
    conversation_rows.insert_conversation(
        connection,
        {
            "id": conversation_id,
            "tenant": principal.tenant,
            "owner": principal.subject,
            "agent": agent.name,
            "title": source.title,
            "turns": turn,
            "created_at": now,
            "updated_at": now,
        },
    )
    values = {"id": new_run, "conversation_id": conversation_id, "turn": turn, "created_at": now}
    repository.insert_run(connection, values | _run_values(principal, source.row, wanted, agent, kept), starts=False)
    messages = [*kept.history, *kept.own]
    conversation_rows.insert_messages(connection, conversation_id, messages)
    _refer_to_files(connection, principal, messages, source=source.row.conversation_id, target=conversation_id)
    if kept.steps:
        repository.insert_steps(connection, kept.steps)
    data = {"conversation_id": conversation_id, "agent": agent.name, "kind": source.row.kind, "forked_from": run_id}
    repository.insert_events(connection, new_run, to_rows([RunEvent(0, 1, "run.queued", data)]), now)
    return new_run


def _refer_to_files(
    connection: Connection, principal: Principal, messages: Sequence[StoredMessage], *, source: str, target: str
) -> None:
    """The files that the kept messages name belong to the fork too."""
    naming = [row for row in messages if row.role == "user" and refers_to_files(row.payload)]
    ids = [reference.id for message in decode(naming) for reference in references_in(message)]
    if ids:
        attachment_repository.copy_attachments(
            connection,
            principal.tenant,
            principal.subject,
            from_conversation=source,
            to_conversation=target,
            ids=ids,
        )


def _load(connection: Connection, principal: Principal, run_id: str, *, most: int) -> _Source:
    row = repository.get_run(connection, principal.tenant, principal.subject, run_id)
    if row is None:
        raise NotFound("You have no run with this id.", code="run_not_found")
    conversation = conversation_rows.get_conversation(
        connection, principal.tenant, principal.subject, row.conversation_id
    )
    history, _ = conversation_rows.load_history(connection, row.conversation_id, before_turn=row.turn, most=most)
    return _Source(
        row=row,
        title=conversation.title if conversation is not None else "",
        steps=repository.load_steps(connection, run_id),
        history=history,
        own=conversation_rows.load_turn(connection, row.conversation_id, row.turn),
    )


def _run_values(principal: Principal, row: Row[Any], wanted: Fork, agent: ServedAgent, kept: _Kept) -> dict[str, Any]:
    prompt = agent.prompt
    return {
        "tenant": principal.tenant,
        "owner": principal.subject,
        "agent": agent.name,
        "kind": row.kind,
        "state": "queued",
        "attempt": 0,
        "lease_owner": None,
        "request": {
            "context": row.request.get("context") or {},
            **starter(principal),
            "stream": True,
            "on_disconnect": "continue",
            "model": wanted.model,
        },
        "prompt_name": prompt.name if prompt else None,
        "prompt_version": prompt.version if prompt else None,
        "prompt_hash": prompt.hash if prompt else None,
        "steps": max((step["number"] for step in kept.steps), default=0),
        "forked_from": row.id,
    }


def _keep(source: _Source, wanted: Fork, new_run: str, now: int) -> _Kept:
    """Cut the transcript, and make what is kept whole."""
    history = as_history(made_whole(source.history, never_known), first_turn=1)
    turn = history[-1].turn + 1 if history else 1
    if not wanted.from_step:
        first = source.own[0]
        user = first if wanted.message is None else reworded(first, wanted.message)
        return _Kept(history, as_own([user], turn=turn, run_id=new_run), [])
    _check_step(source, wanted.from_step)
    own = made_whole(
        [row for row in source.own if row.role == "user" or row.step <= wanted.from_step], doubt_by_steps(source.steps)
    )
    if wanted.message is not None:
        before = as_history(own, first_turn=turn)
        user = user_row(wanted.message, turn=turn + 1, run_id=new_run, now=now)
        return _Kept([*history, *before], [user], [])
    if own[-1].role == "assistant":
        raise InvalidRequest(
            f"Step {wanted.from_step} is where run {source.row.id} ended: send a message to go on after it, or fork "
            "from an earlier step.",
            code="nothing_to_continue",
        )
    steps = kept_steps(source.steps, wanted.from_step, new_run, now)
    return _Kept(history, as_own(own, turn=turn, run_id=new_run), steps)


def _check_step(source: _Source, number: int) -> None:
    """Whether the transcript holds a response of that step."""
    step = next((step for step in source.steps if step.number == number), None)
    if step is not None and step.kind == "tool":
        raise InvalidRequest(
            f"Step {number} is a tool call. Fork from step {step.model_step}, the model's message that made it: the "
            "results of its calls are kept.",
            code="not_a_model_step",
        )
    rows = [row for row in source.own if row.role == "assistant" and row.step == number]
    if any(isinstance(message, ModelResponse) for message in decode(rows)):
        return
    if source.row.state not in TERMINAL:
        raise Conflict(
            f"Run {source.row.id} has not come to step {number} yet. Wait for it, or fork from an earlier step.",
            code="step_not_reached",
            retryable=True,
        )
    known = sorted({row.step for row in source.own if row.role == "assistant"})
    raise InvalidRequest(
        f"Run {source.row.id} has no answer of a model at step {number}. Those it has: "
        f"{', '.join(map(str, known)) or 'none'}; 0 begins at the user's message.",
        code="no_such_step",
    )
