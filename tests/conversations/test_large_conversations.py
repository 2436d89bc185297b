"""Lists and exports of conversations of any size, read a piece at a time."""

import json
from typing import Any

from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from sqlalchemy import Connection
from tests.support.server import RunningServer, running

from pilothouse.conversations import repository
from pilothouse.conversations.transcript import StoredMessage, encode
from pilothouse.testing.provider import Script, Turn


async def filled(server: RunningServer, texts: list[str]) -> str:
    """A conversation that holds a question, its answer, and these texts."""
    answer = await server.chat("Hello")
    conversation_id = answer["conversation_id"]
    rows = [
        StoredMessage(
            turn=1,
            seq=100 + number,
            run_id=answer["run_id"],
            step=1,
            role="assistant" if number % 2 else "user",
            call_id=None,
            payload=encode(
                ModelResponse(parts=[TextPart(text)]) if number % 2 else ModelRequest(parts=[UserPromptPart(text)])
            ),
            tokens=1,
            pinned=False,
            created_at=1_000_000 + number,
        )
        for number, text in enumerate(texts)
    ]

    def insert(connection: Connection) -> None:
        repository.insert_messages(connection, conversation_id, rows)

    await server.database.write(insert)
    return conversation_id


async def pages(server: RunningServer, conversation_id: str, limit: int) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await server.get(f"/v1/conversations/{conversation_id}/messages", limit=limit, **cursor)).json()
        found.append(page["items"])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


SCRIPT = Script(turns=[Turn(text="Well.")])


async def test_a_page_of_small_messages_holds_as_many_as_were_asked_for(database_url):
    async with running(database_url, SCRIPT) as server:
        texts = [f"text {number}" for number in range(8)]
        conversation_id = await filled(server, texts)
        found = await pages(server, conversation_id, 4)
        assert [len(page) for page in found] == [4, 4, 2]
        assert [message["text"] for page in found for message in page] == ["Hello", "Well.", *texts]


async def test_a_page_of_large_messages_ends_early_and_none_is_left_out(database_url):
    async with running(database_url, SCRIPT) as server:
        texts = [f"{number}" + "ü" * 200_000 for number in range(6)] + ["x" * 3_000_000] * 2 + ["small"]
        conversation_id = await filled(server, texts)
        found = await pages(server, conversation_id, 100)
        assert [message["text"] for page in found for message in page] == ["Hello", "Well.", *texts]
        assert len(found) > 3
        assert all(len(page) == 1 or sum(len(message["text"]) for message in page) < 1_100_000 for page in found)


async def test_an_export_holds_every_message_in_order(database_url):
    async with running(database_url, SCRIPT) as server:
        texts = [f"{number} " + "ü" * (100_000 if number % 50 == 0 else 1) for number in range(150)]
        conversation_id = await filled(server, texts)
        response = await server.get(f"/v1/conversations/{conversation_id}/export")
        document = json.loads(response.content)
        assert response.headers["content-disposition"] == f'attachment; filename="{conversation_id}.json"'
        assert response.headers["content-type"] == "application/json"
        assert document["conversation"]["id"] == conversation_id
        assert [message["text"] for message in document["messages"]] == ["Hello", "Well.", *texts]


async def test_an_export_of_a_conversation_without_messages_is_whole(database_url):
    async with running(database_url, SCRIPT) as server:
        created = (await server.post("/v1/conversations", {})).json()
        document = (await server.get(f"/v1/conversations/{created['id']}/export")).json()
        assert document == {"conversation": created, "messages": []}


async def test_somebody_elses_conversation_is_not_exported(database_url):
    async with running(database_url, SCRIPT) as server:
        conversation_id = await filled(server, ["text"])
        response = await server.person("eve").get(f"/v1/conversations/{conversation_id}/export")
        assert (response.status_code, response.json()["code"]) == (404, "conversation_not_found")
