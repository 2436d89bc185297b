"""What callers ask for and what the scripted model does about it.

A message is `#<key> <scenario>`; its key is in no other message, so that a model request can be laid to its run.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from pilothouse.testing.provider.script import RawReply, Rule, Script, ToolCall, Turn, When

_MESSAGE = re.compile(r"#(?P<key>\w+) (?P<scenario>\w+)")
_WORDS = "so the answer goes on for a while, word by word, until it has said all that it has to say about it; "


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps of tool calls, then a text of `length` sentences at `pace` tokens a second."""

    steps: tuple[tuple[str, ...], ...] = ()
    length: int = 2
    pace: float | None = 60

    def position(self, step: int) -> int:
        """How many tool results a prompt of the model's step (from 0) holds after the user's message."""
        return sum(len(calls) for calls in self.steps[:step])


SCENARIOS = {
    "quick": Scenario(length=1, pace=None),
    "text": Scenario(length=4),
    "pure": Scenario((("look",),), length=1),
    "put": Scenario((("put",),), length=1),
    "chain": Scenario((("look",), ("put",), ("pay_tell",)), length=1),
    "wide": Scenario((("look", "put", "pay_tell"),), length=2),
    "ask": Scenario((("pay_ask",),), length=1),
    "retry": Scenario((("pay_retry",), ("look",)), length=1),
}


_PIECE = "x" * 4096
_NO_CHOICES = 'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'

_FOREVER: Literal["forever"] = "forever"

_TROUBLES: dict[str, Turn] = {
    "big": Turn(text=_PIECE * 2, token_characters=len(_PIECE), repeat_last_token=50_000_000 // len(_PIECE)),
    "endless": Turn(text=_PIECE * 2, token_characters=len(_PIECE), repeat_last_token=_FOREVER),
    "trickle": Turn(raw=RawReply(body=_NO_CHOICES, repeat=None, bytes_per_second=1)),
    "nothttp": Turn(raw=RawReply(body="SSH-2.0-OpenSSH_9.2\r\n", http=False)),
    "nojson": Turn(raw=RawReply(body="data: {this is no JSON\n\n")),
    "html": Turn(raw=RawReply(body="<html>Welcome to nginx!</html>", content_type="text/html")),
    "nochoices": Turn(raw=RawReply(body=_NO_CHOICES + "data: [DONE]\n\n")),
    "empty": Turn(raw=RawReply(body="")),
}
TROUBLES = tuple(_TROUBLES)
"""Scenarios whose answer is no good: those runs may fail, with a code that says so; others must not suffer."""

PROBE = "quick"
"""The scenario of a message that asks whether a node answers."""


def message_text(key: str, scenario: str) -> str:
    """What a caller sends."""
    return f"#{key} {scenario}"


def key_of(text: str) -> str | None:
    """The key in a message; None where it is none of ours."""
    found = _MESSAGE.search(text)
    return found["key"] if found else None


def scenario_of(text: str) -> Scenario | None:
    """What a message asks for; None where it is none of ours."""
    found = _MESSAGE.search(text)
    return SCENARIOS.get(found["scenario"]) if found else None


def last_words(key: str) -> str:
    """How the answer to a message ends."""
    return f"end of {key}."


def script() -> Script:
    """The model's script."""
    rules: list[Rule] = []
    for name, scenario in SCENARIOS.items():
        turns: list[Any] = [
            Turn(
                text=f"Step {number} of {{key}}, one moment please. ",
                tool_calls=[ToolCall(name=call, arguments={"key": "{key}"}) for call in calls],
                tokens_per_second=scenario.pace,
            )
            for number, calls in enumerate(scenario.steps)
        ]
        text = "Answer to {key}: " + _WORDS * scenario.length + last_words("{key}")
        turns.append(Turn(text=text, tokens_per_second=scenario.pace))
        rules += [
            Rule(
                when=When(user_matches=rf"#(?P<key>\w+) {name}$", tool_results=scenario.position(number)),
                turn=turn,
            )
            for number, turn in enumerate(turns)
        ]
    rules += [Rule(when=When(user_matches=rf"#(?P<key>\w+) {name}$"), turn=turn) for name, turn in _TROUBLES.items()]
    return Script(rules=rules)
