import asyncio
import re
from pathlib import Path

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import known_model_names

from pilothouse.agents import AgentRegistry
from pilothouse.demo import PROMPT, OfflineModel, Shop, ShopTools, demo_model, support_agent
from pilothouse.demo.shop import RefundRefused
from pilothouse.settings import RunSettings
from pilothouse.tools.context import ToolCall, serving


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path / "data" / "shop.db")


@pytest.fixture
def served(shop):
    return AgentRegistry(RunSettings()).add(
        support_agent(), prompt=PROMPT, model=OfflineModel(delay_seconds=0), tools=ShopTools(shop).all()
    )


@pytest.fixture
def ask(served):
    async def ask(message: str, history=None):
        instructions = served.prompt.render({})
        return await served.agent.run(
            message, model=served.model, toolsets=served.toolsets, instructions=instructions, message_history=history
        )

    return ask


def called(result) -> list[str]:
    parts = [part for message in result.new_messages() for part in message.parts]
    return [part.tool_name for part in parts if isinstance(part, ToolCallPart)]


async def test_the_support_agent_is_registered_with_prompt_and_policies(served):
    assert served.prompt.version == "1"
    assert served.model_name == "offline:demo"
    assert served.model_settings == {"temperature": 0.2, "max_tokens": 800}
    assert "Mira Lindqvist" in served.prompt.render({})
    assert {name: policy.effect for name, policy in served.policies.items()} == {
        "order_lookup": "pure",
        "list_orders": "pure",
        "shipping_status": "idempotent",
        "refund": "once",
    }


@pytest.mark.parametrize(
    ("message", "tools", "words"),
    [
        ("Where is order 1042?", ["order_lookup"], "**packed**"),
        ("status of #1041 please", ["order_lookup"], "Oak chopping board"),
        ("Track 1043", ["shipping_status"], "RP40011872"),
        ("shipping of 1044", ["shipping_status"], "nothing was sent"),
        ("List my orders", ["list_orders"], "- **1044**: processing, €129.00"),
        ("Show my orders as a table", ["list_orders"], "| 1042 | 2026-11-17 | packed | €97.00 |"),
        ("Orders 1039 and 1042", ["order_lookup", "order_lookup"], "**delivered**"),
        ("Refund order 1039", ["refund"], "**€118.00** of order 1039"),
        ("Refund €12.50 of order 1042", ["refund"], "**€12.50** of order 1042"),
        ("refund 20 euros for 1042", ["refund"], "**€20.00** of order 1042"),
        ("Refund €500 of order 1042", ["refund"], "Only €97.00 of order 1042 can still be refunded, not €500.00"),
        ("Where is 9999?", ["order_lookup"], "There is no order 9999"),
        ("I want my money back", [], "which order should I refund?"),
        ("help", [], "I need no network"),
        ("Ünïcödé 🦊 مرحبا 你好", [], '"Ünïcödé 🦊 مرحبا 你好"'),
        ("", [], "I am a short script"),
    ],
)
async def test_it_understands_a_few_things_and_really_calls_the_tools(ask, message, tools, words):
    result = await ask(message)
    assert result.output.startswith("Offline demo model: ")
    assert called(result) == tools
    assert words in result.output


async def test_a_refund_is_written_once_and_refused_the_second_time(ask, shop):
    assert "I refunded" in (await ask("Refund order 1039")).output
    assert "already been refunded in full" in (await ask("Refund order 1039")).output
    order = await shop.order("1039")
    assert order["refunded_cents"] == order["total_cents"] == 11_800


async def test_the_same_idempotency_key_refunds_once(shop):
    call = ToolCall(
        run_id="run_1", conversation_id=None, tenant="t", subject="s", call_id="c", idempotency_key="k", attempt=1
    )
    with serving(call):
        refund = ShopTools(shop).refund
        first, second = await refund("1042", 1000), await refund("1042", 1000)
    assert first["refund_id"] == second["refund_id"]
    assert (await shop.order("1042"))["refunded_cents"] == 1000


async def test_refunds_at_the_same_moment_never_give_back_more_than_was_paid(shop):
    results = await asyncio.gather(*(shop.refund("1042", 3000, "", key=None) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, RefundRefused) for result in results) == 3
    assert (await shop.order("1042"))["refunded_cents"] == 9000


async def test_it_remembers_which_order_was_spoken_of(ask):
    first = await ask("Where is order 1043?")
    second = await ask("Please refund it", history=first.all_messages())
    assert "of order 1043" in second.output


async def test_results_that_stand_before_the_persons_words_are_not_taken_for_new_ones(served):
    history = [
        ModelRequest(parts=[UserPromptPart("Refund order 1039")]),
        ModelResponse(parts=[ToolCallPart("refund", {"order_id": "1039"}, tool_call_id="c1")]),
        ModelRequest(parts=[ToolReturnPart("refund", "cancelled", tool_call_id="c1")]),
    ]
    result = await served.agent.run("help", model=served.model, toolsets=served.toolsets, message_history=history)
    assert "I need no network" in result.output


async def test_answers_stream_word_by_word_and_add_up(served):
    deltas: list[str] = []

    async def note(_ctx, events):
        async for event in events:
            if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                deltas.append(event.delta.content_delta)

    result = await served.agent.run(
        "Tell me something long", model=served.model, toolsets=served.toolsets, event_stream_handler=note
    )
    assert 250 < len(result.output.split()) < 400
    assert len(deltas) > 250
    assert result.output.endswith("".join(deltas))
    whole = await served.agent.run("Tell me something long", model=served.model, toolsets=served.toolsets)
    assert whole.output == result.output
    assert whole.usage == result.usage


async def test_streamed_tool_calls_are_made_and_usage_is_plausible(served):
    async with served.agent.run_stream("Where is 1042?", model=served.model, toolsets=served.toolsets) as result:
        text = "".join([piece async for piece in result.stream_text(delta=True)])
    assert "**packed**" in text
    usage = result.usage
    assert usage.requests == 2
    assert usage.input_tokens > 50
    assert 20 < usage.output_tokens < 400


async def test_an_agent_without_the_tools_is_told_so():
    result = await Agent(OfflineModel()).run("Where is order 1042?")
    assert "has no tool `order_lookup`" in result.output


async def test_structured_answers_need_a_real_model():
    with pytest.raises(UserError, match="answers in text"):
        await Agent(OfflineModel(), output_type=int).run("hi")


def test_the_model_is_the_chosen_one_else_the_providers_else_offline():
    assert isinstance(demo_model({}), OfflineModel)
    assert isinstance(demo_model({"OPENAI_API_KEY": " "}), OfflineModel)
    by_key = {
        "openai": demo_model({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}),
        "anthropic": demo_model({"PILOTHOUSE_ANTHROPIC_API_KEY": "k"}),
    }
    assert all(by_key[provider].startswith(f"{provider}:") for provider in by_key)
    assert set(by_key.values()) <= set(known_model_names())
    assert demo_model({"AZURE_OPENAI_API_KEY": "k"}).startswith("azure:")
    assert demo_model({"PILOTHOUSE_MODELS_DEFAULT": "a:b", "OPENAI_API_KEY": "k"}) == "a:b"


async def test_a_shop_that_exists_is_used_as_it_is(tmp_path):
    path = tmp_path / "shop.db"
    await Shop(path).refund("1042", 100, "", key="k")
    assert (await Shop(path).order("1042"))["refunded_cents"] == 100
    assert len(await Shop(path).orders(" Mira@Example.com ")) == 3
    assert await Shop(path).orders("nobody@example.com") == []


def test_the_example_has_the_demos_prompt_and_little_wiring():
    folder = Path(__file__).parents[2] / "examples" / "support"
    assert (folder / "prompts" / "support.md").read_bytes() == PROMPT.read_bytes()
    wiring = [line for line in (folder / "app.py").read_text().splitlines() if line and not re.match(r'["#]', line)]
    assert len(wiring) <= 30
