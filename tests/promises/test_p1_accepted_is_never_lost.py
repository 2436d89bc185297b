"""P1: a run that was accepted reaches its end, whatever process is killed at whatever instant.

Here: a real server under `kill -9`. Whole games of kills on one server and on a cluster are in `tests/chaos`, whole
lives of runs in `test_life_of_runs.py`.
"""

import asyncio
import signal
from typing import Any

import aiohttp
import httpx2
import pytest
from tests.support.commands import MAIN, environment, started
from tests.support.processes import free_port
from tests.support.server import Person

from pilothouse.testing.provider import Script, ScriptedProvider, Turn

CALLERS = 12
KILL_AFTER_SECONDS = (
    0.0,
    0.03,
    0.12,
    0.3,
)  # on the way in, in the middle of admissions, with the model, on the way out


@pytest.fixture
def project(tmp_path):
    (tmp_path / "main.py").write_text(MAIN)
    return tmp_path


def env_for(provider: ScriptedProvider) -> dict[str, str]:
    return environment(PILOTHOUSE_OPENAI_BASE_URL=provider.openai_base_url, PILOTHOUSE_OPENAI_API_KEY="sk-test-1234")


async def insist(person: Person, key: str, told: set[str]) -> dict[str, Any]:
    """Send one message until it is answered, as a caller with a key may; note every run id on the way."""
    while True:
        try:
            if int(key[-1]) % 2:
                async with person.stream(f"message {key}", key=key) as stream:
                    told.add(stream.run_id)
                    events = await stream.rest()
                    if events and events[-1].type == "run.completed":
                        return {"run_id": stream.run_id, "text": events[-1].data["text"]}
            else:
                response = await person.send(f"message {key}", key=key)
                if response.status_code == 200:
                    told.add(response.json()["run_id"])
                    return response.json()
                assert response.status_code == 503, response.text
        except (OSError, httpx2.TransportError, aiohttp.ClientError):
            pass  # the connection broke: sent again with the same key
        await asyncio.sleep(0.05)


async def test_every_message_is_answered_once_though_the_server_is_killed_again_and_again(project):
    script = Script(turns=[Turn(text="answer to {user}", first_token_delay=0.06, tokens_per_second=200)])
    async with ScriptedProvider(script) as provider:
        port = str(free_port())
        serve = ("serve", "main:app", "--local", "--port", port)
        person = Person(f"http://127.0.0.1:{port}", None)
        told: dict[str, set[str]] = {}
        answers: list[asyncio.Task[dict[str, Any]]] = []
        for round_, seconds in enumerate(KILL_AFTER_SECONDS):
            async with started(*serve, cwd=project, env=env_for(provider)) as server:
                await server.url()
                for number in range(CALLERS):
                    key = f"{round_}-{number}"
                    told[key] = set()
                    answers.append(asyncio.create_task(insist(person, key, told[key])))
                await asyncio.sleep(seconds)
                server.signal(signal.SIGKILL)
                await server.process.wait()
        async with started(*serve, cwd=project, env=env_for(provider)) as server:
            await server.url()
            async with asyncio.timeout(60):
                got = await asyncio.gather(*answers)
            items = (await person.get("/v1/runs", limit=100)).json()["items"]
        await person.close()
    assert [answer["text"] for answer in got] == [f"answer to message {key}" for key in told]
    assert all(len(run_ids) == 1 for run_ids in told.values()), "one key made several runs"
    assert {run["id"]: run["state"] for run in items} == dict.fromkeys(map(min, told.values()), "completed")
