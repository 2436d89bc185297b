"""Admission: one transaction after which a run is never lost (P1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_ai.messages import ModelRequest, UserContent, UserPromptPart
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from pilothouse.agents.registry import ServedAgent
from pilothouse.conversations import attachment_repository
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.attachments import Attachment
from pilothouse.conversations.transcript import StoredMessage, encode
from pilothouse.db import Database
from pilothouse.db.values import column_count
from pilothouse.errors import Conflict, NotFound, TooMany
from pilothouse.idempotency.repository import KeyUse, claim
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.kit.ids import new_id
from pilothouse.llm.tokens import estimate_tokens
from pilothouse.runs import repository
from pilothouse.runs.events import RunEvent, to_rows
from pilothouse.runs.states import ACTIVE, OnBusy, RunKind

_TITLE_CHARS = 80
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What a caller asks for. `agent` is the one that will run; `message` has 1 to 10,000 characters."""

    principal: Principal
    agent: ServedAgent
    message: str
    conversation_id: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attachments: Sequence[Attachment] = ()
    on_busy: OnBusy = "reject"
    stream: bool = False
    on_disconnect: Literal["continue", "cancel"] = "continue"
    kind: RunKind = "chat"
    key_use: KeyUse | None = None


@dataclass(slots=True)
class Admitted:
    """An accepted run.

    Attributes:
        state: `running` where it may start at once, else `queued`.
        history: its conversation's earlier messages, newest ones only; `unloaded` counts the older.
        own: its own messages: the user's.
        events: what its log holds so far.
        to_interrupt: active runs the caller wants stopped in its favour.
        replay_of: the run an earlier request with the same idempotency key made; everything else is empty then.
    """

    run_id: str
    conversation_id: str
    turn: int
    state: Literal["running", "queued"]
    history: list[StoredMessage]
    unloaded: int
    own: list[StoredMessage]
    events: list[RunEvent]
    to_interrupt: list[str]
    replay_of: str | None = None


async def admit(
    database: Database, new: NewRun, *, owner: str, queue_length: int, forked_from: str | None = None
) -> Admitted:
    """Accept a run, or say why not. When this returns the run is durable.

    Args:
        owner: the lease of this process, which will execute the run where it may start at once.
        queue_length: most runs that may wait in the conversation.

    Raises:
        NotFound: the caller has no such conversation.
        Conflict: the conversation is busy and `on_busy` is `reject`.
        TooMany: too many runs wait in the conversation already.
        InvalidRequest: the idempotency key was used with another body.
    """
    message = _user_message(new)
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            return await database.write(
                _admit, new, message=message, owner=owner, queue_length=queue_length, forked_from=forked_from
            )
        except IntegrityError:
            # Somebody else took the key, or became the conversation's active run, in the same instant: look again.
            if last:
                raise Conflict(
                    "The conversation is being changed by other requests at the same time. Try again.",
                    code="conversation_contended",
                    retryable=True,
                ) from None
    raise AssertionError


def _admit(
    connection: Connection,
    new: NewRun,
    *,
    message: tuple[str, int],
    owner: str,
    queue_length: int,
    forked_from: str | None,
) -> Admitted:
    principal, now, run_id = new.principal, now_ms(), new_id("run")
    if new.key_use is not None and (earlier := claim(connection, new.key_use, run_id, now)) is not None:
        return _replay(earlier.resource_id)
    conversation_id, turn = _conversation(connection, new, now)
    waiting, to_interrupt = _make_way(connection, new, conversation_id, queue_length) if turn > 1 else (False, [])
    state: Literal["running", "queued"] = "queued" if waiting else "running"
    attempt = 0 if waiting else 1
    repository.insert_run(
        connection,
        {
            "id": run_id,
            "tenant": principal.tenant,
            "owner": principal.subject,
            "conversation_id": conversation_id,
            "turn": turn,
            "agent": new.agent.name,
            "kind": new.kind,
            "state": state,
            "attempt": attempt,
            "lease_owner": None if waiting else owner,
            "request": _request(new),
            "prompt_name": new.agent.prompt.name if new.agent.prompt else None,
            "prompt_version": new.agent.prompt.version if new.agent.prompt else None,
            "prompt_hash": new.agent.prompt.hash if new.agent.prompt else None,
            "forked_from": forked_from,
            "created_at": now,
        },
        starts=not waiting,
    )
    own = StoredMessage(turn, 1, run_id, 0, "user", None, message[0], message[1], pinned=False, created_at=now)
    conversation_rows.insert_messages(connection, conversation_id, [own])
    if new.attachments:
        attachment_repository.insert_attachments(
            connection, principal.tenant, principal.subject, conversation_id, attachments=new.attachments, now=now
        )
    events = _first_events(new, conversation_id, attempt, started=not waiting)
    repository.insert_events(connection, run_id, to_rows(events), now)
    history: list[StoredMessage] = []
    unloaded = 0
    if turn > 1 and not waiting:
        history, unloaded = conversation_rows.load_history(
            connection, conversation_id, before_turn=turn, most=new.agent.limits.history_messages
        )
    return Admitted(run_id, conversation_id, turn, state, history, unloaded, [own], events, to_interrupt)


def _conversation(connection: Connection, new: NewRun, now: int) -> tuple[str, int]:
    """The conversation and this run's turn in it; a new conversation where none is named."""
    principal = new.principal
    if new.conversation_id is None:
        conversation_id = new_id("conv")
        conversation_rows.insert_conversation(
            connection,
            {
                "id": conversation_id,
                "tenant": principal.tenant,
                "owner": principal.subject,
                "agent": new.agent.name,
                "title": title_of(new.message),
                "turns": 1,
                "created_at": now,
                "updated_at": now,
            },
        )
        return conversation_id, 1
    found = conversation_rows.next_turn(connection, principal.tenant, principal.subject, new.conversation_id, now)
    if found is None:
        raise NotFound(
            "You have no conversation with this id. Leave conversation_id out to begin a new one.",
            code="conversation_not_found",
        )
    turn, _agent, title = found
    if not title:
        conversation_rows.set_title(
            connection, principal.tenant, principal.subject, new.conversation_id, title_of(new.message)
        )
    return new.conversation_id, turn


def _make_way(connection: Connection, new: NewRun, conversation_id: str, queue_length: int) -> tuple[bool, list[str]]:
    """Apply `on_busy`. Returns whether the run has to wait, and which runs to stop for it."""
    others = repository.open_runs_of(connection, conversation_id)
    if not others:
        return False, []
    active = next((run.id for run in others if run.state in ACTIVE), others[0].id)
    if new.on_busy == "reject":
        raise Conflict(
            f"Run {active} is still active in this conversation. "
            "Wait for it, cancel it, or send on_busy=queue or on_busy=interrupt.",
            code="conversation_busy",
            retryable=True,
            active_run_id=active,
        )
    if new.on_busy == "interrupt":
        return True, [run.id for run in others]
    if len(others) > queue_length:
        raise TooMany(
            f"{queue_length} messages already wait in this conversation. Send this one when some have been answered.",
            code="conversation_queue_full",
            active_run_id=active,
        )
    return True, []


def _first_events(new: NewRun, conversation_id: str, attempt: int, *, started: bool) -> list[RunEvent]:
    queued = RunEvent(
        attempt, 1, "run.queued", {"conversation_id": conversation_id, "agent": new.agent.name, "kind": new.kind}
    )
    if not started:
        return [queued]
    return [queued, started_event(conversation_id, new.agent.name, attempt, 2)]


def started_event(conversation_id: str, agent: str, attempt: int, number: int) -> RunEvent:
    """The event an attempt begins with."""
    return RunEvent(
        attempt, number, "run.started", {"conversation_id": conversation_id, "agent": agent, "attempt": attempt}
    )


def title_of(message: str) -> str:
    """A conversation's first title: the beginning of its first message, on one line."""
    line = " ".join(message.split())
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1] + "…"


def starter(principal: Principal) -> dict[str, Any]:
    """What a run keeps of the credential that started it. Its scopes are those of then, whatever becomes of it."""
    return {
        "scopes": sorted(principal.scopes),
        "kind": principal.kind,
        "key_id": principal.key_id,
        "expires_at": principal.expires_at,
    }


def starter_of(tenant: str, owner: str, request: Mapping[str, Any]) -> Principal:
    """Who started a run, from what it keeps. Earlier releases kept neither the key nor the expiry."""
    return Principal(
        tenant,
        owner,
        frozenset(request["scopes"]),
        request["kind"],
        key_id=request.get("key_id"),
        expires_at=request.get("expires_at"),
    )


def _request(new: NewRun) -> dict[str, Any]:
    """What has to be known of the request to execute it later, in any process."""
    return {
        "context": dict(new.context),
        **starter(new.principal),
        "stream": new.stream,
        "on_disconnect": new.on_disconnect,
    }


def _user_message(new: NewRun) -> tuple[str, int]:
    """The stored form of the user's message, which names its files, and its tokens with theirs."""
    content: str | list[UserContent] = new.message
    if new.attachments:
        content = [new.message, *(item.reference() for item in new.attachments)]
    payload = encode(ModelRequest(parts=[UserPromptPart(content)]))
    tokens = estimate_tokens(new.message) + sum(item.tokens for item in new.attachments)
    return payload, column_count(tokens)


def _replay(run_id: str) -> Admitted:
    return Admitted(run_id, "", 0, "queued", [], 0, [], [], [], replay_of=run_id)
