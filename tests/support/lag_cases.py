"""Heavy things a server is asked for, one a case: large histories, results, attachments, exports, answers, frames.

`LAG_CASES` names them; `longest(name, database_url)` serves one and gives the probe that watched the server's loop.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from sqlalchemy import Connection
from tests.support.lag import Elsewhere, LoopProbe, elsewhere
from tests.support.server import Person, RunningServer, serving, token_for

from pilothouse.app import Pilothouse
from pilothouse.conversations import attachment_repository, repository
from pilothouse.conversations.attachments import prepare
from pilothouse.conversations.transcript import StoredMessage, encode
from pilothouse.llm.tokens import estimate_tokens
from pilothouse.testing.provider import Script, ScriptedProvider, ToolCall, Turn
from pilothouse.tools import tool

LARGE = 16 * 1024 * 1024
ROOMY: dict[str, dict[str, Any]] = {
    "server": {"max_body_bytes": LARGE, "max_message_bytes": LARGE, "console": False},
    "runs": {"delta_flush_seconds": 0.02, "history_tokens": 2_000_000, "history_messages": 200},
}
_PNG = b"\x89PNG\r\n\x1a\n"
_WORDS = "the quick brown fox jumps over the lazy dog, "


def prose(chars: int) -> str:
    return (_WORDS * (chars // len(_WORDS) + 1))[:chars]


class Row(BaseModel):
    name: str
    tags: list[str]


def _nested() -> Any:
    row = {"name": prose(60), "values": list(range(20)), "inner": {"a": [{"b": prose(100)}] * 5}}
    return {"pages": [[row] * 1000] * 120}


RESULTS: dict[str, Callable[[], Any]] = {
    "text": lambda: prose(50_000_000),
    "nested": _nested,
    "rows": lambda: [{"id": number, "name": f"row {number}", "ok": True} for number in range(400_000)],
    "models": lambda: [Row(name=f"row {number}", tags=["a", "b"]) for number in range(100_000)],
    "bytes": lambda: bytes(50_000_000),
    "page": lambda: prose(31_000),
}
_made: dict[str, Any] = {}


@tool(effect="pure")
async def fetch(kind: str, number: int = 0) -> Any:
    """A result that was made before, so that only what becomes of it is measured."""
    return _made[kind]


TOOLS = [fetch]


@dataclass
class Scene:
    """A served application with its client and provider on another loop."""

    server: RunningServer
    person: Person
    provider: ScriptedProvider
    other: Elsewhere


Case = Callable[[Scene], Awaitable[LoopProbe]]


async def longest(name: str, database_url: str) -> LoopProbe:
    """Serve one case and watch the server's loop meanwhile."""
    prepare, script = LAG_CASES[name]
    async with _scene(database_url, script()) as scene:
        await scene.other.run(scene.person.chat("Warm up."))
        return await prepare(scene)


@asynccontextmanager
async def _scene(database_url: str, script: Script) -> AsyncIterator[Scene]:
    def setup(app: Pilothouse) -> None:
        app.agent(Agent(name="helper", tools=TOOLS))

    async with elsewhere() as other:
        provider = ScriptedProvider(script)
        await other.run(provider.start())
        try:
            async with serving(database_url, provider, setup=setup, **ROOMY) as server:

                async def make() -> Person:
                    return Person(server.url, token_for("ada"))

                person = await other.run(make())
                try:
                    yield Scene(server, person, provider, other)
                finally:
                    await other.run(person.close())
        finally:
            await other.run(provider.stop())


async def _with_history(scene: Scene, *, chars: int, count: int = 200) -> str:
    """A conversation of so many messages of so many characters, put there past the server."""
    answer = await scene.other.run(scene.person.chat("Hello"))
    conversation_id, run_id = answer["conversation_id"], answer["run_id"]
    text = prose(chars)
    asked, said = encode(ModelRequest(parts=[UserPromptPart(text)])), encode(ModelResponse(parts=[TextPart(text)]))
    rows = [
        StoredMessage(
            turn=1,
            seq=100 + number,
            run_id=run_id,
            step=1,
            role="assistant" if number % 2 else "user",
            call_id=None,
            payload=said if number % 2 else asked,
            tokens=estimate_tokens(text),
            pinned=False,
            created_at=1_000_000 + number,
        )
        for number in range(count)
    ]

    def insert(connection: Connection) -> None:
        repository.insert_messages(connection, conversation_id, rows)

    await scene.server.database.write(insert)
    return conversation_id


async def _large_history(scene: Scene) -> LoopProbe:
    conversation_id = await _with_history(scene, chars=20_000)
    with LoopProbe() as probe:
        await scene.other.run(scene.person.chat("And now?", conversation_id=conversation_id))
    return probe


async def _export(scene: Scene) -> LoopProbe:
    conversation_id = await _with_history(scene, chars=100_000, count=400)

    async def export() -> bytes:
        response = await scene.person.get(f"/v1/conversations/{conversation_id}/export")
        return response.content

    with LoopProbe() as probe:
        body = await scene.other.run(export())
    assert len(json.loads(body)["messages"]) == 402
    return probe


async def _list_messages(scene: Scene) -> LoopProbe:
    conversation_id = await _with_history(scene, chars=500_000, count=100)

    async def read_all() -> int:
        seen, cursor = 0, None
        while True:
            params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = (await scene.person.get(f"/v1/conversations/{conversation_id}/messages", **params)).json()
            seen += len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return seen

    with LoopProbe() as probe:
        assert await scene.other.run(read_all()) == 102
    return probe


def _asked(**body: Any) -> Case:
    """A chat in one piece, its run, its messages and its events."""

    async def case(scene: Scene) -> LoopProbe:
        with LoopProbe() as probe:
            answer = await scene.other.run(scene.person.chat("Go on.", **body))
            await scene.other.run(scene.person.run(answer["run_id"]))
            await scene.other.run(scene.person.messages(answer["conversation_id"]))
            await scene.other.run(_events(scene.person, answer["run_id"]))
        return probe

    return case


async def _events(person: Person, run_id: str) -> str:
    """As a stream and as a document; lines are longer than the usual client reads."""
    stream = await person.get(f"/v1/runs/{run_id}/events")
    document = await person.http.get(f"/v1/runs/{run_id}/events", headers={"Accept": "application/json"})
    assert document.status_code == 200
    return stream.text


async def _streamed(scene: Scene) -> LoopProbe:
    with LoopProbe() as probe:
        response = await scene.other.run(scene.person.post("/v1/chat/stream", {"message": "Go on."}))
        assert "event: run.completed" in response.text, response.text[-500:]
        run_id = response.headers["X-Run-ID"]
        await scene.other.run(scene.person.run(run_id))
        await scene.other.run(_events(scene.person, run_id))
    return probe


async def _attachments(scene: Scene) -> LoopProbe:
    data = base64.b64encode(_PNG + bytes(range(256)) * 20_000).decode()
    attachment = {"media_type": "image/png", "data": data, "name": "large.png"}
    with LoopProbe() as probe:
        answer = await scene.other.run(scene.person.chat("See.", attachments=[attachment]))
        again = {"conversation_id": answer["conversation_id"]}
        await scene.other.run(scene.person.chat("Again.", **again))
        await scene.other.run(scene.person.run(answer["run_id"]))
        await scene.other.run(scene.person.messages(answer["conversation_id"]))
    return probe


async def _many_images(scene: Scene) -> LoopProbe:
    """A small message after 39 with an image of a megabyte each, put there past the server."""
    answer = await scene.other.run(scene.person.chat("Hello"))
    conversation_id, run_id = answer["conversation_id"], answer["run_id"]
    said = encode(ModelResponse(parts=[TextPart("I see.")]))
    images = [
        prepare("image/png", base64.b64encode(_PNG + bytes([number]) * 1_000_000).decode(), f"{number}.png")
        for number in range(39)
    ]

    def insert(connection: Connection) -> None:
        attachment_repository.insert_attachments(
            connection, "acme", "ada", conversation_id, attachments=images, now=1_000_000
        )
        for number, image in enumerate(images):
            asked = encode(ModelRequest(parts=[UserPromptPart(["See.", image.reference()])]))
            place = {"turn": 1, "run_id": run_id, "step": 1, "call_id": None, "pinned": False, "created_at": 1_000_000}
            question = StoredMessage(seq=100 + 2 * number, role="user", payload=asked, tokens=image.tokens, **place)
            reply = StoredMessage(seq=101 + 2 * number, role="assistant", payload=said, tokens=3, **place)
            repository.insert_messages(connection, conversation_id, [question, reply])

    await scene.server.database.maintain(insert)
    with LoopProbe() as probe:
        await scene.other.run(scene.person.chat("And now?", conversation_id=conversation_id))
        await scene.other.run(scene.person.messages(conversation_id))
    return probe


async def _frames(scene: Scene) -> LoopProbe:
    data = base64.b64encode(_PNG + bytes(range(256)) * 3_000).decode()
    attachment = {"media_type": "image/png", "data": data}

    async def talk() -> None:
        url = f"{scene.person.url}/v1/chat/ws/new"
        async with scene.person.session.ws_connect(url, max_msg_size=LARGE) as socket:
            for _ in range(3):
                await socket.send_json({"type": "message", "message": "See.", "attachments": [attachment]})
                while True:
                    message = await asyncio.wait_for(socket.receive(), 60)
                    assert message.type == aiohttp.WSMsgType.TEXT, message
                    frame = json.loads(message.data)
                    assert frame["type"] not in {"error", "run.failed"}, frame
                    if frame["type"] == "run.completed":
                        break

    with LoopProbe() as probe:
        await scene.other.run(talk())
    return probe


def _fetches(kind: str, last: str = "Done.", *, steps: int = 1, calls: int = 1) -> Callable[[], Script]:
    def script() -> Script:
        _made[kind] = RESULTS[kind]()
        turns = [
            Turn(tool_calls=[ToolCall(name="fetch", arguments={"kind": kind, "number": n}) for n in range(calls)])
            for _ in range(steps)
        ]
        return Script(turns=[Turn(text="Ready."), *turns, Turn(text=last)], log_bodies=False)

    return script


def _says(turn: Turn) -> Callable[[], Script]:
    return lambda: Script(turns=[Turn(text="Ready."), turn, Turn(text="Done.")], log_bodies=False)


_ARGUMENTS = json.dumps({"text": prose(300_000)})
_WELL = _says(Turn(text="Well."))
LAG_CASES: dict[str, tuple[Case, Callable[[], Script]]] = {
    "history of 200 large messages": (_large_history, _WELL),
    "export of 40 MB": (_export, _WELL),
    "list of 50 MB of messages": (_list_messages, _WELL),
    "tool result: text of 50 MB": (_asked(), _fetches("text")),
    "tool result: 100 MB nested": (_asked(), _fetches("nested")),
    "tool result: 400,000 rows": (_asked(), _fetches("rows")),
    "tool result: 100,000 models": (_asked(), _fetches("models")),
    "tool result: 50 MB of bytes": (_asked(), _fetches("bytes")),
    "run with 64 results of 31 KB and an answer of 700 KB": (
        _asked(),
        _fetches("page", prose(700_000), steps=8, calls=8),
    ),
    "attachment of 5 MB": (_attachments, _WELL),
    "message after 39 images of 1 MB": (_many_images, _WELL),
    "frames of 1 MB": (_frames, _WELL),
    "answer of 700 KB in one piece": (_asked(), _says(Turn(text=prose(700_000)))),
    "answer of 600 KB streamed": (_streamed, _says(Turn(text=prose(600_000)))),
    "arguments of 300 KB streamed": (
        _streamed,
        _says(Turn(tool_calls=[ToolCall(name="unknown", raw_arguments=_ARGUMENTS)])),
    ),
}
