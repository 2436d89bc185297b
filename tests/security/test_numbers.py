"""No number, cursor or event id that a request can hold is an error of the server's."""

import itertools
import json
from typing import Any

import aiohttp
import pytest
from pydantic_ai import Agent
from tests.support.server import Person, running

from pilothouse.http.pages import encode_cursor
from pilothouse.testing.provider import Script
from pilothouse.tools import tool

NUMBERS = (2**31, 2**63 - 1, 2**63, 2**64, -1, -(2**63) - 1, 10**400)
TEXTS = [*map(str, NUMBERS), "NaN", "Infinity", "1e309", "1.5", "٣", "\uff11\uff12", ""]
JSON = [*map(str, NUMBERS), "NaN", "-Infinity", "1e309", "1.5", '"٣"']

PAIRS = [pair for number in NUMBERS for pair in ((1, number), (number, 1))]

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("post", "/v1/chat"): {"message": "hi", "context": {"n": 1}, "attachments": []},
    ("post", "/v1/chat/stream"): {"message": "hi", "context": {"n": 1}, "attachments": []},
    ("post", "/v1/conversations"): {"title": "t", "metadata": {"n": 1}},
    ("patch", "/v1/conversations/{conversation_id}"): {"title": "t"},
    ("put", "/v1/conversations/{conversation_id}/messages/{key}/pin"): {"pinned": True},
    ("post", "/v1/keys"): {"name": "n", "scopes": ["chat"], "expires_at": "2999-01-01T00:00:00Z"},
    ("post", "/v1/runs/{run_id}/fork"): {"from_step": 1, "message": "m"},
    ("post", "/v1/runs/{run_id}/input"): {"call_id": "c", "approve": True},
    ("post", "/v1/tools/{name}"): {"arguments": {"count": 1, "share": 0.5}},
}
"""A good body of each route that takes one. A new route fails the test until its body is here."""


@tool(effect="pure")
async def measure(count: int, share: float) -> dict[str, float]:
    """Take two numbers."""
    return {"count": count, "share": share}


def setup(app: Any) -> None:
    app.agent(Agent(name="helper"), tools=[measure])


def cursors() -> list[str]:
    """Well-formed cursors of every shape, with every number."""
    shapes = [(number, text) for number in NUMBERS for text in ("run_1", "")]
    return [encode_cursor(*values) for values in (*shapes, *PAIRS, *((number,) for number in NUMBERS))]


def values_for(name: str) -> list[str]:
    """What to send as a parameter: numbers, and what this one packs numbers into."""
    if name == "cursor":
        return [*TEXTS, *cursors()]
    if name in {"after", "Last-Event-ID"}:
        return [*TEXTS, *(f"{first}-{second}" for first, second in PAIRS)]
    if name == "key":
        return [*TEXTS, *(f"{first}.{second}" for first, second in PAIRS)]
    if name in {"since", "until"}:
        return [*TEXTS, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"]
    return TEXTS


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in a JSON object where a value may be put, the members of inner objects too."""
    found = [path] if path else []
    if isinstance(value, dict):
        found += [place for name, inner in value.items() for place in places(inner, (*path, name))]
    return found


def with_value(body: dict[str, Any], place: tuple[str, ...], raw: str) -> bytes:
    """The JSON text of `body` with `raw` at a place, whether that is JSON or not."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = "@@"
    return json.dumps(copy).replace('"@@"', raw).encode()


class Tries:
    """Sends requests, and remembers those that were the server's fault."""

    def __init__(self, person: Person, ids: dict[str, str]) -> None:
        self.person = person
        self.ids = ids
        self.count = 0
        self.wrong: list[str] = []

    async def send(self, method: str, path: str, note: str, ids: dict[str, str] | None = None, **parts: Any) -> None:
        names = {name: value.replace("/", "%2F") or "%20" for name, value in {**self.ids, **(ids or {})}.items()}
        response = await self.person.http.request(method, path.format(**names), **parts)
        self.count += 1
        if response.status_code >= 500 or "internal_error" in response.text:
            self.wrong.append(f"{method} {path} {note[:120]}: {response.status_code} {response.text[:200]}")


@pytest.mark.slow
async def test_no_number_in_any_parameter_or_body_is_the_servers_fault(database_url):
    async with running(database_url, Script(turns=["Hello."]), setup=setup) as server:
        person = server.person("ada", scope="*")
        answer = await server.chat("hi")
        ids = {"run_id": answer["run_id"], "conversation_id": answer["conversation_id"], "key": "1.1"}
        tries = Tries(person, {**ids, "key_id": "key_1", "name": "measure", "attachment_id": "att_1"})
        document = (await server.get("/openapi.json")).json()
        operations = [
            (method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        for method, path, operation in sorted(operations, key=lambda item: item[0] == "delete"):
            body = BODIES.get((method, path))
            assert (body is not None) == ("requestBody" in operation), f"BODIES lacks or should lack {method} {path}"
            for parameter in operation.get("parameters", ()):
                name, where = parameter["name"], parameter["in"]
                for value in values_for(name):
                    parts: dict[str, Any] = {} if body is None else {"json": body}
                    if path.endswith("/events"):
                        parts["headers"] = {"Accept": "application/json"}
                    if where == "query":
                        parts["params"] = {name: value}
                    elif where == "header":
                        parts["headers"] = {**parts.get("headers", {}), name: value.strip().encode()}
                    await tries.send(method, path, f"{name}={value}", {name: value} if where == "path" else {}, **parts)
            for place, raw in itertools.product(places(body), JSON):
                headers = {"Content-Type": "application/json"}
                content = with_value(body or {}, place, raw)
                await tries.send(method, path, content.decode(), content=content, headers=headers)
        assert tries.wrong == []
        assert tries.count > 500
        assert (await server.chat("still there?"))["state"] == "completed"


async def test_a_cursor_beyond_its_column_is_422(database_url):
    """Seen in review: a cursor of the messages' list beyond 32 bits was a 500 on PostgreSQL."""
    async with running(database_url, Script(turns=["Hello."])) as server:
        answer = await server.chat("hi")
        path = f"/v1/conversations/{answer['conversation_id']}/messages"
        for turn, seq in ((1, 2**31), (2**31, 1), (2**63, 1), (1, 2**64), (10**400, 1), (-(2**31) - 1, 1)):
            response = await server.get(path, cursor=encode_cursor(turn, seq))
            assert (response.status_code, response.json()["code"]) == (422, "bad_cursor"), (turn, seq)
        assert (await server.get(path, cursor=encode_cursor(2**31 - 1, 2**31 - 1))).json()["items"] == []
        for path in ("/v1/runs", "/v1/conversations", "/v1/keys"):
            for number in (2**63, -(2**63) - 1, 2**64, 10**400):
                response = await server.get(path, cursor=encode_cursor(number, "x"))
                assert (response.status_code, response.json()["code"]) == (422, "bad_cursor"), (path, number)
            assert (await server.get(path, cursor=encode_cursor(2**63 - 1, "x"))).status_code == 200


async def test_an_event_id_beyond_its_column_is_422(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        path = f"/v1/runs/{(await server.chat('hi'))['run_id']}/events"
        for given in (f"1-{2**31}", f"{2**31}-1", f"1-{2**63}", f"1-{10**30}", "1-٣", "1-²", "1--1", "-1-1", "1e309-1"):
            response = await server.get(path, after=given)
            assert (response.status_code, response.json()["code"]) == (422, "bad_event_id"), given
            response = await server.http.get(path, headers={"Last-Event-ID": given.encode()})
            assert (response.status_code, response.json()["code"]) == (422, "bad_event_id"), given


async def test_no_number_in_a_frame_is_the_servers_fault(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        run_id = (await server.chat("hi"))["run_id"]
        frames = [
            template.replace("@@", raw)
            for raw in JSON
            if not raw.startswith('"')  # a text is a good message
            for template in (
                '{"type": "resume", "run_id": @@}',
                f'{{"type": "resume", "run_id": "{run_id}", "after": @@}}',
                '{"type": "cancel", "run_id": @@}',
                '{"type": "message", "message": @@}',
                '{"type": "message", "message": "hi", "idempotency_key": @@}',
                '{"type": "message", "message": "hi", "attachments": @@}',
                '{"type": "message", "message": "hi", "context": @@}',
                '{"type": @@}',
                "@@",
            )
        ]
        frames += [
            json.dumps({"type": "resume", "run_id": run_id, "after": f"{first}-{second}"})
            for first, second in itertools.product(NUMBERS, repeat=2)
            if max(first, second) >= 2**31 or min(first, second) < 0
        ]
        for some in (frames[start : start + 10] for start in range(0, len(frames), 10)):
            async with server.session.ws_connect("/v1/chat/ws/new") as socket:
                for frame in some:
                    await socket.send_str(frame)
                    answer = json.loads(await socket.receive_str())
                    assert answer["type"] == "error", (frame, answer)
                    assert answer["error"]["status"] < 500, (frame, answer)
        for text in TEXTS:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await server.session.ws_connect(f"/v1/chat/ws/{text or '%20'}")
            assert 400 <= refused.value.status < 500, text
