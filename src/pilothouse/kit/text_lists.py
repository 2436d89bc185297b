"""Lists that are written as one text, as in an environment variable."""

import json
from typing import Any


def parse_items(value: Any) -> Any:
    """The items of a list that is written as one text, with commas between them or as JSON; other values as they are.

    Raises:
        ValueError: it begins as JSON and is none.
    """
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('it is not a JSON list; write a,b or ["a", "b"]') from None
