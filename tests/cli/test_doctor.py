"""What `pilothouse doctor` looks at, and what it says of what it can't look at."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from tests.support.processes import free_port

from pilothouse.cli.actions import doctor
from pilothouse.server import limits

JWT = {"AUTH_JWT_ISSUER": "https://login.example", "AUTH_JWT_AUDIENCE": "shop"}
OTHER_PROVIDER = """
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from pilothouse import Pilothouse

app = Pilothouse()
app.agent(Agent(name="helper"), model=TestModel())
"""


Findings = Callable[..., Awaitable[tuple[int, dict[str, str]]]]


@pytest.fixture
def findings(
    project: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Findings]:
    """Examines the project: the exit code, and each line that was printed by what it is about."""
    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name not in env]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", [*sys.path])

    async def examined(target: str | None = None, *, files: int = 1024, **settings: str) -> tuple[int, dict[str, str]]:
        for name, value in settings.items():
            monkeypatch.setenv(f"PILOTHOUSE_{name}", value)
        for module in (doctor, limits):
            monkeypatch.setattr(module, "open_files", lambda: files)
        code = await asyncio.to_thread(doctor.examine, target)
        lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
        found = [(mark.strip(), text.strip()) for mark, text in lines]
        return code, {text.split(": ")[0]: f"{mark}: {text}" for mark, text in found}

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield examined
    sys.modules.pop("main", None)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@asynccontextmanager
async def key_set() -> AsyncIterator[str]:
    key = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"keys": [{**key, "alg": "ES256", "kid": "one", "use": "sig"}]}, dumps=json.dumps)

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    await runner.cleanup()


async def test_an_identity_provider_that_answers_and_enough_open_files_are_well(findings: Findings) -> None:
    async with key_set() as url:
        code, found = await findings(**JWT, AUTH_JWT_JWKS_URL=url, SERVER_PORT="0")
    assert code == 0
    assert found["identity provider"] == f"ok: identity provider: the keys at {url} can be fetched."
    assert found["open files"] == "ok: open files: 1,024 may be open, 768 of them connections."


async def test_an_identity_provider_that_is_away_and_too_few_open_files_are_problems(
    project: Path, findings: Findings
) -> None:
    (project / "main.py").write_text(OTHER_PROVIDER)
    url = f"http://127.0.0.1:{free_port()}/keys"
    code, found = await findings("main:app", files=100, **JWT, AUTH_JWT_JWKS_URL=url)
    assert code == 1
    assert found["identity provider"].startswith(f"problem: identity provider: the keys at {url} can't be fetched (")
    assert found["open files"].startswith("problem: open files: 100 may be open, which leaves room for 36 connections.")
    assert found["model test:test"].startswith("skipped: model test:test: not checked")


async def test_more_connections_than_the_open_files_allow_are_a_problem(findings: Findings) -> None:
    code, found = await findings(files=1000, SERVER_MAX_CONNECTIONS="900")
    assert code == 1
    assert found["open files"].startswith("problem: open files: 1,000 may be open, which leaves room for 750 connec")


async def test_a_database_that_is_away_leaves_identity_unchecked(findings: Findings) -> None:
    code, found = await findings(DATABASE_URL="postgresql://u:hunter2@127.0.0.1/x?sslrootcert=/nowhere.pem")
    assert code == 1
    assert found["database"].startswith("problem: database: sslrootcert in PILOTHOUSE_DATABASE_URL names a file")
    assert found["identity"].startswith("skipped: identity: not checked")


async def test_incomplete_settings_of_jwts_are_a_problem(findings: Findings) -> None:
    code, found = await findings(AUTH_JWT_JWKS_URL="https://login.example/keys")
    assert code == 1
    assert found["identity"] == (
        "problem: identity: PILOTHOUSE_AUTH_JWT_ISSUER is missing: say which `iss` tokens must carry."
    )
