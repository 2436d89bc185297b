"""The provider as a process of its own."""

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import AsyncOpenAI

import pilothouse
from pilothouse.testing.provider import Script, ScriptedProvider

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pilothouse.__file__).parents[1])}
SCRIPT = """
rules:
  - when: {user_contains: order, tool_results: 0}
    turn:
      tool_calls: [{name: find_order, arguments: {number: 17}}]
  - when: {user_contains: trouble}
    turn: {error: {status: 503, retry_after: 1}}
    times: 1
  - when: {user_contains: wait}
    turn: {hang: true}
turns:
  - Hello there.
  - {tokens: 3}
"""


@asynccontextmanager
async def started(*arguments):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pilothouse.testing.provider", "--port", "0", *map(str, arguments)),
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def url_of(process):
    line = (await process.stdout.readline()).decode()
    assert line.startswith("listening on http://127.0.0.1:")
    return line.removeprefix("listening on ").strip()


def client_of(url):
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-x-1234", max_retries=0)


def ask(text):
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_a_yaml_script_and_stops_cleanly_on_a_signal(script, number):
    async with started("--script", script) as process, client_of(await url_of(process)) as client:
        call = (await client.chat.completions.create(**ask("my order"))).choices[0].message.tool_calls[0]
        assert (call.function.name, json.loads(call.function.arguments)) == ("find_order", {"number": 17})
        with pytest.raises(Exception, match="503"):
            await client.chat.completions.create(**ask("trouble"))
        texts = [(await client.chat.completions.create(**ask("trouble"))).choices[0].message.content for _ in "12"]
        assert texts == ["Hello there.", "w000 w001 w002"]
        process.send_signal(number)
        out, errors = await process.communicate()
        assert (process.returncode, out, errors) == (0, b"", b"")


async def test_the_ledger_has_a_request_on_disk_before_it_is_answered(script, tmp_path):
    ledger = tmp_path / "log.jsonl"

    def lines():
        return [json.loads(line) for line in ledger.read_text().splitlines()]

    async with started("--script", script, "--log", ledger) as process, client_of(await url_of(process)) as client:
        http = client.with_options(base_url=str(client.base_url).removesuffix("/v1/"))
        await client.chat.completions.create(**ask("hi"))
        waiting = asyncio.create_task(client.chat.completions.create(**ask("wait")))
        await http.get("/_log?started=2", cast_to=object)
        assert [(line["event"], line["index"]) for line in lines()] == [("start", 1), ("end", 1), ("start", 2)]
        waiting.cancel()
        await http.get("/_log?finished=2", cast_to=object)
    assert lines()[0]["body"]["messages"][0]["content"] == "hi"
    assert [line["outcome"] for line in lines() if line["event"] == "end"] == ["completed", "client_disconnected"]


async def test_a_script_that_is_no_good_ends_it_with_2_and_a_reason(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text("turns: [{txt: typo}]")
    async with started("--script", path) as process:
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert b"txt" in errors
        assert b"Traceback" not in errors


async def test_the_ledger_says_when_the_provider_stood_still(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    async with ScriptedProvider(Script(), log_path=ledger):
        await asyncio.sleep(0.2)  # its watch has begun
        time.sleep(0.8)
        async with asyncio.timeout(30):
            while not (lines := [json.loads(line) for line in ledger.read_text().splitlines()]):
                await asyncio.sleep(0.05)
    assert lines[0]["event"] == "stall"
    assert lines[0]["until"] - lines[0]["from"] > 0.5
