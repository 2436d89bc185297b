"""What may be sent past OpenAI's SDK's walk over the request's body.

Before it sends a request, the SDK walks through the whole body along its type hints, to rename what is spelt
differently on the wire. Nothing is in messages, input and tools: Pydantic AI writes them as the wire wants them. With
80 messages of history that walk is more than half of a turn's cost. What is given as `extra_body`, the SDK's public
way to send what it doesn't know, is sent as it is: so the large parts go there. (Anthropic's SDK walks no more.)
"""

from typing import Any, cast

_LARGE = ("tools", "response_format", "text")


def plain_body(large: dict[str, Any], rest: dict[str, Any], extra_body: object) -> dict[str, Any]:
    """The `extra_body` of a request.

    Args:
        large: what surely goes there.
        rest: the request's other arguments; what is large of them is taken out.
        extra_body: what the caller gave as such; it wins.
    """
    for name in _LARGE:
        if isinstance(rest.get(name), list | dict):
            large[name] = rest.pop(name)
    return {**large, **cast("dict[str, Any]", extra_body)} if isinstance(extra_body, dict) else large
