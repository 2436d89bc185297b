"""What the offline model says: a few intents, recognised by words, answered from what the tools gave back."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pilothouse.demo.shop import money

NAME = "Offline demo model"
HELP = (
    f"{NAME}: I am a short script, not a language model, and I need no network. My tools and the shop's data are real. "
    'Try: "Where is order 1042?", "List my orders", "Orders 1039 and 1042", "Track 1043", "Refund order 1039", '
    '"Refund €12.50 of order 1042", "Show my orders as a table", or "Tell me something long" '
    "to try stopping and resuming."
)

_NUMBER = re.compile(r"(?<![\d.,€$])#?(\d{4})(?![\d.,]\d|\d)")
_AMOUNT = re.compile(r"[€$]\s?(\d{1,6})(?:[.,](\d{2}))?|(\d{1,6})(?:[.,](\d{2}))?\s?(?:€|euros?|eur)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """A tool call to make."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Result:
    """What a call gave back."""

    name: str
    value: Any


def plan(message: str, earlier: Sequence[str]) -> list[Call] | str:
    """The calls a message asks for, or an answer that needs none. `earlier` are the messages before it."""
    text = message.lower()
    orders = list(dict.fromkeys(cast("list[str]", _NUMBER.findall(message))))[:5]
    if not orders and re.search(r"\b(it|that|this|same)\b", text):
        mentioned = [number for item in earlier for number in cast("list[str]", _NUMBER.findall(item))]
        orders = mentioned[-1:]
    if re.search(r"\brefund|money back\b", text):
        return _refund(message, orders)
    if re.search(r"\btable\b", text) or (not orders and re.search(r"\borders\b", text)):
        return [Call("list_orders")]
    if orders:
        ships = re.search(r"\b(track\w*|ship\w*|parcel|carrier|deliver\w*)\b", text)
        return [Call("shipping_status" if ships else "order_lookup", {"order_id": order}) for order in orders]
    if re.search(r"\b(long|story|essay)\b", text):
        return long_answer()
    if not text.strip() or re.search(r"\b(help|hi|hello|hey|what can you)\b", text):
        return HELP
    shown = message.strip() if len(message.strip()) <= 200 else message.strip()[:199] + "…"
    return f'{NAME}: I am only a script and don\'t understand "{shown}". Ask me for "help".'


def answer(message: str, results: Sequence[Result]) -> str:
    """The answer to a message, from what its calls gave back."""
    if re.search(r"\btable\b", message.lower()):
        return f"{NAME}: here are the orders.\n\n{_table(results)}"
    return f"{NAME}: " + "\n\n".join(_sentence(result) for result in results)


def long_answer() -> str:
    """About 300 words."""
    parts = [
        f"{NAME}: here is a long answer, so that you can watch it stream, stop it, or close the page and come back.",
    ]
    topics = ("mugs", "blankets", "lamps", "pans")
    for number, topic in enumerate(topics, start=1):
        parts.append(
            f"**{number}. About our {topic}.** Every one of the {topic} in this shop is made by people we know by "
            "name, in a workshop that one can visit. We choose few things and keep them for years, because what is "
            "made well needs no new season. If something breaks we mend it, and if it can't be mended we take it back."
        )
    parts.append("That was all. If you stopped me on the way, what I had said until then is kept in the conversation.")
    return "\n\n".join(parts)


def _refund(message: str, orders: list[str]) -> list[Call] | str:
    if not orders:
        return f'{NAME}: which order should I refund? Say, for example, "Refund order 1039".'
    amount = _AMOUNT.search(message)
    arguments: dict[str, Any] = {"order_id": orders[0], "reason": "asked for by the customer"}
    if amount is not None:
        whole, part = amount[1] or amount[3], amount[2] or amount[4]
        arguments["cents"] = int(whole) * 100 + int(part or 0)
    return [Call("refund", arguments)]


def _sentence(result: Result) -> str:
    value = result.value
    failure = _error_of(value)
    if failure is not None:
        return f"`{result.name}` could not do that. {failure}"
    writer = _WRITERS.get(result.name)
    try:
        return writer(value) if writer is not None else f"`{result.name}` answered: {value}"
    except (KeyError, TypeError, ValueError):
        return f"`{result.name}` answered: {str(value)[:500]}"


def _error_of(value: Any) -> str | None:
    error = cast("dict[str, Any]", value).get("error") if isinstance(value, dict) else None
    return str(cast("dict[str, Any]", error).get("message", "")) if isinstance(error, dict) else None


def _order(value: dict[str, Any]) -> str:
    items = ", ".join(f"{item['quantity']} x {item['name']}" for item in value["items"])
    arrives = f" It should arrive on {value['arrives_on']}." if value["arrives_on"] else ""
    refunded = f" {money(value['refunded_cents'])} of it was refunded." if value["refunded_cents"] else ""
    return (
        f"order **{value['id']}** of {value['placed_on']} ({items}; {money(value['total_cents'])}) "
        f"is **{value['status']}**.{arrives}{refunded}"
    )


def _orders(value: list[dict[str, Any]]) -> str:
    if not value:
        return "there are no orders."
    lines = [f"- **{order['id']}**: {order['status']}, {money(order['total_cents'])}" for order in value]
    return "your orders:\n\n" + "\n".join(lines)


def _shipping(value: dict[str, Any]) -> str:
    if not value["carrier"]:
        return f"order **{value['id']}** is {value['status']}: nothing was sent."
    return (
        f"order **{value['id']}** is {value['status']}, with {value['carrier']} (tracking {value['tracking']}), "
        f"expected on {value['arrives_on']}."
    )


def _refunded(value: dict[str, Any]) -> str:
    left = value["left_cents"]
    rest = f" {money(left)} could still be refunded." if left else ""
    return f"I refunded **{money(value['cents'])}** of order {value['order_id']} (refund {value['refund_id']}).{rest}"


def _table(results: Sequence[Result]) -> str:
    rows = ["| Order | Placed | Status | Total |", "|---|---|---|---:|"]
    for result in results:
        for order in cast("list[dict[str, Any]]", result.value if isinstance(result.value, list) else []):
            total = money(order["total_cents"])
            rows.append(f"| {order['id']} | {order['placed_on']} | {order['status']} | {total} |")
    return "\n".join(rows)


_WRITERS: dict[str, Callable[[Any], str]] = {
    "order_lookup": _order,
    "list_orders": _orders,
    "shipping_status": _shipping,
    "refund": _refunded,
}
