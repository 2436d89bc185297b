"""Text that no database can hold is refused in every body that is read as JSON, however its type is spelled."""

import pytest
from tests.support.server import running

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
