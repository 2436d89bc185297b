"""What is asked and what the scripted provider answers: the same for every server."""

from typing import Any

MODEL = "gpt-4o"
INSTRUCTIONS = "You are a helpful assistant of a small shop. Answer briefly."
ORDER = "1042"

SHORT_TOKENS = 20
STREAM_TOKENS = 100
TOOL_ANSWER_TOKENS = 20
FIRST_TOKEN_SECONDS = 0.2
TOKENS_PER_SECOND = 50
HOLD_GATE = "hold"

FIRST_WORD = "w000"
IDEAL_PACED_SECONDS = FIRST_TOKEN_SECONDS + (STREAM_TOKENS - 1) / TOKENS_PER_SECOND

ASK_SHORT = "short: what are the opening hours on Saturday?"
ASK_TOOL = f"tool: where is order {ORDER}?"
ASK_STREAM = "stream: tell me about the shop."
ASK_PACED = "paced: tell me about the shop."
ASK_HELD = "held: tell me about the shop."
ASK_PERSON = "person: may I have a discount?"


def last_word(tokens: int) -> str:
    """The last word of the provider's answer of so many tokens."""
    return f"w{tokens - 1:03d}"


def script() -> dict[str, Any]:
    """The provider's script. Its log is off: it would cost the load's core."""

    def rule(prefix: str, turn: dict[str, Any], **when: Any) -> dict[str, Any]:
        return {"when": {"user_contains": prefix, **when}, "turn": turn}

    call = {"name": "order_lookup", "arguments": {"order_id": ORDER}}
    paced = {"first_token_delay": FIRST_TOKEN_SECONDS, "tokens_per_second": TOKENS_PER_SECOND}
    return {
        "models": [MODEL],
        "log": False,
        "log_bodies": False,
        "rules": [
            rule("short:", {"tokens": SHORT_TOKENS}),
            rule("tool:", {"tool_calls": [call]}, tool_results=0),
            rule("tool:", {"tokens": TOOL_ANSWER_TOKENS}, tool_results=1),
            rule("person:", {"tool_calls": [{"name": "sign_off", "arguments": {}}]}),
            rule("stream:", {"tokens": STREAM_TOKENS}),
            rule("paced:", {"tokens": STREAM_TOKENS, **paced}),
            rule("held:", {"tokens": STREAM_TOKENS, "gate": HOLD_GATE, "gate_after_tokens": 5}),
        ],
    }


async def order_lookup(order_id: str) -> str:
    """Look up where an order is.

    Args:
        order_id: the number of the order.
    """
    return f'{{"order_id": "{order_id}", "status": "packed", "arrives_on": "2026-11-24"}}'


ORDER_LOOKUP_SCHEMA: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "order_lookup",
        "description": "Look up where an order is.",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "description": "the number of the order."}},
            "required": ["order_id"],
            "additionalProperties": False,
        },
    },
}
