"""What a turn is given of its conversation's history."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from tests.promises.test_p5_stop_means_stopped import Tools
from tests.support.server import running

from pilothouse.conversations.transcript import StoredMessage, assemble, encode, split_open_tail
from pilothouse.conversations.window import Cut, fit
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When

Turns = list[list[int]]  # each turn: for each response, how many calls it makes


def stored(turns: Turns, *, tokens: Sequence[int] = (7,), pinned: Sequence[int] = ()) -> list[StoredMessage]:
    """A whole transcript; `pinned` are indexes of messages."""
    rows: list[StoredMessage] = []

    def add(turn: int, step: int, role, message: ModelMessage, call_id: str | None = None) -> None:
        seq = 1 + sum(row.turn == turn for row in rows)
        rows.append(
            StoredMessage(
                turn,
                seq,
                f"run_{turn}",
                step,
                role,
                call_id,
                encode(message),
                tokens[len(rows) % len(tokens)],
                pinned=len(rows) in pinned,
                created_at=0,
            )
        )

    for turn, responses in enumerate(turns, 1):
        add(turn, 0, "user", ModelRequest(parts=[UserPromptPart(f"q{turn}")]))
        for step, calls in enumerate(responses, 1):
            parts = [ToolCallPart("act", {}, tool_call_id=f"c{n}") for n in range(calls)]
            add(turn, step, "assistant", ModelResponse(parts=[TextPart(f"a{turn}.{step}"), *parts]))
            for part in reversed(parts):  # results come in any order
                result = ToolReturnPart("act", f"r{turn}.{step}", tool_call_id=part.tool_call_id)
                add(turn, step, "tool", ModelRequest(parts=[result]), part.tool_call_id)
    return rows


def check_whole(history: Sequence[ModelMessage]) -> None:
    for index, message in enumerate(history):
        if isinstance(message, ModelResponse) and message.tool_calls:
            following = history[index + 1]
            assert isinstance(following, ModelRequest)
            results = [part.tool_call_id for part in following.parts if isinstance(part, ToolReturnPart)]
            assert results == [call.tool_call_id for call in message.tool_calls]
        elif isinstance(message, ModelRequest) and any(isinstance(part, ToolReturnPart) for part in message.parts):
            before = history[index - 1]
            assert isinstance(before, ModelResponse)
            assert before.tool_calls


turn_lists = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    turns=turn_lists,
    tokens=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    pinned=st.sets(st.integers(0, 40), max_size=4),
    budget=st.integers(0, 300),
)
def test_a_cut_keeps_what_is_pinned_and_newest_and_never_tears_a_call_from_its_result(turns, tokens, pinned, budget):
    rows = stored(turns, tokens=tokens, pinned=sorted(pinned))
    kept, cut = fit(rows, budget, keep_from_turn=len(turns))
    assert [row.key for row in kept] == [row.key for row in rows if row in kept]
    assert all(row in kept for row in rows if row.pinned or row.turn >= len(turns))
    check_whole(assemble(kept))
    left = [row for row in rows if row not in kept]
    if not left:
        assert cut is None
    else:
        assert cut == Cut(messages=len(left), tokens=sum(row.tokens for row in left), kept=len(kept))
        newest_left = max(rows.index(row) for row in left)
        assert all(row in kept for row in rows[newest_left + 1 :])
    free = [row for row in kept if not row.pinned and row.turn < len(turns)]
    if free and not any(row.pinned for row in rows):
        assert sum(row.tokens for row in kept) <= max(budget, sum(r.tokens for r in rows if r.turn >= len(turns)))


@settings(deadline=None)
@given(turns=turn_lists)
def test_what_fits_is_not_cut(turns):
    rows = stored(turns)
    assert fit(rows, 10_000, keep_from_turn=len(turns)) == (rows, None)


@settings(deadline=None)
@given(turns=turn_lists, missing=st.sets(st.integers(0, 3)))
def test_an_open_tail_is_taken_apart_and_nothing_else(turns, missing):
    rows = stored(turns)
    last = max((i for i, row in enumerate(rows) if row.role == "assistant"), default=None)
    whole = rows
    if last is not None:
        rows = [
            row
            for i, row in enumerate(rows)
            if i <= last or row.role != "tool" or int((row.call_id or "c9")[1:]) not in missing
        ]
    base, recorded = split_open_tail(rows)
    if rows == whole or last is None or any(row.role == "user" for row in rows[last:]):
        assert (base, recorded) == (rows, {})
        check_whole(assemble(base))
    elif recorded or base != rows:
        assert base == [row for row in rows if row not in recorded.values()]
        assert isinstance(assemble(base)[-1], ModelResponse)


async def test_a_long_conversation_is_cut_and_the_run_says_so(database_url):
    script = Script(turns=[Turn(text="x" * 400)])
    async with running(database_url, script, runs={"history_tokens": 400}) as server:
        conversation = (await server.chat("the first, " + "y" * 400))["conversation_id"]
        await server.http.put(f"/v1/conversations/{conversation}/messages/1.1/pin", json={"pinned": True})
        for number in range(6):
            answer = await server.chat(f"number {number} " + "z" * 300, conversation_id=conversation)
        run = await server.run(answer["run_id"])
        assert run["cut"]["messages"] > 0
        sent = server.provider.requests[-1].body["messages"]
        assert sent[0]["content"].startswith("the first")
        assert sent[-1]["content"].startswith("number 5")
        assert len(sent) == run["cut"]["kept"]


async def test_a_pinned_answer_with_tool_calls_keeps_its_results_however_old_it_is(database_url):
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="done")),
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name="quick"), ToolCall(name="quick")])),
        ],
        turns=["fine"],
    )
    setup = Tools().agent()
    for pinned in ("1.2", "1.3"):
        async with running(database_url, script, setup=setup, runs={"history_messages": 4}) as server:
            conversation = (await server.chat("go"))["conversation_id"]
            path = f"/v1/conversations/{conversation}/messages/{pinned}/pin"
            assert (await server.http.put(path, json={"pinned": True})).status_code == 204
            for number in range(4):
                await server.chat(f"number {number}", conversation_id=conversation)
            sent = server.provider.requests[-1].body["messages"]
            [response] = [item for item in sent if item.get("tool_calls")]
            results = [item["tool_call_id"] for item in sent if item["role"] == "tool"]
            assert results == [call["id"] for call in response["tool_calls"]]
