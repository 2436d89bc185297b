"""The last place an error can reach: what comes here becomes a problem document, and a trace in the log."""

from collections.abc import Awaitable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from pilothouse.errors import PilothouseError
from pilothouse.http.problems import (
    encode_problem,
    internal_error,
    problem_document,
    problem_response,
    remember_error,
    request_id_of,
    websocket_close_code,
)
from pilothouse.observability.logs import get_logger


class ProblemMiddleware:
    """Answer errors that no handler took, inside the middleware that adds ids and headers to answers.

    An error after the response began is raised on, so that the server cuts the connection: a client must not take
    half an answer for a whole one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = get_logger("pilothouse.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        def watch(message: Message) -> Awaitable[None]:  # no coroutine: it adds no frame to every streamed chunk
            nonlocal started
            started = True
            return send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            problem = self._problem(scope, error)
            response = problem_response(problem, request_id_of(scope))
            await response(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = ended = False

        def watch(message: Message) -> Awaitable[None]:
            nonlocal accepted, ended
            accepted = accepted or message["type"] == "websocket.accept"
            ended = ended or message["type"] in {"websocket.close", "websocket.http.response.start"}
            return send(message)

        try:
            await self._app(scope, receive, watch)
        except WebSocketDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - this is the last place
            problem = self._problem(scope, error)
            if ended:
                return
            request_id = request_id_of(scope)
            if accepted:
                frame = encode_problem({"type": "error", "error": problem_document(problem, request_id)})
                await send({"type": "websocket.send", "text": frame.decode()})
            elif "websocket.http.response" in scope.get("extensions", {}):
                await problem_response(problem, request_id)(scope, receive, send)
                return
            await send({"type": "websocket.close", "code": websocket_close_code(problem), "reason": problem.code})

    def _problem(self, scope: Scope, error: Exception) -> PilothouseError:
        problem = error if isinstance(error, PilothouseError) else internal_error()
        if problem is not error:
            self._log.error("request_failed", exc_info=error)
        remember_error(scope, problem)
        return problem
