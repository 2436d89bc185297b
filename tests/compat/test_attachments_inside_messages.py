"""Release 0.1.0 stored files inside their messages, unchecked. Such conversations go on, also those it had bricked."""

import base64
import json
from typing import Any

import pytest
from sqlalchemy import Connection, insert
from tests.security.test_attachments import GIF, PDF, PNG, TABLE, WIRES, files, on, texts, user_contents
from tests.support.server import RunningServer, running

from pilothouse.conversations.tables import conversations, messages
from pilothouse.runs.tables import runs
from pilothouse.testing.provider import Script

CONVERSATION = "conv_01kb2m9w4c8t5v3q7r1x6y0z2b"
INTERNAL = {"code": "internal_error", "message": "", "category": "fatal", "retryable": False, "status": 500}


def written_by_0_1_0(data: bytes, media_type: str) -> str:
    """The JSON of a user's message with a file, byte for byte as that release wrote it."""
    encoded = base64.urlsafe_b64encode(data).decode()
    return (
        '{"parts":[{"content":["What is in it?",{"data":"' + encoded + '","media_type":"' + media_type + '",'
        '"vendor_metadata":null,"kind":"binary","identifier":"3a2f1c"}],"timestamp":"2026-11-02T08:30:00.000000Z",'
        '"part_kind":"user-prompt"}],"timestamp":null,"instructions":null,"kind":"request","run_id":null,'
        '"conversation_id":null,"metadata":null,"state":"complete"}'
    )


def insert_turn(connection: Connection, turn: int, payload: str, *, tokens: int = 1_004) -> None:
    """A message whose run had failed, with nothing behind it."""
    run = {
        "id": f"run_{turn}",
        "tenant": "acme",
        "owner": "ada",
        "conversation_id": CONVERSATION,
        "turn": turn,
        "agent": "helper",
        "kind": "chat",
        "state": "failed",
        "attempt": 1,
        "request": {"context": {}, "scopes": [], "kind": "jwt"},
        "error": INTERNAL,
        "created_at": turn,
        "finished_at": turn,
    }
    connection.execute(insert(runs), run)
    message = {"conversation_id": CONVERSATION, "turn": turn, "seq": 1, "run_id": run["id"], "step": 0, "role": "user"}
    connection.execute(insert(messages), message | {"payload": payload, "tokens": tokens, "created_at": turn})


async def given(server: RunningServer, *payloads: str) -> None:
    def write(connection: Connection) -> None:
        row = {"id": CONVERSATION, "tenant": "acme", "owner": "ada", "agent": "helper", "title": "old"}
        connection.execute(insert(conversations), row | {"turns": len(payloads), "created_at": 1, "updated_at": 1})
        for turn, payload in enumerate(payloads, 1):
            insert_turn(connection, turn, payload)

    await server.database.write(write)


BRICKED: dict[str, tuple[str, bytes, str]] = {
    "CSV of Excel": ("text/csv", TABLE.encode("cp1252"), TABLE),
    "UTF-16": ("text/plain", TABLE.encode("utf-16"), TABLE),
    "Markdown, which Anthropic's wire refused": ("text/markdown", b"# Title", "# Title"),
    "a program as text": ("text/plain", bytes(range(256)), "left out"),
    "no image": ("image/png", b"hello", "left out"),
    "no PDF": ("application/pdf", PNG, "left out"),
    "empty": ("image/png", b"", "left out"),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("case", BRICKED)
async def test_a_conversation_that_a_file_had_bricked_goes_on(sqlite_url, wire, case):
    media_type, data, shown = BRICKED[case]
    async with running(sqlite_url, Script(turns=["Fine."]), **on(wire)) as server:
        await given(server, written_by_0_1_0(data, media_type))
        for _ in range(2):
            await server.chat("next", conversation_id=CONVERSATION)
            [first, *_] = user_contents(server.provider.requests[-1].body or {})
            assert shown in texts(first)
            assert files(first) == []


@pytest.mark.parametrize("wire", WIRES)
async def test_files_inside_messages_are_sent_listed_exported_and_forked(database_url, wire):
    async with running(database_url, Script(turns=["Fine."]), **on(wire)) as server:
        await given(server, written_by_0_1_0(GIF, "image/gif"), written_by_0_1_0(PDF, "application/pdf"))
        answer = await server.chat("next", conversation_id=CONVERSATION)
        sent = [
            kind for content in user_contents(server.provider.requests[-1].body or {}) for kind, _ in files(content)
        ]
        assert sent == ["image/gif", "application/pdf"]
        listed = [item["attachments"] for item in await server.messages(CONVERSATION)]
        assert listed[:2] == [
            [{"id": None, "media_type": "image/gif", "name": None, "bytes": len(GIF)}],
            [{"id": None, "media_type": "application/pdf", "name": None, "bytes": len(PDF)}],
        ]
        exported = (await server.get(f"/v1/conversations/{CONVERSATION}/export", attachments="true")).json()
        assert base64.b64decode(exported["messages"][1]["attachments"][0]["data"]) == PDF
        fork = (await server.post(f"/v1/runs/{answer['run_id']}/fork", {"message": "again"})).json()
        await server.events(fork["id"])
        assert json.dumps(server.provider.requests[-1].body).count(base64.b64encode(GIF).decode()) == 1


async def test_a_long_text_inside_a_message_counts_as_what_it_is(sqlite_url):
    async with running(sqlite_url, Script(turns=["Fine."]), **on("openai", history_tokens=5_000)) as server:
        await given(server, written_by_0_1_0(b"word " * 100_000, "text/plain"))
        await server.chat("next", conversation_id=CONVERSATION)
        assert "word word" not in json.dumps(server.provider.requests[-1].body)


def about(payload: str) -> Any:
    return json.loads(payload)["parts"][0]["content"]


def test_the_json_is_that_of_the_old_release():
    [question, item] = about(written_by_0_1_0(b"abc", "text/plain"))
    assert question == "What is in it?"
    assert list(item) == ["data", "media_type", "vendor_metadata", "kind", "identifier"]
