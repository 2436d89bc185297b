"""Pilothouse inside another FastAPI application: with its lifespan all of it works, without it callers are told so."""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from pydantic_ai import Agent
from tests.support.server import settings_for, token_for
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import InvalidStatus

from pilothouse import Pilothouse
from pilothouse.kit.jsons import loads
from pilothouse.testing.provider import Script, ScriptedProvider

HEADERS = {"Authorization": f"Bearer {token_for('ada')}"}

# Logging as a process has it before anything configured it.
UNSTARTED = """
import asyncio, httpx2, sys
from fastapi import FastAPI
from pilothouse import Pilothouse
from pilothouse.observability.logs import get_logger
from pilothouse.settings import Settings

bare = FastAPI()
bare.mount("/ai", Pilothouse(Settings.model_validate({"data": {"dir": sys.argv[1]}})))
key = "ph_abcdefgh_" + "s3cret" * 8


def fails(password):
    raise RuntimeError("on purpose")


async def main():
    transport = httpx2.ASGITransport(bare, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            answer = await client.post(
                "/ai/v1/chat", json={"message": "my own words"}, headers={"Authorization": f"Bearer {key}"}
            )
            print(answer.status_code, answer.json()["code"])
    try:
        fails(key)
    except RuntimeError:
        get_logger("other").exception("it_failed")


asyncio.run(main())
"""


@pytest.fixture
async def provider():
    async with ScriptedProvider(Script(turns=["Hello."] * 4)) as scripted:
        yield scripted


def mounted(app: Pilothouse, *, lifespan: bool) -> FastAPI:
    @asynccontextmanager
    async def start_both(_outer: FastAPI):
        async with app.running():
            yield

    outer = FastAPI(lifespan=start_both if lifespan else None)
    outer.mount("/ai", app)
    return outer


async def test_within_the_lifespan_of_the_outer_application_everything_works(sqlite_url, provider, serve):
    app = Pilothouse(settings_for(sqlite_url, provider, server={"console": True}), environ={})
    app.agent(Agent(name="helper"))
    server = await serve(mounted(app, lifespan=True), lifespan="on")
    base = f"127.0.0.1:{server.port}/ai"
    async with httpx2.AsyncClient(base_url=f"http://{base}", headers=HEADERS, timeout=60, trust_env=False) as client:
        assert (await client.get("/health/ready")).status_code == 200
        answer = await client.post("/v1/chat", json={"message": "Hi"})
        assert answer.json()["text"] == "Hello."
        assert answer.headers["cache-control"] == "no-store"
        streamed = await client.post("/v1/chat/stream", json={"message": "Hi"})
        assert "event: run.completed" in streamed.text
        page = await client.get("/console/")
        assert page.status_code == 200
        assert (await client.get("/console")).headers["location"] == "console/"
    async with connect_websocket(f"ws://{base}/v1/chat/ws/new", additional_headers=HEADERS, proxy=None) as socket:
        await socket.send('{"type": "message", "message": "Hi"}')
        async with asyncio.timeout(30):
            while loads(await socket.recv())["type"] != "run.completed":
                pass


async def test_without_it_every_request_is_answered_503_and_one_line_says_what_to_do(sqlite_url, provider, serve):
    app = Pilothouse(settings_for(sqlite_url, provider), environ={})
    server = await serve(mounted(app, lifespan=False))
    base = f"127.0.0.1:{server.port}/ai"
    async with httpx2.AsyncClient(base_url=f"http://{base}", headers=HEADERS, trust_env=False) as client:
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert ready.status_code == 503
        assert "app.running()" in ready.json()["reason"]
        for path in ("/v1/agents", "/v1/runs", "/console/", "/nothing"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "not_started"), path
            assert answer.headers["content-type"] == "application/problem+json"
    with pytest.raises(InvalidStatus) as refused:
        await connect_websocket(f"ws://{base}/v1/chat/ws/new", additional_headers=HEADERS, proxy=None)
    assert refused.value.response.status_code == 503


async def test_before_logging_is_configured_no_line_holds_what_a_caller_sent(tmp_path):
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", UNSTARTED, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
        )

    done = await asyncio.to_thread(run)
    written = done.stdout + done.stderr
    assert done.stdout.splitlines() == ["503 not_started"] * 2, written
    assert written.count("async with app.running()") == 1
    assert "it_failed" in written
    assert "on purpose" in written
    assert "s3cret" not in written
    assert "my own words" not in written
