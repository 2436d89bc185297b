"""Whatever a request holds, it is answered as the OpenAPI document says, and never by an unhandled error."""

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.support.postgres import PostgresServer

from pilothouse.app import Pilothouse
from pilothouse.settings import Settings

EXAMPLES = int(os.environ.get("PILOTHOUSE_TEST_EXAMPLES", "10"))
STREAM_SECONDS = 20
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass
class Service:
    """The server in its own process (on PostgreSQL, which takes less than SQLite does), and what it holds."""

    url: str
    token: str
    known: dict[str, list[str]]
    log: Path


def document() -> dict[str, Any]:
    """The OpenAPI document without its catch-all responses: every status has to be named."""
    app = Pilothouse(Settings.model_validate({"server": {"console": False}}), environ={})
    found = json.loads(json.dumps(app.fastapi.openapi()))
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("default", None)
    return found


schema = schemathesis.openapi.from_dict(
    document(), config=SchemathesisConfig.from_dict({"generation": {"with-security-parameters": False}})
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("api") / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.schemathesis.server", postgres_server.new_database()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, log.read_text()
    yield Service(**json.loads(line), log=log)
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@schema.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Every other request is about something that exists, unless it was to be refused for a wrong id."""
    for name, value in (path_parameters or {}).items():
        known = KNOWN.get(name)
        chance = zlib.crc32(repr(value).encode("utf-8", "surrogatepass"))
        if name == "run_id" and context.operation.path.endswith("/events"):
            known = known and known[:-1]  # one waits for a person: its events have no end
        fits = isinstance(value, str) and 0 < len(value) <= MOST_ID_CHARS
        if known and fits and chance % 2:
            path_parameters[name] = known[chance // 2 % len(known)]
    return path_parameters


KNOWN: dict[str, list[str]] = {}
MOST_ID_CHARS = 40


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_documented(case: Any, service: Service):
    KNOWN.update(service.known)
    if (
        case.operation.path == "/v1/chat"
        and case.meta.generation.mode.is_positive
        and len(case.body["message"]) % 3 == 0
    ):
        case.body["message"] = "refund please"  # calls a tool that waits for a person
    response = case.call(
        base_url=service.url, headers={"Authorization": f"Bearer {service.token}"}, timeout=STREAM_SECONDS
    )
    assert '"internal_error"' not in response.text, service.log.read_text()[-4000:]
    case.validate_response(response, checks=CHECKS)
    if case.operation.path.endswith("/events"):
        headers = {"Authorization": f"Bearer {service.token}", "Accept": "application/json"}
        response = case.call(base_url=service.url, headers=headers, timeout=STREAM_SECONDS)
        assert "event-stream" not in response.headers["content-type"]
        case.validate_response(response, checks=CHECKS)


@schema.include(path_regex="^/v1/").parametrize()
@settings(max_examples=3, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_nothing_is_answered_without_a_token(case: Any, service: Service):
    for headers in ({}, {"Authorization": "Bearer nonsense"}):
        response = case.call(base_url=service.url, headers=headers, timeout=STREAM_SECONDS)
        assert response.status_code in (401, 400, 422), response.status_code
        case.validate_response(response, checks=[status_code_conformance, content_type_conformance])


def test_nothing_unforeseen_was_logged(service: Service):
    requests.get(service.url + "/health/live", timeout=5)
    lines = [line for line in service.log.read_text().splitlines() if "Traceback" in line or "request_failed" in line]
    assert not lines, lines[:3]
