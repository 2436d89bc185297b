"""`/v1/runs`."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from pilothouse.errors import NotFound
from pilothouse.http.auditing import add_to_audit
from pilothouse.http.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from pilothouse.http.problems import problem_responses
from pilothouse.http.sse import EventStreamResponse
from pilothouse.idempotency.http import IdempotencyKey
from pilothouse.idempotency.service import key_use
from pilothouse.identity.http import CurrentPrincipal, OpenConnection, Scoped
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps
from pilothouse.runs.approval_schemas import DecisionOut, InputIn, WaitingCalls
from pilothouse.runs.approvals import DECIDE
from pilothouse.runs.chat_endpoints import EVENT_SCHEMA, STREAM_EXAMPLE, RunService, ends_with, event_bytes
from pilothouse.runs.events import START, parse_event_id
from pilothouse.runs.fork import Fork, Forks
from pilothouse.runs.present import run_detail, run_document, waiting_document
from pilothouse.runs.schemas import CancelOut, EventPage, ForkIn, ReleaseOut, RunDetail, RunOut
from pilothouse.runs.states import RunState

router = APIRouter(prefix="/v1/runs", tags=["runs"])

Reader = Annotated[Principal, Scoped("runs:read")]
Writer = Annotated[Principal, Scoped("runs:write")]
Operator = Annotated[Principal, Scoped("admin")]
RunId = Annotated[str, Path(min_length=1, max_length=40, description="As `run_id` in answers and events.")]

_EVENTS_LIMIT = 500


async def _forks(request: Request) -> Forks:
    return request.app.state.forks


async def _decider(principal: CurrentPrincipal) -> Principal:
    """Who answers a call: the run's owner needs `runs:write`, another person `approvals:decide`."""
    if not principal.has(DECIDE):
        principal.require("runs:write")
    return principal


async def _viewer(principal: CurrentPrincipal) -> Principal:
    """As `_decider`, to see what waits: the owner needs `runs:read`."""
    if not principal.has(DECIDE):
        principal.require("runs:read")
    return principal


ForkService = Annotated[Forks, Depends(_forks)]


@router.get("", summary="Your runs, newest first", responses=problem_responses(401, 403, 422, 503))
async def list_runs(
    principal: Reader,
    runs: RunService,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    conversation_id: Annotated[str | None, Query(max_length=40)] = None,
    state: RunState | None = None,
    agent: Annotated[str | None, Query(max_length=128)] = None,
) -> Page[RunOut]:
    """Pages of runs, without their steps."""
    rows = await runs.page(
        principal,
        limit=limit + 1,
        before=decode_cursor(cursor, int, str) if cursor is not None else None,
        conversation_id=conversation_id,
        state=state,
        agent=agent,
    )
    shown = rows[:limit]
    more = encode_cursor(shown[-1].created_at, shown[-1].id) if len(rows) > limit else None
    return Page(items=[RunOut.model_validate(run_document(row)) for row in shown], next_cursor=more)


@router.get(
    "/{run_id}",
    summary="A run with its steps",
    response_model=RunDetail,
    responses=problem_responses(401, 403, 404, 422, 503),
)
async def get_run(run_id: RunId, principal: Reader, runs: RunService) -> Response:
    """Everything that is known of a run: what it cost, each step with its duration, arguments and result."""
    return Response(dumps(run_detail(await runs.view(principal, run_id))), media_type="application/json")


@router.get(
    "/{run_id}/events",
    summary="A run's events",
    response_class=Response,
    responses={
        200: {
            "description": "As server-sent events to the run's last one, or, with `Accept: application/json`, "
            "those there are now.",
            "model": EventPage,
            "content": {"text/event-stream": {"schema": EVENT_SCHEMA, "example": STREAM_EXAMPLE}},
        },
        **problem_responses(401, 403, 404, 422, 429, 503),
    },
)
async def run_events(
    request: Request,
    run_id: RunId,
    principal: Reader,
    runs: RunService,
    open_connection: OpenConnection,
    after: Annotated[str | None, Query(max_length=40, description="Only what comes after this event id.")] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="As `after`.")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Continues exactly after the id given: no event is left out or sent twice, whichever server answers."""
    given = after if after is not None else last_event_id
    place = parse_event_id(given) if given else START
    if accept is not None and accept.split(",")[0].split(";")[0].strip() == "application/json":
        events = await runs.events(principal, run_id, place, limit=_EVENTS_LIMIT)
        items = [{"id": event.id, "type": event.type, "data": event.data} for event in events]
        document: dict[str, Any] = {"items": items, "last_id": items[-1]["id"] if items else None}
        return Response(dumps(document), media_type="application/json")
    connection = open_connection(principal)
    await runs.get(principal, run_id)
    response = EventStreamResponse(
        event_bytes(runs, principal, run_id, place),
        heartbeat_seconds=request.app.state.settings.server.heartbeat_seconds,
    )
    return ends_with(connection, response, request, run_id)


@router.post("/{run_id}/cancel", summary="Stop a run", responses=problem_responses(401, 403, 404, 422, 503))
async def cancel_run(run_id: RunId, principal: Writer, runs: RunService) -> CancelOut:
    """Answers when the model and the tools have stopped. Stopping a run that has ended changes nothing and says so."""
    done = await runs.cancel(principal, run_id)
    return CancelOut.model_validate(
        {
            "run_id": done.run_id,
            "state": done.state,
            "took_effect": done.took_effect,
            "already_finished": done.already_finished,
        }
    )


@router.post(
    "/{run_id}/release",
    summary="Let a parked run go on",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409, 422, 503),
)
async def release_run(run_id: RunId, principal: Operator, runs: RunService) -> ReleaseOut:
    """For operators: anybody's run of the tenant that failed with `poisoned` goes on where its transcript ends. Calls
    that were open then have a result that says so. 409 `not_parked` for any other run.
    """
    return ReleaseOut(run_id=run_id, state=await runs.release(principal, run_id))


@router.post(
    "/{run_id}/fork",
    summary="Begin a run again from one of its steps",
    status_code=202,
    responses=problem_responses(400, 401, 403, 404, 409, 413, 422, 503),
)
async def fork_run(
    request: Request,
    run_id: RunId,
    body: ForkIn,
    principal: Annotated[Principal, Scoped("chat", "runs:read")],
    forks: ForkService,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunOut:
    """A new run in a new conversation, which begins with what is kept of this one: recorded answers and tool results
    are not asked for or computed again. Follow it at `GET /v1/runs/{id}/events`.
    """
    wanted = Fork(from_step=body.from_step or 0, message=body.message, model=body.model, agent=body.agent)
    use = key_use(
        principal.tenant,
        principal.subject,
        idempotency_key,
        route="fork",
        body=[run_id, body.model_dump(mode="json")],
    )
    row = await forks.fork(principal, run_id, wanted, key_use=use)
    add_to_audit(request, new_run_id=row.id)
    response.headers["Location"] = f"/v1/runs/{row.id}"
    return RunOut.model_validate(run_document(row))


@router.get(
    "/{run_id}/input",
    summary="What of a run waits for a person",
    operation_id="get_run_input",
    responses=problem_responses(401, 403, 404, 422, 503),
)
async def waiting_calls(
    run_id: RunId, principal: Annotated[Principal, Depends(_viewer)], runs: RunService
) -> WaitingCalls:
    """The calls that wait for a person. Of one's own run all of them (needs `runs:read`); of another subject's run
    those of tools with `four_eyes` whose scopes one holds (needs `approvals:decide`), 404 if there is none.
    """
    waiting = await runs.waiting(principal, run_id)
    return WaitingCalls.model_validate(
        {
            "run_id": waiting.run.id,
            "agent": waiting.run.agent,
            "requested_by": waiting.run.owner,
            "items": [waiting_document(call) for call in waiting.calls],
        }
    )


@router.post(
    "/{run_id}/input",
    summary="Answer a call that waits for a person",
    status_code=202,
    responses=problem_responses(401, 403, 404, 409, 422, 503),
)
async def answer_run(
    request: Request, run_id: RunId, body: InputIn, principal: Annotated[Principal, Depends(_decider)], runs: RunService
) -> RunOut | DecisionOut:
    """Yes or no to one tool call. The run goes on when all its waiting calls are answered.

    Needs `runs:write` and the tool's scopes; a call of a tool with `four_eyes` needs another subject of the tenant,
    with `approvals:decide` and the tool's scopes, who is told nothing of the run but its state.
    """
    add_to_audit(request, call_id=body.call_id, approve=body.approve)
    accepted = await runs.answer(
        principal,
        run_id,
        call_id=body.call_id,
        approve=body.approve,
        step=body.step,
        arguments_hash=body.arguments_hash,
    )
    try:
        row = await runs.get(principal, run_id)
    except NotFound:
        state = cast("RunState", accepted.state)
        return DecisionOut(run_id=run_id, state=state, call_id=body.call_id, approve=body.approve)
    return RunOut.model_validate(run_document(row))
