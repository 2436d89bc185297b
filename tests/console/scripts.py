"""What the fake server's model does for each message of the tests and the screenshots."""

from typing import Any

Action = tuple[Any, ...]

LONG_WORD = "a" * 400
NASTY = f"""Here is **bold**, *italic*, `code` and ~~old~~ text.

<script>window.pwned = 1</script>
<img src=x onerror="window.pwned = 2">

[bad link](javascript:window.pwned=3) and [data](data:text/html,<script>window.pwned=4</script>)
and [good link](https://example.com/a?b=1) and ![tracker](https://evil.example/p.gif)

- one
  - nested
    1. deep
- two

| Name | Count |
|:-----|------:|
| <b>x</b> | 1 |
| y \\| z | 2 |

> quoted <iframe src="https://evil.example"></iframe>

```html
<script>window.pwned = 5</script>
```

{LONG_WORD}

مرحبا بالعالم، هذا نص عربي. 👩🏽‍🚀 数据 — naïve
"""

ORDER = {"order_id": "1042"}
ORDER_RESULT = '{"status": "packed", "ships": "tomorrow", "carrier": "DHL", "items": 3}'
TOOL_TEXT = """Order **1042** is packed and ships **tomorrow** with DHL.

| Item | Quantity | State |
|:-----|---------:|:------|
| Brass compass | 1 | packed |
| Chart table | 1 | packed |
| Signal lamp | 2 | packed |

You can follow it with:

```python
parcel = carrier.track("JD0146000042")
print(parcel.eta)  # 14:00-16:00
```

Anything else you would like to know about this order?"""

SCRIPTS: dict[str, list[Action]] = {
    "hello": [("text", "Hello! I am the offline model of the tests.")],
    "tools": [
        ("reason", "The person asks about an order. I look it up first, then check the weather at the depot."),
        (
            "tools",
            [
                ("call_1", "order_lookup", ORDER, ORDER_RESULT, "ok", 12),
                ("call_2", "depot_weather", {"depot": "Bremen", "hours": 24}, "", "error", 840),
            ],
        ),
        ("text", TOOL_TEXT),
    ],
    "nasty": [("text", NASTY)],
    "wait": [
        ("text", "The first half of the answer is here.\n\n"),
        ("gate",),
        ("text", "And this is the second half."),
    ],
    "restart": [("text", "This part is lost"), ("restart",), ("gate",), ("text", "This part is kept.")],
    "fail": [("text", "I begin well"), ("fail", "overloaded", "The model is overloaded. Try again in a moment.")],
    "slow tool": [
        ("tool_gate", "call_9", "slow_search", {"query": "lighthouses"}, "found 3"),
        ("text", "Found three."),
    ],
    "refund": [
        ("tools", [("call_5", "refund", {"order_id": "1039", "cents": 1250}, "refunded", "ok", 20)]),
        ("text", "Settled."),
    ],
    "long": [("text", "\n\n".join(f"Paragraph {n} of a long text. " * 6 for n in range(1, 40)))],
    "long gate": [
        ("text", "\n\n".join(f"Paragraph {n} of a long text. " * 6 for n in range(1, 30))),
        ("gate",),
        ("text", "\n\n" + "\n\n".join(f"Further paragraph {n}. " * 8 for n in range(1, 10))),
    ],
}


def script_for(message: str) -> list[Action]:
    """The script whose name the message begins with (the longest such), or `hello`."""
    names = sorted((name for name in SCRIPTS if message.lower().startswith(name)), key=len)
    return SCRIPTS[names[-1] if names else "hello"]
