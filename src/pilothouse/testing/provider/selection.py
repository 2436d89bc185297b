"""Which turn answers a request: rules first, then the turns in order; templates are filled in here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pilothouse.testing.provider.answer import Answer, build_answer
from pilothouse.testing.provider.frames import FrozenBody
from pilothouse.testing.provider.prompt import Prompt
from pilothouse.testing.provider.script import Rule, Script, ToolCall, Turn, When
from pilothouse.testing.provider.wire import Wire

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_MAX_ENCODED = 1024


@dataclass(frozen=True, slots=True)
class Selected:
    """The turn for one request, and where in the script it stands (`rules[2]`, `turns[0]`)."""

    turn: Turn
    served_by: str
    answer: Answer
    encode: Callable[[Wire, str], FrozenBody]


class Selector:
    """One script in use: counts what was used, and keeps what was encoded.

    Meant for one event loop: selecting never yields, so concurrent requests see exact counts.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self._rules = [_RuleInUse(rule, position) for position, rule in enumerate(script.rules)]
        self._turns = [_TurnInUse(turn, f"turns[{position}]") for position, turn in enumerate(script.turns)]
        self._next_turn = 0

    def select(self, prompt: Prompt, *, number: int) -> Selected | None:
        """The turn that answers the prompt; `None` when the script has none for it."""
        for rule in self._rules:
            groups = rule.take(prompt)
            if groups is not None:
                return rule.turn.selected(prompt, groups, number=number)
        if not self._turns:
            return None
        return self._take_turn().selected(prompt, {}, number=number)

    def _take_turn(self) -> "_TurnInUse":
        position = self._next_turn
        last = len(self._turns) - 1
        self._next_turn = position + 1 if position < last else (0 if self.script.loop else last)
        return self._turns[position]


class _RuleInUse:
    def __init__(self, rule: Rule, position: int) -> None:
        self.turn = _TurnInUse(rule.turn, f"rules[{position}]")
        self._rule = rule
        self._pattern = None if rule.when.user_matches is None else re.compile(rule.when.user_matches)
        self._used = 0

    def take(self, prompt: Prompt) -> Mapping[str, str] | None:
        """The groups of the match, counted as a use; `None` when the rule does not apply."""
        if self._used == self._rule.times or not _holds(self._rule.when, prompt):
            return None
        groups: dict[str, str] = {}
        if self._pattern is not None:
            match = self._pattern.search(prompt.user)
            if match is None:
                return None
            groups = {str(i): text or "" for i, text in enumerate(match.groups(), start=1)}
            groups |= {name: text or "" for name, text in match.groupdict().items()}
        self._used += 1
        return groups


class _TurnInUse:
    def __init__(self, turn: Turn, label: str) -> None:
        self._turn = turn
        self._label = label
        self._is_template = _PLACEHOLDER.search(_texts(turn)) is not None
        self._answer = build_answer(turn)
        self._encoded: dict[tuple[str, str], FrozenBody] = {}

    def selected(self, prompt: Prompt, groups: Mapping[str, str], *, number: int) -> Selected:
        if not self._is_template:
            return Selected(self._turn, self._label, self._answer, self._encode)
        turn = _fill_turn(self._turn, _values(prompt, groups, number=number))
        answer = build_answer(turn)
        return Selected(turn, self._label, answer, lambda wire, model: wire.body(answer, model))

    def _encode(self, wire: Wire, model: str) -> FrozenBody:
        key = (wire.name, model)
        body = self._encoded.get(key)
        if body is None:
            if len(self._encoded) >= _MAX_ENCODED:
                self._encoded.clear()
            body = self._encoded[key] = wire.body(self._answer, model)
        return body


def _holds(when: When, prompt: Prompt) -> bool:
    """Whether all conditions hold but the regular expression, whose groups the caller wants."""
    return (
        (when.user_contains is None or when.user_contains in prompt.user)
        and (when.system_contains is None or when.system_contains in prompt.system)
        and (when.model is None or when.model == prompt.model)
        and (when.tool_results is None or when.tool_results == len(prompt.tool_results))
        and (when.offers_tool is None or when.offers_tool in prompt.offered_tools)
        and (when.api_key is None or when.api_key == prompt.api_key)
        and _answers_tool(when.after_tool, prompt)
    )


def _answers_tool(after_tool: bool | str | None, prompt: Prompt) -> bool:
    if after_tool is None:
        return True
    if isinstance(after_tool, str):
        return prompt.answered_tool == after_tool
    return (prompt.answered_tool is not None) is after_tool


def _values(prompt: Prompt, groups: Mapping[str, str], *, number: int) -> Mapping[str, str]:
    return {
        "user": prompt.user,
        "tool_result": prompt.last_tool_result,
        "tool_results": str(len(prompt.tool_results)),
        "model": prompt.model,
        "request": str(number),
        **groups,
    }


def _fill_turn(turn: Turn, values: Mapping[str, str]) -> Turn:
    changes = {
        "text": _fill(turn.text, values),
        "reasoning": _fill(turn.reasoning, values),
        "tool_calls": tuple(_fill_call(call, values) for call in turn.tool_calls),
    }
    return turn.model_copy(update=changes)


def _fill_call(call: ToolCall, values: Mapping[str, str]) -> ToolCall:
    changes = {
        "arguments": _fill(call.arguments, values),
        "raw_arguments": _fill(call.raw_arguments, values),
    }
    return call.model_copy(update=changes)


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    """Fill in once, so that a value which looks like a placeholder stays as it came."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), value)
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_fill(item, values) for item in cast("list[Any]", value)]
    return value


def _texts(turn: Turn) -> str:
    calls = "".join(f"{call.raw_arguments} {call.arguments!r}" for call in turn.tool_calls)
    return f"{turn.text} {turn.reasoning} {calls}"
