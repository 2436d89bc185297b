"""What is refused in every body that is read as JSON, however its type is spelled: text that no database can hold, and
more values than can be checked in a moment.
"""

import json
from typing import Any

import pytest
from tests.support.server import running

from pilothouse.http.bodies import MOST_VALUES

NUL = b'{"agent": "helper", "title": "a\\u0000b"}'
SURROGATE = b'{"agent": "helper", "title": "a\\ud800b"}'
TYPES = (
    "application/json",
    "application/JSON",
    "Application/Json; charset=utf-8",
    "APPLICATION/VND.X+JSON",
    "application/json ;charset=utf-8",
    "application/merge-patch+jsoN;x=y",
    None,
)


async def test_no_spelling_of_the_type_lets_a_nul_or_a_lone_surrogate_through(database_url):
    async with running(database_url) as server:
        for content_type in TYPES:
            headers = {} if content_type is None else {"Content-Type": content_type}
            for body in (NUL, SURROGATE, NUL.decode().encode("utf-16"), NUL.decode().encode("utf-16-le")):
                answer = await server.http.post("/v1/conversations", content=body, headers=headers)
                assert answer.status_code in {400, 422}, (content_type, body, answer.text)
        listed = await server.get("/v1/conversations")
        assert listed.json()["items"] == []


async def test_of_two_types_the_one_that_is_read_as_json_counts(sqlite_url):
    async with running(sqlite_url) as server:
        for types in (("application/json", "text/plain"), ("text/plain", "application/json")):
            headers = [("Content-Type", each) for each in types]
            answer = await server.http.post("/v1/conversations", content=NUL, headers=headers)
            assert answer.status_code in {400, 422}, types


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
async def test_json_in_another_encoding_than_utf_8_is_refused(sqlite_url, encoding):
    async with running(sqlite_url) as server:
        body = '{"agent": "helper", "title": "a"}'.encode(encoding)
        answer = await server.http.post("/v1/conversations", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


UNKNOWN = {f"unknown_{number}": number for number in range(MOST_VALUES + 1)}


@pytest.mark.parametrize(
    "body",
    [
        UNKNOWN,
        {"message": "hi", "context": UNKNOWN},
        {"message": "hi", "attachments": [UNKNOWN]},
        {"arguments": {"ids": ["x"] * MOST_VALUES}},
        {"arguments": {"ids": [["x"] * 100] * (MOST_VALUES // 100)}},
        {"arguments": {"ids": [["x"]] * (MOST_VALUES // 2)}},
    ],
    ids=["fields", "context", "attachment", "list", "lists", "short lists"],
)
async def test_more_values_than_can_be_checked_in_a_moment_are_refused(sqlite_url, body: Any):
    """Seen in an attack: the errors of 100,000 unknown fields stopped the event loop for half a second."""
    async with running(sqlite_url) as server:
        for path in ("/v1/chat", "/v1/chat/stream", "/v1/tools/any", "/v1/conversations"):
            answer = await server.post(path, body)
            assert (answer.status_code, answer.json()["code"]) == (422, "too_many_values"), path
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({**body, "type": "message"})
            assert (await socket.receive_json())["error"]["code"] == "too_many_values"


async def test_commas_in_text_are_no_values(sqlite_url):
    async with running(sqlite_url) as server:
        body = {"title": "t", "metadata": {"list": ["x"] * (MOST_VALUES - 10), "text": "a,b" * 100}}
        answer = await server.post("/v1/conversations", body)
        assert answer.json().get("code") != "too_many_values"
        text = json.dumps({"arguments": {"csv": "1," * 2 * MOST_VALUES}})
        answer = await server.http.post("/v1/tools/any", content=text, headers={"Content-Type": "application/json"})
        assert answer.json()["code"] == "tool_not_found"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_what_json_does_not_know_as_a_number_is_refused(sqlite_url, number):
    async with running(sqlite_url) as server:
        for path in ("/v1/chat", "/v1/tools/any", "/v1/conversations"):
            body = f'{{"message": "hi", "context": {{"x": {number}}}, "arguments": {{"x": [{number}]}}}}'
            answer = await server.http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json"), path
        answer = await server.post("/v1/conversations", {"title": "NaN and Infinity"})
        assert answer.status_code == 201
