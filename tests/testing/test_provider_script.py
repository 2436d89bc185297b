"""Which turn answers which request, and what a test can see and hold."""

import asyncio
import json
import subprocess
import sys

import httpx2
import pytest
from pydantic import ValidationError

import pilothouse.testing.provider as provider_package
from pilothouse.testing.provider import ErrorReply, Rule, Script, ScriptedProvider, ToolCall, Turn, When


def ask(text="hi", **options):
    return {"model": "gpt-test", "messages": [{"role": "user", "content": text}], **options}


async def answer_to(client, text="hi", **options):
    answer = await client.chat.completions.create(**ask(text, **options))
    return answer.choices[0].message.content


async def test_turns_are_used_in_order_and_the_last_repeats(provider, openai):
    provider.script = Script(turns=[Turn(text="one"), Turn(text="two")])
    assert [await answer_to(openai) for _ in range(4)] == ["one", "two", "two", "two"]


async def test_turns_start_over_in_a_loop(provider, openai):
    provider.script = Script(turns=[Turn(text="one"), Turn(text="two")], loop=True)
    assert [await answer_to(openai) for _ in range(4)] == ["one", "two", "one", "two"]


async def test_the_first_rule_that_matches_wins_and_uses_no_turn(provider, openai):
    provider.script = Script(
        rules=[
            Rule(when=When(user_contains="order"), turn=Turn(text="about an order")),
            Rule(when=When(user_matches="(?i)ORDER|refund"), turn=Turn(text="about a refund")),
            Rule(when=When(model="other"), turn=Turn(text="the other model")),
            Rule(when=When(system_contains="pirate"), turn=Turn(text="arr")),
            Rule(when=When(offers_tool="dig"), turn=Turn(text="digging")),
        ],
        turns=[Turn(text="first turn")],
    )
    assert await answer_to(openai, "my order") == "about an order"
    assert await answer_to(openai, "my Order") == "about a refund"
    assert await answer_to(openai, model="other") == "the other model"
    system = {"role": "system", "content": "You are a pirate."}
    assert await answer_to(openai, messages=[system, *ask()["messages"]]) == "arr"
    tool = {"type": "function", "function": {"name": "dig", "parameters": {"type": "object"}}}
    assert await answer_to(openai, tools=[tool]) == "digging"
    assert await answer_to(openai) == "first turn"
    assert [record.served_by for record in provider.requests][-2:] == ["rules[4]", "turns[0]"]


async def test_a_rule_with_times_steps_aside_when_used_up(provider, openai):
    provider.script = Script(
        rules=[Rule(turn=Turn(error=ErrorReply(status=429)), times=2)], turns=[Turn(text="back again")]
    )
    for _ in range(2):
        with pytest.raises(Exception, match="429"):
            await answer_to(openai)
    assert await answer_to(openai) == "back again"


async def test_rules_see_the_results_of_tools_since_the_last_user_text(provider, openai):
    provider.script = Script(
        rules=[
            Rule(when=When(after_tool="lookup", tool_results=1), turn=Turn(text="looked up: {tool_result}")),
            Rule(when=When(after_tool=True), turn=Turn(text="{tool_results} results")),
            Rule(when=When(after_tool=False, tool_results=0), turn=Turn(text="fresh")),
        ]
    )

    def used(name, number):
        call = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": f"found {number}"},
        ]

    question = ask()["messages"]
    assert await answer_to(openai) == "fresh"
    assert await answer_to(openai, messages=[*question, *used("lookup", 1)]) == "looked up: found 1"
    assert await answer_to(openai, messages=[*question, *used("lookup", 1), *used("dig", 2)]) == "2 results"
    assert await answer_to(openai, messages=[*question, *used("lookup", 1), *question]) == "fresh"


async def test_templates_are_filled_in_once_and_other_braces_stay(provider, openai):
    arguments = {"order": "{1}", "nested": [{"who": "{who}"}], "count": 3}
    provider.script = Script(
        rules=[
            Rule(
                when=When(user_matches=r"order (\d+) of (?P<who>\w+)"),
                turn=Turn(
                    text='{user} {1} {who} {unknown} {"a": 1}', tool_calls=[ToolCall(name="t", arguments=arguments)]
                ),
            ),
            Rule(turn=Turn(text="you said {user}")),
        ]
    )
    message = (await openai.chat.completions.create(**ask("order 17 of ada"))).choices[0].message
    assert message.content == 'order 17 of ada 17 ada {unknown} {"a": 1}'
    filled = json.loads(message.tool_calls[0].function.arguments)
    assert filled == {"order": "17", "nested": [{"who": "ada"}], "count": 3}
    assert await answer_to(openai, "{model} {user}") == "you said {model} {user}"


async def test_fifty_requests_at_once_each_get_their_own_answer(provider, openai, anthropic):
    provider.script = Script(rules=[Rule(turn=Turn(text="echo {user}", tokens_per_second=500))])

    async def ask_anthropic(text):
        messages = [{"role": "user", "content": text}]
        async with anthropic.messages.stream(model="m", max_tokens=9, messages=messages) as stream:
            return await stream.get_final_text()

    questions = [f"question {i}" for i in range(50)]
    asks = [answer_to(openai, text) if i % 2 else ask_anthropic(text) for i, text in enumerate(questions)]
    assert await asyncio.gather(*asks) == [f"echo {text}" for text in questions]
    assert len({record.index for record in provider.requests}) == 50


async def test_a_request_the_script_does_not_foresee_is_refused_and_says_why(provider, openai):
    provider.script = Script(rules=[Rule(when=When(user_contains="order"), turn=Turn(text="x"))])
    with pytest.raises(Exception, match="no turn for this request: last user text 'hello'") as raised:
        await answer_to(openai, "hello")
    assert raised.value.status_code == 422
    assert provider.requests[0].outcome == "error 422"


async def test_a_gate_holds_the_answer_until_released(provider, openai):
    provider.script = Script(turns=[Turn(text="through", gate="door")])
    waiting = asyncio.create_task(answer_to(openai))
    await provider.wait_for_gate("door")
    assert not waiting.done()
    provider.release("door")
    assert await waiting == "through"
    assert await answer_to(openai) == "through", "a released gate stays open"
    provider.hold("door")
    waiting = asyncio.create_task(answer_to(openai))
    await provider.wait_for_gate("door")
    provider.release("door")
    assert await waiting == "through"


async def test_a_gate_in_mid_stream_lets_exactly_the_tokens_before_it_out(provider, openai):
    provider.script = Script(turns=[Turn(tokens=5, gate="door", gate_after_tokens=2)])
    stream = await openai.chat.completions.create(**ask(stream=True))
    await provider.wait_for_gate("door")
    assert provider.requests[0].tokens_sent == 2
    received = []
    async for chunk in stream:
        received.append(chunk.choices[0].delta.content or "")
        if received[-1] == " w001":
            provider.release("door")
    assert "".join(received) == "w000 w001 w002 w003 w004"


async def test_a_client_that_leaves_at_a_gate_is_seen(provider, openai):
    provider.script = Script(turns=[Turn(text="x", gate="door")])
    waiting = asyncio.create_task(answer_to(openai))
    await provider.wait_for_gate("door")
    waiting.cancel()
    await provider.wait_for_finished(1)
    assert provider.requests[0].outcome == "client_disconnected"


async def test_a_wait_that_is_in_vain_says_what_did_not_happen(provider):
    with pytest.raises(TimeoutError, match="arrival 1 at gate 'door'"):
        await provider.wait_for_gate("door", timeout=0.01)
    with pytest.raises(TimeoutError, match="arrival of request 1"):
        await provider.wait_for_requests(1, timeout=0.01)


async def test_the_log_holds_the_body_and_a_hash_but_no_key(provider, openai):
    provider.script = Script(turns=[Turn(text="x")])
    for text in ("same", "same", "different"):
        await answer_to(openai, text)
    first, second, third = provider.requests
    assert first.body["messages"][0]["content"] == "same"
    assert first.messages_hash == second.messages_hash != third.messages_hash
    assert first.headers["authorization"] == "***1234"
    assert "sk-client" not in json.dumps([record.as_json() for record in provider.requests])
    assert first.started_at <= first.ended_at <= third.started_at


async def test_the_log_can_do_without_bodies_or_be_off(provider, openai):
    provider.script = Script(turns=[Turn(text="x")], log_bodies=False)
    await answer_to(openai)
    assert (provider.requests[0].body, provider.requests[0].outcome) == (None, "completed")
    provider.script = Script(turns=[Turn(text="x")], log=False)
    await answer_to(openai)
    await provider.wait_for_finished(2)
    assert len(provider.requests) == 1


async def test_the_log_the_script_and_the_gates_are_reached_over_http(provider, openai):
    provider.script = Script(turns=[Turn(text="old")])
    async with httpx2.AsyncClient(base_url=provider.url) as http:
        await answer_to(openai)
        assert (await http.get("/_log")).json()["requests"][0]["served_by"] == "turns[0]"
        assert (await http.delete("/_log")).status_code == 204
        assert (await http.get("/_log")).json() == {"requests": []}
        put = await http.put("/_script", content="turns: [{text: new, gate: door}]")
        assert put.status_code == 204
        assert (await http.put("/_script", content="turns: [{txt: typo}]")).status_code == 422
        assert (await http.put("/_script", content="turns: [")).status_code == 422
        waiting = asyncio.create_task(answer_to(openai))
        assert (await http.get("/_gates/door?arrived=1")).json()["waiting"] == 1
        assert (await http.get("/_gates")).json() == {"door": {"open": False, "arrived": 1, "waiting": 1}}
        assert (await http.post("/_gates/door")).status_code == 204
        assert await waiting == "new"
        assert (await http.delete("/_gates/door")).status_code == 204
        assert (await http.get("/_gates")).json()["door"]["open"] is False


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("content", ["not json", "[1]"])
async def test_a_body_that_is_no_json_object_is_a_400(provider, path, content):
    async with httpx2.AsyncClient(base_url=provider.url) as http:
        answer = await http.post(path, content=content)
    assert answer.status_code == 400
    assert "no JSON object" in answer.json()["error"]["message"]


async def test_stopping_breaks_off_what_is_under_way(openai):
    async with ScriptedProvider(Script(turns=[Turn(hang=True)])) as provider:
        client = openai.with_options(base_url=provider.openai_base_url)
        waiting = asyncio.create_task(answer_to(client))
        await provider.wait_for_requests(1)
    with pytest.raises(Exception, match="onnection"):
        await waiting
    assert provider.requests[0].outcome == "server_stopped"


def test_the_example_in_the_package_docstring_is_a_valid_script():
    example = provider_package.__doc__.split("fail:\n\n")[1].split("\n\n`python")[0]
    script = Script.parse(example)
    assert len(script.rules) == 3
    assert len(script.turns) == 2
    assert script.rules[0].when.user_matches == r"order (?P<number>\d+)"


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("turns: [{text: a, tokens: 3}]", "not both"),
        ("turns: [{}]", "a turn needs"),
        ("turns: [{text: a, gate_after_tokens: 1}]", "needs the name of a `gate`"),
        ("rules: [{when: {user_matches: '('}, turn: x}]", "not a regular expression"),
        ("rules: [{when: {user_contain: a}, turn: x}]", "Extra inputs"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(script, complaint):
    with pytest.raises(ValidationError, match=complaint):
        Script.parse(script)


def test_importing_it_loads_neither_web_framework_nor_agent_loop():
    code = "import sys, pilothouse.testing; print(*sys.modules, sep='\\n')"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()
    )
    loaded = modules.stdout.split()
    assert not [name for name in loaded if name.split(".")[0] in {"fastapi", "pydantic_ai", "openai", "anthropic"}]
    ours = [name for name in loaded if name.startswith("pilothouse.")]
    assert all(name.startswith("pilothouse.testing") or name == "pilothouse.version" for name in ours)


def environment():
    import os
    from pathlib import Path

    import pilothouse

    return {**os.environ, "PYTHONPATH": str(Path(pilothouse.__file__).parents[1])}
