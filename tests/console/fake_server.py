"""A small server that speaks the contract of docs/http.md from memory, with a model that follows scripts.

Where a script says `gate` the run waits until `release()`; `drop_streams()` breaks every open stream, as a lost
network does. The console is served by it as by the real server.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.console.fake_model import FakeModel, FakeRun, now

from pilothouse.console import mount_console

TOKEN = "ph_test-token+with/odd=signs"
LAST = ("run.completed", "run.failed", "run.cancelled")


class FakeServer:
    """`with FakeServer() as server: server.url, server.token`."""

    token = TOKEN
    subject = "ada@example.com"

    def __init__(self, *, pace: float = 0.004, agents: int = 1) -> None:
        self.agent_names = ["support", "researcher"][:agents]
        self.conversations: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, FakeRun] = {}
        self.model = FakeModel(self.runs, pace)
        self.keys: dict[str, str] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.drop = asyncio.Event()
        self.accepted: set[str | None] = {f"Bearer {TOKEN}"}
        self.subjects: dict[str | None, str] = {}  # whose a token is, where it is not that of `subject`
        self.app = self._build()
        config = uvicorn.Config(
            self.app, port=0, log_level="warning", ws="none", lifespan="off", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.ready = threading.Event()

    def __enter__(self) -> "FakeServer":
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.drop_streams()
        self.thread.join(10)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        serving = asyncio.ensure_future(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.ready.set()
        await serving
        for run in self.runs.values():
            if run.task:
                run.task.cancel()

    def release(self) -> None:
        """Lets every waiting run go on."""
        for run in list(self.runs.values()):
            self.loop.call_soon_threadsafe(run.gate.set)

    def drop_streams(self) -> None:
        """Ends every open event stream in the middle."""

        def swap() -> None:
            old, self.drop = self.drop, asyncio.Event()
            old.set()

        self.loop.call_soon_threadsafe(swap)

    # HTTP.

    def _admit(self, body: dict[str, Any], key: str | None) -> FakeRun | Response:
        if key and key in self.keys:
            return self.runs[self.keys[key]]
        conversation_id = body.get("conversation_id") or f"conv_{len(self.conversations) + 1:04}"
        agent = body.get("agent") or "support"
        conversation = self.conversations.setdefault(
            conversation_id, self._conversation(conversation_id, body["message"][:60], agent)
        )
        open_runs = [
            run for run in self.runs.values() if not run.over and run.record["conversation_id"] == conversation_id
        ]
        if open_runs and body.get("on_busy", "reject") == "reject":
            return problem(409, "conversation_busy", "A run is still active in this conversation.", retryable=True)
        if open_runs and body["on_busy"] == "interrupt":
            for run in open_runs:
                assert run.task
                run.task.cancel()
        conversation["turns"] += 1
        conversation["updated_at"] = now()
        run = FakeRun(len(self.runs) + 1, conversation, body["message"])
        self.runs[run.record["id"]] = run
        if key:
            self.keys[key] = run.record["id"]
        run.keep(role="user", step=0, text=body["message"])
        return run

    def _conversation(self, conversation_id: str, title: str, agent: str) -> dict[str, Any]:
        return {
            "id": conversation_id,
            "title": title,
            "agent": agent,
            "turns": 0,
            "messages": [],
            "created_at": now(),
            "updated_at": now(),
        }

    async def _events(self, run: FakeRun, after: str | None) -> AsyncIterator[str]:
        at = int(after.split("-")[1]) if after else 0
        drop = self.drop
        dropped = asyncio.ensure_future(drop.wait())
        dropped.add_done_callback(lambda _: asyncio.ensure_future(self._wake(run)))
        yield ": hb\n\n"
        try:
            while not drop.is_set():
                while at < len(run.events):
                    event_id, type_, data = run.events[at]
                    at += 1
                    yield f"id: {event_id}\nevent: {type_}\ndata: {json.dumps(data)}\n\n"
                    if type_ in LAST:
                        return
                async with run.news:
                    await run.news.wait_for(lambda at=at: at < len(run.events) or drop.is_set())
        finally:
            dropped.cancel()

    async def _wake(self, run: FakeRun) -> None:
        async with run.news:
            run.news.notify_all()

    def _stream_of(self, run: FakeRun, after: str | None = None) -> Response:
        return StreamingResponse(self._events(run, after), media_type="text/event-stream")

    def _build(self) -> FastAPI:
        app = FastAPI()
        mount_console(app)

        app.add_middleware(Gatekeeper, requests=self.requests, accepted=self.accepted)
        self._identity_routes(app)
        self._chat_routes(app)
        self._conversation_routes(app)
        return app

    def _identity_routes(self, app: FastAPI) -> None:
        @app.get("/v1/me")
        async def me(request: Request) -> Any:
            subject = self.subjects.get(request.headers.get("authorization"), self.subject)
            return {"tenant": "default", "subject": subject, "scopes": ["chat"]}

        @app.get("/v1/agents")
        async def agents() -> Any:
            texts = {
                "support": "Answers questions about orders, deliveries and returns.",
                "researcher": "Reads and sums up.",
            }
            return {
                "items": [
                    {"name": name, "description": texts[name], "model": "offline:scripted", "tools": []}
                    for name in self.agent_names
                ],
                "next_cursor": None,
            }

    def _chat_routes(self, app: FastAPI) -> None:
        @app.post("/v1/chat/stream")
        async def chat_stream(request: Request) -> Response:
            raw = await request.body()
            if len(raw) > 1_048_576:
                return problem(413, "too_large", "The request is larger than 1 MB. Send smaller attachments.")
            run = self._admit(json.loads(raw), request.headers.get("idempotency-key"))
            if isinstance(run, Response):
                return run
            if run.task is None:
                record = run.record
                await run.emit(
                    "run.queued", conversation_id=record["conversation_id"], agent=record["agent"], kind="chat"
                )
                run.task = asyncio.ensure_future(self.model.execute(run))
            return self._stream_of(run)

        @app.get("/v1/runs")
        async def runs(conversation_id: str = "", state: str = "", limit: int = 20, cursor: int = 0) -> Any:
            found = [
                {key: value for key, value in run.record.items() if key not in ("steps", "text")}
                for run in reversed(self.runs.values())
                if conversation_id in ("", run.record["conversation_id"]) and state in ("", run.record["state"])
            ]
            return page(found, limit, cursor)

        @app.get("/v1/runs/{run_id}")
        async def run(run_id: str) -> Any:
            return self.runs[run_id].record if run_id in self.runs else problem(404, "not_found", "No such run.")

        @app.get("/v1/runs/{run_id}/events")
        async def events(run_id: str, request: Request) -> Response:
            if run_id not in self.runs:
                return problem(404, "not_found", "No such run.")
            return self._stream_of(self.runs[run_id], request.headers.get("last-event-id"))

        @app.post("/v1/runs/{run_id}/cancel")
        async def cancel(run_id: str) -> Any:
            run = self.runs[run_id]
            finished = run.over
            if run.task and not finished:
                run.task.cancel()
                await asyncio.wait([run.task])
            return {"run_id": run_id, "state": run.record["state"], "took_effect": [], "already_finished": finished}

        @app.post("/v1/runs/{run_id}/input", status_code=202)
        async def answer(run_id: str, body: dict[str, Any]) -> Any:
            run = self.runs[run_id]
            run.approved = body["approve"]
            run.decided.set()
            return run.record

    def _conversation_routes(self, app: FastAPI) -> None:
        missing = problem(404, "not_found", "No such conversation.")

        @app.get("/v1/conversations")
        async def conversations(limit: int = 20, cursor: int = 0) -> Any:
            found = sorted(self.conversations.values(), key=lambda item: item["updated_at"], reverse=True)
            return page(found, limit, cursor)

        @app.get("/v1/conversations/{conversation_id}")
        async def conversation(conversation_id: str) -> Any:
            return self.conversations.get(conversation_id) or missing

        @app.patch("/v1/conversations/{conversation_id}")
        async def rename(conversation_id: str, body: dict[str, Any]) -> Any:
            self.conversations[conversation_id]["title"] = body["title"]
            return self.conversations[conversation_id]

        @app.delete("/v1/conversations/{conversation_id}", status_code=204)
        async def delete(conversation_id: str) -> Response:
            self.conversations.pop(conversation_id)
            return Response(status_code=204)

        @app.get("/v1/conversations/{conversation_id}/messages")
        async def messages(conversation_id: str, limit: int = 100, cursor: int = 0) -> Any:
            return page(self.conversations.get(conversation_id, {"messages": []})["messages"], limit, cursor)

        @app.get("/v1/conversations/{conversation_id}/export")
        async def export(conversation_id: str) -> Any:
            return {
                "conversation": self.conversations[conversation_id],
                "messages": self.conversations[conversation_id]["messages"],
            }


class Gatekeeper:
    """Notes every request to the API and lets none in without the token."""

    def __init__(self, app: ASGIApp, requests: list[tuple[str, dict[str, str]]], accepted: set[str | None]) -> None:
        self.app = app
        self.accepted = accepted
        self.requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            headers = dict(Headers(scope=scope))
            self.requests.append((f"{scope['method']} {scope['path']}", headers))
            if headers.get("authorization") not in self.accepted:
                app = problem(401, "unauthenticated", "The token is wrong.")
        await app(scope, receive, send)


def page(items: list[Any], limit: int, cursor: int) -> dict[str, Any]:
    further = cursor + limit
    return {"items": items[cursor:further], "next_cursor": str(further) if further < len(items) else None}


def problem(status: int, code: str, detail: str, *, retryable: bool = False) -> JSONResponse:
    body = {
        "type": f"https://pilothouse.dev/problems/{code}",
        "title": code,
        "status": status,
        "code": code,
        "detail": detail,
        "retryable": retryable,
    }
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


if __name__ == "__main__":
    with FakeServer(pace=0.03) as running:
        sys.stdout.write(f"{running.url}/console/#token={running.token}\n")
        sys.stdout.flush()
        while True:
            time.sleep(1)
