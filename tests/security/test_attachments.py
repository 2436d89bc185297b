"""Files of every kind, through each wire: taken and readable, or refused with a sentence; no conversation bricked."""

import asyncio
import base64
import json
import struct
import zlib
from typing import Any

import aiohttp
import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import BinaryContent
from sqlalchemy import Connection, func, select
from tests.support.server import RunningServer, running, serving

from pilothouse.app import Pilothouse
from pilothouse.conversations.tables import attachment_files, message_attachments, messages
from pilothouse.runs.replay import replay
from pilothouse.testing.provider import ErrorReply, Rule, Script, ScriptedProvider, ToolCall, Turn, When
from pilothouse.tools import tool

HELLO = Script(turns=["Hello."])
WIRES = {"openai": "openai:scripted", "anthropic": "anthropic:scripted", "responses": "openai-responses:scripted"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 4, height: int = 4, *, filler: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + bytes(3 * width) for _ in range(height)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"tEXt", b"Comment\x00" + b"x" * filler)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


PNG = png()
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + b"\xff\xd9"
GIF = b"GIF89a" + struct.pack("<HH", 3, 2) + b"\x00\x00\x00;"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 3 0 obj<</Type /Page/Parent 2 0 R>>endobj\n%%EOF"
TABLE = "Name;Ort;Betrag\r\nJürgen;Köln;12 €\r\n"


def file(data: bytes, media_type: str, name: str | None = None) -> dict[str, Any]:
    return {"media_type": media_type, "data": base64.b64encode(data).decode(), "name": name}


def on(wire: str, **runs: Any) -> dict[str, dict[str, Any]]:
    return {"models": {"default": WIRES[wire]}, "runs": runs}


def user_contents(body: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """What a request says as the user, message by message, whatever the wire."""
    found: list[list[dict[str, Any]]] = []
    for message in body.get("messages") or body["input"]:
        if message.get("role") == "user":
            content = message["content"]
            found.append([{"type": "text", "text": content}] if isinstance(content, str) else content)
    return found


def texts(content: list[dict[str, Any]]) -> str:
    return "\n".join(item["text"] for item in content if "text" in item)


def files(content: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Media type and base64 of the files a message is sent with."""
    found: list[tuple[str, str]] = []
    for item in content:
        if "source" in item:
            found.append((item["source"]["media_type"], item["source"]["data"]))
            continue
        image, document = item.get("image_url"), item.get("file") or item
        uri = image["url"] if isinstance(image, dict) else image or document.get("file_data")
        if uri is not None:
            media_type, _, data = uri.removeprefix("data:").partition(";base64,")
            found.append((media_type, data))
    return found


async def asked_twice(server: RunningServer, *attachments: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The message with the files as the model was sent it, at once and with the next message."""
    answer = await server.chat("What is in it?", attachments=list(attachments))
    await server.chat("And now?", conversation_id=answer["conversation_id"])
    return [user_contents(request.body or {})[0] for request in server.provider.requests[-2:]]


READABLE: dict[str, tuple[str, bytes, str]] = {
    "UTF-8": ("text/csv", TABLE.encode(), TABLE),
    "UTF-8 with a byte order mark": ("text/csv", TABLE.encode("utf-8-sig"), TABLE),
    "CSV of Excel on Windows": ("text/csv", TABLE.encode("cp1252"), TABLE),
    "Unicode text of Excel": ("text/plain", TABLE.encode("utf-16"), TABLE),
    "UTF-16 the other way": ("text/plain", b"\xfe\xff" + TABLE.encode("utf-16-be"), TABLE),
    "Cyrillic, declared": ("text/csv; charset=windows-1251", "Имя;Город\n".encode("cp1251"), "Имя;Город"),
    "Japanese, declared": ('text/plain;charset="Shift_JIS"', "品名,価格\n".encode("cp932"), "品名,価格"),
    "Latin-1, declared": ("text/markdown; charset=ISO-8859-1", "# Größe\n".encode("latin-1"), "# Größe"),
    "a mark that says otherwise than declared": ("text/csv; charset=utf-8", TABLE.encode("utf-16"), TABLE),
    "HTML": ("text/html", "<p>naïve café</p>".encode("cp1252"), "<p>naïve café</p>"),
    "Markdown": ("text/markdown", "# Überschrift\n".encode(), "# Überschrift"),
    "half a surrogate in UTF-8": ("text/plain", b"before \xed\xa0\x80 after", "before \ufffd after"),
    "half a surrogate in UTF-16": ("text/plain", b"\xff\xfe" + b"a\x00\x00\xd8b\x00", "a\ufffdb"),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("case", READABLE)
async def test_a_text_is_read_in_its_charset_and_stays_readable(sqlite_url, wire, case):
    media_type, data, text = READABLE[case]
    async with running(sqlite_url, HELLO, **on(wire)) as server:
        first, second = await asked_twice(server, file(data, media_type, "table.csv"))
    assert text in texts(first)
    assert 'name="table.csv"' in texts(first)
    assert first == second


PICTURES = {
    "image/png": PNG,
    "image/jpeg": JPEG,
    "image/gif": GIF,
    "image/webp": WEBP,
    "application/pdf": PDF,
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("media_type", PICTURES)
async def test_an_image_or_a_pdf_is_sent_as_it_is_and_again_with_the_next_message(sqlite_url, wire, media_type):
    async with running(sqlite_url, HELLO, **on(wire)) as server:
        first, second = await asked_twice(server, file(PICTURES[media_type], media_type))
    assert files(first) == [(media_type, base64.b64encode(PICTURES[media_type]).decode())]
    assert first == second


@pytest.mark.parametrize("wire", WIRES)
async def test_files_of_all_kinds_in_one_message_reach_the_model_on_both_databases(database_url, wire):
    given = [file(TABLE.encode("cp1252"), "text/csv"), file(PNG, "image/png"), file(PDF, "application/pdf")]
    async with running(database_url, HELLO, **on(wire)) as server:
        first, second = await asked_twice(server, *given)
    assert TABLE in texts(first)
    assert [kind for kind, _ in files(first)] == ["image/png", "application/pdf"]
    assert first == second


async def test_an_image_of_another_format_than_its_name_says_is_sent_as_what_it_is(sqlite_url):
    async with running(sqlite_url, HELLO, **on("anthropic")) as server:
        first, second = await asked_twice(server, file(JPEG, "image/png", "photo.png"))
    assert files(first) == files(second) == [("image/jpeg", base64.b64encode(JPEG).decode())]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a text with a NUL": (file(b"a\x00b", "text/plain"), "attachment_not_text"),
    "a program as text": (file(b"\x7fELF\x02\x01\x01" + bytes(range(256)), "text/plain"), "attachment_not_text"),
    "an image as text": (file(PNG, "text/csv"), "attachment_not_text"),
    "UTF-16 without a mark": (file(TABLE.encode("utf-16-le"), "text/csv"), "attachment_not_text"),
    "Cyrillic of no charset": (file(("Привет, как дела? " * 3).encode("cp1251"), "text/plain"), "attachment_not_text"),
    "Japanese of no charset": (file("これは表です。品名と価格".encode("cp932"), "text/plain"), "attachment_not_text"),
    "not what is declared": (file(b"\xff\xfe\xfd", "text/csv; charset=utf-8"), "attachment_not_text"),
    "a charset nobody knows": (file(b"abc", "text/csv; charset=x-klingon"), "attachment_not_text"),
    "a codec that is no charset": (file(b"abc", "text/csv; charset=zlib"), "attachment_not_text"),
    "text as an image": (file(b"hello", "image/png"), "attachment_type_mismatch"),
    "a page as an image": (file(b"<svg onload=alert(1)>", "image/gif"), "attachment_type_mismatch"),
    "an image as a PDF": (file(PNG, "application/pdf"), "attachment_type_mismatch"),
    "a PDF as an image": (file(PDF, "image/jpeg"), "attachment_type_mismatch"),
    "an empty text": (file(b"", "text/plain"), "attachment_empty"),
    "an empty image": (file(b"", "image/png"), "attachment_empty"),
    "no base64": ({"media_type": "text/plain", "data": "!!!"}, "attachment_not_base64"),
    "base64 without its end": ({"media_type": "text/plain", "data": "YWJ"}, "attachment_not_base64"),
    "base64 with padding inside": ({"media_type": "text/plain", "data": "YQ==YQ=="}, "attachment_not_base64"),
    "base64 of another alphabet": ({"media_type": "text/plain", "data": "-_-_"}, "attachment_not_base64"),
    "base64 of wide letters": (
        {"media_type": "text/plain", "data": "\uff39\uff37\uff2a\uff4a"},
        "attachment_not_base64",
    ),
    "a video": (file(b"abc", "video/mp4"), "invalid_request"),
    "sound": (file(b"RIFF\x00\x00\x00\x00WAVE", "audio/wav"), "invalid_request"),
    "a type with something behind it": (file(b"abc", "text/plain; charset=utf-8; x=y"), "invalid_request"),
    "a type with a line in it": (file(b"abc", "text/plain\r\nX: y"), "invalid_request"),
    "a name without end": (file(b"abc", "text/plain", "x" * 100_000), "invalid_request"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_no_model_could_read_is_refused_with_a_sentence_and_starts_nothing(sqlite_url, case):
    attachment, code = REFUSED[case]
    async with running(sqlite_url, HELLO) as server:
        response = await server.send("hi", attachments=[attachment])
        assert (response.status_code, response.json()["code"]) == (422, code), response.text
        assert response.json()["detail"].endswith((".", "windows-1251."))
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "hi", "attachments": [attachment]})
            frame = await socket.receive_json(timeout=30)
            assert (frame["type"], frame["error"]["status"]) == ("error", 422)
        assert (await server.get("/v1/runs")).json()["items"] == []
        assert server.provider.requests == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\Zahlen.csv", "Zahlen.csv"),
        ("a\r\nX-Evil: 1\t\x1b[31m.csv", "a X-Evil: 1 [31m.csv"),
        ("exe.\u202egpj", "exe. gpj"),
        ('"quoted".csv', '"quoted".csv'),
        ("日本語 👩‍🚀.csv", "日本語 👩‍🚀.csv"),
        ("///", None),
        ("", None),
        (None, None),
    ],
)
async def test_a_name_is_the_last_part_of_a_path_and_can_be_shown(database_url, given, kept):
    async with running(database_url, HELLO) as server:
        answer = await server.chat("hi", attachments=[file(b"a;b", "text/csv", given)])
        [question, _] = await server.messages(answer["conversation_id"])
        [shown] = question["attachments"]
        assert shown["name"] == kept
        path = f"/v1/conversations/{answer['conversation_id']}/attachments/{shown['id']}"
        disposition = (await server.get(path)).headers["content-disposition"]
        assert disposition.startswith("attachment; filename=")
        assert disposition.isascii()
        assert disposition.isprintable()


async def test_a_file_can_be_fetched_by_its_owner_only_and_is_not_shown_by_browsers(database_url):
    page = "<script>alert('é')</script>".encode("cp1252")
    async with running(database_url, HELLO) as server:
        answer = await server.chat("hi", attachments=[file(page, "text/html", "page.html")])
        [question, _] = await server.messages(answer["conversation_id"])
        [shown] = question["attachments"]
        assert shown | {"id": ""} == {"id": "", "media_type": "text/html", "name": "page.html", "bytes": len(page)}
        path = f"/v1/conversations/{answer['conversation_id']}/attachments/{shown['id']}"
        response = await server.get(path)
        assert (response.status_code, response.content) == (200, page)
        assert response.headers["content-type"] == "text/html"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("sandbox")
        assert response.headers["content-disposition"].startswith("attachment;")
        for person in (server.person("bob"), server.person("ada", tenant="other"), server.nobody()):
            assert (await person.get(path)).status_code == (404 if person.token else 401)
        other = await server.chat("another conversation")
        assert (await server.get(path.replace(answer["conversation_id"], other["conversation_id"]))).status_code == 404
        assert (await server.get(f"{path}x")).status_code == 404
        assert (await server.person("ada", scope="chat").get(path)).status_code == 403


def stored(connection: Connection) -> tuple[int, int, int]:
    """Files, references to them, and the characters of the largest message."""
    largest = select(func.max(func.length(messages.c.payload)))
    counts = (select(func.count()).select_from(table) for table in (attachment_files, message_attachments))
    return *(connection.execute(count).scalar_one() for count in counts), connection.execute(largest).scalar() or 0  # type: ignore[return-value]


async def test_bytes_are_stored_once_and_go_with_the_last_conversation_that_refers_to_them(database_url):
    picture = file(png(filler=50_000), "image/png", "large.png")
    async with running(database_url, HELLO) as server:
        first = await server.chat("one", attachments=[picture, picture])
        await server.chat("two", conversation_id=first["conversation_id"], attachments=[picture])
        other = await server.person("bob").chat("mine", attachments=[picture])
        fork = (await server.post(f"/v1/runs/{first['run_id']}/fork", {"message": "again"})).json()
        await server.events(fork["id"])
        assert await server.database.read(stored) == (2, 6, pytest.approx(600, abs=400))
        await server.http.delete(f"/v1/conversations/{first['conversation_id']}")
        assert (await server.database.read(stored))[:2] == (2, 3)
        answer = await server.chat("still there?", conversation_id=fork["conversation_id"])
        assert answer["state"] == "completed"
        first_message = user_contents(server.provider.requests[-1].body or {})[0]
        assert files(first_message) == [("image/png", picture["data"])] * 2
        await server.http.delete(f"/v1/conversations/{fork['conversation_id']}")
        assert (await server.database.read(stored))[:2] == (1, 1)
        await server.person("bob").http.delete(f"/v1/conversations/{other['conversation_id']}")
        assert (await server.database.read(stored))[:2] == (0, 0)


async def test_a_file_of_conversations_that_are_deleted_at_once_is_deleted(database_url):
    """Each deletion sees the other's reference, unless they take turns."""
    picture = file(png(filler=5_000), "image/png")
    async with running(database_url, HELLO) as server:
        for _ in range(5):
            answers = [await server.chat("hi", attachments=[picture]) for _ in range(4)]
            paths = [f"/v1/conversations/{answer['conversation_id']}" for answer in answers]
            responses = await asyncio.gather(*(server.http.delete(path) for path in paths))
            assert [response.status_code for response in responses] == [204] * 4
            assert (await server.database.read(stored))[:2] == (0, 0)


async def test_a_file_that_is_sent_while_its_last_conversation_is_deleted_is_there(database_url):
    picture = file(png(filler=5_000), "image/png")
    async with running(database_url, HELLO) as server:
        answer = await server.chat("hi", attachments=[picture])
        for _ in range(10):
            gone = server.http.delete(f"/v1/conversations/{answer['conversation_id']}")
            _, answer = await asyncio.gather(gone, server.chat("hi", attachments=[picture]))
            assert (await server.database.read(stored))[:2] == (1, 1)


async def test_a_run_with_files_is_replayed_without_a_difference(sqlite_url):
    async with running(sqlite_url, HELLO) as server:
        given = [file(TABLE.encode("cp1252"), "text/csv"), file(PNG, "image/png")]
        answer = await server.chat("hi", attachments=given)
        replayed = await replay(server.database, server.app.agents, answer["run_id"])
        assert (replayed.responses, replayed.difference) == (1, None)


async def test_a_fork_from_a_step_has_the_files_it_keeps(database_url):
    async with running(database_url, HELLO) as server:
        before = await server.chat("before", attachments=[file(PNG, "image/png")])
        forked = await server.chat(
            "go", conversation_id=before["conversation_id"], attachments=[file(GIF, "image/gif")]
        )
        after = await server.chat(
            "after", conversation_id=before["conversation_id"], attachments=[file(PDF, "application/pdf")]
        )
        assert after["state"] == "completed"
        fork = await server.post(f"/v1/runs/{forked['run_id']}/fork", {"from_step": 1, "message": "on"})
        assert fork.status_code == 202, fork.text
        await server.events(fork.json()["id"])
        sent = user_contents(server.provider.requests[-1].body or {})
        assert [[kind for kind, _ in files(content)] for content in sent] == [["image/png"], ["image/gif"], []]


async def test_no_event_and_no_frame_carries_the_bytes(database_url):
    picture = file(png(filler=3_000), "image/png", "p.png")
    async with running(database_url, HELLO) as server:
        seen = ""
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "hi", "attachments": [picture]})
            while "run.completed" not in seen:
                message = await socket.receive(timeout=30)
                assert message.type == aiohttp.WSMsgType.TEXT, message
                seen += message.data
                run_id = json.loads(message.data)["run_id"]
        seen += (await server.get(f"/v1/runs/{run_id}/events")).text + json.dumps(await server.run(run_id))
        assert picture["data"][100:200] not in seen


async def test_an_export_holds_the_bytes_if_it_is_asked_to(database_url):
    given = [file(png(filler=300_000), "image/png", "p.png"), file(b"a;b", "text/csv", None)]
    async with running(database_url, HELLO) as server:
        conversation = (await server.chat("hi", attachments=given))["conversation_id"]
        plain = (await server.get(f"/v1/conversations/{conversation}/export")).json()["messages"][0]["attachments"]
        assert [sorted(item) for item in plain] == [["bytes", "id", "media_type", "name"]] * 2
        whole = await server.get(f"/v1/conversations/{conversation}/export", attachments="true")
        exported = whole.json()["messages"]
        assert [item["data"] for item in exported[0]["attachments"]] == [item["data"] for item in given]
        assert exported[1]["attachments"] == []


async def test_a_long_text_is_left_out_when_the_window_is_full_and_counts_as_what_it_is(database_url):
    async with running(database_url, HELLO, **on("openai", history_tokens=2_000)) as server:
        long = file(("word " * 20_000).encode(), "text/plain", "long.txt")
        answer = await server.chat("read this", attachments=[long])
        assert len(texts(user_contents(server.provider.requests[-1].body or {})[0])) > 100_000
        after = await server.chat("and?", conversation_id=answer["conversation_id"])
        assert "word word" not in json.dumps(server.provider.requests[-1].body)
        assert (await server.run(after["run_id"]))["cut"]["tokens"] >= 25_000


async def test_older_images_are_left_out_and_named_when_they_are_too_many_bytes(database_url):
    async with running(database_url, HELLO, **on("anthropic", history_attachment_bytes=25_000)) as server:
        conversation = None
        for number in range(4):
            extra = {"conversation_id": conversation} if conversation else {}
            picture = file(png(filler=10_000), "image/png", f"{number}.png")
            conversation = (await server.chat(f"picture {number}", attachments=[picture], **extra))["conversation_id"]
        await server.chat("which?", conversation_id=conversation)
        sent = user_contents(server.provider.requests[-1].body or {})
        assert [len(files(content)) for content in sent] == [0, 0, 1, 1, 0]
        assert '"1.png"' in texts(sent[1])
        assert "left out" in texts(sent[1])


@pytest.mark.parametrize("wire", WIRES)
async def test_a_file_the_provider_refuses_fails_its_message_only(database_url, wire):
    script = Script(turns=[Turn(error=ErrorReply(status=400)), "Fine."])
    async with running(database_url, script, **on(wire)) as server:
        failed = await server.send("look", attachments=[file(PNG, "image/png", "broken.png")])
        assert failed.json()["code"] == "provider_bad_request"
        conversation = failed.json()["conversation_id"]
        await server.chat("never mind", conversation_id=conversation)
        [first, *_] = user_contents(server.provider.requests[-1].body or {})
        assert files(first) == []
        assert '"broken.png"' in texts(first)


async def test_a_file_is_sent_again_after_a_failure_that_it_did_not_cause(database_url):
    away = Rule(when=When(user_contains="look"), turn=Turn(error=ErrorReply(status=500)))
    models = {"default": "openai:scripted", "attempts": 1}
    async with running(database_url, Script(rules=[away], turns=["Fine."]), models=models) as server:
        failed = await server.send("look", attachments=[file(PNG, "image/png")])
        await server.chat("again?", conversation_id=failed.json()["conversation_id"])
        [first, *_] = user_contents(server.provider.requests[-1].body or {})
        assert [kind for kind, _ in files(first)] == ["image/png"]


async def test_a_run_that_another_process_continues_sends_the_same_bytes(database_url):
    """P2: what a model is sent is made anew from what is stored, each time the same."""
    given = [file(TABLE.encode("cp1252"), "text/csv", "t.csv"), file(PNG, "image/png"), file(PDF, "application/pdf")]
    script = Script(turns=[Turn(gate="never", text="never"), "Fine."])
    quick = {"server": {"console": False, "shutdown_seconds": 0.1}, "lease": {"reap_seconds": 0.2}}
    async with ScriptedProvider(script) as provider:
        async with (
            serving(database_url, provider, **quick) as server,
            server.stream("read", attachments=given) as stream,
        ):
            run_id = (await stream.until("step.started")).data["run_id"]
            await provider.wait_for_requests(1)
        async with serving(database_url, provider, **quick) as server:
            events = await server.events(run_id)
            assert events[-1].type == "run.completed"
            assert (await server.run(run_id))["attempt"] == 2
        first, second = (user_contents(request.body or {}) for request in provider.requests)
    assert len(files(first[0])) == 2
    assert first == second


def with_files(app: Pilothouse) -> None:
    @tool(effect="pure")
    async def fetch(kind: str) -> Any:
        """A file."""
        return {
            "csv": BinaryContent(TABLE.encode("cp1252"), media_type="text/csv"),
            "json": [BinaryContent(b'{"a": "\xff"}', media_type="application/json"), "beside it"],
            "program": BinaryContent(bytes(range(256)), media_type="text/plain"),
            "image": [BinaryContent(JPEG, media_type="image/png"), BinaryContent(b"no image", media_type="image/gif")],
            "sound": BinaryContent(b"OggS" + bytes(100), media_type="audio/ogg"),
            "pdf": BinaryContent(PDF, media_type="application/pdf"),
        }[kind]

    app.agent(Agent(name="helper", tools=[fetch]))


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", ["csv", "json", "program", "image", "sound", "pdf"])
async def test_a_file_that_a_tool_brings_never_ends_the_conversation(sqlite_url, wire, kind):
    script = Script(turns=[Turn(tool_calls=[ToolCall(name="fetch", arguments={"kind": kind})]), "Fine."])
    async with running(sqlite_url, script, setup=with_files, **on(wire)) as server:
        answer = await server.send("fetch it")
        # What a model takes of it is the model's affair; the next message works whatever became of this one.
        assert answer.status_code == 200 or kind == "sound", answer.text
        after = await server.send("next", conversation_id=answer.json()["conversation_id"])
        assert after.status_code == 200, after.text
        sent = json.dumps(server.provider.requests[-1].body, ensure_ascii=False)
        assert ("Jürgen" in sent) == (kind == "csv")


async def test_a_message_with_a_file_is_answered_once_for_its_key_however_its_base64_is_wrapped(database_url):
    async with running(database_url, HELLO) as server:
        picture = file(png(filler=2_000), "image/png")
        first = await server.chat("hi", key="k", attachments=[picture])
        lines = [picture["data"][at : at + 76] for at in range(0, len(picture["data"]), 76)]
        again = await server.send("hi", key="k", attachments=[picture | {"data": "\r\n".join(lines)}])
        assert again.json()["run_id"] == first["run_id"]
        other = await server.send("hi", key="k", attachments=[file(PNG, "image/png")])
        assert other.json()["code"] == "idempotency_key_reused"
