"""The server: routes of both wires, the control routes of tests, and its life in a process."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from aiohttp import web

from pilothouse.testing.provider.anthropic_wire import AnthropicWire
from pilothouse.testing.provider.exchange import Exchange, send_error
from pilothouse.testing.provider.gates import Gates
from pilothouse.testing.provider.log import RequestLog, RequestRecord, redact
from pilothouse.testing.provider.openai_wire import OpenAIWire
from pilothouse.testing.provider.prompt import Prompt, messages_hash
from pilothouse.testing.provider.responses_wire import ResponsesWire
from pilothouse.testing.provider.script import ErrorReply, Script
from pilothouse.testing.provider.selection import Selector
from pilothouse.testing.provider.wire import Wire

_MAX_BODY_BYTES = 256 * 1024 * 1024
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ScriptedProvider:
    """A model provider that answers from a script, over a real socket.

        async with ScriptedProvider(Script(turns=[Turn(text="Hello")])) as provider:
            client = AsyncOpenAI(base_url=provider.openai_base_url, api_key="any")

    It belongs to the event loop that entered it. `log_path` appends the ledger described by
    `RequestLog` to a file.
    """

    def __init__(
        self, script: Script | None = None, *, host: str = "127.0.0.1", port: int = 0, log_path: Path | None = None
    ) -> None:
        self._selector = Selector(script or Script())
        self._host, self._port = host, port
        self._log = RequestLog(log_path)
        self._watch: asyncio.Task[None] | None = None
        self._gates = Gates()
        self._last_index = 0
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, self._host, self._port, backlog=1024).start()
        self._runner = runner
        self._port = runner.addresses[0][1]
        if self._log.on_disk:
            self._watch = asyncio.create_task(self._log.watch_stalls())

    async def stop(self) -> None:
        """Break off what is being answered, close all connections, stop listening."""
        self._is_stopping = True
        tasks: list[asyncio.Task[Any]] = [*self._in_flight, *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._log.close()

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    @property
    def openai_base_url(self) -> str:
        """The base URL for clients of OpenAI; Azure clients take `url` as their endpoint."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """The base URL for clients of Anthropic."""
        return self.url

    @property
    def script(self) -> Script:
        """The script in use. Setting it counts turns and `times` anew; answers under way go on."""
        return self._selector.script

    @script.setter
    def script(self, script: Script) -> None:
        self._selector = Selector(script)

    @property
    def requests(self) -> list[RequestRecord]:
        """The records of all requests since the start or `clear_requests`, in order of arrival."""
        return self._log.records

    def clear_requests(self) -> None:
        """Forget all records; the numbers of requests go on, the counts of the waits begin at zero."""
        self._log.clear(next_index=self._last_index + 1)

    async def wait_for_requests(self, count: int, *, timeout: float = 10) -> None:
        """Return once `count` requests have arrived.

        Raises:
            TimeoutError: they have not within `timeout` seconds.
        """
        await self._log.wait_started(count, timeout=timeout)

    async def wait_for_finished(self, count: int, *, timeout: float = 10) -> None:
        """Return once `count` answers have ended, in whatever way.

        Raises:
            TimeoutError: they have not within `timeout` seconds.
        """
        await self._log.wait_finished(count, timeout=timeout)

    async def wait_for_gate(self, name: str, count: int = 1, *, timeout: float = 10) -> None:
        """Return once `count` answers have come to the gate since the start or `hold`.

        Raises:
            TimeoutError: they have not within `timeout` seconds.
        """
        await self._gates.wait_for(name, count, timeout=timeout)

    def release(self, name: str) -> None:
        """Open a gate, for answers that wait there and those to come."""
        self._gates.release(name)

    def hold(self, name: str) -> None:
        """Close a gate again and count its arrivals from zero."""
        self._gates.hold(name)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        openai, responses, anthropic = OpenAIWire(), ResponsesWire(), AnthropicWire()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._answering(openai)),
                web.post("/v1/responses", self._answering(responses)),
                web.post("/openai/v1/responses", self._answering(responses)),
                web.post("/openai/responses", self._answering(responses)),
                web.post("/v1/messages", self._answering(anthropic)),
                web.post("/openai/v1/chat/completions", self._answering(openai)),
                web.post("/openai/deployments/{deployment}/chat/completions", self._answering(openai)),
                web.post("/v1/messages/count_tokens", self._count_tokens),
                web.get("/v1/models", self._list_models),
                web.get("/openai/v1/models", self._list_models),
                web.get("/_log", _waiting(self._get_log)),
                web.delete("/_log", self._delete_log),
                web.put("/_script", self._put_script),
                web.get("/_gates", self._get_gates),
                web.get("/_gates/{name}", _waiting(self._get_gate)),
                web.post("/_gates/{name}", self._release_gate),
                web.delete("/_gates/{name}", self._hold_gate),
            ]
        )
        return app

    def _answering(self, wire: Wire) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._in_flight.add(task)
            try:
                return await self._answer(request, wire)
            finally:
                self._in_flight.discard(task)

        return handle

    async def _answer(self, request: web.Request, wire: Wire) -> web.StreamResponse:
        selector = self._selector
        body = _parse(await request.read())
        prompt = wire.read(body or {}, api_key=_api_key(request), model=request.match_info.get("deployment"))
        self._last_index += 1
        selected = selector.select(prompt, number=self._last_index) if body is not None else None
        record = RequestRecord(
            self._last_index, time.time(), request.method, request.path, wire.name, prompt.model, prompt.stream
        )
        record.served_by = selected.served_by if selected else ""
        if selector.script.log:
            _describe(record, request, body, keep_body=selector.script.log_bodies)
        self._log.start(record, keep=selector.script.log)
        try:
            if selected is None:
                return await send_error(request, wire, _refusal(body, prompt), record=record)
            return await Exchange(request, wire, prompt, selected, record, self._gates).respond()
        except (asyncio.CancelledError, ConnectionError):
            record.outcome = record.outcome or ("server_stopped" if self._is_stopping else "client_disconnected")
            raise
        finally:
            self._log.finish(record, keep=selector.script.log)

    async def _count_tokens(self, request: web.Request) -> web.Response:
        prompt = AnthropicWire().read(_parse(await request.read()) or {}, api_key="", model=None)
        return web.json_response({"input_tokens": prompt.input_tokens})

    async def _list_models(self, request: web.Request) -> web.Response:
        wire = AnthropicWire() if "anthropic-version" in request.headers else OpenAIWire()
        return web.Response(body=wire.models(self.script.models), content_type="application/json")

    async def _get_log(self, request: web.Request) -> web.Response:
        """The log; with `?started=N` or `?finished=N` not before so many requests have."""
        query = request.query
        await self.wait_for_requests(int(query.get("started", 0)))
        await self.wait_for_finished(int(query.get("finished", 0)))
        return web.json_response({"requests": [record.as_json() for record in self.requests]})

    async def _delete_log(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        self.clear_requests()
        return web.Response(status=204)

    async def _put_script(self, request: web.Request) -> web.Response:
        try:
            self.script = Script.parse(await request.read())
        except ValueError as error:
            return web.Response(status=422, text=str(error))
        return web.Response(status=204)

    async def _get_gates(self, request: web.Request) -> web.Response:  # noqa: ARG002 - aiohttp's signature
        return web.json_response(self._gates.state())

    async def _get_gate(self, request: web.Request) -> web.Response:
        """One gate; with `?arrived=N` not before so many answers have come to it."""
        name = request.match_info["name"]
        await self.wait_for_gate(name, int(request.query.get("arrived", 0)))
        return web.json_response(self._gates.state()[name])

    async def _release_gate(self, request: web.Request) -> web.Response:
        self.release(request.match_info["name"])
        return web.Response(status=204)

    async def _hold_gate(self, request: web.Request) -> web.Response:
        self.hold(request.match_info["name"])
        return web.Response(status=204)


def _waiting(handler: _Handler) -> _Handler:
    """A handler that answers 504 with the reason when what it waits for does not happen."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except TimeoutError as error:
            return web.Response(status=504, text=str(error))

    return handle


def _parse(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in a request's body; `None` when there is none."""
    try:
        body = cast("object", json.loads(raw))
    except ValueError:
        return None
    return cast("dict[str, Any]", body) if isinstance(body, dict) else None


def _api_key(request: web.Request) -> str:
    headers = request.headers
    return (
        headers.get("x-api-key") or headers.get("api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    )


def _describe(record: RequestRecord, request: web.Request, body: dict[str, Any] | None, *, keep_body: bool) -> None:
    lowered = ((name.lower(), value) for name, value in request.headers.items())
    record.headers = {name: redact(name, value) for name, value in lowered}
    record.messages_hash = messages_hash(body or {})
    record.body = body if keep_body else None


def _refusal(body: dict[str, Any] | None, prompt: Prompt) -> ErrorReply:
    if body is None:
        return ErrorReply(status=400, message="The body is no JSON object.")
    results = len(prompt.tool_results)
    text = f"The script has no turn for this request: last user text {prompt.user!r}, {results} tool results."
    return ErrorReply(status=422, message=text)
