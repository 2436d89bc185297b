"""A fork uses no model that neither its agent nor the operator allows: models cost money."""

from typing import Any

import pytest
from pydantic_ai import Agent
from tests.support.server import RunningServer, running

from pilothouse.llm.models import MOST_MODELS
from pilothouse.testing.provider import Script

MODELS = ("scripted", "second", "dear", "mini-1", "mini-2")
SCRIPT = Script(turns=["{model}"], models=MODELS)


def setup(app) -> None:
    app.agent(Agent(name="helper"), fallback=["openai:second"], default=True)
    app.agent(Agent(name="other"), model="openai:dear")


async def fork(server: RunningServer, run_id: str, **body: Any):
    return await server.post(f"/v1/runs/{run_id}/fork", body)


async def test_a_fork_may_not_name_a_model_that_nobody_allowed(database_url):
    async with running(database_url, SCRIPT, setup=setup) as server:
        run_id = (await server.chat("hi"))["run_id"]
        before = len(server.provider.requests)
        for model in ("openai:dear", "openai:mini-1", "openai-chat:scripted", "anthropic:claude-opus-4-1", "nonsense"):
            answer = await fork(server, run_id, model=model)
            assert (answer.status_code, answer.json()["code"]) == (422, "model_not_allowed"), answer.text
            assert answer.json()["allowed"] == ["openai:scripted", "openai:second"]
            assert "openai:second" in answer.json()["detail"]
        assert len(server.provider.requests) == before


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"model": "openai:scripted"}, "scripted"),
        ({"model": "openai:second"}, "second"),
        ({"model": "openai:dear", "agent": "other"}, "dear"),
        ({"model": "openai:mini-2"}, "mini-2"),
    ],
)
async def test_a_fork_may_name_its_agents_models_and_those_the_operator_allows(database_url, body, model):
    allowed = {"fork_allowed": ["openai:mini-?"]}
    async with running(database_url, SCRIPT, setup=setup, models=allowed) as server:
        run_id = (await server.chat("hi"))["run_id"]
        answer = await fork(server, run_id, **body)
        assert answer.status_code == 202, answer.text
        events = await server.events(answer.json()["id"])
        assert events[-1].type == "run.completed", events[-1]
        assert server.provider.requests[-1].body["model"] == model


@pytest.mark.parametrize("model", ["openai:mini-12", "openai:mini-", "an-openai:mini-1", "openai:MINI-1"])
async def test_a_pattern_of_allowed_models_is_one_of_the_whole_name(sqlite_url, model):
    async with running(sqlite_url, SCRIPT, setup=setup, models={"fork_allowed": ["openai:mini-?"]}) as server:
        run_id = (await server.chat("hi"))["run_id"]
        answer = await fork(server, run_id, model=model)
        assert (answer.status_code, answer.json()["code"]) == (422, "model_not_allowed")


async def test_a_model_that_is_allowed_but_has_no_key_is_refused(sqlite_url):
    async with running(sqlite_url, SCRIPT, setup=setup, models={"fork_allowed": ["*"]}) as server:
        run_id = (await server.chat("hi"))["run_id"]
        answer = await fork(server, run_id, model="azure:gpt-5")
        assert (answer.status_code, answer.json()["code"]) == (422, "model_not_available")


async def test_models_that_forks_name_are_not_kept_without_end(sqlite_url):
    async with running(sqlite_url, SCRIPT, setup=setup, models={"fork_allowed": ["openai:*"]}) as server:
        gateway = server.services.gateway
        for number in range(MOST_MODELS + 20):
            gateway.model(f"openai:made-up-{number}")
        assert len(gateway._made) <= MOST_MODELS
        assert len(gateway._models._models) <= MOST_MODELS
