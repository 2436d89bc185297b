"""An answer ready to be put on a wire: a turn of the script with its texts filled in and split."""

import json
from dataclasses import dataclass

from pilothouse.testing.provider.script import Turn, UsageReport

# Stands where the number of the request goes in encoded frames; of the same length, so that offsets hold.
NUMBER_SLOT = "<REQ~NO>"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call with its arguments as text, whole and in the fragments they are streamed in."""

    position: int
    name: str
    arguments: str
    fragments: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"call_{NUMBER_SLOT}_{self.position}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The content of one answer in tokens; joined they are the exact texts."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    calls: tuple[Call, ...]
    finish_reason: str
    token_count: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The token counts of one answer as reported; `input` includes `cached`."""

    input: int
    output: int
    cached: int


def split_tokens(text: str, size: int = 4) -> tuple[str, ...]:
    """Pieces of `size` characters that join to exactly `text`."""
    return tuple(text[i : i + size] for i in range(0, len(text), size))


def word_tokens(count: int) -> tuple[str, ...]:
    """`count` distinct words, the same every time: `w000`, ` w001`, ..."""
    return tuple(f" w{i:03d}" if i else "w000" for i in range(count))


def build_answer(turn: Turn) -> Answer:
    """The answer of a turn whose templates are filled in already."""
    size = turn.token_characters
    reasoning = split_tokens(turn.reasoning or "", size)
    text = split_tokens(turn.text or "", size) if turn.tokens is None else word_tokens(turn.tokens)
    calls = tuple(_call(position, turn) for position in range(len(turn.tool_calls)))
    return Answer(
        reasoning=reasoning,
        text=text,
        calls=calls,
        finish_reason=turn.finish_reason or ("tool_calls" if calls else "stop"),
        token_count=len(reasoning) + len(text) + sum(len(call.fragments) for call in calls),
    )


def report_usage(report: UsageReport | None, answer: Answer, *, input_tokens: int) -> Usage:
    """The counts to report: those of the script, else the estimates."""
    if report is None:
        return Usage(input_tokens, answer.token_count, 0)
    return Usage(
        input=input_tokens if report.input is None else report.input,
        output=answer.token_count if report.output is None else report.output,
        cached=report.cached,
    )


def _call(position: int, turn: Turn) -> Call:
    call = turn.tool_calls[position]
    arguments = call.raw_arguments
    if arguments is None:
        arguments = json.dumps(call.arguments, ensure_ascii=False)
    return Call(position, call.name, arguments, split_tokens(arguments, turn.token_characters) or ("",))
