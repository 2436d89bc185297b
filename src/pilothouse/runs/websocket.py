"""`WS /v1/chat/ws/{conversation_id}`: several messages over one socket, the same events.

What a socket costs is bounded whatever its client sends or leaves unread: frames by a token bucket, tasks by
`_MOST_RUNS` of each kind, and what waits to be sent by one batch of events a task, since a task asks for the next only
when the connection has taken the last.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from pilothouse.audit.http import record_refused_frame, recorded_cancel, recorded_failed_cancel
from pilothouse.errors import Forbidden, InvalidRequest, PilothouseError, TooMany, Unauthenticated
from pilothouse.http.bodies import read_json
from pilothouse.http.problems import (
    as_pilothouse_error,
    internal_error,
    problem_document,
    request_id_of,
)
from pilothouse.identity.http import accepted_subprotocol, authenticate_again, authenticate_websocket
from pilothouse.identity.principal import Principal
from pilothouse.kit.jsons import dumps
from pilothouse.kit.origins import parse_origin
from pilothouse.kit.timeouts import expire
from pilothouse.kit.token_bucket import TokenBucket
from pilothouse.observability.logs import get_logger
from pilothouse.runs.events import START, EventPlace, parse_event_id
from pilothouse.runs.frames import FRAMES, CancelFrame, Frame, MessageFrame, PingFrame, ResumeFrame
from pilothouse.runs.requests import ChatRequests
from pilothouse.runs.service import Accepted, Runs
from pilothouse.runs.states import TERMINAL

router = APIRouter(prefix="/v1/chat", tags=["chat"])
log = get_logger(__name__)

UNAUTHENTICATED_CLOSE = 4401
"""The close code of a socket whose credential is no longer good: connect again with another one."""
POLICY_CLOSE = 1008
"""The close code of a socket that goes on sending more frames than it may (RFC 6455, 7.4.1)."""

_MOST_RUNS = 20
_MOST_REFUSED = 100
"""Refused frames, without a pause long enough for the bucket to fill again, after which the socket is closed."""
_BYTES_A_TOKEN = 65_536
_LAST_WORD_SECONDS = 2.0
_STALL_SECONDS = 30.0
_NEW = "new"


@router.websocket("/ws/{conversation_id}")
async def chat_socket(websocket: WebSocket, conversation_id: Annotated[str, Path(min_length=1, max_length=40)]) -> None:
    """See docs/http.md for the frames."""
    principal = await authenticate_websocket(websocket)
    principal.require("chat")
    _check_origin(websocket)
    with websocket.app.state.connections.open(principal) as connection:
        if conversation_id != _NEW:
            await websocket.app.state.conversations.get(principal, conversation_id)
        await websocket.accept(subprotocol=accepted_subprotocol(websocket))
        socket = _Socket(websocket, principal, None if conversation_id == _NEW else conversation_id)
        connection.when_ended(socket.end)
        try:
            await socket.serve()
        except WebSocketDisconnect:
            return
        finally:
            await socket.close()


def _check_origin(websocket: WebSocket) -> None:
    """A browser says which site opened the socket; other sites than ours and those allowed are refused."""
    allowed = websocket.app.state.settings.server.cors_origins
    origins = websocket.headers.getlist("origin")
    if all(origin in allowed or _is_our_own(origin, websocket) for origin in origins):
        return
    raise Forbidden(
        "This site may not open sockets here. Add it to PILOTHOUSE_SERVER_CORS_ORIGINS.", code="origin_not_allowed"
    )


def _is_our_own(text: str, websocket: WebSocket) -> bool:
    origin = parse_origin(text)
    if origin is None or (websocket.scope.get("scheme") == "wss" and origin.scheme != "https"):
        return False
    return origin.is_of(websocket.headers.get("host", ""))


class _Socket:
    """One open socket: a reader of frames, one task for each run it follows, and one for each it stops."""

    def __init__(self, websocket: WebSocket, principal: Principal, conversation_id: str | None) -> None:
        server = websocket.app.state.settings.server
        self._websocket = websocket
        self._principal = principal
        self._conversation_id = conversation_id
        self._runs: Runs = websocket.app.state.runs
        self._requests: ChatRequests = websocket.app.state.chat_requests
        self._limit: int = server.max_message_bytes
        self._rate: float = server.max_frames_per_second
        self._bucket = TokenBucket(self._rate, burst=2 * self._rate)
        self._refused = 0
        self._following: dict[str, asyncio.Task[None]] = {}
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._to_cancel: set[str] = set()
        self._last_run: str | None = None
        self._sending = asyncio.Lock()
        self._waiting: asyncio.Timeout | None = None
        self._ended: Unauthenticated | None = None

    def end(self, error: Unauthenticated) -> None:
        """The credential is no longer good: read no more frames, and say so. What is being done is done."""
        self._ended = error
        if self._waiting is not None:
            expire(self._waiting)

    async def serve(self) -> None:
        """Answer frames until the client leaves, or its credential is no longer good, or it sends far too many."""
        while (message := await self._next()) is not None:
            try:
                await self._answer(message)
            except WebSocketDisconnect:
                return
            except Unauthenticated as error:
                self._ended = error
            except PilothouseError as error:
                await self._reply(self._error(error))
            except Exception as error:
                known = as_pilothouse_error(error, self._websocket.scope)
                if known is None:
                    log.exception("websocket_frame_failed")
                await self._reply(self._error(known or internal_error()))
            if self._refused >= _MOST_REFUSED:
                await self._leave(_rate_limited(self._rate, 1 / self._rate), POLICY_CLOSE)
                return
        if self._ended is not None:
            await self._leave(self._ended, UNAUTHENTICATED_CLOSE)

    async def close(self) -> None:
        """Follow nothing more; stop the runs that were to end with this socket, if it was its client that left."""
        for task in self._following.values():
            task.cancel()
        # What is being cancelled is cancelled, though its sender has left.
        await asyncio.gather(*self._following.values(), *self._cancelling.values(), return_exceptions=True)
        if self._ended is not None:
            return
        stops = [self._runs.cancel(self._principal, run_id, reason="its caller left") for run_id in self._to_cancel]
        for result in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(result, Exception):
                log.warning("run_not_stopped", reason=str(result))

    async def _next(self) -> Any:
        """What the client sends next; None if it has left, or is to be read no more."""
        if self._ended is not None:
            return None
        try:
            async with asyncio.timeout(None) as self._waiting:
                message = await self._websocket.receive()
        except TimeoutError:
            return None
        finally:
            self._waiting = None
        return None if message["type"] == "websocket.disconnect" else message

    async def _answer(self, message: Any) -> None:
        raw: str | bytes = message.get("text") if message.get("text") is not None else message.get("bytes") or b""
        size = len(raw.encode("utf-8", "surrogatepass")) if isinstance(raw, str) else len(raw)
        if self._refused and self._bucket.full:
            self._refused = 0
        wait = self._bucket.take(1 + size // _BYTES_A_TOKEN)
        if wait:
            # Not read, so that it costs nothing. Nor is the next one before it may come: TCP tells the client.
            self._refused += 1
            await self._reply(self._error(_rate_limited(self._rate, wait)))
            await asyncio.sleep(wait)
            return
        if size > self._limit:
            raise InvalidRequest(
                f"A frame is at most {self._limit} bytes; this one has {size}.", code="too_large", status=413
            )
        frame = _parse(raw)
        if isinstance(frame, PingFrame):
            await self._reply({"type": "pong"})
            return
        self._principal = await authenticate_again(self._websocket)
        if isinstance(frame, MessageFrame):
            await self._start(frame)
        elif isinstance(frame, ResumeFrame):
            await self._resume(frame)
        else:
            await self._stop(frame)

    async def _resume(self, frame: ResumeFrame) -> None:
        self._principal.require("runs:read")
        place = parse_event_id(frame.after) if frame.after else START
        await self._runs.get(self._principal, frame.run_id)
        if frame.run_id not in self._following:
            _check_room(self._following, "follows")
        self._follow(frame.run_id, place)

    async def _stop(self, frame: CancelFrame) -> None:
        self._principal.require("runs:write")
        run_id = frame.run_id or self._last_run
        if run_id is None:
            raise InvalidRequest("There is no run to cancel on this socket yet.", code="nothing_to_cancel")
        if run_id in self._cancelling:
            return  # its end is on its way
        with recorded_failed_cancel(self._websocket, run_id):
            row = await self._runs.get(self._principal, run_id)
        if row.state in TERMINAL:
            return
        _check_room(self._cancelling, "cancels")
        # As a task: this socket goes on reading and showing events while the run comes to its end.
        _keep(self._cancelling, run_id, self._cancel(run_id))

    async def _start(self, frame: MessageFrame) -> None:
        self._principal.require("chat")
        conversation_id = frame.conversation_id or self._conversation_id
        if self._conversation_id and conversation_id != self._conversation_id:
            raise InvalidRequest(
                "This socket belongs to another conversation. Open one for that conversation.",
                code="wrong_conversation",
            )
        _check_room(self._following, "follows")
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

    def _follow(self, run_id: str, after: EventPlace) -> None:
        previous = self._following.pop(run_id, None)
        if previous is not None:
            previous.cancel()
        _keep(self._following, run_id, self._send_events(run_id, after))

    async def _send_events(self, run_id: str, after: EventPlace) -> None:
        try:
            async for batch in self._runs.follow(self._principal, run_id, after):
                for event in batch:
                    await self._send({"id": event.id, "run_id": run_id, "type": event.type, "data": event.data})
                    del event
                del batch  # a socket that waits keeps nothing of what it has sent
            self._to_cancel.discard(run_id)
        except PilothouseError as error:
            await self._send(self._error(error))
        except (WebSocketDisconnect, RuntimeError):
            return  # the client left while we were sending

    async def _cancel(self, run_id: str) -> None:
        try:
            async with recorded_cancel(self._websocket, run_id):
                await self._runs.cancel(self._principal, run_id)
        except PilothouseError as error:
            with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):  # the client left meanwhile
                async with asyncio.timeout(_STALL_SECONDS):
                    await self._send(self._error(error))

    async def _leave(self, error: PilothouseError, code: int) -> None:
        """Tell the client why, and close. A client that does not read has some seconds for it."""
        following = list(self._following.values())
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self._send(self._error(error))
                await self._websocket.close(code, error.code)

    async def _send(self, frame: dict[str, Any]) -> None:
        async with self._sending:
            await self._websocket.send_text(dumps(frame))

    async def _reply(self, frame: dict[str, Any]) -> None:
        """Answer a frame. A client that goes on sending but takes no answers is taken for gone."""
        try:
            async with asyncio.timeout(_STALL_SECONDS) as self._waiting:
                await self._send(frame)
        except TimeoutError:
            if self._ended is None:
                raise WebSocketDisconnect(1006) from None
        except RuntimeError as error:  # Starlette's, for a socket that another task found closed
            raise WebSocketDisconnect(1006) from error
        finally:
            self._waiting = None

    def _error(self, error: PilothouseError) -> dict[str, Any]:
        record_refused_frame(self._websocket, error)
        return {"type": "error", "error": problem_document(error, request_id_of(self._websocket.scope))}


def _parse(raw: str | bytes) -> Frame:
    document = read_json(raw)
    try:
        return FRAMES.validate_python(document)
    except ValidationError as error:
        item = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in item["loc"][1:]) or "frame"
        raise InvalidRequest(
            f"{where}: {item['msg']}. Frames are message, cancel, resume and ping.", code="invalid_frame"
        ) from None


def _keep(tasks: dict[str, asyncio.Task[None]], run_id: str, work: Coroutine[Any, Any, None]) -> None:
    """Begin a task, and forget it when it has ended."""
    task = tasks[run_id] = asyncio.create_task(work)

    def forget(ended: asyncio.Task[None]) -> None:
        if tasks.get(run_id) is ended:
            del tasks[run_id]

    task.add_done_callback(forget)


def _check_room(tasks: dict[str, asyncio.Task[None]], doing: str) -> None:
    if len(tasks) >= _MOST_RUNS:
        raise TooMany(f"This socket {doing} {_MOST_RUNS} runs already. Wait for one to end.", code="too_many_runs")


def _rate_limited(rate: float, wait: float) -> TooMany:
    return TooMany(
        f"This socket may send {rate:g} frames a second, each begun 64 KiB counted as one more. This frame was not "
        "read: send it again later.",
        code="rate_limited",
        retry_after=round(wait, 3),
    )
