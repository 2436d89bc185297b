"""A project with one agent, and its environment."""

import pytest
from tests.support.commands import MAIN, environment

from pilothouse.testing.provider import Script, ScriptedProvider


@pytest.fixture
async def provider():
    async with ScriptedProvider(Script(turns=["Hello there."])) as scripted:
        yield scripted


@pytest.fixture
def project(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


@pytest.fixture
def env(provider):
    return environment(
        PILOTHOUSE_OPENAI_BASE_URL=provider.openai_base_url,
        PILOTHOUSE_OPENAI_API_KEY="sk-test-1234",
        PILOTHOUSE_SERVER_PORT="0",
        PILOTHOUSE_RUNS_DELTA_FLUSH_SECONDS="0.02",
    )
