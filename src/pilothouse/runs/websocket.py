"""`WS /v1/chat/ws/{conversation_id}`: several messages over one socket, the same events."""

import asyncio
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from pilothouse.audit.http import record_refused_frame, recorded_cancel
from pilothouse.errors import Forbidden, InvalidRequest, PilothouseError
from pilothouse.http.bodies import read_json
from pilothouse.http.problems import (
    as_pilothouse_error,
    internal_error,
    problem_document,
    request_id_of,
)
from pilothouse.identity.http import accepted_subprotocol, authenticate_websocket
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps
from pilothouse.observability.logs import get_logger
from pilothouse.runs.events import START, EventPlace, parse_event_id
from pilothouse.runs.requests import ChatRequests
from pilothouse.runs.schemas import ChatRequest
from pilothouse.runs.service import Accepted, Runs

router = APIRouter(prefix="/v1/chat", tags=["chat"])
log = get_logger(__name__)

_MOST_RUNS = 20
_NEW = "new"
_CANCEL = "cancel:"


class MessageFrame(ChatRequest):
    """A message, as `POST /v1/chat/stream` takes it."""

    type: Literal["message"]
    idempotency_key: str | None = Field(
        default=None,
        description="As the header `Idempotency-Key`: a message that is sent again with its key makes no second run.",
    )

    def request(self, conversation_id: str | None) -> ChatRequest:
        """What `POST /v1/chat/stream` would be sent for it, in a conversation: a key means the same on both."""
        values = {name: getattr(self, name) for name in ChatRequest.model_fields}
        return ChatRequest.model_construct(None, **{**values, "conversation_id": conversation_id})


class CancelFrame(BaseModel):
    """Stop a run: by default the one this socket started last."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["cancel"]
    run_id: str | None = Field(default=None, max_length=40)


class ResumeFrame(BaseModel):
    """Follow a run from after an event."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["resume"]
    run_id: str = Field(max_length=40)
    after: str | None = Field(default=None, max_length=40)


class PingFrame(BaseModel):
    """Answered with `pong`."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["ping"]


Frame = Annotated[MessageFrame | CancelFrame | ResumeFrame | PingFrame, Field(discriminator="type")]
_FRAMES: TypeAdapter[MessageFrame | CancelFrame | ResumeFrame | PingFrame] = TypeAdapter(Frame)


@router.websocket("/ws/{conversation_id}")
async def chat_socket(websocket: WebSocket, conversation_id: Annotated[str, Path(min_length=1, max_length=40)]) -> None:
    """See docs/http.md for the frames."""
    principal = await authenticate_websocket(websocket)
    principal.require("chat")
    _check_origin(websocket)
    if conversation_id != _NEW:
        await websocket.app.state.conversations.get(principal, conversation_id)
    await websocket.accept(subprotocol=accepted_subprotocol(websocket))
    socket = _Socket(websocket, principal, None if conversation_id == _NEW else conversation_id)
    try:
        await socket.serve()
    except WebSocketDisconnect:
        return
    finally:
        await socket.close()


def _check_origin(websocket: WebSocket) -> None:
    """A browser says which site opened the socket; other sites than ours and those allowed are refused."""
    origin = websocket.headers.get("origin")
    if origin is None:
        return
    allowed = websocket.app.state.settings.server.cors_origins
    if origin in allowed or urlsplit(origin).netloc == websocket.headers.get("host"):
        return
    raise Forbidden(
        "This site may not open sockets here. Add it to PILOTHOUSE_SERVER_CORS_ORIGINS.", code="origin_not_allowed"
    )


class _Socket:
    """One open socket: a reader of frames, and one task for each run it follows."""

    def __init__(self, websocket: WebSocket, principal: Principal, conversation_id: str | None) -> None:
        self._websocket = websocket
        self._principal = principal
        self._conversation_id = conversation_id
        self._runs: Runs = websocket.app.state.runs
        self._requests: ChatRequests = websocket.app.state.chat_requests
        self._limit: int = websocket.app.state.settings.server.max_message_bytes
        self._following: dict[str, asyncio.Task[None]] = {}
        self._to_cancel: set[str] = set()
        self._last_run: str | None = None
        self._sending = asyncio.Lock()

    async def serve(self) -> None:
        """Answer frames until the client leaves."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._handle(self._parse(message))
            except PilothouseError as error:
                await self._send_error(error)
            except WebSocketDisconnect:
                return
            except Exception as error:
                known = as_pilothouse_error(error, self._websocket.scope)
                if known is None:
                    log.exception("websocket_frame_failed")
                await self._send_error(known or internal_error())

    async def close(self) -> None:
        """Follow nothing more; stop the runs that were to end with this socket."""
        for name, task in self._following.items():
            if not name.startswith(_CANCEL):  # what was asked for is done, though its sender has left
                task.cancel()
        await asyncio.gather(*self._following.values(), return_exceptions=True)
        stops = [self._runs.cancel(self._principal, run_id, reason="its caller left") for run_id in self._to_cancel]
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("run_not_stopped", reason=str(result))

    def _parse(self, message: Any) -> MessageFrame | CancelFrame | ResumeFrame | PingFrame:
        raw: str | bytes = message.get("text") if message.get("text") is not None else message.get("bytes") or b""
        size = len(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else len(raw)
        if size > self._limit:
            raise InvalidRequest(
                f"A frame is at most {self._limit} bytes; this one has {size}.", code="too_large", status=413
            )
        document = read_json(raw)
        try:
            return _FRAMES.validate_python(document)
        except ValidationError as error:
            item = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in item["loc"][1:]) or "frame"
            raise InvalidRequest(
                f"{where}: {item['msg']}. Frames are message, cancel, resume and ping.", code="invalid_frame"
            ) from None

    async def _handle(self, frame: MessageFrame | CancelFrame | ResumeFrame | PingFrame) -> None:
        if isinstance(frame, PingFrame):
            await self._send({"type": "pong"})
        elif isinstance(frame, MessageFrame):
            await self._start(frame)
        elif isinstance(frame, ResumeFrame):
            self._principal.require("runs:read")
            place = parse_event_id(frame.after) if frame.after else START
            await self._runs.get(self._principal, frame.run_id)
            self._follow(frame.run_id, place)
        else:
            self._principal.require("runs:write")
            run_id = frame.run_id or self._last_run
            if run_id is None:
                raise InvalidRequest("There is no run to cancel on this socket yet.", code="nothing_to_cancel")
            # As a task: this socket goes on reading and showing events while the run comes to its end.
            self._following[f"{_CANCEL}{run_id}"] = asyncio.create_task(self._cancel(run_id))

    async def _start(self, frame: MessageFrame) -> None:
        conversation_id = frame.conversation_id or self._conversation_id
        if self._conversation_id and conversation_id != self._conversation_id:
            raise InvalidRequest(
                "This socket belongs to another conversation. Open one for that conversation.",
                code="wrong_conversation",
            )
        self._forget_ended()
        if len(self._following) >= _MOST_RUNS:
            raise InvalidRequest(
                f"This socket follows {_MOST_RUNS} runs already. Wait for one to end.", code="too_many_runs", status=429
            )
        accepted = await self._accept(frame, conversation_id)
        self._conversation_id = accepted.conversation_id
        self._last_run = accepted.run_id
        if frame.on_disconnect == "cancel":
            self._to_cancel.add(accepted.run_id)
        if not (accepted.replayed and accepted.run_id in self._following):  # else its events are on their way
            self._follow(accepted.run_id, START)

    async def _accept(self, frame: MessageFrame, conversation_id: str | None) -> Accepted:
        """The message's run: a new one, or the one that an earlier message with its key has made."""
        try:
            return await self._begin(frame, conversation_id)
        except InvalidRequest as error:
            if error.code != "idempotency_key_reused" or frame.conversation_id or conversation_id is None:
                raise
            reused = error
        # It may be the message this conversation began with, which had none then.
        earlier = await self._begin(frame, None)
        if not earlier.replayed or earlier.conversation_id != conversation_id:
            raise reused
        return earlier

    async def _begin(self, frame: MessageFrame, conversation_id: str | None) -> Accepted:
        request = frame.request(conversation_id)
        new = await self._requests.new_run(self._principal, request, stream=True, idempotency_key=frame.idempotency_key)
        return await self._runs.start(new)

    def _forget_ended(self) -> None:
        self._following = {name: task for name, task in self._following.items() if not task.done()}

    def _follow(self, run_id: str, after: EventPlace) -> None:
        previous = self._following.pop(run_id, None)
        if previous is not None:
            previous.cancel()
        self._following[run_id] = asyncio.create_task(self._send_events(run_id, after))

    async def _send_events(self, run_id: str, after: EventPlace) -> None:
        try:
            async for batch in self._runs.follow(self._principal, run_id, after):
                for event in batch:
                    await self._send({"id": event.id, "run_id": run_id, "type": event.type, "data": event.data})
                    del event
                del batch  # a socket that waits keeps nothing of what it has sent
            self._to_cancel.discard(run_id)
        except PilothouseError as error:
            await self._send_error(error)
        except (WebSocketDisconnect, RuntimeError):
            return  # the client left while we were sending

    async def _cancel(self, run_id: str) -> None:
        try:
            async with recorded_cancel(self._websocket, run_id):
                await self._runs.cancel(self._principal, run_id)
        except PilothouseError as error:
            try:
                await self._send_error(error)
            except (WebSocketDisconnect, RuntimeError):
                return  # the client left meanwhile

    async def _send(self, frame: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(dumps(frame))

    async def _send_error(self, error: PilothouseError) -> None:
        record_refused_frame(self._websocket, error)
        document = problem_document(error, request_id_of(self._websocket.scope))
        await self._send({"type": "error", "error": document})
