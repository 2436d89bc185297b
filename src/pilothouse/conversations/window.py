"""Cut a history to what a model's window holds."""

from collections.abc import Sequence
from dataclasses import dataclass

from pilothouse.conversations.sendable import inline_tokens
from pilothouse.conversations.transcript import StoredMessage


@dataclass(frozen=True, slots=True)
class Cut:
    """What was left out of a history: recorded on the run.

    `messages` and `tokens` are counts of what was left out; `kept` counts what stayed.
    """

    messages: int
    tokens: int
    kept: int


def fit(
    rows: Sequence[StoredMessage], budget: int, *, keep_from_turn: int, already_cut: int = 0
) -> tuple[list[StoredMessage], Cut | None]:
    """The newest and the pinned messages that fit into `budget` tokens, in order.

    A turn's messages between two user messages are kept or left out by exchange: a response and the results of its
    calls stay together. The messages of `keep_from_turn` and later always stay.

    Args:
        rows: the history, oldest first.
        budget: tokens.
        already_cut: messages that were not even loaded; counted in the result.
    """
    groups = _exchanges(rows)
    kept: list[list[StoredMessage]] = []
    spent = sum(_cost(group) for group in groups if _must_stay(group, keep_from_turn))
    left_messages, left_tokens, full = already_cut, 0, False
    for group in reversed(groups):
        if _must_stay(group, keep_from_turn):
            kept.append(group)
            continue
        full = full or spent + _cost(group) > budget
        if full:
            left_messages += len(group)
            left_tokens += _cost(group)
        else:
            spent += _cost(group)
            kept.append(group)
    chosen = [row for group in reversed(kept) for row in group]
    if not left_messages:
        return chosen, None
    return chosen, Cut(messages=left_messages, tokens=left_tokens, kept=len(chosen))


def _exchanges(rows: Sequence[StoredMessage]) -> list[list[StoredMessage]]:
    """Groups that must not be torn: each user message, and each response with what answers its calls."""
    groups: list[list[StoredMessage]] = []
    for row in rows:
        if row.role in ("tool", "feedback") and groups:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _must_stay(group: Sequence[StoredMessage], keep_from_turn: int) -> bool:
    return group[0].turn >= keep_from_turn or any(row.pinned for row in group)


def _cost(group: Sequence[StoredMessage]) -> int:
    return sum(max(row.tokens, inline_tokens(row.payload)) for row in group)
