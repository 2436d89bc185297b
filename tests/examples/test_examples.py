"""The examples as a person runs them."""

import shutil
from pathlib import Path

import pytest
from tests.support.commands import environment, ran, started
from tests.support.server import Person

from pilothouse.testing.provider import Rule, Script, ScriptedProvider, ToolCall, Turn, When

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
async def provider():
    async with ScriptedProvider(Script(turns=["Hello there."])) as scripted:
        yield scripted


@pytest.fixture
def env(provider):
    return environment(
        PILOTHOUSE_OPENAI_BASE_URL=provider.openai_base_url,
        PILOTHOUSE_OPENAI_API_KEY="sk-test-1234",
        PILOTHOUSE_SERVER_PORT="0",
    )


def copied(name, tmp_path):
    return Path(shutil.copytree(EXAMPLES / name, tmp_path / name))


def test_every_example_has_a_readme_and_is_run_here():
    names = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir())
    assert names == ["minimal", "support"]
    assert all((EXAMPLES / name / "README.md").is_file() for name in names)


async def test_the_minimal_example_serves_an_agent(tmp_path, env, provider):
    folder = copied("minimal", tmp_path)
    async with started("serve", "main:app", "--local", cwd=folder, env=env) as server:
        url = await server.url()
        code, out, _ = await ran("chat", "--url", url, "-m", "Hi", cwd=folder, env=env)
        assert (code, out) == (0, "Hello there.\n")
    assert provider.requests[-1].body["model"] == "gpt-6-luna"


async def test_the_support_example_looks_orders_up_for_a_real_model(tmp_path, env, provider):
    provider.script = Script(
        rules=[
            Rule(
                when=When(tool_results=0),
                turn=Turn(tool_calls=[ToolCall(name="order_lookup", arguments={"order_id": "1042"})]),
            ),
            Rule(when=When(after_tool="order_lookup"), turn=Turn(text="It says: {tool_result}")),
        ]
    )
    folder = copied("support", tmp_path)
    async with started("serve", "app:app", "--local", cwd=folder, env=env) as server:
        person = Person(await server.url(), None)
        answer = await person.chat("Where is order 1042?")
        await person.close()
    assert "Stoneware mug" in answer["text"]
    assert [tool["name"] for tool in answer["tools"]] == ["order_lookup"]


async def test_the_support_example_answers_offline_without_any_key(tmp_path):
    folder = copied("support", tmp_path)
    env = environment(PILOTHOUSE_SERVER_PORT="0")
    code, token, _ = await ran("keys", "create", "mine", "--subject", "me", cwd=folder, env=env)
    assert code == 0
    async with started("serve", "app:app", cwd=folder, env=env) as server:
        person = Person(await server.url(), token.strip())
        answer = await person.chat("Where is order 1042?")
        await person.close()
    assert answer["text"].startswith("Offline demo model: order **1042**")
