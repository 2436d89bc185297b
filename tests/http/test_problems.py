import json
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import FastAPI, Header, Query
from pydantic import BaseModel, ConfigDict, field_validator
from starlette.exceptions import HTTPException

from pilothouse.errors import Conflict, PilothouseError, RunFailure, TooMany, Unavailable
from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers, problem_document, problem_responses
from pilothouse.settings import load_settings


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    message: str
    on_busy: Literal["reject", "queue"] = "reject"
    context: dict[str, Any] = {}

    @field_validator("message")
    @classmethod
    def _no_shouting(cls, value: str) -> str:
        if value.isupper():
            raise ValueError(f"no shouting: {value}")
        return value


def make_app(*, middleware: bool = True) -> FastAPI:
    app = FastAPI()
    install_problem_handlers(app)
    if middleware:
        add_middleware(app, load_settings(None))

    @app.post("/v1/things", responses=problem_responses(404, 409, 429))
    async def create(body: Body) -> dict[str, Any]:
        return {"message": body.message}

    @app.get("/v1/things")
    async def things(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> int:
        return limit

    @app.get("/v1/keyed")
    async def keyed(idempotency_key: Annotated[str, Header(max_length=5)]) -> str:
        return idempotency_key

    @app.get("/v1/raise/{name}")
    async def fail(name: str) -> None:
        raise {
            "conflict": Conflict(
                "Run run_1 is active.", code="conversation_busy", active_run_id="run_1", status_code=1
            ),
            "many": TooMany("Slow down.", headers={"Retry-After": "7"}),
            "away": Unavailable("The database is away."),
            "run": RunFailure("The provider failed.", category="transient", code="provider_down", retryable=True),
            "surrogate": Conflict("bad \ud800 text"),
            "teapot": HTTPException(418, "short and stout"),
            "odd": HTTPException(499),
            "bug": ZeroDivisionError("sk-verysecretkey12345"),
        }[name]

    return app


@pytest.fixture
async def client():
    transport = httpx.ASGITransport(make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_an_error_of_the_tree_becomes_the_documented_problem(client):
    response = await client.get("/v1/raise/conflict", headers={"X-Request-ID": "mine-1"})
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"] == "mine-1"
    assert response.json() == {
        "type": "https://pilothouse.dev/problems/conversation_busy",
        "title": "Conflict",
        "status": 409,
        "code": "conversation_busy",
        "detail": "Run run_1 is active.",
        "retryable": False,
        "request_id": "mine-1",
        "active_run_id": "run_1",
        "status_code": 1,
    }


async def test_retry_after_and_retryable_are_passed_on(client):
    response = await client.get("/v1/raise/many")
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["retryable"] is True
    assert (await client.get("/v1/raise/away")).json()["retryable"] is True


async def test_a_run_failure_tells_its_category(client):
    response = await client.get("/v1/raise/run")
    assert response.status_code == 502
    assert response.json()["category"] == "transient"


def test_extra_members_never_replace_the_standard_ones():
    error = PilothouseError("Real.", code="real")
    error.extra = {"detail": "fake", "code": "fake", "more": 1}
    document = problem_document(error, "r")
    assert (document["detail"], document["code"], document["more"]) == ("Real.", "real", 1)


async def test_an_unforeseen_error_is_a_500_that_shows_nothing(client):
    response = await client.get("/v1/raise/bug", headers={"X-Request-ID": "bug-1"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem["request_id"], problem["retryable"]) == ("internal_error", "bug-1", False)
    assert "verysecret" not in response.text
    assert "ZeroDivision" not in response.text


async def test_without_the_middleware_an_unforeseen_error_is_a_problem_all_the_same():
    transport = httpx.ASGITransport(make_app(middleware=False), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as bare:
        response = await bare.get("/v1/raise/bug")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert response.json()["request_id"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "message is missing."),
        ({"message": "x", "on_busy": "y"}, "on_busy is wrong: input should be 'reject' or 'queue'."),
        ({"message": "x", "extra": 1}, "extra is not a known field."),
        ({"message": 3}, "message is wrong: input should be a valid string."),
        ({"message": "LOUD"}, "message is wrong: no shouting: LOUD."),
    ],
)
async def test_a_wrong_field_is_named_in_one_sentence(client, body, detail):
    response = await client.post("/v1/things", json=body)
    problem = response.json()
    assert (response.status_code, problem["code"], problem["detail"]) == (422, "invalid_request", detail)
    assert problem["errors"][0].keys() == {"field", "message"}


async def test_wrong_query_and_header_are_named(client):
    problem = (await client.get("/v1/things?limit=101")).json()
    assert problem["detail"] == "limit is wrong: input should be less than or equal to 100."
    assert problem["errors"] == [{"field": "limit", "message": "Input should be less than or equal to 100"}]
    problem = (await client.get("/v1/keyed", headers={"Idempotency-Key": "toolong"})).json()
    assert problem["errors"][0]["field"] == "idempotency-key"


async def test_long_input_is_never_echoed(client):
    shout = "A" * 5000
    response = await client.post("/v1/things", json={"message": shout, "B" * 5000: 1})
    assert "A" * 81 not in response.text
    assert "B" * 81 not in response.text
    assert len(response.content) < 1500


async def test_thousands_of_wrong_fields_make_a_short_answer(client):
    response = await client.post("/v1/things", json={"message": "x"} | {f"f{n}": n for n in range(5000)})
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 20
    assert "4999 more" in response.json()["detail"]


async def test_a_body_that_is_no_json_is_400_and_says_where(client):
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/things", content=b'{"message": ', headers=headers)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "invalid_json")
    assert problem["detail"] == "The body is not valid JSON: Expecting value at character 12."


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "application/json", 422, "invalid_request"),
        (b"message=hello", "application/x-www-form-urlencoded", 422, "invalid_request"),
        (b"\xff\xfe\x00", "application/octet-stream", 422, "invalid_request"),
        (b'{"message": "\xff"}', "application/json", 400, "invalid_json"),
        (b'{"message": "\xed\xa0\x80"}', "application/json", 400, "invalid_json"),
        (b'{"message": "a\x00b"}', "application/json", 400, "invalid_json"),
        (b'{"message": "\\u0000"}', "application/json", 422, "invalid_characters"),
        (b'{"message": "x", "context": {"\\\\\\u0000": 1}}', "application/json", 422, "invalid_characters"),
        (b'{"message": "\\ud800"}', "application/json", 400, "invalid_json"),
        (b'{"message": "x", "context": {"k": ["\\uDFFF"]}}', "application/json", 400, "invalid_json"),
        (b'{"message": "x", "context": {"\\ud800": 1}}', "application/merge-patch+json", 400, "invalid_json"),
        ('{"message": "x"}'.encode("utf-16"), "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b"NaN", "application/json", 400, "invalid_json"),
        (b"null", "application/json", 422, "invalid_request"),
        (b"1" * 5000, "application/json", 400, "invalid_json"),
    ],
)
async def test_strange_bodies_are_refused_and_never_a_500(client, content, content_type, status, code):
    response = await client.post("/v1/things", content=content, headers={"content-type": content_type})
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert "\\x" not in response.text


@pytest.mark.parametrize(
    "text", ["\\\\u0000 is how C ends a string", "\\ud83d\\ude00", "\ud55c\uad6d\uc5b4", "\\\\ud800"]
)
async def test_harmless_text_that_looks_strange_is_accepted(client, text):
    body = f'{{"message": "{text}"}}'.encode()
    response = await client.post("/v1/things", content=body, headers={"content-type": "application/json"})
    assert response.json() == json.loads(body)


@pytest.mark.parametrize("path", ["/v1/raise/%00", "/v1/things?limit=%00", "/%00", "/v1/things?x=%ED%A0%80&limit=%FF"])
async def test_strange_addresses_are_refused_and_never_a_500(client, path):
    response = await client.get(path)
    assert response.status_code in {400, 422}
    assert response.headers["content-type"] == "application/problem+json"


async def test_lone_surrogates_in_a_message_of_ours_still_make_json(client):
    response = await client.get("/v1/raise/surrogate")
    assert response.status_code == 409
    assert json.loads(response.content)["detail"] == "bad \ud800 text"


async def test_unknown_routes_and_methods_are_problems(client):
    response = await client.get("/v1/nothing" + "x" * 500)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert len(response.json()["detail"]) < 200
    response = await client.delete("/v1/things")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] in {"POST", "GET"}
    assert "DELETE" in response.json()["detail"]


async def test_http_exceptions_of_other_code_keep_status_and_words(client):
    response = await client.get("/v1/raise/teapot")
    assert (response.status_code, response.json()["detail"]) == (418, "short and stout")
    assert (await client.get("/v1/raise/odd")).json()["title"] == "Error"


def test_the_openapi_document_describes_problems_and_has_no_dangling_reference():
    document = make_app().openapi()
    responses = document["paths"]["/v1/things"]["post"]["responses"]
    for status in ("404", "409", "422", "429", "default"):
        content = responses[status]["content"]
        assert list(content) == ["application/problem+json"]
        assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert "Retry-After" in responses["429"]["headers"]
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in schemas
