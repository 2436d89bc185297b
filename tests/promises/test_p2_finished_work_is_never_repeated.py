"""P2: a recorded model response is never requested again; a recorded tool result is never computed again.

A run is generated, done once uncut, and then cut at every single one of its writes and continued by another process.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryFeedbackPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.support.node import CutDatabase, Node

from pilothouse.conversations.present import message_documents
from pilothouse.db import Database
from pilothouse.identity.principal import local_principal
from pilothouse.kit.jsons import dumps
from pilothouse.runs.events import RunEvent
from pilothouse.tools import current_tool_call, tool

CALLS = ("pure", "idempotent", "retry_once", "asks_again", "fails", "refuses", "malformed", "unknown")


class Report(BaseModel):
    total: int


@dataclass(frozen=True)
class Plan:
    """What the model does: steps of calls, then how it answers."""

    steps: Sequence[Sequence[str]]
    answer: str  # text | feedback | report | bad_report

    @property
    def structured(self) -> bool:
        return self.answer in ("report", "bad_report")


@dataclass
class World:
    """What was asked and done, outside the database."""

    asked: list[int] = field(default_factory=list[int])
    prompts: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    executed: list[str] = field(default_factory=list[str])
    keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


def plans() -> st.SearchStrategy[Plan]:
    step = st.lists(st.sampled_from(CALLS), min_size=1, max_size=3)
    return st.builds(
        Plan,
        steps=st.lists(step, max_size=3).map(tuple),
        answer=st.sampled_from(["text", "feedback", "report", "bad_report"]),
    )


def responses(plan: Plan) -> Iterator[ModelResponse]:
    """The model's answers in order: what it is asked again after each does not matter to it."""
    for number, names in enumerate(plan.steps):
        calls = [
            ToolCallPart(
                "nosuch" if name == "unknown" else "act",
                '{"kind": 5' if name == "malformed" else {"kind": name, "number": number * 10 + position},
                tool_call_id=f"call_{number}_{position}",
            )
            for position, name in enumerate(names)
        ]
        yield ModelResponse(parts=[ThinkingPart(f"thought {number}"), TextPart(f"step {number}"), *calls])
    if plan.answer == "feedback":
        yield ModelResponse(parts=[TextPart("refuse this answer")])
    if plan.answer == "bad_report":
        yield ModelResponse(parts=[ToolCallPart("final_result", {"total": "many"}, tool_call_id="out_0")])
    if plan.structured:
        yield ModelResponse(parts=[ToolCallPart("final_result", {"total": 7}, tool_call_id="out_1")])
    else:
        yield ModelResponse(parts=[TextPart("the end")])


def agent_for(plan: Plan, world: World) -> Agent[Any, Any]:
    answers = list(responses(plan))

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        begin = max(i for i, message in enumerate(messages) if any(is_user(part) for part in message.parts))
        index = sum(isinstance(message, ModelResponse) for message in messages[begin:])
        if any("next turn" in str(part.content) for part in messages[begin].parts if is_user(part)):
            check_whole(messages)
            report = ToolCallPart("final_result", {"total": 8}, tool_call_id="out_2")
            return ModelResponse(parts=[report if plan.structured else TextPart("still here")])
        check_whole(messages)
        world.asked.append(index)
        shown = shown_to_model(messages)
        assert world.prompts.setdefault(index, shown) == shown
        return answers[index]

    @tool(effect="idempotent", name="act")
    async def act(kind: str, number: int) -> dict[str, Any]:
        call = current_tool_call()
        assert call is not None
        world.keys.setdefault(call.call_id, set()).add(call.idempotency_key)
        await asyncio.sleep(0)
        world.executed.append(call.call_id)
        if kind in ("retry_once", "asks_again"):
            raise ModelRetry(f"say {number} otherwise")
        if kind == "fails":
            raise ValueError("secret of the tool")
        if kind == "refuses":
            raise ToolFailed("not today")
        return {"kind": kind, "number": number}

    agent: Agent[Any, Any] = Agent(
        FunctionModel(answer, model_name="planned"),
        name="planned",
        output_type=Report if plan.structured else str,
        tools=[act],
    )
    if not plan.structured:

        @agent.output_validator
        def check(text: str) -> str:
            if text.startswith("refuse"):
                raise ModelRetry("another answer, please")
            return text

    return agent


def is_user(part: Any) -> bool:
    """What the person wrote: feedback on an answer goes to models as a user's message too."""
    return isinstance(part, UserPromptPart) and "retry_feedback" not in str(part.content)


def shown_to_model(messages: Sequence[ModelMessage]) -> list[str]:
    """What a model is sent, without times and ids of the framework."""
    shown: list[str] = []
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                shown.append(f"result {part.tool_name} {part.tool_call_id} {part.model_response_str()}")
            elif isinstance(part, ToolCallPart):
                shown.append(f"call {part.tool_name} {part.tool_call_id} {part.args}")
            elif isinstance(part, RetryFeedbackPart):
                shown.append(f"feedback {part.model_response()}")
            else:
                shown.append(f"{part.part_kind} {part.content}")
    return shown


def check_whole(messages: Sequence[ModelMessage]) -> None:
    """Every call has exactly one result, right after it."""
    for number, message in enumerate(messages):
        if not isinstance(message, ModelResponse):
            continue
        following = messages[number + 1] if number + 1 < len(messages) else None
        results = (
            [part.tool_call_id for part in following.parts if isinstance(part, ToolReturnPart)] if following else []
        )
        assert isinstance(following, ModelRequest | None)
        assert results == [call.tool_call_id for call in message.tool_calls]


async def transcript(node: Node, conversation_id: str) -> list[dict[str, Any]]:
    """The stored messages, without what may differ from run to run."""
    rows = await node.conversations.messages(local_principal(), conversation_id, limit=1000)
    documents = message_documents(rows)
    for document in documents:
        for name in ("run_id", "created_at", "key", "step"):
            del document[name]
    groups: list[list[dict[str, Any]]] = []
    for document in documents:  # parallel results are stored in the order they came
        if document["role"] == "tool" and groups and groups[-1][0]["role"] == "tool":
            groups[-1].append(document)
        else:
            groups.append([document])
    return [document for group in groups for document in sorted(group, key=lambda item: item["call_id"] or "")]


def check_events(events: Sequence[RunEvent]) -> None:
    """Ids only grow; what a client puts together from deltas, less what was withdrawn, is what the messages say."""
    places = [event.place for event in events]
    assert places == sorted(set(places))
    texts: dict[tuple[str, int], str] = {}
    for event in events:
        if event.type in ("text.delta", "reasoning.delta"):
            key = (event.type, event.data["step"])
            texts[key] = texts.get(key, "") + event.data["text"]
        elif event.type == "step.restarted":
            for kind in ("text.delta", "reasoning.delta"):
                texts.pop((kind, event.data["step"]), None)
        elif event.type == "message":
            step = event.data["step"]
            assert texts.pop(("text.delta", step), "") == event.data["text"]
            assert texts.pop(("reasoning.delta", step), "") == (event.data["reasoning"] or "")
    assert not texts
    finished = [event.data["call_id"] for event in events if event.type == "tool.finished"]
    called = [call["call_id"] for event in events if event.type == "message" for call in event.data["tool_calls"]]
    assert sorted(finished) == sorted(called)


async def recorded(database: Database, node: Node, conversation_id: str) -> tuple[int, set[str]]:
    rows = await node.conversations.messages(local_principal(), conversation_id, limit=1000)
    return sum(row.role == "assistant" for row in rows), {
        row.call_id for row in rows if row.role == "tool" and row.call_id
    }


async def uncut(database: Database, plan: Plan, world: World) -> tuple[int, list[dict[str, Any]], Any]:
    counting = CutDatabase(database)
    async with Node(counting, agent_for(plan, world), argument_retries=8) as node:
        accepted = await node.start("do it", stream=True)
        assert accepted.task is not None
        outcome = await accepted.task
        writes = counting.writes
        assert outcome is not None
        assert outcome.state == "completed", outcome
        return writes, await transcript(node, accepted.conversation_id), (outcome.text, outcome.output)


async def cut_and_continue(database: Database, plan: Plan, at: int, *, lost: bool) -> tuple[list[dict[str, Any]], Any]:
    world = World()
    dying = CutDatabase(database, at=at, lost=lost)
    first = Node(dying, agent_for(plan, world), argument_retries=8)
    accepted = await first.start("do it", stream=True)
    assert accepted.task is not None
    seen: list[RunEvent] = []
    watcher = asyncio.create_task(first.watch(accepted.run_id, seen))
    await asyncio.wait([accepted.task])
    await first.abandon([accepted.task, watcher])
    before = World(list(world.asked), {}, list(world.executed))
    async with Node(database, agent_for(plan, world), argument_retries=8) as second:
        asked, results = await recorded(database, second, accepted.conversation_id)
        answer = await go_on(second, accepted.run_id)
        again = world.asked[len(before.asked) :]
        assert all(index >= asked for index in again), (again, asked)
        assert not results & set(world.executed[len(before.executed) :])
        assert all(len(keys) == 1 for keys in world.keys.values())
        whole: list[RunEvent] = []
        await second.watch(accepted.run_id, whole)
        check_events(whole)
        await second.watch(accepted.run_id, seen, seen[-1].place if seen else (0, 0))
        check_events(seen)
        assert seen[-1].type == "run.completed"
        final = await transcript(second, accepted.conversation_id)
        following = await second.finish("next turn", conversation_id=accepted.conversation_id)
        assert following.state == "completed", following
        return final, answer


async def go_on(node: Node, run_id: str) -> tuple[str, Any]:
    row = await node.runs.get(local_principal(), run_id)
    if row.state == "running":
        outcome = await node.resume(run_id)
        assert outcome.state == "completed", outcome
        return outcome.text, outcome.output
    assert row.state == "completed"  # parallel results share writes as they come: the cut was the last one
    stored = json.loads(row.output)
    return stored["text"], stored["output"]


async def check_all_cuts(database: Database, plan: Plan, losses: Sequence[bool] = (False, True)) -> None:
    writes, expected, answer = await uncut(database, plan, World())
    for lost in losses:
        for at in range(2, writes + (1 if lost else 0)):
            try:
                got, again = await cut_and_continue(database, plan, at, lost=lost)
            except BaseException as error:
                error.add_note(f"cut at write {at} of {writes}, lost={lost}, plan={plan}")
                raise
            assert json.loads(dumps(got)) == json.loads(dumps(expected)), (at, lost)
            assert again == answer


KNOWN = [
    Plan((), "text"),
    Plan((), "feedback"),
    Plan((), "bad_report"),
    Plan((("pure", "unknown", "malformed"), ("retry_once", "fails")), "report"),
    Plan((("unknown",), ("malformed", "malformed")), "feedback"),
    Plan((("refuses", "pure", "idempotent"),), "text"),
]


@pytest.mark.parametrize("plan", KNOWN, ids=str)
async def test_a_run_cut_at_any_write_is_continued_where_it_was(database, plan):
    await check_all_cuts(database, plan)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(plan=plans(), lost=st.booleans())
async def test_any_run_cut_at_any_write_is_continued_where_it_was(database, plan, lost):
    await check_all_cuts(database, plan, [lost])
