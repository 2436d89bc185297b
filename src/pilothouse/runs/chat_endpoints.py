"""`POST /v1/chat` and `POST /v1/chat/stream`."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pilothouse.errors import PilothouseError, RunFailure, Unavailable
from pilothouse.http.presence import while_connected
from pilothouse.http.problems import encode_problem, problem_document, problem_responses, request_id_of
from pilothouse.http.sse import EventStreamResponse, encode_event
from pilothouse.idempotency.http import IdempotencyKey
from pilothouse.identity.connections import Connection
from pilothouse.identity.http import OpenConnection, Scoped
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps
from pilothouse.observability.logs import get_logger
from pilothouse.runs.events import START, EventPlace
from pilothouse.runs.present import chat_answer, chat_answer_of
from pilothouse.runs.requests import ChatRequests
from pilothouse.runs.schemas import ChatAnswer, ChatRequest
from pilothouse.runs.service import Runs

log = get_logger(__name__)

router = APIRouter(prefix="/v1", tags=["chat"])

Chatter = Annotated[Principal, Scoped("chat")]
STREAM_EXAMPLE = (
    'id: 1-1\nevent: run.queued\ndata: {"type":"run.queued","run_id":"run_01…","conversation_id":"conv_01…"}\n\n'
    'id: 1-4\nevent: text.delta\ndata: {"type":"text.delta","run_id":"run_01…","step":1,"text":"It ships "}\n\n'
    'id: 1-9\nevent: run.completed\ndata: {"type":"run.completed","run_id":"run_01…","text":"It ships tomorrow."}\n\n'
)

_LEFT = "its caller left"

STREAM_CLOSED = "stream.closed"
"""The type of the last event of a stream that the server ends before its run has ended."""

EVENT_SCHEMA: dict[str, Any] = {
    "title": "ServerSentEvent",
    "description": "One event of the stream.",
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "`<attempt>-<number>`; send it back as Last-Event-ID to go on after."},
        "event": {"type": "string", "description": "The event's type."},
        "data": {"type": "string", "description": "A JSON object with the event's fields, `type` and `run_id`."},
    },
    "required": ["data"],
}
"""What one event of a stream is, for the OpenAPI document."""


async def runs_of(request: Request) -> Runs:
    """The app's run service."""
    return request.app.state.runs


async def _requests_of(request: Request) -> ChatRequests:
    return request.app.state.chat_requests


RunService = Annotated[Runs, Depends(runs_of)]
Requests = Annotated[ChatRequests, Depends(_requests_of)]


@router.post(
    "/chat",
    summary="Send a message and wait for the whole answer",
    response_model=ChatAnswer,
    responses={
        202: {"model": ChatAnswer, "description": "A tool call waits for a person: the run is not at its end."},
        **problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 502, 503, 504),
    },
)
async def chat(
    request: Request,
    body: ChatRequest,
    principal: Chatter,
    runs: RunService,
    requests: Requests,
    open_connection: OpenConnection,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Answers when the run has ended, or waits for a person (`state: awaiting_input`, status 202)."""
    began = time.monotonic()
    open_connection(principal)
    new = await requests.new_run(principal, body, stream=False, idempotency_key=idempotency_key)
    accepted = await runs.start(new)
    try:
        outcome = await while_connected(request.receive, runs.wait(principal, accepted))
    except ClientDisconnect:
        if body.on_disconnect == "cancel":
            await runs.cancel(principal, accepted.run_id, reason=_LEFT)
        raise
    if outcome is not None and idempotency_key is None:  # copies of a request get equal answers: what is stored
        answer = chat_answer_of(
            outcome,
            run_id=accepted.run_id,
            conversation_id=accepted.conversation_id,
            agent=new.agent.name,
            latency_ms=round((time.monotonic() - began) * 1000),
        )
        error = outcome.error
    else:
        view = await runs.view(principal, accepted.run_id)
        answer, error = chat_answer(view), view.row.error
    if error is not None:
        raise failure_of(error, answer)
    return Response(dumps(answer), 202 if answer["state"] == "awaiting_input" else 200, media_type="application/json")


@router.post(
    "/chat/stream",
    summary="Send a message and follow its run as server-sent events",
    response_class=Response,
    responses={
        200: {
            "description": "The run's events, as `GET /v1/runs/{id}/events` gives them.",
            "content": {"text/event-stream": {"schema": EVENT_SCHEMA, "example": STREAM_EXAMPLE}},
        },
        **problem_responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
    },
)
async def chat_stream(
    request: Request,
    body: ChatRequest,
    principal: Chatter,
    runs: RunService,
    requests: Requests,
    open_connection: OpenConnection,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """The stream ends with `run.completed`, `run.failed` or `run.cancelled`. Leaving it does not stop the run unless
    `on_disconnect` is `cancel`; `GET /v1/runs/{id}/events` continues it from `Last-Event-ID`.

    It ends with `stream.closed` within five seconds after its token was revoked or has expired; the run goes on.
    """
    connection = open_connection(principal)
    new = await requests.new_run(principal, body, stream=True, idempotency_key=idempotency_key)
    accepted = await runs.start(new)

    async def stop() -> None:
        await runs.cancel(principal, accepted.run_id, reason=_LEFT)

    response = EventStreamResponse(
        event_bytes(runs, principal, accepted.run_id, START),
        heartbeat_seconds=request.app.state.settings.server.heartbeat_seconds,
        on_disconnect=stop if body.on_disconnect == "cancel" else None,
        headers={"X-Run-ID": accepted.run_id, "X-Conversation-ID": accepted.conversation_id},
    )
    return ends_with(connection, response, request, accepted.run_id)


def ends_with(
    connection: Connection, response: EventStreamResponse, request: Request, run_id: str
) -> EventStreamResponse:
    """A stream that ends with the credential it was opened with, and says so."""

    def end(error: PilothouseError) -> None:
        problem = problem_document(error, request_id_of(request.scope))
        data = {"type": STREAM_CLOSED, "run_id": run_id, "error": problem}
        # Without an id: the run's log does not hold it, and the client's place stays where it is.
        response.end(b"event: %b\ndata: %b\n\n" % (STREAM_CLOSED.encode(), encode_problem(data)))

    connection.when_ended(end)
    return response


async def event_bytes(runs: Runs, principal: Principal, run_id: str, after: EventPlace) -> AsyncIterator[bytes]:
    """A run's events as they go over the wire, each batch in one piece.

    Ends before the last event where the database goes away: the reader goes on from its place when it is back.
    """
    try:
        async for batch in runs.follow(principal, run_id, after):
            yield b"".join([encode_event(event.id, event.type, event.to_json(run_id)) for event in batch])
            del batch  # a stream that waits keeps nothing of what it has sent
    except Unavailable as error:
        log.warning("stream_ended_early", run_id=run_id, reason=error.message)


def failure_of(error: dict[str, Any], answer: dict[str, Any]) -> RunFailure:
    """The problem document of a run that failed, which names the run."""
    failure = RunFailure(
        error["message"],
        category=error["category"],
        code=error["code"],
        status=error.get("status") or 502,
        retryable=error["retryable"],
        run_id=answer["run_id"],
        conversation_id=answer["conversation_id"],
    )
    failure.extra["category"] = failure.category
    return failure
