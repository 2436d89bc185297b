"""JSON text as we store and send it: compact, UTF-8, written and read by pydantic-core."""

import hashlib
import json
from typing import Any

from pydantic_core import from_json, to_json

__all__ = ["canonical_hash", "dumps", "loads"]


def dumps(value: Any) -> str:
    """Compact JSON text. Knows dataclasses, Pydantic models, dates, bytes; anything else becomes its `str`."""
    return to_json(value, fallback=str, inf_nan_mode="null", bytes_mode="base64").decode()


def loads(text: str | bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: the text is not JSON.
    """
    return from_json(text)


def canonical_hash(value: Any) -> str:
    """SHA-256 in hex of a JSON value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
