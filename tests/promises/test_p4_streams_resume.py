"""P4: a stream continued from any event brings exactly the rest; leaving is not cancelling; slow readers are free."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.promises.test_p5_stop_means_stopped import Tools
from tests.support.server import Event, running, serving
from tests.support.watching import until

from pilothouse.runs.events import RunEvent
from pilothouse.runs.live import LiveRun
from pilothouse.testing.provider import Rule, Script, ScriptedProvider, ToolCall, Turn, When

STEPS = Script(
    rules=[
        Rule(
            when=When(after_tool=True),
            turn=Turn(tokens=60, reasoning="because of that", gate="end", gate_after_tokens=30),
        ),
        Rule(when=When(user_contains="go"), turn=Turn(text="let me look", tool_calls=[ToolCall(name="quick")])),
    ],
    turns=["next"],
)


def reading(events: Sequence[Event]) -> list[tuple[str, int, str]]:
    """What a client makes of events: each step's text and reasoning as one, everything else as it is."""
    made: list[tuple[str, int, str]] = []
    for event in events:
        step = event.data.get("step", 0)
        if event.type in ("text.delta", "reasoning.delta"):
            if made and made[-1][:2] == (event.type, step):
                made[-1] = (event.type, step, made[-1][2] + event.data["text"])
            else:
                made.append((event.type, step, event.data["text"]))
        else:
            made.append((event.type, step, str(event.data.get("text", ""))))
    return made


async def test_a_finished_stream_continues_from_every_event_with_exactly_the_rest(database_url):
    async with running(database_url, STEPS, setup=Tools().agent()) as server:
        server.provider.release("end")
        async with server.stream("go") as stream:
            whole = await stream.rest()
        assert [event.place for event in whole] == sorted({event.place for event in whole})
        for number, event in enumerate(whole):
            rest = await server.events(stream.run_id, event.id)
            assert reading([*whole[: number + 1], *rest]) == reading(whole), event.id
            assert all(later.place > event.place for later in rest)
        assert reading(await server.events(stream.run_id)) == reading(whole)
        page = (await server.get(f"/v1/runs/{stream.run_id}/events")).text
        assert page.count("event: run.completed") == 1


async def test_a_stream_that_goes_on_continues_from_every_event_with_exactly_the_rest(database_url):
    async with running(database_url, STEPS, setup=Tools().agent()) as server, server.stream("go") as stream:
        seen: list[Event] = []
        async for event in stream:
            seen.append(event)
            if event.type == "text.delta" and event.data["step"] > 1:
                break
        followers = [asyncio.create_task(server.events(stream.run_id, event.id)) for event in seen]
        early = [asyncio.create_task(server.events(stream.run_id)) for _ in range(5)]
        while len(server.services.executor._live._runs[stream.run_id]._waiters) < len(followers):
            await asyncio.sleep(0.01)
        server.provider.release("end")
        await stream.rest()
        whole = [*seen, *(event for event in stream.events if event.place > seen[-1].place)]
        for number, task in enumerate(followers):
            assert reading([*seen[: number + 1], *await task]) == reading(whole)
        for task in early:
            assert reading(await task) == reading(whole)


async def test_a_stream_continues_on_a_server_started_anew(sqlite_url):
    async with ScriptedProvider(STEPS) as provider:
        setup = Tools().agent()
        async with (
            serving(sqlite_url, provider, setup=setup, server={"console": False, "shutdown_seconds": 0}) as server,
            server.stream("go") as stream,
        ):
            async for event in stream:
                if event.type == "text.delta" and event.data["step"] > 1:
                    break
            seen = list(stream.events)
            run_id = stream.run_id
        provider.release("end")
        async with serving(sqlite_url, provider, setup=setup) as server:
            rest = await server.events(run_id, seen[-1].id)
        assert rest[-1].type == "run.completed"
        assert all(event.place > seen[-1].place for event in rest)
        text = ""
        for event in [*seen, *rest]:
            if event.type == "step.restarted":
                text = ""
            elif event.type == "text.delta" and event.data["step"] > 1:
                text += event.data["text"]
        assert text == rest[-1].data["text"]
        assert [request.served_by for request in provider.requests] == ["rules[1]", "rules[0]", "rules[0]"]


async def test_a_reader_that_does_not_read_gets_everything_later_from_the_log(sqlite_url):
    script = Script(turns=[Turn(tokens=6000)])
    async with running(sqlite_url, script) as server:
        async with server.stream("much") as slow:
            await slow.until("run.started")
            while True:
                run = await server.run(slow.run_id)
                if run["state"] == "completed":
                    break
                await asyncio.sleep(0.01)
            events = await slow.rest()
        text = "".join(event.data["text"] for event in events if event.type == "text.delta")
        assert text == run["text"]
        assert events[-1].type == "run.completed"


def test_a_run_keeps_a_bounded_number_of_durable_events_in_memory():
    live = LiveRun("run_1", attempt=1, first_number=1)
    for number in range(1, 10_001):
        live.publish(RunEvent(1, number, "text.delta", {"step": 1, "text": "x"}))
        live.mark_durable(number)
    assert len(live._events) <= 512
    assert live.since((1, 10)) is None
    assert [event.number for event in live.since((1, 9_998)) or []] == [9_999, 10_000]


async def test_events_that_are_not_written_yet_stay_in_memory():
    live = LiveRun("run_1", attempt=1, first_number=1)
    for number in range(1, 2_001):
        live.publish(RunEvent(1, number, "text.delta", {"step": 1, "text": "x"}))
    live.mark_durable(5)
    assert len(live.since((1, 5)) or []) == 1_995


@pytest.mark.parametrize("bad", ["x", "1", "1-", "-1", "1-1-1", "1-99999999999", "²-1"])
async def test_an_event_id_that_is_none_is_refused(sqlite_url, bad):
    async with running(sqlite_url, Script(turns=["Hello."])) as server:
        run_id = (await server.chat("hi"))["run_id"]
        response = await server.get(f"/v1/runs/{run_id}/events", after=bad)
        assert (response.status_code, response.json()["code"]) == (422, "bad_event_id")


async def test_the_log_can_be_read_as_a_page(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        run_id = (await server.chat("hi"))["run_id"]
        headers = {"Accept": "application/json"}
        page = (await server.http.get(f"/v1/runs/{run_id}/events", headers=headers)).json()
        assert page["items"][0]["type"] == "run.queued"
        assert page["last_id"] == page["items"][-1]["id"]
        rest = await server.http.get(f"/v1/runs/{run_id}/events", headers=headers, params={"after": page["last_id"]})
        assert rest.json() == {"items": [], "last_id": None}


async def test_silence_is_filled_with_heartbeats(sqlite_url):
    script = Script(turns=[Turn(text="Hello.", gate="quiet")])
    async with (
        running(sqlite_url, script, server={"console": False, "heartbeat_seconds": 0.05}) as server,
        server.stream("hi") as stream,
    ):
        reader = asyncio.create_task(stream.rest())
        async with asyncio.timeout(10):
            while stream.comments < 4:
                await asyncio.sleep(0.01)
        server.provider.release("quiet")
        assert (await reader)[-1].type == "run.completed"


@pytest.mark.parametrize("told", [True, False], ids=["redis", "no redis"])
async def test_streams_on_another_node_get_on_when_the_run_does(postgres_url, redis_url, told):
    tools = Tools()
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="signed")),
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name="ask")])),
        ]
    )
    redis = {"redis": {"url": redis_url}} if told else {}
    async with (
        ScriptedProvider(script) as provider,
        serving(postgres_url, provider, setup=tools.agent(), **redis) as one,
        serving(postgres_url, provider, setup=tools.agent(), **redis) as two,
    ):
        response = await one.send("go")
        assert response.status_code == 202
        run_id = response.json()["run_id"]
        whole = asyncio.create_task(one.events(run_id))
        others = [asyncio.create_task(two.events(run_id)) for _ in range(30)]
        watches = two.services.follower._live.watches
        await until(lambda: len(watches.waiting()) == 30)
        [call] = [step["call_id"] for step in (await one.run(run_id))["steps"] if step["kind"] == "tool"]
        answer = await one.post(f"/v1/runs/{run_id}/input", {"call_id": call, "approve": True})
        assert answer.status_code == 202
        async with asyncio.timeout(60):
            expected = await whole
            for task in others:
                assert reading(await task) == reading(expected)
        assert expected[-1].type == "run.completed"
