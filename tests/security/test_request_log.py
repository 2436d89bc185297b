"""The log's line of each request: it says who made it, and holds no query, which may hold a token."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from tests.support.server import Person, running

from pilothouse.observability import configure_logging
from pilothouse.settings import LogSettings

INFO = {"level": "info", "format": "json"}


@pytest.fixture
def log_lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What servers that start in this test have written to their log since the last look."""
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    configure_logging(LogSettings(level="warning", format="json"), "development", stream=sys.__stderr__)


async def test_the_line_of_each_request_says_who_made_it_and_with_what(sqlite_url, log_lines):
    async with running(sqlite_url, log=INFO) as server:
        made = (await server.post("/v1/keys", {"name": "n", "scopes": ["runs:read", "chat"]})).json()
        robot = Person(server.url, made["token"])
        await robot.get("/v1/runs")
        async with robot.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "ping"})
            await socket.receive_json()
        await robot.close()
        await server.nobody().get("/v1/runs/run_1")
    found = [(line["path"], line.get("subject"), line.get("by")) for line in log_lines() if line["event"] == "request"]
    assert sorted(found) == [
        ("/v1/chat/ws/new", "ada", made["id"]),
        ("/v1/keys", "ada", "jwt"),
        ("/v1/runs", "ada", made["id"]),
        ("/v1/runs/run_1", None, None),
    ]


async def test_a_query_stands_in_no_line_and_a_refused_websocket_is_no_error_of_the_server(sqlite_url, log_lines):
    async with running(sqlite_url, log=INFO) as server:
        async with server.session.ws_connect("/v1/chat/ws/new?ticket=letmein"):
            pass
        for person, path in ((server, "conv_1"), (server.nobody(), "new")):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await person.session.ws_connect(f"/v1/chat/ws/{path}?ticket=letmein")
    lines = log_lines()
    assert sorted(line["status"] for line in lines if line["event"] == "request") == [101, 401, 404]
    assert "letmein" not in json.dumps(lines)
    assert [line for line in lines if line["level"] == "error"] == []
